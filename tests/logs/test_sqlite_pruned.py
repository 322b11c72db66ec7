"""Retention is to come; a log from which streams were removed must be sound to readers and writers of today."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from eventflow import Flow, Runs, RunStates, open_run, replay, task
from eventflow.events import Draft, Unknown
from eventflow.logs.sqlite import SQLiteLog, reads
from eventflow.logs.sqlite.checksums import sum_of
from eventflow.ports import Write
from eventflow.records import LogDamaged, checksum, encode
from eventflow.testing.conformance.hooks import NOON, collect, facts, marks, write
from tests.logs.breaking_sqlite import execute_plain, lose


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    """Two streams, record by record in turns, and a third that ends the log: positions 1 to 13."""
    async with SQLiteLog(tmp_path / "log.db") as log:
        for n in range(6):
            await log.append(write("run/odd", n, n), write("run/even", n, 100 + n))
        await log.append(Write("run/last", 0, facts(7, key="k")))
        yield log


def prune(path: Path, *streams: str) -> None:
    """Remove streams as a later version will, and as the page on the format says: with a record of it."""
    event = Unknown("streams_pruned", msgspec.msgpack.encode(["streams_pruned", streams]))
    name = f"retention/{streams[0]}"
    name = f"retention/{streams[0]}"
    body = encode(name, 1, Draft(NOON, event))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        named = f"name IN ({', '.join('?' * len(streams))})"
        of_them = f"stream IN (SELECT id FROM stream WHERE {named})"
        rows = connection.execute(
            f"SELECT position FROM event WHERE {of_them} ORDER BY 1", streams
        ).fetchall()
        found = ranges(position for (position,) in rows)
        connection.executemany("INSERT INTO pruned VALUES (?, ?, ?)", [(*r, sum_of(*r)) for r in found])
        connection.execute(f"DELETE FROM event WHERE {of_them}", streams)
        connection.execute("INSERT INTO stream (name, crc) VALUES (?, ?)", (name, sum_of(name)))
        (kind,) = connection.execute("SELECT max(id) + 1 FROM kind").fetchone()
        row = (kind, event.kind, sum_of(kind, event.kind))
        connection.execute("INSERT OR IGNORE INTO kind VALUES (?, ?, ?)", row)
        (position,) = connection.execute("SELECT max(position) + 1 FROM event").fetchone()
        connection.execute(
            "INSERT INTO event (position, stream, version, kind, body, crc, mark) "
            "SELECT ?, stream.id, 1, kind.id, ?, ?, 1 FROM stream, kind WHERE stream.name = ? AND kind.name = ?",
            (position, body, checksum(body, position), name, event.kind),
        )
        connection.execute(f"DELETE FROM stream WHERE {named}", streams)
        connection.execute("COMMIT")


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers put together."""
    found = list(numbers)
    ends = [i for i, (a, b) in enumerate(pairwise(found), 1) if b > a + 1]
    return [(found[a], found[b - 1]) for a, b in pairwise([0, *ends, len(found)])]


