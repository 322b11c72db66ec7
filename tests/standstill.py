"""SQLite logs beside a virtual clock, which must not run ahead while their threads are at work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventflow.events import Record
from eventflow.logs.sqlite import SQLiteLog
from eventflow.ports import Ticket, Value, Write
from eventflow.testing.virtual import VirtualWorld


@asynccontextmanager
async def opened(path: Path, world: VirtualWorld) -> AsyncIterator[SQLiteLog]:
    """A fresh handle; the clock stands still while its threads start, answer and end."""
    log = _StillLog(path, world)
    with world.outside():
        await log.__aenter__()
    try:
        yield log
    finally:
        with world.outside():
            await log.aclose()


class _StillLog(SQLiteLog):
    """Reading, appending and waiting for a ticket take no virtual time."""

    def __init__(self, path: Path, world: VirtualWorld) -> None:
        super().__init__(path)
        self._world = world

    async def _ask(self, question: Callable[[Any], Any]) -> Any:
        with self._world.outside():
            return await super()._ask(question)

    async def append(self, *writes: Write, **options: Any) -> Sequence[Record]:
        """Append while the clock stands still."""
        with self._world.outside():
            return await super().append(*writes, **options)

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Submit while the clock stands still; a wait for the ticket does not move it either."""
        assert after is None or isinstance(after, _StillTicket), "a ticket of this log"
        inner = None if after is None else after.inner
        with self._world.outside():
            return _StillTicket(await super().submit(*writes, values=values, after=inner), self._world)


class _StillTicket:
    """A ticket of a log under a virtual clock."""

    def __init__(self, inner: Ticket, world: VirtualWorld) -> None:
        self.inner = inner
        self._world = world

    @property
    def error(self) -> BaseException | None:
        """As of the ticket inside."""
        return self.inner.error

    async def wait(self) -> Sequence[Record]:
        """Wait while the clock stands still."""
        with self._world.outside():
            return await self.inner.wait()
