"""The tables of the commands, on terminals of several widths and in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.e2e.commands import command, environment

FLOWS = """
from eventflow import flow, task

@task(version="1", cache_for=3600)
def download_everything(size: int) -> str:
    return "x" * size

@task(retries=1, retry_delay=0.01)
def upload(text: str) -> None:
    raise ValueError("the connection to the warehouse was refused, since the certificate of the server has expired")

@task
def clean(n: int) -> int:
    return 1 // n

@flow
def nightly_orders(size: int) -> None:
    upload(download_everything(size))
    clean.map([1, 0])

@flow
def good() -> str:
    return download_everything(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with flows of its own."""
    (tmp_path / "tables.py").write_text(FLOWS)
    return tmp_path


TABLE = """
import sys
from eventflow.cli import main
try:
    main()
except SystemExit as ended:
    sys.stderr.write(f"{ended.code} {'rich' in sys.modules}")
"""


def drawn(*words: str, cwd: Path, columns: int = 80, **more: str) -> list[str]:
    """The lines that a command writes to a terminal of this many columns."""
    controller, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (40, columns))
    child = subprocess.Popen(
        [sys.executable, "-c", TABLE, *words],
        cwd=cwd,
        env=environment(TERM="xterm", **more),
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(terminal)
    text = b"".join(iter(lambda: _read(controller), b""))
    os.close(controller)
    assert child.communicate(timeout=30)[1] == "0 True"
    return text.decode().splitlines()


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65_536)
    except OSError:  # Linux says so when the last process has closed its end
        return b""


def test_a_table_is_drawn_on_a_terminal_and_tabbed_in_a_pipe(folder: Path) -> None:
    """Rich is loaded for a terminal only; there a long row takes two lines, and nothing is cut, folded or left out."""
    run_id = "long-" * 12
    command("run", "tables:good", "--run-id", run_id, "-q", cwd=folder)
    piped = command("runs", cwd=folder).stdout
    assert [line.split("\t")[:4] for line in piped.splitlines()] == [
        ["RUN", "FLOW", "STATE", "TASKS"],
        [run_id, "good", "success", "1/1"],
    ]
    silent = subprocess.run(
        [sys.executable, "-c", TABLE, "runs"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (silent.stdout, silent.stderr) == (piped, "0 False")
    plain = drawn("runs", cwd=folder, NO_COLOR="1")
    assert "\x1b[" not in "".join(plain)
    assert all(len(line) <= 80 for line in plain)
    assert [line.split() for line in plain[:3]] == [
        ["RUN", "FLOW", "STATE"],
        ["TASKS", "STARTED", "TOOK"],
        [run_id, "good", "success"],
    ]
    assert plain[2].index("good") == plain[0].index("FLOW")
    assert plain[3].index("1/1") == plain[1].index("TASKS")
    assert "\x1b[32m" in "".join(drawn("runs", cwd=folder))


@pytest.mark.parametrize("columns", [80, 40])
def test_a_narrow_terminal_shows_every_cell_of_every_table_whole(folder: Path, columns: int) -> None:
    """Ids, numbers, dates and each title are in one piece; only prose is folded, between two words."""
    command("run", "tables:nightly_orders", "-p", "size=1234567", "-q", cwd=folder, code=1)
    for words in (["runs"], ["cache", "ls"], ["cache", "stats"], ["show", "@last"], ["events", "@last"]):
        table = [line for line in command(*words, cwd=folder).stdout.splitlines() if "\t" in line]
        title, *rows = [line.split("\t") for line in table]
        assert rows
        assert "" not in title
        lines = drawn(*words, cwd=folder, columns=columns, NO_COLOR="1")
        has_prose = words[0] in ("show", "events") or words == ["cache", "stats"]
        whole = [*title, *(cell for row in rows for cell in (row[:-1] if has_prose else row))]
        prose = [word for row in rows for word in row[-1].split()]
        assert [cell for cell in (*whole, *prose) if not any(cell in line for line in lines)] == []
    ids = {row.split("\t")[0] for row in command("runs", cwd=folder).stdout.splitlines()[1:]}
    assert ids == {
        line.split()[0] for line in drawn("runs", cwd=folder, columns=columns)[2:] if line[0] != " "
    }
