"""Whole functions on the thread of an aiosqlite connection, in one hop and by public means only.

aiosqlite queues one call of a `sqlite3.Connection` at a time.  Each call costs a thread switch there and back (some
70 µs).  With `factory=` we define such a call: `Connection.executemany`, given `CALL_FUNCTIONS` in place of a statement, runs
functions.  So a transaction of any length is one hop, without an `await` inside it.

A thread of aiosqlite is not a daemon.  So a log that was left open, by an uncaught exception for example, would keep
the process alive for ever.  A thread inherits this property from its creator, so a daemon thread creates ours.
Nothing is lost by that: an append without acknowledgement may be lost with the process.

Never open the database with `open()`: closing any descriptor of a file drops all POSIX locks that this process has
on it, including SQLite's.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

import aiosqlite

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.process import Identity, identity_of, inside
from eventflow.ports import LogReplaced

__all__ = [
    "BUSY_S",
    "Connection",
    "Link",
    "call",
    "connect",
    "disconnect",
    "hold_clock",
    "open_here",
    "post",
    "serve",
    "uri",
]

T = TypeVar("T")

BUSY_S: Final = 2.0
"""Seconds for which SQLite waits for a lock; after that, our own code retries."""

CALL_FUNCTIONS: Final = "-- functions, not a statement"
_TRIES: Final = 3
_NO_CLOCK: Final = nullcontext()

Link: TypeAlias = aiosqlite.Connection


class Connection(sqlite3.Connection):
    """A connection that can also run functions, and knows which file it has open."""

    identity: Identity | None = None

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        """As in sqlite3; with `CALL_FUNCTIONS` as statement, call each function with this connection."""
        if sql is not CALL_FUNCTIONS:
            return super().executemany(sql, parameters)
        cursor = self.cursor()  # before the work, which may close the connection
        for (work,) in parameters:
            work(self)
        return cursor

    def close(self) -> None:
        """Close it; may be called twice."""
        with inside:
            super().close()
        if self.identity is not None:
            process.note_closed(self.identity)
            self.identity = None


def uri(path: Path, mode: str) -> str:
    """Return the URI with which SQLite opens a file: in mode `rw`, `ro` or `immutable`."""
    if mode == "immutable":
        return f"file:{quote(str(path))}?immutable=1"
    return f"file:{quote(str(path))}?mode={mode}"


def open_here(path: Path, mode: str) -> Connection:
    """Open a connection on an existing file, for use by one thread at a time.

    SQLite does not report which file it has opened. It is the file that was at the path both before and after.
    Raises `LogForked` or `LogReplaced` for a file that cannot be used in this process.
    """
    for _ in range(_TRIES):
        process.check(path)
        with inside:
            before = identity_of(path)
            connection = Connection(
                uri(path, mode), uri=True, isolation_level=None, timeout=BUSY_S, check_same_thread=False
            )
            if before is not None and identity_of(path) == before:
                connection.identity = before
                process.note_opened(before)
                return connection
        connection.close()
    raise LogReplaced(f"{path} was replaced by another file again and again while it was being opened")


def hold_clock() -> AbstractContextManager[object]:
    """Return a block that holds a virtual clock while it waits for a thread; it has no effect on any other loop.

    The loop of `eventflow.testing` jumps to its next timer when all tasks wait. It cannot see that a thread works for
    one of them. So each wait for a thread must be in this block, and no timer may be in it.
    """
    hold = getattr(asyncio.get_running_loop(), "hold_clock", None)
    return _NO_CLOCK if hold is None else hold()


async def connect(path: Path, mode: str) -> Link:
    """Open a connection with its own thread, which does not keep the process alive."""

    def make() -> None:
        made.append(aiosqlite.Connection(partial(open_here, path, mode), iter_chunk_size=64))

    made: list[Link] = []
    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join()
    with hold_clock():
        return await made[0]


async def disconnect(link: Link) -> None:
    """Close a connection after its queued calls."""
    with hold_clock():
        await link.close()


async def call(link: Link, work: Callable[[Connection], T]) -> T:
    """Run a function on the connection's thread, inside SQLite. If cancelled, return at once while `work` continues."""
    answers: list[T] = []

    def run(connection: Connection) -> None:
        with inside:
            answers.append(work(connection))

    await serve(link, run)
    return answers[0]


async def serve(link: Link, work: Callable[[Connection], None]) -> None:
    """Run a function on the connection's thread; the function itself marks when it is inside SQLite."""
    with hold_clock():
        await post(link, work)


async def post(link: Link, work: Callable[[Connection], None]) -> None:
    """Run a function as `serve` does; a virtual clock moves meanwhile."""
    await link.executemany(CALL_FUNCTIONS, [(work,)])
