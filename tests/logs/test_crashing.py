"""The log that dies: what it stored, what it answers afterwards, and that it is a right log until then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Literal

import pytest

from eventflow.logs import MemoryLog
from eventflow.ports import LogClosed
from eventflow.testing.conformance import LogConformance
from eventflow.testing.conformance.hooks import collect, stored, value, write
from eventflow.testing.crash_log import Crash, CrashingLog
from tests.logs import breaking


class TestUntilItDies(LogConformance[CrashingLog]):
    """A `CrashingLog` that is not told to crash, under the suite."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[CrashingLog]:
        """A memory log in it."""
        log = CrashingLog(MemoryLog())
        yield log
        await log.aclose()

    @asynccontextmanager
    async def reopen(self, log: CrashingLog) -> AsyncIterator[CrashingLog]:
        """A second handle on the log inside."""
        other = CrashingLog(_inside(log).reopen())
        yield other
        await other.aclose()

    async def damage(self, log: CrashingLog, position: int) -> None:
        """Of the log inside."""
        breaking.damage(_inside(log), position)

    async def lose(self, log: CrashingLog, position: int) -> None:
        """Of the log inside."""
        breaking.lose(_inside(log), position)


@pytest.mark.parametrize(("crash_at", "when"), [*product((1, 2, 3), ("before", "after"))])
async def test_it_dies_at_the_chosen_append(crash_at: int, when: Literal["before", "after"]) -> None:
    """Everything before the deadly append stands; that one itself only when the crash comes after it."""
    inside = MemoryLog()
    log = CrashingLog(inside, crash_at=crash_at, when=when)
    with pytest.raises(Crash):
        await _fill(log, 5)
    assert (log.appends, log.crashed) == (crash_at, True)
    assert await stored(inside) == list(range(crash_at - (when == "before")))


async def test_the_dead_do_not_answer() -> None:
    """After the crash every call raises `Crash`, which no `except Exception` stops; the log inside goes on."""
    inside = MemoryLog()
    log = CrashingLog(inside, crash_at=1)
    with pytest.raises(Crash):
        await log.append(write("run/a", 0, 1))
    assert not issubclass(Crash, Exception)
    for call in (
        lambda: log.append(write("run/a", 0, 1)),
        lambda: collect(log.read()),
        lambda: collect(log.follow()),
        lambda: log.latest(["k"]),
        log.head,
        lambda: log.values([b"d"]),
        lambda: log.hold("a").__aenter__(),
        log.aclose,
    ):
        with pytest.raises(Crash):
            await call()
    with pytest.raises(Crash):
        log.peek(b"d")
    with pytest.raises(Crash):
        _ = log.keyring
    await inside.append(write("run/a", 0, 2))
    assert await stored(inside) == [2]


async def test_a_reader_in_the_middle_dies_too() -> None:
    """One who was reading when the process died reads no further."""
    inside = MemoryLog()
    await inside.append(write("run/a", 0, 1, 2, 3))
    log = CrashingLog(inside, crash_at=1)
    records = log.read()
    assert (await anext(records)).version == 1
    with pytest.raises(Crash):
        await log.append(write("run/a", 3, 4))
    with pytest.raises(Crash):
        await anext(records)


async def test_death_lets_go() -> None:
    """What the dead process held is free for the next one."""
    inside = MemoryLog()
    log = CrashingLog(inside, crash_at=1, when="after")
    with pytest.raises(Crash):
        await _fill(log, 1, hold="a")
    async with inside.hold("a") as mine:
        assert mine


async def test_without_a_crash_it_only_counts() -> None:
    """It passes everything on, keys and values too, and counts the appends."""
    inside = MemoryLog()
    log = CrashingLog(inside)
    kept = value(b"kept")
    await log.append(write("run/a", 0, 1), values=[kept], durability="normal")
    await log.append(write("run/a", 1, 2))
    assert (log.appends, log.crashed, log.keyring) == (2, False, inside.keyring)
    assert await collect(log.read(stream="run/a", after=1, backwards=True)) == await collect(
        inside.read(after=1)
    )
    assert [r.position for r in await collect(log.follow(after=1), 1)] == [2]
    assert (await log.head(), await log.head("run/a"), log.peek(kept.digest)) == (2, 2, kept)
    assert dict(await log.values([kept.digest])) == {kept.digest: kept}
    await log.aclose()
    with pytest.raises(LogClosed):
        await inside.head()


async def _fill(log: CrashingLog, count: int, hold: str = "nothing") -> None:
    async with log.hold(hold) as mine:
        assert mine
        for number in range(count):
            await log.append(write("run/a", number, number))


def _inside(log: CrashingLog) -> MemoryLog:
    assert isinstance(log.log, MemoryLog)
    return log.log
