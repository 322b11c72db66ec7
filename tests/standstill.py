"""SQLite logs beside a virtual clock, which must not run ahead while their threads are at work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from eventflow.logs.sqlite import SQLiteLog
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
    """Reading takes no virtual time; the runner sees to that of appends."""

    def __init__(self, path: Path, world: VirtualWorld) -> None:
        super().__init__(path)
        self._world = world

    async def _ask(self, question: Callable[[Any], Any]) -> Any:
        with self._world.outside():
            return await super()._ask(question)