@pytest.mark.parametrize("page", [1, 2, 5, 512])
async def test_readers_pass_over_what_was_pruned(
    log: SQLiteLog, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards, backwards, from any position, of one stream, and those who follow; the rest keeps its positions."""
    monkeypatch.setattr(reads, "PAGE_ROWS", page)
    before = await collect(log.read())
    prune(log.path, "run/odd")
    after = await collect(log.read(after=13))
    assert [type(record.event) for record in after] == [Unknown]
    kept = [record for record in before if record.stream != "run/odd"] + after
    assert await collect(log.read()) == kept
    assert await collect(log.read(backwards=True)) == kept[::-1]
    for position in range(14):
        later = [record for record in kept if record.position > position]
        assert await collect(log.read(after=position)) == later
        assert await collect(log.follow(after=position), len(later)) == later
    assert await collect(log.read(stream="run/odd")) == []
    assert await log.head("run/odd") == 0
    assert await collect(log.read(stream="run/even")) == [r for r in kept if r.stream == "run/even"]
    prune(log.path, "run/even")
    assert [record.position for record in await collect(log.read())] == [13, 14, 15]
    assert list(await log.latest(["k"])) == ["k"]


async def test_what_is_missing_beside_is_damage(log: SQLiteLog) -> None:
    """Only what is said to be pruned may be absent."""
    prune(log.path, "run/odd")
    lose(log.path, 4)
    with pytest.raises(LogDamaged, match="position 4 is missing"):
        await collect(log.read())


async def test_a_stream_that_was_lost_does_not_begin_anew(log: SQLiteLog) -> None:
    """A stream that has its name and no records is damage, whatever was pruned beside it: nobody writes over it."""
    prune(log.path, "run/even")
    for position in range(1, 13, 2):
        lose(log.path, position)
    async with SQLiteLog(log.path) as other:
        with pytest.raises(LogDamaged, match="all records of 'run/odd' are missing"):
            await other.append(write("run/odd", 0, 1))
        await other.append(write("run/even", 0, 2))


@pytest.mark.parametrize("anew", [False, True])
async def test_a_stream_that_is_pruned_while_it_is_read_ends(
    log: SQLiteLog, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """After what was read; it is no damage, and a stream that begins anew under its name is not spliced on."""
    monkeypatch.setattr(reads, "PAGE_ROWS", 2)
    reader = log.read(stream="run/odd")
    first = await anext(reader)
    prune(log.path, "run/odd")
    if anew:
        await log.append(write("run/odd", 0, *range(6)))
    rest = await collect(reader)
    assert [(record.position, record.version) for record in (first, *rest)] == [(1, 1), (3, 2)]


async def test_positions_go_on_and_a_pruned_stream_begins_anew(log: SQLiteLog) -> None:
    """No position is given twice; the name of a stream is free again, its versions are dense from 1."""
    prune(log.path, "run/odd")
    records = await log.append(write("run/odd", 0, 50, 51), write("run/even", 6, 106))
    assert [(r.position, r.stream, r.version) for r in records] == [
        (15, "run/odd", 1),
        (16, "run/odd", 2),
        (17, "run/even", 7),
    ]
    assert marks(await collect(log.read(stream="run/odd"))) == [50, 51]
    async with SQLiteLog(log.path) as other:
        assert (await collect(other.read(after=14))) == list(records)


@pytest.mark.parametrize("position", [1, 13], ids=["not said to be pruned", "the last one"])
async def test_the_file_itself_refuses_other_deletions(log: SQLiteLog, position: int) -> None:
    """Events stay unless a range covers them; the last one stays, or its position would be given again."""
    if position == 13:
        execute_plain(log.path, "INSERT INTO pruned VALUES (13, 13, 0)")
    with pytest.raises(sqlite3.IntegrityError, match="events are permanent"):
        execute_plain(log.path, "DELETE FROM event WHERE position = ?", position)


async def test_the_file_itself_keeps_names_of_streams(log: SQLiteLog) -> None:
    """Of those with records, and the last one, whose number would be given again."""
    for name in ("run/odd", "run/last"):
        with pytest.raises(sqlite3.IntegrityError, match="names of streams are permanent"):
            execute_plain(log.path, "DELETE FROM stream WHERE name = ?", name)


async def test_projections_fold_what_is_left(tmp_path: Path) -> None:
    """A view of the runs that stayed is what it was; those that went are not in it, and can be made again."""

    @task(version="1")
    async def double(x: int) -> int:
        return 2 * x

    with Flow("doubling") as flow:
        double(4)
    async with SQLiteLog(tmp_path / "log.db") as log:
        for run_id in ("old", "new", "newer"):
            await flow.options(log=log, run_id=run_id).run()
        prune(log.path, "run/old")
        assert sorted(Runs.of((await replay(log, Runs())).state)) == ["new", "newer"]
        view = await open_run(log, "new")
        assert RunStates(view, (await replay(log, view, stream=view.stream)).state)["double"].result == 8
        assert (await flow.options(log=log, run_id="old").run()).is_successful()
        assert sorted(Runs.of((await replay(log, Runs())).state)) == ["new", "newer", "old"]
