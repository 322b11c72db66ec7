"""The command line, run as a person or a script does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "command", "document", "environment"]

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would change the output."""
    dropped = ("FORCE_COLOR", "NO_COLOR", "EVENTFLOW_LOG")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, "PYTHONPATH": str(ROOT), **more}


def command(*words: str, cwd: Path, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `eventflow` with these words; its exit code is checked."""
    done = subprocess.run(
        [sys.executable, "-m", "eventflow", *words],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def document(*words: str, cwd: Path, code: int = 0) -> Any:
    """What it says as JSON."""
    return json.loads(command(*words, "--json", cwd=cwd, code=code).stdout)
