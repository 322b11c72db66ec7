"""An index that leaves out what is there does not make it new: a second path tells."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Flow, Parameter, SQLiteLog, task
from eventflow.events import Draft, RunReleased
from eventflow.logs.sqlite import reads
from eventflow.ports import Write
from eventflow.records import LogDamaged
from eventflow.testing.conformance.hooks import NOON, collect, facts, marks, write
from tests.logs.breaking_sqlite import execute_plain, omit

NAMES = "sqlite_autoindex_stream_1", "stream (name)"
SUMS = "stream_crc", "stream (crc)"
VERSIONS = "sqlite_autoindex_event_1", "event (stream, version)"
MARKS = "event_mark", "event (stream, position)"
OF_A = "(SELECT id FROM stream WHERE name = 'run/a')"


async def make(path: Path) -> None:
    """Two streams, taking turns over 200 positions, `run/a` first and last."""
    async with SQLiteLog(path) as log:
        for n in range(100):
            await log.append(write("run/a", n, n), write("run/b", n, n))
        await log.append(write("run/a", 100, 100))


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (NAMES, "id <> 1"),
        (SUMS, "id <> 1"),
        (VERSIONS, "stream <> 1 OR version < 101"),
        (VERSIONS, "stream <> 1 OR version < 70"),
        (VERSIONS, "stream <> 1"),
        (MARKS, "mark IS NOT NULL AND (stream <> 1 OR position < 193)"),
        (MARKS, "stream <> 1"),
    ],
)
async def test_what_an_index_leaves_out_is_damage(tmp_path: Path, index: tuple[str, str], kept: str) -> None:
    """The stream is not new and does not end earlier: it is neither read nor written, and the other one is both."""
    path = tmp_path / "log.db"
    await make(path)
    omit(path, *index, kept)
    for expect in (0, 69, 100, 101):
        async with SQLiteLog(path) as log:
            with pytest.raises(LogDamaged, match="run/a"):
                await log.append(write("run/a", expect, 7))
            with pytest.raises(LogDamaged, match="run/a"):
                await log.head("run/a")
            with pytest.raises(LogDamaged, match="run/a"):
                await collect(log.read(stream="run/a"))
            assert await log.head("run/b") == 100
    async with SQLiteLog(path) as log:
        await log.append(write("run/b", 100, 100), write("run/c", 0, 1))
        assert marks(await collect(log.read(stream="run/b"))) == [*range(101)]


async def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    """Neither where its name is left out nor where its end is."""
    ran: Counter[int] = Counter()

    @task(version="1")
    async def once(n: int) -> int:
        ran[n] += 1
        return n

    with Flow("finished") as flow:
        once(Parameter("n", type=int))

    async def run(path: Path) -> None:
        async with SQLiteLog(path) as log:
            await flow.options(log=log, run_id="r").run(n=1)

    for nth, (index, kept) in enumerate(
        [(NAMES, "name <> 'run/r'"), (SUMS, "name <> 'run/r'"), (VERSIONS, "version < 4")]
    ):
        path = tmp_path / f"{nth}.db"
        await run(path)
        ran.clear()
        omit(path, *index, kept)
        with pytest.raises(LogDamaged, match="run/r"):
            await run(path)
        assert not ran


async def test_the_end_of_the_log_is_not_given_again(tmp_path: Path) -> None:
    """A last record that is somewhere else by now, and that nothing was pruned for, is no end to go on from."""
    path = tmp_path / "log.db"
    await make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER event_is_immutable")
        connection.execute("UPDATE event SET position = 300 WHERE position = 201")
        text = "BEGIN SELECT RAISE(ABORT, 'events are immutable'); END"
        connection.execute(f"CREATE TRIGGER event_is_immutable BEFORE UPDATE ON event\n{text}")
    async with SQLiteLog(path) as log:
        with pytest.raises(LogDamaged, match="record 300, the last, fails its checksum"):
            await log.append(write("run/c", 0, 1))


async def test_a_key_is_not_answered_by_another_one(tmp_path: Path) -> None:
    """A record that is found by the number of a key and bears another key is damage."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await log.append(Write("run/a", 0, [*facts(1, key="one"), *facts(2, key="two")]))
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("SELECT key FROM event WHERE position = 1").fetchone()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        text = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'event_is_immutable'"
        ).fetchone()[0]
        connection.execute("DROP TRIGGER event_is_immutable")
        connection.execute("UPDATE event SET key = ? WHERE position = 2", (number,))
        connection.execute(text)
    async with SQLiteLog(path) as log:
        for keys in (["one"], ["one", "two"]):
            with pytest.raises(LogDamaged, match="that it does not have"):
                await log.latest(keys)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE read_row SET data = x'91'",
        "DELETE FROM read_row WHERE name LIKE 'run/%'",
        "UPDATE read_row SET name = name || '!'",
        "UPDATE read_model SET position = position + 1",
        "UPDATE read_model SET rows = rows + 1",
    ],
)
async def test_a_table_that_is_damaged_is_made_again(tmp_path: Path, harm: str) -> None:
    """Its rows are made of the events once more, and then it is as it was; a look that cannot write makes them, too."""
    from eventflow import Runs
    from eventflow.read_models import ReadModel

    @task(version="1")
    async def one() -> int:
        return 1

    with Flow("tables") as flow:
        one()
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        for run_id in ("a", "b"):
            await flow.options(log=log, run_id=run_id).run()
        expected = await (await ReadModel.of(log, Runs())).under()
        kept = await log.rows("runs")
    execute_plain(path, harm)
    async with SQLiteLog(path, read_only=True) as log:
        assert await (await ReadModel.of(log, Runs())).under() == expected
        with pytest.raises(LogDamaged, match="read model"):
            await log.rows("runs")
    async with SQLiteLog(path) as log:
        assert await (await ReadModel.of(log, Runs())).under() == expected
        assert await log.rows("runs") == kept


async def test_a_snapshot_of_another_name_is_none(tmp_path: Path) -> None:
    """What an index gives for a name counts only if it has that name, and is what was kept."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await log.keep_snapshot("run/a", b"a")
        await log.keep_snapshot("run/b", b"b")
    execute_plain(path, "UPDATE snapshot SET data = x'00' WHERE name = 'run/a'")
    async with SQLiteLog(path) as log:
        assert (await log.snapshot("run/a"), await log.snapshot("run/b")) == (None, b"b")
        await log.keep_snapshot("run/a", b"anew")
        assert await log.snapshot("run/a") == b"anew"


@pytest.mark.parametrize("page", [2, 512])
async def test_large_records_are_read_as_small_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A page has as many of them as fit into memory, in either direction, and misses none."""
    monkeypatch.setattr(reads, "PAGE_ROWS", page)
    monkeypatch.setattr(reads, "_PAGE_BYTES", 4 << 20)
    sizes = [3, 2 << 20, 5, 3 << 20, 2 << 20, 7, 9 << 20, 1, 2]
    drafts = [Draft(NOON, RunReleased(claim=1, reason="x" * size)) for size in sizes]
    async with SQLiteLog(tmp_path / "log.db") as log:
        await log.append(Write("run/a", 0, drafts))
        for stream in (None, "run/a"):
            found = await collect(log.read(stream=stream))
            assert [record.event for record in found] == [draft.event for draft in drafts]
            assert await collect(log.read(stream=stream, backwards=True)) == found[::-1]
