"""A log whose process dies at a chosen append, so that a test can resume from every such point.

There are two ways to die at an append: before its records are stored, and after they are but before the
writer is told.  Both look the same to the writer, and differ to whoever opens the log next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from eventflow.events import Record
from eventflow.ports import Durability, EventLog, Keyring, Value, Write

__all__ = ["Crash", "CrashingLog"]


class Crash(BaseException):
    """The process is dead. No `Exception`, so that nothing between the log and the test survives it."""


class CrashingLog:
    """Any log, until its append number `crash_at` (from 1); from then on every call raises `Crash`.

    Without `crash_at` it only counts. What was held is let go as its blocks are left, as the death of a
    process does; the log inside stays as it is, for the next process to find.
    """

    def __init__(
        self, log: EventLog, *, crash_at: int | None = None, when: Literal["before", "after"] = "before"
    ) -> None:
        self.log = log
        self.appends = 0
        """Appends asked for so far, the deadly one included."""
        self.crashed = False
        self._crash_at = crash_at
        self._when = when

    @property
    def keyring(self) -> Keyring:
        """The keys of the log inside."""
        self._check_alive()
        return self.log.keyring

    async def append(
        self, *writes: Write, values: Iterable[Value] = (), durability: Durability = "full"
    ) -> Sequence[Record]:
        """Append, or die before or after it."""
        self._check_alive()
        self.appends += 1
        deadly = self.appends == self._crash_at
        if deadly and self._when == "before":
            self.crashed = True
        self._check_alive()
        records = await self.log.append(*writes, values=values, durability=durability)
        self.crashed = self.crashed or deadly
        self._check_alive()  # another task's append may have been the deadly one meanwhile
        return records

    async def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Read while alive."""
        self._check_alive()
        async for record in self.log.read(stream=stream, after=after, until=until, backwards=backwards):
            self._check_alive()
            yield record

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """As the log inside."""
        self._check_alive()
        return await self.log.latest(keys, until=until)

    async def head(self, stream: str | None = None) -> int:
        """As the log inside."""
        self._check_alive()
        return await self.log.head(stream)

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """As the log inside."""
        self._check_alive()
        return await self.log.values(digests)

    def peek(self, digest: bytes) -> Value | None:
        """As the log inside."""
        self._check_alive()
        return self.log.peek(digest)

    async def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Follow while alive; one who waits when the crash comes learns it with the next record."""
        self._check_alive()
        async for record in self.log.follow(after=after):
            self._check_alive()
            yield record

    @asynccontextmanager
    async def hold(self, run: str) -> AsyncIterator[bool]:
        """Hold while alive; let go at the end of the block, dead or alive."""
        self._check_alive()
        async with self.log.hold(run) as mine:
            yield mine

    async def aclose(self) -> None:
        """Close the log inside; the dead close nothing."""
        self._check_alive()
        await self.log.aclose()

    def _check_alive(self) -> None:
        if self.crashed:
            raise Crash(f"the process died at append {self._crash_at} ({self._when} it was stored)")
