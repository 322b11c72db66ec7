"""Runs that were cancelled: this version cancels none, but format 1 has the word, so it shows them as cancelled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from eventflow import MemoryLog, NoValue, RunStates, SQLiteLog, flow, open_run, replay, state_of, task
from eventflow.events import Draft, Record, RunFinished
from eventflow.ports import EventLog, Write
from eventflow.records import LogDamaged, decode, encode
from eventflow.runs.find import list_runs, status_of
from eventflow.runs.report import read_report
from eventflow.states import Cancelled, Failed
from tests.e2e.commands import command, document


@task
async def add(number: int) -> int:
    """One step."""
    return number + 1


@flow
def sums(number: int) -> int:
    """Two steps."""
    return add(add(number))


async def records_with(end: RunFinished) -> list[Record]:
    """The records of a run with another end."""
    log = MemoryLog()
    await sums.options(log=log, run_id="r").run(1)
    *records, last = [record async for record in log.read()]
    assert isinstance(last.event, RunFinished)
    return [*records, replace(last, event=end)]


async def copied(records: list[Record], log: EventLog) -> None:
    """Write records into a log."""
    for record in records:
        await log.append(
            Write(record.stream, record.version - 1, [Draft(record.at, record.event, record.key)])
        )


async def ended(outcome: str, message: str) -> MemoryLog:
    """A log with a run that ended like this."""
    log = MemoryLog()
    end = RunFinished(claim=2, outcome=outcome, message=message)  # type: ignore[arg-type]
    await copied(await records_with(end), log)
    return log


async def test_a_cancelled_run_is_neither_successful_nor_failed() -> None:
    """Its State says so with the recorded message, and its tasks are shown as they were."""
    log = await ended("cancelled", "by ada")
    state = await state_of("r", log=log)
    assert type(state) is Cancelled
    assert (state.is_finished(), state.is_successful(), state.is_failed()) == (True, False, False)
    assert state.message == "by ada"
    assert state.result["add"].result == 2
    head = await log.head("run/r")
    again = await sums.options(log=log, run_id="r").run()
    assert (type(again), again.message) == (Cancelled, "by ada")
    assert await log.head("run/r") == head


@pytest.mark.parametrize("wait", [True, False])
async def test_a_cancelled_run_has_no_value(wait: bool) -> None:
    """The error names the run and why it was cancelled, even if the returned task had succeeded."""
    log = await ended("cancelled", "by ada")
    with pytest.raises(NoValue, match=r"run 'r' was cancelled, so it has no value: by ada$"):
        await sums.options(log=log, run_id="r", wait=wait).value()


async def test_a_cancelled_run_is_listed_and_reported_as_cancelled() -> None:
    """In one and the same word."""
    log = await ended("cancelled", "by ada")
    row = (await list_runs(log))["r"]
    assert (row.status, await status_of(log, row)) == ("finished", "cancelled")
    report = await read_report(log, "r")
    assert (report.status, report.message) == ("cancelled", "by ada")
    assert [line.state for line in report.tasks] == ["Success", "Success"]


async def test_a_run_may_fail_without_a_failed_task() -> None:
    """There is no task's error to raise; the message of the run is given in its place."""
    log = await ended("failed", "out of time")
    assert type(await state_of("r", log=log)) is Failed
    view = await open_run(log, "r")
    run_states = RunStates(view, (await replay(log, view, stream=view.stream)).state)
    with pytest.raises(LookupError, match=r"no task of run 'r' has failed: out of time"):
        run_states.root_error()


def test_outcomes_are_a_closed_list() -> None:
    """A record with another word is damaged: a later version that needs one writes an event of another tag."""
    end = RunFinished(claim=2, outcome="moon")  # type: ignore[arg-type]
    with pytest.raises(LogDamaged, match="damaged 'run_finished'"):
        decode(7, "run/r", encode("run/r", 3, Draft(5, end)))


def test_the_commands_show_a_cancelled_run(tmp_path: Path) -> None:
    """They call it cancelled, and `resume` ends with the exit code of a cancelled run."""

    async def make() -> None:
        end = RunFinished(claim=2, outcome="cancelled", message="by ada")
        records = await records_with(end)
        async with SQLiteLog(tmp_path / "x.db") as log:
            await copied(records, log)

    asyncio.run(make())
    log = ("--log", f"sqlite:///{tmp_path}/x.db")
    assert [row["state"] for row in document("runs", *log, cwd=tmp_path)] == ["cancelled"]
    shown = document("show", "r", *log, cwd=tmp_path)
    assert (shown["state"], shown["message"]) == ("cancelled", "by ada")
    code = ("--flow", "tests.run.test_cancelled_runs:sums")
    done = document("resume", "r", *code, *log, cwd=tmp_path, code=4)
    assert (done["state"], done["message"]) == ("cancelled", "by ada")
    assert "value" not in done
    assert "r cancelled" in command("resume", "r", *code, *log, cwd=tmp_path, code=4).stderr
