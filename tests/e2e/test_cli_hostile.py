"""A log, a flow and arguments of somebody who wants the reader's terminal: nothing of it gets through."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventflow import MemoryLog, SQLiteLog, flow, task
from eventflow.cli.app import eventflow
from eventflow.events import Draft, FlowDefined, Known, Record
from eventflow.graph import Graph
from eventflow.ports import Write
from eventflow.records import encode_event
from tests.e2e.commands import command
from tests.unit.test_cli_output import HOSTILE, obeyed

MARK = "EVIL"
"""Stands in every text of the innocent log, and becomes `HOSTILE`."""


@task
async def evil_boom(x: int) -> int:
    """Fails with a message of several lines."""
    raise ValueError(f"{MARK} {x}\nsecond {MARK}")


@task(cache_for=60)
async def evil_add(x: str) -> str:
    """Cached."""
    return x + MARK


@flow(name="f")
def evil(x: str = MARK, numbers: list[int] = [1, 2]) -> Any:  # noqa: B006 - the flow's own
    """A map that fails, and a cached task."""
    evil_add.named(MARK)(x)
    return evil_boom.named(f"{MARK}-b").map(numbers)


def hostile(value: Any, names: dict[str, str]) -> Any:
    """A decoded event with the hostile text, and with digests of graphs as they are then."""
    match value:
        case str():
            return names.get(value, value.replace(MARK, HOSTILE))
        case list():
            return [hostile(part, names) for part in value]
        case dict():
            return {hostile(key, names): hostile(part, names) for key, part in value.items()}
        case _:
            return value


def rewritten(record: Record, names: dict[str, str]) -> Any:
    """The event of a record, hostile."""
    fields = hostile(msgspec.msgpack.decode(encode_event(record.event)), names)
    return msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Known)


async def forge(path: Path) -> None:
    """Write a log in which everything that is text is hostile, run ids and names of graphs included."""
    memory, names = MemoryLog(), dict[str, str]()
    launch = evil.options(log=memory, run_id=MARK, labels={MARK: MARK})
    await launch.run()
    await evil.options(log=memory, run_id=f"{MARK}2").run()
    log = SQLiteLog(path)
    try:
        async for record in memory.read():
            event = rewritten(record, names)
            stream = record.stream.replace(MARK, HOSTILE)
            if isinstance(event, FlowDefined):
                graph: Graph = event.graph
                names[record.stream.removeprefix("flow/")] = graph.digest
                stream = f"flow/{graph.digest}"
            expect = await log.head(stream)
            await log.append(Write(stream, expect, [Draft(record.at, event, record.key)]))
    finally:
        await log.aclose()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the forged log."""
    path = tmp_path_factory.mktemp("forged") / "log.db"
    asyncio.run(forge(path))
    return f"sqlite:///{path}"


def said(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        eventflow.main([*words], prog_name="eventflow")
    out, err = capfd.readouterr()
    assert not obeyed(out.replace("\t", "")), words  # tabs are between the cells of a table
    assert not obeyed(err), words
    return int(ended.value.code or 0), out, err


def test_no_command_lets_text_of_a_log_through(capfd: pytest.CaptureFixture[str], url: str) -> None:
    """Lists, one run, its events, the cache, and what is said of things that are not there; JSON keeps the text."""
    log = ["--log", url]
    code, out, _ = said(capfd, "runs", *log)
    assert code == 0
    assert len(out.splitlines()) == 3
    assert out.count("\\x1b]0;title") == 2
    code, out, _ = said(capfd, "runs", "--json", *log)
    assert {row["run"] for row in json.loads(out)} == {HOSTILE, f"{HOSTILE}2"}
    for words in (
        ["show", HOSTILE],
        ["show", HOSTILE, "--at", "5"],
        ["events", HOSTILE],
        ["cache", "ls"],
        ["cache", "stats"],
    ):
        code, out, err = said(capfd, *words, *log)
        assert (code, err) == (0, ""), words
        assert "\\x1b" in out
        code, out, _ = said(capfd, *words, "--json", *log)
        assert HOSTILE in str(json.loads(out)) or "\\u202e" in out
    code, out, _ = said(capfd, "cache", "explain", f"{HOSTILE}2", HOSTILE, *log)
    assert (code, "\\x1b" in out) == (0, True)
    assert said(capfd, "show", "\x1b[31m", *log)[0] == 3
    assert said(capfd, "show", "", *log)[0] == 2
    assert said(capfd, "resume", HOSTILE, *log)[0] == 2
    assert said(capfd, "show", HOSTILE, "--at", "999", *log)[0] == 2


def test_a_message_of_several_lines_is_shown_whole_and_makes_no_line_of_its_own(
    capfd: pytest.CaptureFixture[str], url: str
) -> None:
    """What follows the first line is set in."""
    _, out, _ = said(capfd, "show", HOSTILE, "--log", url)
    assert out.count("\n  second \\x1b]0;title") == 2
    assert out.count("[0]: ValueError: \\x1b]0;title") == 1  # of the child


@pytest.mark.parametrize(
    "words",
    [
        ["\x1b[31m"],
        ["runs", "--\x1b[31m\u202e"],
        ["show", "x", "--at", "\x1b[31m"],
        ["run", "\x1b[31m.py:f"],
        ["run", "x:y", "--durability", "\u202e"],
        ["runs", "--log", "\x9b2J"],
        ["show", "x", "y", "\x1b]0;a\x07"],
    ],
)
def test_the_errors_about_arguments_are_escaped_too(
    capfd: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Also those which click makes."""
    code, out, err = said(capfd, *words)
    assert code in (2, 5)
    assert out == ""
    assert err


def test_a_run_that_is_hostile_to_its_own_terminal(tmp_path: Path) -> None:
    """Progress, the summary, warnings, the engine's loggers, tracebacks of modules: each on its way to stderr."""
    text = f"""
import warnings
from eventflow import context, flow, task
BAD = {HOSTILE!r}
warnings.warn("beware " + BAD, stacklevel=1)
@task
async def boom(x: str) -> str:
    context.logger.warning("careful " + BAD)
    raise ValueError(BAD + x)
@task
async def echo(x: str) -> str:
    return BAD + x
@flow
def bad(x: str):
    return boom(x)
@flow
def good(x: str):
    return echo(x)
"""
    (tmp_path / "flows.py").write_text(text)
    (tmp_path / "broken.py").write_text(f"raise ValueError({HOSTILE!r})\n")
    failed = command("run", "flows:bad", "-p", f"x={HOSTILE[1:-1]}", cwd=tmp_path, code=1)
    done = command("run", "flows:good", "-p", "x=\x1b[31mé", "--run-id", "g", cwd=tmp_path)
    broken = command("run", "broken:f", cwd=tmp_path, code=2)
    for run in (failed, done, broken):
        assert not obeyed(run.stdout)
        assert not obeyed(run.stderr.replace("\t", ""))
    assert "careful \\x1b]0;title" in failed.stderr
    assert "UserWarning: beware \\x1b]0;title" in failed.stderr
    assert json.loads(done.stdout) == f"{HOSTILE}\x1b[31mé"
    assert "é" in done.stdout
