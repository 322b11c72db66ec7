"""Group commit of the SQLite log: who shares a commit, who learns what, and what cannot get in the way."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from secrets import token_hex

import anyio
import pytest

from eventflow.events import Draft, TaskStarted, TaskSucceeded
from eventflow.logs.sqlite import SQLiteLog, connection, group_commit, reads, shield, transaction
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.transaction import Append
from eventflow.ports import Conflict, LogClosed, OutcomeUnknown, Write
from eventflow.result import Inline
from eventflow.testing.conformance.hooks import NOON, PATIENCE, collect, facts, marks, stored, value, write


class CountedLog(SQLiteLog):
    """A log that tells what was asked of its writer's thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[int] = []
        """Appends of each transaction."""
        self.full: list[bool] = []
        """Whether it was synced."""

    async def count(self) -> None:
        """Begin to count."""
        commits = (await self._ready()).commits
        store = commits._store

        def counted(connection: Connection, appends: Sequence[Append]) -> None:
            self.batches.append(len(appends))
            store(connection, appends)
            self.full.append(self._ledger.full)

        commits._store = counted

    async def begun(self, batches: int) -> None:
        """Wait until the writer's thread has taken so many batches."""
        while len(self.batches) < batches:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(0)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[CountedLog]:
    """A fresh log."""
    async with CountedLog(tmp_path / "log.db") as log:
        await log.count()
        yield log


class Blocked:
    """Nobody can commit while this is entered, as if another process were at it."""

    def __init__(self, log: SQLiteLog) -> None:
        assert log._open is not None
        self._lock = log._open.locks._appending

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(found.name for found in folder.iterdir())


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_those_who_come_together_share_a_commit(log: CountedLog) -> None:
    """Of 200 appends at once the first begins a commit and all others share the next; none is torn."""
    with Blocked(log):
        first = asyncio.ensure_future(log.append(write("run/0", 0, 0, 1)))
        await log.begun(1)
        others = [asyncio.ensure_future(log.append(write(f"run/{n}", 0, n, n + 1))) for n in range(1, 200)]
        await settle()
    records = [await first, *await asyncio.gather(*others)]
    assert log.batches == [1, 199]
    assert [r.position for appended in records for r in appended] == list(range(1, 401))
    assert [marks(appended) for appended in records] == [[n, n + 1] for n in range(200)]


async def test_a_batch_is_as_durable_as_its_strictest(log: CountedLog) -> None:
    """One `full` append has its whole batch synced; batches without one are not."""
    await log.append(write("run/a", 0, 0), durability="normal")
    await log.append(write("run/a", 1, 0), durability="full")
    await log.append(write("run/a", 2, 0), durability="pipelined")
    with Blocked(log):
        first = asyncio.ensure_future(log.append(write("run/a", 3, 0), durability="normal"))
        await log.begun(4)
        rest = [
            asyncio.ensure_future(log.append(write(f"run/{name}", 0, 0), durability=name))
            for name in ("normal", "full", "pipelined")
        ]
        await settle()
    await asyncio.gather(first, *rest)
    assert log.batches == [1, 1, 1, 1, 3]
    assert log.full == [False, True, False, False, True]


async def test_a_conflict_is_its_own_affair(log: CountedLog) -> None:
    """In one batch: conflicts, resends and successes, each as if it were alone."""
    with Blocked(log):
        first = asyncio.ensure_future(log.append(write("run/a", 0, 0)))
        await log.begun(1)
        tries = [
            log.append(write("run/a", 1, 1), values=[value(b"one")]),
            log.append(write("run/new", 0, 9), write("run/a", 1, 2), values=[value(b"two")]),
            log.append(write("run/a", 1, 1)),
            log.append(write("run/a", 2, 3), write("run/b", 0, 4)),
            log.append(write("run/a", 0, 0), write("run/a", 1, 7)),
        ]
        waiting = [asyncio.ensure_future(each) for each in tries]
        await settle()
    await first
    one, two, three, four, five = await asyncio.gather(*waiting, return_exceptions=True)
    assert log.batches == [1, 5]
    assert isinstance(two, Conflict)
    assert (two.stream, two.expected, two.actual) == ("run/a", 1, 2)
    assert isinstance(five, Conflict)
    assert one == three
    assert not isinstance(four, BaseException)
    assert [(r.position, r.stream, r.version) for r in four] == [(3, "run/a", 3), (4, "run/b", 1)]
    assert await stored(log) == [0, 1, 3, 4]
    assert list(await log.values([value(b"one").digest, value(b"two").digest])) == [value(b"one").digest]
    assert await log.head("run/new") == 0
    assert [r.stream for r in await collect(log.read())] == ["run/a", "run/a", "run/a", "run/b"]


