"""Read models: what the log keeps of them equals what a replay gives, whatever happens meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from eventflow import Flow, MemoryLog, SQLiteLog, flow, inputs, replay, task, unmapped
from eventflow import read_models as module
from eventflow.events import Record
from eventflow.graph import KeyPart
from eventflow.ports import Checkpoint, EventLog
from eventflow.projections import CacheHits, Runs
from eventflow.read_models import ReadModel, RowProjection
from eventflow.views.run_list import RunsRow


@task(cache_on=inputs())
async def half(number: int, by: int = 2) -> int:
    """Fail for odd ones."""
    if number % 2:
        raise ValueError("odd")
    return number // by


@task
async def more(numbers: list[int]) -> list[int]:
    """Not cached."""
    return [number + 2 for number in numbers]


@flow
def halves(numbers: list[int], by: int = 2) -> list[int]:
    """Hits, misses, failures, a map."""
    return half.map(more(numbers), unmapped(by))


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    """An empty log."""
    if request.param == "memory":
        yield MemoryLog()
    else:
        async with SQLiteLog(tmp_path / "log.db") as found:
            yield found


async def some_runs(log: EventLog, *sizes: int) -> None:
    """Add a run for each size."""
    for size in sizes:
        await halves.options(log=log).run(list(range(size)))


def encoded(rows: Mapping[str, Any]) -> dict[str, bytes]:
    """Rows as bytes, by name."""
    return {name: msgspec.msgpack.encode(rows[name]) for name in sorted(rows)}


PROJECTIONS: list[RowProjection[Any]] = [Runs(), CacheHits()]


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: p.name)
async def test_what_is_kept_is_what_a_replay_gives(
    log: EventLog, projection: RowProjection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought up in many small steps and between runs, the rows are byte by byte those made at once from nothing."""
    monkeypatch.setattr(module, "RECORDS_PER_COMMIT", 7)
    monkeypatch.setattr(module, "RECORDS_PER_LOAD", 3)
    monkeypatch.setattr(module, "ROWS_MAX", 2)
    for size in (3, 5, 5, 0, 2):
        await some_runs(log, size)
        table = await ReadModel.of(log, projection)
        assert table.position == await log.head()
        live = encoded(await table.under())
        assert live == encoded((await replay(log, projection)).state)  # type: ignore[arg-type]
        kept = await log.rows(projection.name)
        assert dict(kept.rows) == live
        assert kept.checkpoint is not None
        assert kept.checkpoint.position == await log.head()
    monkeypatch.setattr(type(projection), "version", 2)  # other code: made again
    assert encoded(await (await ReadModel.of(log, projection)).under()) == live


class CountedRuns(Runs):
    """The list of runs, with the positions of the records that it was given."""

    def __init__(self) -> None:
        self.applied: list[int] = []

    def apply(self, state: MutableMapping[str, RunsRow], record: Record) -> MutableMapping[str, RunsRow]:
        """Note the record, then fold it."""
        self.applied.append(record.position)
        return super().apply(state, record)


async def test_only_the_tail_is_read(log: EventLog) -> None:
    """The second time costs what is new, not the log."""
    projection = CountedRuns()
    await some_runs(log, 5, 5)
    await ReadModel.of(log, projection)
    head = await log.head()
    await some_runs(log, 1)
    projection.applied.clear()
    await ReadModel.of(log, projection)
    assert projection.applied == list(range(head + 1, await log.head() + 1))


async def test_rows_by_name_and_by_prefix(log: EventLog) -> None:
    """Some rows are read without the others."""
    for run_id in ("b", "a"):
        await halves.options(log=log, run_id=run_id).run([2])
    table = await ReadModel.of(log, Runs())
    assert [*await table.under("run/")] == ["run/a", "run/b"]
    found = await table.get("run/b", "run/zz")
    assert [*found] == ["run/b"]
    row = Runs.of(found)["b"]
    assert (row.name, row.nodes, row.outcome, row.tasks) == ("halves", 2, "success", {"succeeded": 2})


async def test_what_the_cache_did(log: EventLog) -> None:
    """Entries with their sources, hits and misses by reason, time saved."""
    await some_runs(log, 4, 4)
    table = await ReadModel.of(log, CacheHits())
    rows = await table.under()
    (stats,) = CacheHits.tasks(rows)
    assert (stats.flow, stats.task, stats.hits, stats.misses) == ("halves", "half", 2, {"new": 6})
    entries = CacheHits.entries(rows)
    assert [entry.hits for entry in entries] == [1, 1]
    for entry in entries:
        assert entry.key_parts == (KeyPart("input", "number"), KeyPart("input", "by"))
        assert halves.graph.tasks[1].cache_key(entry.parts) == entry.key
        assert (entry.code, entry.returns) == (halves.graph.tasks[1].code, halves.graph.tasks[1].returns)
        assert (await log.latest([entry.key]))[entry.key].stream == entry.source.stream
    assert not [name for name in rows if name.startswith("run/")]


async def test_flows_without_a_cache_leave_no_row(log: EventLog) -> None:
    """Most runs do not cost the table of the cache anything."""
    with Flow("plain") as plain:
        more([1])
    await plain.options(log=log).run()
    assert await (await ReadModel.of(log, CacheHits())).under() == {}


async def test_two_that_bring_it_up_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint moves once for each part, whoever moves it; nothing is counted twice."""
    monkeypatch.setattr(module, "RECORDS_PER_COMMIT", 5)
    async with SQLiteLog(tmp_path / "log.db") as one, SQLiteLog(tmp_path / "log.db") as two:
        await some_runs(one, 6, 6, 6)
        found: list[dict[str, bytes]] = []

        async def bring_up(log: EventLog) -> None:
            found.append(encoded(await (await ReadModel.of(log, Runs())).under()))

        async with anyio.create_task_group() as tasks:
            for log in (one, two, one, two):
                tasks.start_soon(bring_up, log)
        assert found == [encoded((await replay(one, Runs())).state)] * 4


async def test_a_log_that_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written to still has its tables, folded anew."""

    async def refuse(self: MemoryLog, *_: object) -> bool:
        raise OSError("read-only")

    log = MemoryLog()
    await some_runs(log, 3)
    monkeypatch.setattr(MemoryLog, "keep_rows", refuse)
    table = await ReadModel.of(log, Runs())
    assert encoded(await table.under()) == encoded((await replay(log, Runs())).state)
    (name,) = await table.under("run/")
    assert [*await table.get(name, "run/none")] == [name]
    assert (await log.rows("runs")).checkpoint is None


async def test_tables_may_be_deleted(tmp_path: Path) -> None:
    """They are made again, the same."""
    async with SQLiteLog(tmp_path / "log.db") as log:
        await some_runs(log, 3)
        before = encoded(await (await ReadModel.of(log, Runs())).under())
        with closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
            other.executescript("DELETE FROM read_row; DELETE FROM read_model;")
        assert (await log.rows("runs")).checkpoint is None
        assert encoded(await (await ReadModel.of(log, Runs())).under()) == before


async def test_the_checkpoint_is_of_the_code(log: EventLog) -> None:
    """What other code has folded is thrown away, not mixed with what this one folds."""
    await some_runs(log, 2)
    await log.keep_rows("runs", None, Checkpoint("other", await log.head()), {"run/ghost": b"\x90"})
    rows = await (await ReadModel.of(log, Runs())).under()
    assert "run/ghost" not in rows
