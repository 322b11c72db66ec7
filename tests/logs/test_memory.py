"""The memory log: the conformance suite, and what only it promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from eventflow.logs import MemoryLog
from eventflow.ports import Value
from eventflow.records import LogDamaged, checksum
from eventflow.testing.conformance import LogConformance
from eventflow.testing.conformance.hooks import collect, value, write
from tests.logs import breaking


class TestMemoryLog(LogConformance[MemoryLog]):
    """`MemoryLog` under the suite."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[MemoryLog]:
        """A log of its own."""
        log = MemoryLog()
        yield log
        await log.aclose()

    @asynccontextmanager
    async def reopen(self, log: MemoryLog) -> AsyncIterator[MemoryLog]:
        """A second handle."""
        other = log.reopen()
        yield other
        await other.aclose()

    async def damage(self, log: MemoryLog, position: int) -> None:
        """Flip a bit."""
        breaking.damage(log, position)

    async def lose(self, log: MemoryLog, position: int) -> None:
        """Take it out."""
        breaking.lose(log, position)


async def test_a_changed_value_is_not_given() -> None:
    """A value whose bytes no longer have its digest is an error that names it, never other bytes."""
    log = MemoryLog()
    kept = value(b"kept")
    await log.append(values=[kept])
    log._store.values[kept.digest] = Value(kept.digest, kept.codec, b"kepT")
    with pytest.raises(LogDamaged, match=kept.digest.hex()):
        await log.values([kept.digest])
    with pytest.raises(LogDamaged, match=kept.digest.hex()):
        log.peek(kept.digest)


async def test_a_record_in_the_wrong_place_is_not_given() -> None:
    """A record whose own bytes name another version than its place is damage, though its checksum is right."""
    log = MemoryLog()
    await log.append(write("run/a", 0, 1, 2))
    first, second = log._store.rows
    first.body, first.check = second.body, checksum(second.body, 1)
    with pytest.raises(LogDamaged, match="is stored as version 1 and says that it is version 2"):
        await collect(log.read())


async def test_each_log_has_its_own_key() -> None:
    """Two memory logs do not open each other's pickles, and a key does not show itself."""
    one, two = MemoryLog().keyring, MemoryLog().keyring
    assert not set(one.keys.values()) & set(two.keys.values())
    (secret,) = one.keys.values()
    assert len(secret) == 32
    assert repr(secret) not in repr(one)


async def test_followers_leave_nothing_behind() -> None:
    """A follower that was cancelled or left is forgotten by the log."""
    log = MemoryLog()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, log.follow())
        tasks.start_soon(collect, log.follow(), 1)
        await anyio.wait_all_tasks_blocked()
        assert len(log._store.waiting) == 2
        await log.append(write("run/a", 0, 1))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert not log._store.waiting


async def test_threads_share_a_memory_log() -> None:
    """Loops of other threads append to it, densely; who waits in this one is woken, and a run has one owner."""
    log = MemoryLog()

    async def append(number: int) -> int:
        taken = 0
        for turn in range(200):
            await log.append(write(f"run/{number}", turn, turn))
            async with log.hold("r") as mine:
                taken += mine
        return taken

    async def follow() -> list[int]:
        return [record.position for record in await collect(log.follow(), 800)]

    async with asyncio.timeout(30):
        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.to_thread(lambda n=n: asyncio.run(append(n))) for n in range(4)))
        assert await following == list(range(1, 801))
    assert [await log.head(f"run/{n}") for n in range(4)] == [200] * 4
    assert not await log.is_live("r")
