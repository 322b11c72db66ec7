"""The demo, as `make demo` runs it, only faster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_runs_checks_itself_and_looks_back() -> None:
    """103 tasks run, their results are those computed without the engine, and the past is shown."""
    command = [sys.executable, "-m", "examples.montage", "--seconds", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "Success: all reference tasks succeeded" in done.stdout
    assert "103 of 103 results equal those computed without the engine" in done.stdout
    assert "as of event 104 of 209" in done.stdout
    assert "Pending" in done.stdout
    assert "21 Success" in done.stdout
