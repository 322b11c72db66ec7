"""Runs are found, listed and reported from their log alone, and looking writes nothing into a read-only log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from eventflow import MemoryLog, SQLiteLog, flow, replay, task
from eventflow.events import Record
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, Timeline, dump, open_run, run_report
from eventflow.runs.find import EntryNotRecorded, RunAmbiguous, find_run, list_runs, recorded_entry, status_of
from eventflow.runs.moment import VersionNotFound
from eventflow.runs.report import read_report
from eventflow.testing.crash_log import Crash, CrashingLog


@task
async def add(number: int) -> int:
    """One step."""
    return number + 1


@flow
def sums(number: int) -> int:
    """Three steps."""
    return add(add(add(number)))


async def some_runs(log: EventLog) -> None:
    """Runs whose ids begin alike, in an order that is not that of their ids."""
    for run_id in ("monday", "tuesday", "monday-2", "friday"):
        await sums.options(log=log, run_id=run_id).run(1)


async def test_a_run_is_found_by_its_id_or_the_beginning_of_it() -> None:
    """A whole id wins over longer ones; `@last` is the run that was started last."""
    log = MemoryLog()
    await some_runs(log)
    assert [await find_run(log, text) for text in ("monday", "t", "monday-", "@last")] == [
        "monday",
        "tuesday",
        "monday-2",
        "friday",
    ]


async def test_a_run_that_is_not_found_is_an_error_of_its_own() -> None:
    """Several runs, a likely one, and none at all."""
    log = MemoryLog()
    with pytest.raises(RunNotFound, match=r"no run '@last' in this log$"):
        await find_run(log, "@last")
    await some_runs(log)
    with pytest.raises(RunAmbiguous, match=r"'mon' is the beginning of several runs: monday, monday-2$"):
        await find_run(log, "mon")
    with pytest.raises(RunNotFound, match="no run 'tuseday' in this log; did you mean 'tuesday'"):
        await find_run(log, "tuseday")
    with pytest.raises(RunNotFound):
        await read_report(log, "tuseday")
    with pytest.raises(RunNotFound):
        await recorded_entry(log, "tuseday")


async def test_the_status_of_a_run_says_whether_it_is_live() -> None:
    """A run whose owner died is `stopped`; held again it is `running`; then it is finished."""
    log = MemoryLog()
    with pytest.raises(Crash):
        await sums.options(log=CrashingLog(log, crash_at=3), run_id="r").run(1)
    row = (await list_runs(log))["r"]
    assert (row.status, await status_of(log, row)) == ("running", "stopped")
    report = await read_report(log, "r")
    assert (report.status, report.message) == ("stopped", "its owner has ended without releasing it")
    assert (await read_report(log, "r", version=report.head - 1)).status == "running"  # as it was then
    assert (await read_report(log, "r", version=1)).status == "started"
    async with log.hold("r"):
        assert await status_of(log, row) == "running"
        assert (await read_report(log, "r")).status == "running"
    await sums.options(log=log, run_id="r").run()
    assert await status_of(log, (await list_runs(log))["r"]) == "success"
    assert (await read_report(log, "r")).status == "success"


async def test_the_entry_of_a_run_is_that_of_its_last_owner() -> None:
    """A run that records none is an error which says so."""
    log = MemoryLog()
    await sums.options(log=log, run_id="r").run(1)
    assert await recorded_entry(log, "r") == (sums.entry, "sums")
    entry, sums.entry = sums.entry, ""
    try:
        await sums.options(log=log, run_id="nowhere").run(1)
    finally:
        sums.entry = entry
    with pytest.raises(EntryNotRecorded, match="'nowhere' does not record where its code is"):
        await recorded_entry(log, "nowhere")


async def test_a_report_of_any_version_equals_a_replay_to_it() -> None:
    """Also with the snapshot that the runner kept, which is newer than most of them, and without one."""
    log = MemoryLog()
    await sums.options(log=log, run_id="r").run(1)
    view = await open_run(log, "r")
    await log.keep_snapshot(view.snapshot_name, b"no snapshot")
    for_each_version = [await read_report(log, "r", version=version) for version in range(1, 10)]
    await log.keep_snapshot(view.snapshot_name, await snapshot_at(log, 6))
    async for record in log.read(stream=view.stream):
        facts = await replay(log, view, stream=view.stream, until=record.position, start=Fold.start(view))
        timeline = await replay(log, Timeline(), stream=view.stream, until=record.position)
        expected = replace(run_report(view, facts.state, timeline.state), head=9)
        assert await read_report(log, "r", version=record.version) == expected
        assert for_each_version[record.version - 1] == expected
    assert await read_report(log, "r") == for_each_version[-1]
    with pytest.raises(VersionNotFound, match="run 'r' has events 1 to 9, and none with the number 10"):
        await read_report(log, "r", version=10)


async def snapshot_at(log: EventLog, version: int) -> bytes:
    """The snapshot of a run after one of its events."""
    view = await open_run(log, "r")
    fold = Fold.start(view)
    async for record in log.read(stream=view.stream):
        if record.version <= version:
            fold.push(record)
    return dump(fold)


async def test_a_report_reads_each_record_once() -> None:
    """Opening the run, its states and its timings share one pass over the stream."""
    log = Counting()
    await sums.options(log=log, run_id="r").run(1)
    log.read_streams.clear()
    report = await read_report(log, "r")
    assert report.status == "success"
    assert log.read_streams.count("run/r") == 1


class Counting(MemoryLog):
    """A memory log that knows which streams were read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_streams: list[str | None] = []

    def read(self, *, stream: str | None = None, **options: int) -> AsyncIterator[Record]:  # type: ignore[override]
        """Note the stream, and read it."""
        self.read_streams.append(stream)
        return super().read(stream=stream, **options)  # type: ignore[arg-type]


async def test_looking_into_a_read_only_log_writes_nothing(tmp_path: Path) -> None:
    """Neither rows of read models nor locks: the file stays as it was, byte for byte."""
    path = tmp_path / "x.db"
    async with SQLiteLog(path) as log:
        await some_runs(log)
    before = contents(tmp_path)
    async with SQLiteLog(path, read_only=True) as log:
        assert [*await list_runs(log)] == ["monday", "tuesday", "monday-2", "friday"]
        assert await find_run(log, "fri") == "friday"
        assert (await read_report(log, "friday")).status == "success"
    assert contents(tmp_path) == before


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
