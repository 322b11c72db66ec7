"""One hop: whole functions on the thread of an aiosqlite connection, by public means only.

aiosqlite queues one call of a `sqlite3.Connection` at a time, and each costs a thread switch there and
back (some 70 µs).  `factory=` lets us say what such a call does: `Connection.executemany`, given `RUN` in
place of a statement, runs functions instead.  So a transaction of any length is one hop, and no `await`
lies within it.

An aiosqlite thread is no daemon: a log that was left open, by an uncaught exception say, would keep the
process alive for ever.  A thread inherits that property from the one that made it, so we make them in a
daemon.  Nothing is lost by that: what was not acknowledged may die with the process.

Never open the database with `open()`: closing any descriptor of a file drops all POSIX locks that this
process has on it, SQLite's too.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiosqlite

__all__ = ["BUSY_S", "Connection", "Link", "call", "connect", "uri"]

T = TypeVar("T")

BUSY_S: Final = 2.0
"""Seconds that SQLite itself waits for a lock before we are asked; then we ask again."""

RUN: Final = "-- functions, not a statement"

Link: TypeAlias = aiosqlite.Connection


class Connection(sqlite3.Connection):
    """A connection that runs functions, too."""

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """As in sqlite3; given `RUN`, call each function with this connection instead."""
        if sql is not RUN:
            return super().executemany(sql, parameters)
        for (work,) in parameters:
            work(self)
        return self.cursor()


def uri(path: Path, *, create: bool = False) -> str:
    """The name under which SQLite opens a file for reading and writing."""
    return f"file:{quote(str(path.absolute()))}?mode={'rwc' if create else 'rw'}"


async def connect(path: Path, *, create: bool = False) -> Link:
    """Open a connection with a thread of its own, which does not outlive the process."""

    def make() -> None:
        name = uri(path, create=create)
        made.append(
            aiosqlite.connect(name, uri=True, isolation_level=None, timeout=BUSY_S, factory=Connection)
        )

    made: list[Link] = []
    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join()
    return await made[0]


async def call(link: Link, work: Callable[[Connection], T]) -> T:
    """Run a function on the connection's thread. Cancelled, it leaves at once and `work` goes on."""
    found: list[T] = []
    await link.executemany(RUN, [(lambda connection: found.append(work(connection)),)])
    return found[0]
