"""The demo, as `make demo` runs it, only faster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = ("mProject", "mDiffFit", "mConcatFit", "mBgModel", "mBackground", "mImgtbl", "mAdd", "mViewer")


def demo(**environment: str) -> str:
    """What half a second of it prints."""
    clean = {
        name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.montage", "--seconds", "0.5"],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_demo_runs_checks_itself_and_looks_back() -> None:
    """103 tasks run, their results are those computed without the engine, and the past is shown."""
    said = demo()
    assert "\x1b" not in said
    progress, past, states = re.split(r"as of event 104 of 209|^states", said, flags=re.MULTILINE)
    told = [line.rpartition(" ")[2] for line in progress.splitlines() if "done, all of" in line]
    assert sorted(told) == sorted(KINDS)
    assert "103 of 103 done" in progress
    assert "Success: all reference tasks succeeded" in progress
    assert "103 of 103 results equal those computed without the engine" in progress
    # In the middle some ran, and what comes after the fits had not begun.
    assert re.search(r"mViewer +4 Pending", past)
    assert re.search(r"running then: m\w+_ID\d+", past)
    assert re.search(r"mDiffFit +45 Success +\d+ +\d+", states)
    assert [line.split()[0] for line in states.splitlines()[1:]] == list(KINDS)


def test_on_a_terminal_the_bars_come_to_their_end_without_colour_where_none_is_wanted() -> None:
    """The live display draws one bar for the run and one for each kind, and heeds NO_COLOR."""
    said = demo(TTY_COMPATIBLE="1", NO_COLOR="1", TERM="xterm-256color", COLUMNS="100")
    assert re.search(r"montage +━+ +103/103", said)
    assert all(re.search(rf"{kind} +━+ +(\d+)/\1\b", said) for kind in KINDS)
    assert "\x1b[?25l" in said, "no live display"
    assert not re.search(r"\x1b\[[\d;]*3[0-8](;|m)", said), "a colour"
