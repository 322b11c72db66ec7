"""What an adapter gives to the suite, and the small vocabulary in which its tests speak."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from eventflow.events import Draft, Record, RunClaimed, TaskMapped
from eventflow.ports import EventLog, Value, Write

__all__ = [
    "NOON",
    "PATIENCE",
    "L",
    "LogHooks",
    "claim",
    "collect",
    "facts",
    "marks",
    "stored",
    "value",
    "write",
]

PATIENCE: Final = 10.0
"""Seconds after which a wait is given up; only a broken log reaches it."""

NOON: Final = 1_800_000_000_000_000
"""A moment, in microseconds UTC."""


L = TypeVar("L", bound=EventLog)


class LogHooks(ABC, Generic[L]):
    """What an adapter implements."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[L]:
        """A fresh, empty log; closed at the end of the block."""

    @abstractmethod
    def reopen(self, log: L) -> AbstractAsyncContextManager[L]:
        """Another handle on the records of `log`, which may be open or closed by now."""

    @abstractmethod
    async def damage(self, log: L, position: int) -> None:
        """Flip a bit in the stored bytes of a record, behind the log's back."""

    @abstractmethod
    async def lose(self, log: L, position: int) -> None:
        """Remove the stored record at a position, behind the log's back."""


def facts(*numbers: int, at: int = NOON, key: str | None = None) -> list[Draft]:
    """A draft for each number, which `marks` finds again."""
    return [Draft(at, TaskMapped(claim=1, task=(0,), width=number), key) for number in numbers]


def write(stream: str, expect: int, *numbers: int) -> Write:
    """A write of `facts`."""
    return Write(stream, expect, facts(*numbers))


def claim(stream: str, expect: int, owner: str) -> Write:
    """A runner's attempt to own a run."""
    return Write(stream, expect, [Draft(NOON, RunClaimed(owner=owner, environment={}, flow="f"))])


def value(data: bytes) -> Value:
    """A value under its digest."""
    return Value(blake2b(data, digest_size=16).digest(), "msgpack", data)


def marks(records: Sequence[Record]) -> list[int]:
    """The numbers that `facts` put in."""
    return [record.event.width for record in records if isinstance(record.event, TaskMapped)]


async def collect(records: AsyncIterator[Record], count: int | None = None) -> list[Record]:
    """All records, or the first `count` of them."""
    found: list[Record] = []
    async for record in records:
        found.append(record)
        if len(found) == count:
            break
    return found


async def stored(log: EventLog, stream: str | None = None) -> list[int]:
    """The numbers that stand in a stream, or in the log."""
    return marks(await collect(log.read(stream=stream)))
