"""The connections of a handle that read; they cannot write."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import anyio

from eventflow.logs.sqlite.connection import Connection, Link, call, connect, disconnect
from eventflow.logs.sqlite.errors import explain_error, is_busy
from eventflow.logs.sqlite.files import prepare_reader
from eventflow.logs.sqlite.shield import wait_shielded
from eventflow.ports import LogClosed

__all__ = ["Readers"]

T = TypeVar("T")

READERS_MAX: Final = 2
_RETRY_PAUSE_S: Final = 0.01


class Readers:
    """Connections for reading, opened when needed, each lent for one call at a time."""

    def __init__(self, path: Path, check: Callable[[Connection], object]) -> None:
        """Call `check` with each new connection; its errors are passed on."""
        self._path = path
        self._check = check
        self._links: list[Link] = []
        self._idle: list[Link] = []
        self._free = anyio.Semaphore(READERS_MAX, fast_acquire=True)
        self._closed = False

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Run a query on a reader's thread; wait while the database is busy."""
        async with self._free:
            while True:
                if self._closed:
                    raise LogClosed(f"the log {self._path} was closed; open it again")
                try:
                    return await self._ask_one(question)
                except sqlite3.Error as error:
                    if not is_busy(error):
                        raise explain_error(error, self._path) from error
                await anyio.sleep(_RETRY_PAUSE_S)

    async def _ask_one(self, question: Callable[[Connection], T]) -> T:
        if self._idle:
            link = self._idle.pop()
        else:
            link = await self._connect()
        try:
            return await call(link, question)
        finally:
            self._idle.append(link)

    async def _connect(self) -> Link:
        link = await connect(self._path, "ro")
        try:
            await call(link, self._prepare)
        except BaseException:
            await wait_shielded(asyncio.ensure_future(disconnect(link)))
            raise
        self._links.append(link)
        return link

    def _prepare(self, connection: Connection) -> None:
        self._check(connection)
        prepare_reader(connection, self._path)

    async def close(self) -> None:
        """Close all connections after their current calls; refuse calls that wait for a connection."""
        self._closed = True
        for _ in range(READERS_MAX):
            await self._free.acquire()
        for link in self._links:
            await disconnect(link)
        for _ in range(READERS_MAX):
            self._free.release()