async def test_what_sqlite_refuses_fails_alone(log: CountedLog) -> None:
    """An append that only the database can refuse does not take its batch with it."""
    with Blocked(log):
        first = asyncio.ensure_future(log.append(write("run/a", 0, 0)))
        await log.begun(1)
        streams = ["run/b", "run/\ud800", "run/c"]
        waiting = [asyncio.ensure_future(log.append(write(name, 0, n))) for n, name in enumerate(streams, 1)]
        await settle()
    await first
    good, bad, also_good = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(bad, UnicodeEncodeError)
    assert not isinstance(good, BaseException)
    assert not isinstance(also_good, BaseException)
    assert await stored(log) == [0, 1, 3]


async def test_a_busy_database_is_waited_for(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program writes, appends and their callers wait, however long; then they go through."""
    monkeypatch.setattr(connection, "BUSY_S", 0.001)
    async with CountedLog(log.path) as impatient:
        await impatient.count()
        with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            append = asyncio.ensure_future(impatient.append(write("run/a", 0, 1)))
            while len(impatient.batches) < 3:  # noqa: ASYNC110 - it counts what has no event
                await asyncio.sleep(0)
            assert not append.done()
            other.execute("ROLLBACK")
        await append
    assert await stored(log) == [1]


async def test_cancelled_while_it_waits(log: CountedLog) -> None:
    """An append that no batch has taken is withdrawn at once, and nothing of it is stored."""
    with Blocked(log):
        first = asyncio.ensure_future(log.append(write("run/a", 0, 0)))
        await log.begun(1)
        second = asyncio.ensure_future(log.append(write("run/b", 0, 1), values=[value(b"v")]))
        third = asyncio.ensure_future(log.append(write("run/b", 0, 2)))
        await settle()
        second.cancel()
        await settle()
        assert second.cancelled()
    await asyncio.gather(first, third)
    assert await stored(log) == [0, 2]
    assert await log.values([value(b"v").digest]) == {}


async def test_cancelled_under_way(log: CountedLog) -> None:
    """A caller whose append is in a batch learns its end before it is cancelled, however often it is told."""
    with Blocked(log):
        append = asyncio.ensure_future(log.append(write("run/a", 0, 1)))
        await log.begun(1)
        for _ in range(3):
            append.cancel()
            await settle()
            assert not append.done()
    with anyio.fail_after(PATIENCE), pytest.raises(asyncio.CancelledError):
        await append
    assert await stored(log) == [1]


async def test_an_outcome_that_does_not_come(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled caller does not wait for ever: it is told that it cannot know, and may read it later."""
    monkeypatch.setattr(shield, "SHIELD_S", 0.01)
    with Blocked(log):
        append = asyncio.ensure_future(log.append(write("run/a", 0, 1)))
        await log.begun(1)
        append.cancel()
        with anyio.fail_after(PATIENCE), pytest.raises(OutcomeUnknown):
            await append
    await log.append(write("run/a", 0, 1))
    assert await stored(log) == [1]


async def test_batches_and_backlog_are_bounded(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many appends at once are committed in parts, by rows and by bytes; who finds no room waits outside."""
    monkeypatch.setattr(group_commit, "BATCH_ROWS_MAX", 10)
    monkeypatch.setattr(group_commit, "BATCH_BYTES_MAX", 10_000)
    monkeypatch.setattr(group_commit, "BACKLOG_ROWS_MAX", 40)
    assert log._open is not None
    commits = log._open.commits
    async with asyncio.TaskGroup() as tasks:
        for n in range(100):
            tasks.create_task(log.append(write(f"run/{n}", 0, n, n, n)))
        with Blocked(log):
            await settle()
            assert 40 < commits._rows <= 43
    assert max(log.batches) == 3
    log.batches.clear()
    async with asyncio.TaskGroup() as tasks:
        for n in range(20):
            tasks.create_task(log.append(values=[value(bytes([n]) * 4_000)]))
    assert set(log.batches) <= {1, 2}
    await log.append(write("run/large", 0, *range(50)), values=[value(b"." * 100_000)])
    assert await log.head() == 350
    assert (commits._rows, commits._bytes) == (0, 0)


async def test_closing_finishes_what_was_taken_up(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """`aclose` waits for appends under way; those that still look for room are refused, and store nothing."""
    monkeypatch.setattr(group_commit, "BACKLOG_ROWS_MAX", 4)
    with Blocked(log):
        appends = [asyncio.ensure_future(log.append(write(f"run/{n}", 0, n, n))) for n in range(8)]
        await settle()
        closing_it = asyncio.ensure_future(log.aclose())
        await settle()
        assert not closing_it.done()
    await closing_it
    results = await asyncio.gather(*appends, return_exceptions=True)
    refused = [isinstance(each, LogClosed) for each in results]
    assert refused == sorted(refused)
    assert True in refused
    async with SQLiteLog(log.path) as other:
        assert await stored(other) == [n for n in range(8) if not refused[n] for _ in range(2)]


async def test_closing_leaves_nothing(tmp_path: Path) -> None:
    """After `aclose` there is no thread, no connection and no write-ahead log left; no thread holds the exit up."""
    others = set(threading.enumerate())
    async with SQLiteLog(tmp_path / "log.db") as log:
        await log.append(write("run/a", 0, 1), values=[value(b"v")])
        await asyncio.gather(log.head(), log.head(), log.head())
        assert log.peek(value(b"v").digest) is not None
        threads = set(threading.enumerate()) - others
        assert len(threads) == 3
        assert all(thread.daemon for thread in threads)
    assert log.peek(value(b"v").digest) is not None
    assert names(tmp_path) == ["log.db", "log.db.lock"]
    ended(threads)


def ended(threads: Iterable[threading.Thread]) -> None:
    """Fails unless these threads end."""
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("cancelled", ["in use", "while it opens", "as it closes"])
async def test_closing_leaves_nothing_in_a_cancelled_scope(tmp_path: Path, cancelled: str) -> None:
    """Nor does a block that is left because its scope was cancelled: what was taken up is stored, all is closed."""
    others = set(threading.enumerate())
    with anyio.CancelScope() as scope:
        if cancelled == "while it opens":
            scope.cancel()
        async with SQLiteLog(tmp_path / "log.db") as log:
            await log.submit(write("run/a", 0, 1))
            scope.cancel()
            if cancelled == "in use":
                await log.head()
    ended(set(threading.enumerate()) - others)
    assert not [name for name in names(tmp_path) if name.endswith(("-wal", "-shm"))]
    async with SQLiteLog(tmp_path / "log.db") as log:
        assert await stored(log) == ([] if cancelled == "while it opens" else [1])


@pytest.mark.slow
async def test_closing_leaves_nothing_whenever_it_is_cancelled(tmp_path: Path) -> None:
    """A task that opens, uses and closes a log may be cancelled at any moment of that."""
    others = set(threading.enumerate())
    whole = 0

    async def use() -> None:
        nonlocal whole
        async with SQLiteLog(tmp_path / "log.db") as log:
            await log.head()
        whole += 1

    moment = 0
    while whole < 3:
        task = asyncio.ensure_future(use())
        await asyncio.sleep(moment * 20e-6)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        moment += 1
    ended(set(threading.enumerate()) - others)
    assert names(tmp_path) == ["log.db", "log.db.lock"]


def test_closing_goes_on_while_the_loop_ends(tmp_path: Path) -> None:
    """The end of a loop cancels every task, that which has begun to close included: the file is closed all the same."""
    others = set(threading.enumerate())

    async def leave(turn: int) -> None:
        log = await SQLiteLog.open(tmp_path / "log.db")
        await log.append(write(f"run/{turn}", 0, 1))
        asyncio.ensure_future(log.aclose())  # noqa: RUF006 - the loop ends before it does
        await asyncio.sleep(0)

    for turn in range(10):
        asyncio.run(leave(turn))
        assert names(tmp_path) == ["log.db", "log.db.lock"]
    ended(set(threading.enumerate()) - others)


async def test_closing_at_any_moment(tmp_path: Path) -> None:
    """Whenever a log is closed, each call under way gives its answer or `LogClosed`, and nothing is left."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as first:
        await first.append(write("run/a", 0, *range(1_200)), values=[value(b"v")])
    for turns in range(40):
        log = SQLiteLog(path)
        calls = [
            log.head(),
            log.append(write("run/a", 0, 0)),
            collect(log.read()),
            collect(log.follow(), 1_201),
            log.values([value(b"v").digest]),
            log.latest(["k"]),
        ]
        under_way = [asyncio.ensure_future(call) for call in calls]
        for _ in range(turns):
            await asyncio.sleep(0)
        await log.aclose()
        with anyio.fail_after(PATIENCE):
            answers = await asyncio.gather(*under_way, return_exceptions=True)
        assert all(type(each) is LogClosed or not isinstance(each, BaseException) for each in answers), (
            answers
        )
        assert isinstance(answers[3], LogClosed)


def test_the_event_loop_ends_first(tmp_path: Path) -> None:
    """A loop that ends with an append under way ends; the append is whole or absent, and so is the next."""
    log = SQLiteLog(tmp_path / "log.db")
    tasks: list[asyncio.Task[object]] = []

    async def begin() -> None:
        await log.append(write("run/a", 0, 1))
        for stream in ("run/b", "run/c"):
            tasks.append(asyncio.ensure_future(log.append(write(stream, 0, 2, 3))))
            await settle()

    async def look() -> None:
        for stream in ("run/b", "run/c"):
            assert await stored(log, stream) in ([], [2, 3])
            await log.append(write(stream, 0, 2, 3))
        assert sorted(await stored(log)) == [1, 2, 2, 3, 3]
        await log.aclose()

    asyncio.run(begin())
    assert all(task.done() for task in tasks)
    asyncio.run(look())


async def test_keys_of_one_number(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are found by a short digest; where two have the same one, each still finds its own record."""
    for module in (reads, transaction):
        monkeypatch.setattr(module, "digest_key", lambda key: 7)
    await log.append(*(Write(f"run/{n}", 0, facts(n, key=key)) for n, key in enumerate("abca")))
    assert {key: marks([record]) for key, record in (await log.latest("abcd")).items()} == {
        "a": [3],
        "b": [1],
        "c": [2],
    }
    alone = [marks((await log.latest([key])).values()) for key in "abcd"]
    assert alone == [[3], [1], [2], []]


async def test_what_is_remembered_is_bounded(log: CountedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """More streams than are remembered are appended to like any others."""
    monkeypatch.setattr(transaction, "_HEADS_MAX", 3)
    for version in range(3):
        for n in range(10):
            await log.append(write(f"run/{n}", version, n))
            assert len(log._ledger.heads) <= 5
    with pytest.raises(Conflict):
        await log.append(write("run/0", 2, 7))
    assert await log.head() == 30


async def test_a_small_task_takes_little_space(log: CountedLog) -> None:
    """A small task, two events, takes at most 240 bytes of the file, all indexes included; 310 with a key."""
    sizes = []
    for stream, keyed in (("run/plain", False), ("run/keyed", True)):
        drafts: list[Draft] = []
        for n in range(5_000):
            key = token_hex(16) if keyed else None
            result = Inline("msgpack", b"\x82\xa2id\xcd\x03\xe8\xa1v\x07", b"\x9d" * 16)
            started = TaskStarted(claim=2, task=(n,), attempt=1, inputs=(n + 3,))
            ended = TaskSucceeded(claim=2, task=(n,), attempt=1, result=result)
            drafts += (Draft(NOON + n, started), Draft(NOON + n, ended, key))
        before = log.path.stat().st_size
        await log.append(Write(stream, 0, drafts))
        with closing(sqlite3.connect(log.path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        sizes.append((log.path.stat().st_size - before) / 5_000)
    plain, keyed_size = sizes
    assert 100 < plain <= 240
    assert plain < keyed_size <= 310


async def test_submitted_appends_are_a_chain_without_a_hole(log: CountedLog) -> None:
    """Tickets go on at once and share commits; after one that fails, those that build on it are not stored."""
    with Blocked(log):
        await log.submit(write("run/a", 0, 0))
        await log.begun(1)
        tickets = [await log.submit(write("run/a", 1, 1), values=[value(b"one")])]
        for expect, mark in ((2, 2), (5, 3), (3, 4), (4, 5)):  # the third expects too much
            tickets.append(await log.submit(write("run/a", expect, mark), after=tickets[-1]))
        alone = await log.submit(write("run/b", 0, 9))
        assert [ticket.error for ticket in tickets] == [None] * 5
    assert marks(await alone.wait()) == [9]
    assert log.batches == [1, 6]
    assert marks(await tickets[1].wait()) == [2]
    for ticket in tickets[2:]:
        assert isinstance(ticket.error, Conflict)
        with pytest.raises(Conflict, match="at version 3, not 5"):
            await ticket.wait()
    assert await stored(log) == [0, 1, 2, 9]
    late = await log.submit(write("run/a", 3, 6), after=tickets[-1])
    with pytest.raises(Conflict, match="at version 3, not 5"):
        await late.wait()
    assert log.full == [False, False, False]


async def test_a_ticket_whose_caller_was_cancelled_is_stored_all_the_same(log: CountedLog) -> None:
    """Who stops waiting for a ticket does not withdraw it."""
    with Blocked(log):
        ticket = await log.submit(write("run/a", 0, 1))
        waiting = [asyncio.ensure_future(ticket.wait()) for _ in range(2)]
        await settle()
        waiting[0].cancel()
        await settle()
        assert waiting[0].cancelled()
    assert marks(await waiting[1]) == [1]
