"""What goes into a flow from a shell and what comes out: parameters, values, prints, counts and advice."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.e2e.commands import command, document

FLOWS = r"""
import os
import re
import subprocess
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any

from eventflow import Skip, flow, task

print("imported")


class Color(Enum):
    RED = "red"


@task
def told(*, day: date, color: Color, file: Path, name: str | None) -> list[str]:
    return [repr(day), repr(color), repr(file), repr(name)]


@flow
def typed(day: date, color: Color, file: Path, name: str | None = None) -> list[str]:
    return told(day=day, color=color, file=file, name=name)


@task
def make(what: str) -> Any:
    print("a print of a body")
    subprocess.run("echo from below", shell=True, check=True)
    os.write(1, b"raw\n")
    match what:
        case "pattern":
            return re.compile("x")
        case "nan":
            return [float("nan")]
        case "skip":
            raise Skip("nothing to do")
        case "none":
            return None
    return what


@flow
def makes(what: str) -> Any:
    return make(what)


@task
def fetch(n: int) -> int:
    if n > 1:
        raise ValueError(f"no page {n}: " + "and so on " * 40 + "so write n=1")
    return n


@task
def summarize(pages: list[int]) -> int:
    return sum(pages)


@flow
def pages(numbers: list[int] = [1, 2, 3]) -> int:
    return summarize(fetch.map(numbers))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with flows of its own."""
    (tmp_path / "flows.py").write_text(FLOWS)
    return tmp_path


def test_parameters_are_text_where_their_type_wants_text(folder: Path) -> None:
    """A date, an enum, a path and `str | None` are written as they are; JSON is asked for by `:=`."""
    words = ["-p", "day=2026-11-22", "-p", "color=red", "-p", "file=2026", "-p", "name=7"]
    found = document("run", "flows:typed", *words, cwd=folder)["value"]
    assert found == ["datetime.date(2026, 11, 22)", "<Color.RED: 'red'>", "PosixPath('2026')", "'7'"]
    found = document("run", "flows:typed", *words[:-1], "name:=null", cwd=folder)["value"]
    assert found[-1] == "None"
    wrong = command("run", "flows:typed", "-p", "color=blue", cwd=folder, code=2).stderr
    assert "-p color=blue: 'color' of flow 'typed' is declared as Color: Invalid enum value 'blue'" in wrong
    assert "its names are RED" in wrong


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("pattern", "Pattern cannot be written as JSON"),
        ("nan", "JSON has no NaN and no infinity"),
        ("skip", "the value of a task that was skipped: nothing to do"),
    ],
)
def test_a_value_that_cannot_be_printed_says_so(folder: Path, what: str, why: str) -> None:
    """On stderr, and as `value_omitted` in JSON; the run succeeded, and so did the command."""
    done = command("run", "flows:makes", "-p", f"what={what}", "--run-id", "a", "-q", cwd=folder)
    assert "no value is shown: " in done.stderr
    assert why in done.stderr
    found = document("resume", "a", cwd=folder)
    assert why in found["value_omitted"]
    assert "value" not in found


def test_a_value_of_none_is_there_in_json(folder: Path) -> None:
    """None is a value, and nothing is omitted."""
    found = document("run", "flows:makes", "-p", "what=none", cwd=folder)
    assert found["value"] is None
    assert "value_omitted" not in found


def test_stdout_is_json_alone_whatever_is_printed(folder: Path) -> None:
    """Prints of the module and of bodies, of programs they call and of C code, are on stderr."""
    done = command("run", "flows:makes", "-p", "what=x", "--json", cwd=folder)
    assert json.loads(done.stdout)["value"] == "x"
    for printed in ("imported", "a print of a body", "from below", "raw"):
        assert printed in done.stderr
    assert "a print of a body" in command("run", "flows:makes", "-p", "what=x", cwd=folder).stdout


def test_a_value_that_the_terminal_cannot_encode_is_written_with_escapes(folder: Path) -> None:
    """The command succeeds, and what it writes is the value's JSON."""
    done = command("run", "flows:makes", "-p", "what=Zürich €", "-q", cwd=folder, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout.splitlines()[-1]) == "Zürich €"
    assert done.stdout.isascii()


