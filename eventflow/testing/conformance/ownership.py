"""Concurrency: following, holding, closing, and many writers at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventflow.events import Record
from eventflow.ports import Conflict, EventLog, LogClosed
from eventflow.testing.conformance.hooks import PATIENCE, L, LogHooks, collect, marks, stored, value, write

__all__ = ["Living"]

TURNS = 20
"""Turns of the event loop after which a follower without records is waiting."""


class Living(LogHooks[L]):
    """The tests of `follow`, `hold` and `aclose`, and of appending from many tasks."""

    async def test_follow_from_the_past_into_the_present(self) -> None:
        """Followers get all present and all new records: in order, each once, none missed."""
        async with self.open() as one, self.reopen(one) as two:
            await one.append(write("run/a", 0, *range(700)))
            found: dict[int, list[int]] = {}

            async def follow(log: EventLog, after: int) -> None:
                records = await collect(log.follow(after=after), 900 - after)
                assert [r.position for r in records] == list(range(after + 1, 901))
                found[after] = marks(records)

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    for log, after in ((one, 0), (one, 1), (two, 699), (one, 700), (two, 850)):
                        tasks.start_soon(follow, log, after)
                    for number in range(700, 900, 10):
                        await (one, two)[number // 10 % 2].append(
                            write("run/a", number, *range(number, number + 10))
                        )
                        for _ in range(number % 3):
                            await checkpoint()
            assert found == {after: list(range(after, 900)) for after in (0, 1, 699, 700, 850)}

    async def test_a_waiting_follower_is_woken(self) -> None:
        """A follower that has read everything gets the next record, however long it waits."""
        async with self.open() as log, anyio.create_task_group() as tasks:
            seen: list[Record] = []
            woken = anyio.Event()

            async def follow() -> None:
                async for record in log.follow():
                    seen.append(record)
                    woken.set()

            tasks.start_soon(follow)
            for number in range(3):
                await _turns()
                assert len(seen) == number
                woken = anyio.Event()
                await log.append(write("run/a", number, number))
                with anyio.fail_after(PATIENCE):
                    await woken.wait()
            tasks.cancel_scope.cancel()
        assert marks(seen) == [0, 1, 2]

    async def test_a_follower_may_append(self) -> None:
        """A record appended while a follower handles another one is not missed, even if it is the last."""
        async with self.open() as log:
            await log.append(write("run/a", 0, 0))
            seen: list[int] = []
            with anyio.fail_after(PATIENCE):
                async for record in log.follow():
                    seen.append(record.version)
                    if len(seen) == 5:
                        break
                    await log.append(write("run/a", record.version, 0))
            assert seen == [1, 2, 3, 4, 5]

    async def test_closing_ends_followers(self) -> None:
        """A follower ends with `LogClosed` when its handle is closed; those of other handles go on."""
        async with self.open() as one, self.reopen(one) as two:
            ended = anyio.Event()
            got: list[Record] = []

            async def follow_one() -> None:
                with pytest.raises(LogClosed):
                    await collect(one.follow())
                ended.set()

            async def follow_two() -> None:
                got.extend(await collect(two.follow(), 1))

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(follow_one)
                    tasks.start_soon(follow_two)
                    await _turns()
                    await one.aclose()
                    await ended.wait()
                    await two.append(write("run/a", 0, 5))
            assert marks(got) == [5]

    async def test_one_holder_a_run(self) -> None:
        """A run has one live runner, over all handles and without waiting; other runs are free."""
        async with self.open() as one, self.reopen(one) as two, one.hold("a") as mine:
            assert mine
            for log in (one, two):
                async with log.hold("a") as again, log.hold("b") as other:
                    assert (again, other) == (False, True)
            async with two.hold("a") as still:
                assert not still

    async def test_a_hold_ends_with_its_block(self) -> None:
        """When the block ends, by return, error or cancellation, the run is free again."""
        async with self.open() as one, self.reopen(one) as two:
            async with one.hold("a") as mine:
                assert mine
            with pytest.raises(KeyError):
                await _fail_holding(two, "a")
            with anyio.CancelScope() as scope:
                async with one.hold("a") as mine:
                    assert mine
                    scope.cancel()
                    await checkpoint()
            async with two.hold("a") as mine:
                assert mine

    async def test_asking_who_lives(self) -> None:
        """Every handle reports whether a run is held, by this handle or another, and when it is free again."""
        async with self.open() as one, self.reopen(one) as two:
            assert not await one.is_live("a")
            async with one.hold("a") as mine:
                assert mine
                assert [await log.is_live("a") for log in (one, two)] == [True, True]
                assert [await log.is_live("b") for log in (one, two)] == [False, False]
                async with two.hold("a") as again:
                    assert not again
                assert await two.is_live("a")
            assert [await log.is_live("a") for log in (one, two)] == [False, False]

    async def test_asking_who_lives_is_in_nobodys_way(self) -> None:
        """Queries of liveness never prevent a hold, and write nothing to the log."""
        async with self.open() as one, self.reopen(one) as two:
            for _ in range(3):
                asked = two.is_live("a")
                async with one.hold("a") as mine:
                    assert mine
                    assert await asked
                assert not await two.is_live("a")
            assert await one.head() == 0

    async def test_letting_go_does_not_disturb_followers(self) -> None:
        """The wake-up by a released hold delivers no record and loses none."""
        async with self.open() as log, anyio.create_task_group() as tasks:
            got: list[Record] = []

            async def follow() -> None:
                got.extend(await collect(log.follow(), 2))

            tasks.start_soon(follow)
            for number in range(2):
                async with log.hold("a"):
                    await _turns()
                await _turns()
                await log.append(write("run/a", number, number))
            with anyio.fail_after(PATIENCE):
                while len(got) < 2:
                    await checkpoint()
        assert marks(got) == [0, 1]

    async def test_a_closed_log_refuses(self) -> None:
        """After `aclose`, which may be called twice, only `peek` works; other handles still read the records."""
        async with self.open() as log:
            kept = value(b"kept")
            await log.append(write("run/a", 0, 1), values=[kept])
            await log.aclose()
            await log.aclose()
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: log.append(write("run/a", 1, 2)),
                lambda: collect(log.read()),
                lambda: collect(log.follow()),
                lambda: log.latest(["k"]),
                log.head,
                lambda: log.values([kept.digest]),
                lambda: log.hold("a").__aenter__(),
                lambda: log.is_live("a"),
            ]
            for call in calls:
                with pytest.raises(LogClosed):
                    await call()
            assert log.peek(kept.digest) == self.at_hand(kept)
            async with self.reopen(log) as other:
                assert await stored(other) == [1]

    async def test_many_writers_many_streams(self) -> None:
        """Writers of different streams do not block each other, and positions stay dense."""
        async with self.open() as log, self.reopen(log) as two:

            async def fill(log: EventLog, stream: str) -> None:
                for number in range(10):
                    await log.append(write(stream, number, number))

            async with anyio.create_task_group() as tasks:
                for writer in range(30):
                    tasks.start_soon(fill, (log, two)[writer % 2], f"run/{writer}")
            assert [r.position for r in await collect(log.read())] == list(range(1, 301))
            for writer in range(30):
                assert await stored(log, f"run/{writer}") == list(range(10))

    async def test_many_writers_one_stream(self) -> None:
        """Writers of one stream that read and retry on `Conflict` lose no record and write none twice."""
        async with self.open() as log, self.reopen(log) as two:

            async def contend(log: EventLog, first: int) -> None:
                for number in range(first, first + 5):
                    version = 0
                    while True:
                        try:
                            await log.append(write("run/a", version, number))
                            break
                        except Conflict as conflict:
                            version = conflict.actual

            async with anyio.create_task_group() as tasks:
                for writer in range(20):
                    tasks.start_soon(contend, (log, two)[writer % 2], writer * 5)
            assert sorted(await stored(log, "run/a")) == list(range(100))
            assert await log.head("run/a") == 100


async def _fail_holding(log: EventLog, run: str) -> None:
    async with log.hold(run) as mine:
        assert mine
        raise KeyError(run)


async def _turns() -> None:
    for _ in range(TURNS):
        await checkpoint()
