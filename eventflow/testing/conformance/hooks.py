"""The hooks that an adapter implements for the suite, and helpers of its tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import ClassVar, Final, Generic, TypeVar

from eventflow.events import Draft, Record, RunClaimed, TaskMapped
from eventflow.ports import EventLog, Value, Write
from eventflow.serializers import digest_of

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
"""Seconds after which a waiting test fails; only a broken log reaches it."""

NOON: Final = 1_800_000_000_000_000
"""A time in microseconds UTC."""


L = TypeVar("L", bound=EventLog)


class LogHooks(ABC, Generic[L]):
    """The hooks that an adapter implements."""

    has_peek: ClassVar[bool] = True
    """Whether `peek` returns stored values; false for a log whose bytes are behind a network."""

    def at_hand(self, value: Value) -> Value | None:
        """Return the answer of `peek` for a value that is stored."""
        return value if self.has_peek else None

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[L]:
        """Open a new, empty log; close it at the end of the block."""

    @abstractmethod
    def reopen(self, log: L) -> AbstractAsyncContextManager[L]:
        """Open another handle on the records of `log`, which may be open or closed."""

    @abstractmethod
    async def damage(self, log: L, position: int) -> None:
        """Flip a bit in the stored bytes of a record, behind the log's back."""

    @abstractmethod
    async def lose(self, log: L, position: int) -> None:
        """Remove the stored record at a position, behind the log's back."""


def facts(*numbers: int, at: int = NOON, key: str | None = None) -> list[Draft]:
    """Return a draft for each number; `marks` reads the numbers back."""
    return [Draft(at, TaskMapped(claim=1, task=(0,), width=number), key) for number in numbers]


def write(stream: str, expect: int, *numbers: int) -> Write:
    """Return a write of `facts`."""
    return Write(stream, expect, facts(*numbers))


def claim(stream: str, expect: int, owner: str) -> Write:
    """Return the write by which a runner claims a run."""
    return Write(stream, expect, [Draft(NOON, RunClaimed(owner=owner, environment={}, flow="f"))])


def value(data: bytes) -> Value:
    """Return a value with its digest."""
    return Value(digest_of(data), "msgpack", data)


def marks(records: Sequence[Record]) -> list[int]:
    """Return the numbers of records that `facts` made."""
    return [record.event.width for record in records if isinstance(record.event, TaskMapped)]


async def collect(records: AsyncIterator[Record], count: int | None = None) -> list[Record]:
    """Return all records, or the first `count` of them."""
    found: list[Record] = []
    async for record in records:
        found.append(record)
        if len(found) == count:
            break
    return found


async def stored(log: EventLog, stream: str | None = None) -> list[int]:
    """Return the numbers in a stream, or in the whole log."""
    return marks(await collect(log.read(stream=stream)))
