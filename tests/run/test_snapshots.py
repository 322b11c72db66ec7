"""Snapshots of runs: what they save is time, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from eventflow import Flow, RunView, SQLiteLog, open_run, replay, task
from eventflow.logs.sqlite import LogWriteFailed
from eventflow.projections import Fold, restore
from eventflow.runner import ownership
from eventflow.testing.conformance.hooks import collect
from tests.logs import breaking_sqlite


@task(retries=1)
async def half(number: int) -> int:
    """Fail for odd ones, so that every kind of state is in a snapshot."""
    if number % 2:
        raise ValueError("odd")
    return number // 2


@task
async def text(number: int) -> str:
    """Something that does not stand in its event."""
    return str(number) * 1_000


def flow() -> Flow[..., int]:
    """Failures, retries, maps and large results."""
    with Flow("halves") as found:
        half.map(list(range(6)))
        half(8)
        text.map([1, 2])
    return found


@pytest.fixture
async def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SQLiteLog]:
    """A log with one run, which is short and has a snapshot all the same."""
    monkeypatch.setattr(ownership, "SNAPSHOT_EVENTS_MIN", 1)
    async with SQLiteLog(tmp_path / "log.db") as log:
        state = await flow().options(log=log, run_id="r").run()
        assert state.is_failed()
        yield log


def facts_of(fold: Fold[object]) -> bytes:
    """A fold, comparable."""
    return msgspec.msgpack.encode((fold.position, fold.state))


async def snapshot_of(log: SQLiteLog) -> bytes | None:
    """What is kept of the run."""
    return await log.snapshot((await open_run(log, "r")).snapshot_name)


async def test_a_fold_from_a_snapshot_is_the_fold_of_all(log: SQLiteLog) -> None:
    """At every position: with the snapshot, without it, and with a broken one, states are equal."""
    assert await snapshot_of(log) is not None
    view = await open_run(log, "r")
    records = await collect(log.read(stream="run/r"))
    plain = {
        record.position: facts_of(
            await replay(log, view, stream=view.stream, until=record.position, start=Fold.start(view))
        )
        for record in records
    }
    for position, expected in plain.items():
        assert facts_of(await replay(log, view, stream=view.stream, until=position)) == expected
    kept = await snapshot_of(log)
    assert kept is not None
    for broken in (b"", kept[:-1], kept[:50] + b"?" + kept[51:], b"nonsense"):
        await log.keep_snapshot(view.snapshot_name, broken)
        assert facts_of(await replay(log, view, stream=view.stream)) == plain[records[-1].position]


async def test_a_snapshot_is_what_is_read(log: SQLiteLog) -> None:
    """With it a finished run is shown without its events: they may even be damaged."""
    view = await open_run(log, "r")
    expected = facts_of(await replay(log, view, stream=view.stream))
    await log.aclose()
    breaking_sqlite.execute(log.path, ("UPDATE event SET body = x'00' WHERE version BETWEEN 5 AND 9", ()))
    async with SQLiteLog(log.path) as again:
        assert facts_of(await replay(again, view, stream=view.stream)) == expected
        again_state = await flow().options(log=again, run_id="r").run()
        assert again_state.is_failed()


async def test_snapshots_may_be_deleted(log: SQLiteLog) -> None:
    """Nothing depends on them but time."""
    view = await open_run(log, "r")
    expected = facts_of(await replay(log, view, stream=view.stream))
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("DELETE FROM snapshot")
    assert await snapshot_of(log) is None
    assert facts_of(await replay(log, view, stream=view.stream)) == expected


async def test_a_run_whose_snapshot_cannot_be_kept_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk after the last event is a line in the journal, no error of the run."""
    monkeypatch.setattr(ownership, "SNAPSHOT_EVENTS_MIN", 1)

    class Full(SQLiteLog):
        async def keep_snapshot(self, name: str, data: bytes) -> None:
            raise LogWriteFailed("the disk is full")

    async with Full(tmp_path / "log.db") as log:
        state = await flow().options(log=log, run_id="r").run()
        assert state.is_failed()
        assert "no snapshot of run 'r' was kept" in caplog.text


async def test_a_snapshot_of_other_code_is_not_used(log: SQLiteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits the fold of a run makes old snapshots worthless, without having to think of it."""
    view = await open_run(log, "r")
    kept = await snapshot_of(log)
    assert kept is not None
    assert restore(kept, view) is not None
    monkeypatch.setattr(RunView, "modules", (*RunView.modules, "eventflow.states"))
    assert restore(kept, view) is None
    assert {"eventflow.machine.state", "eventflow.machine.evolve"} <= set(RunView.modules)
