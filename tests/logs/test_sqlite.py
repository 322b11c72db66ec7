"""The SQLite log: the conformance suite, with a second handle as another process would have."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance import LogConformance
from tests.logs import breaking_sqlite as breaking


class TestSQLiteLog(LogConformance[SQLiteLog]):
    """`SQLiteLog` under the suite."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SQLiteLog]:
        """A file of its own."""
        with tempfile.TemporaryDirectory() as folder:
            async with SQLiteLog(Path(folder) / "log.db") as log:
                yield log

    @asynccontextmanager
    async def reopen(self, log: SQLiteLog) -> AsyncIterator[SQLiteLog]:
        """A second handle on the file."""
        async with SQLiteLog(log.path) as other:
            yield other

    async def damage(self, log: SQLiteLog, position: int) -> None:
        """Flip a bit."""
        breaking.damage(log.path, position)

    async def lose(self, log: SQLiteLog, position: int) -> None:
        """Take it out."""
        breaking.lose(log.path, position)