def test_a_failed_run_counts_and_names_what_failed_not_what_never_ran(folder: Path) -> None:
    """The task that failed first, its whole message, and how many did what; the list of runs agrees."""
    url = f"sqlite:///{folder}/my log.db"
    failed = command("run", "flows:pages", "--run-id", "p", "--log", url, cwd=folder, code=1)
    advice = "and so on " * 40 + "so write n=1"
    outcome = next(line for line in failed.stderr.splitlines() if line.startswith("p failed"))
    assert "p failed, 1 of 4 tasks done, 2 failed, 1 not run, " in outcome
    assert "2 tasks failed, first fetch[" in outcome
    assert outcome.endswith(advice)
    assert failed.stderr.count(advice) >= 3
    [row] = document("runs", "--log", url, cwd=folder)
    assert (row["done"], row["failed"], row["blocked"], row["tasks"]) == (1, 2, 1, 4)
    assert "\t1/4\t" in command("runs", "--log", url, cwd=folder).stdout
    for words in (["show", "p"], ["events", "p"]):
        assert advice in command(*words, "--log", url, cwd=folder).stdout
    line = failed.stderr.rpartition("look at it with: eventflow ")[2].splitlines()[0]
    assert "summarize" in command(*shlex.split(line), cwd=folder).stdout


def test_a_run_that_had_finished_says_that_nothing_was_run(folder: Path) -> None:
    """Its progress is not told again, and what would run the rest after a fix is named."""
    first = command("run", "flows:pages", "--run-id", "p", cwd=folder, code=1)
    assert "attempt 1 failed" in first.stderr
    for words in (["resume", "p"], ["run", "flows:pages", "--run-id", "p"]):
        again = command(*words, cwd=folder, code=1)
        assert "run p had finished before, so nothing was run" in again.stderr
        assert "attempt 1 failed" not in again.stderr
        assert "after fixing it: eventflow rerun p" in again.stderr


def test_advice_is_what_one_can_type_here(folder: Path) -> None:
    """What is for Python in Python is an option or a command in a shell, the log included."""
    log = ["--log", "sqlite:///x.db"]
    said = command("run", "flows:makes", *log, cwd=folder, code=2).stderr
    assert "flow 'makes' needs parameter 'what' (str): write -p what=..." in said
    command("run", "flows:makes", "-p", "what=a", "--run-id", "a", *log, cwd=folder)
    said = command("run", "flows:makes", "-p", "what=b", "--run-id", "a", *log, cwd=folder, code=6).stderr
    assert "leave them out to get its recorded state, or use another --run-id" in said
    said = command("rerun", "a", "--run-id", "a", *log, cwd=folder, code=2).stderr
    assert "choose another --run-id, or none" in said
    said = command("run", "flows:makes", "-p", "what=a", "--log", "x.db", cwd=folder, code=2).stderr
    assert "--log: 'x.db' names no log; a file is written sqlite:///x.db" in said
    said = command("run", "flows:makes", "-p", "what=a", "--label", "k=\x1b", cwd=folder, code=2).stderr
    assert "--label 'k=\\x1b'" in said
    assert "cannot be printed" in said


def test_advice_on_a_changed_flow_names_the_commands(folder: Path) -> None:
    """`rerun` and `on_change` of Python are `eventflow rerun` and `--keep-changed`, with the run and the log."""
    log = ["--log", "sqlite:///x.db"]
    command("run", "flows:pages", "-p", "numbers=[1]", "--run-id", "a", *log, cwd=folder)
    command("run", "flows:pages", "-p", "numbers=[2]", "--run-id", "b", *log, cwd=folder, code=1)
    (folder / "flows.py").write_text(FLOWS.replace("return summarize(", "return summarize.named('other')("))
    said = command("resume", "a", *log, cwd=folder, code=6).stderr
    assert "in a new run: `eventflow rerun a --log sqlite:///x.db`" in said
    assert "rerun('a')" not in said
