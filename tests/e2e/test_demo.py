"""The demo, as `make demo` runs it, only faster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("mProject", "mDiffFit", "mConcatFit", "mBgModel", "mBackground", "mImgtbl", "mAdd", "mViewer")


def demo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A second of it, not on a terminal."""
    dropped = ("FORCE_COLOR", "TTY_COMPATIBLE", "EVENTFLOW_LOG")
    clean = {name: value for name, value in os.environ.items() if name not in dropped}
    return subprocess.run(
        [sys.executable, "-m", "eventflow", "demo", "--seconds", "1", *words],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_demo_is_killed_resumes_and_runs_nothing_twice_that_had_finished(tmp_path: Path) -> None:
    """Counted outside the engine: all ran, finished ones once; the results are right, the past is shown."""
    done = demo("--keep", "kept", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "\x1b" not in said + done.stderr
    assert max(map(len, said.splitlines())) <= 80 + len(str(tmp_path))
    before, again = re.findall(r"finished before the kill +(\d+) +run again after it +(\d+)", said)[0]
    assert 41 <= int(before) < 103
    assert again == "0"
    in_flight, repeated = re.findall(r"in flight at the kill +(\d+) +run again after it +(\d+)", said)[0]
    assert int(repeated) <= int(in_flight)
    executed = (tmp_path / "kept" / "executed.txt").read_text().split()
    assert len(set(executed)) == 103
    assert len(executed) == 103 + int(repeated)
    assert "engine: 103 of 103" in said
    past = said.partition("5. The past")[2]
    assert re.search(r"mViewer +4 Pending", past)
    again = said.partition("6. Run again")[2]
    assert re.search(r"taken from the cache +103\nexecuted +0\n", again)
    assert "engine: 103 of 103" in again
    assert all(f"{kind} finished" in done.stderr for kind in KINDS[1:])
    assert demo("--keep", "kept", cwd=tmp_path).returncode == 2, "a kept demo was overwritten"


def test_a_demo_that_is_not_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    """The log lies in a temporary folder that is gone afterwards."""
    assert demo(cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
