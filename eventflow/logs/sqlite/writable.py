"""The parts of a handle that is open for writing, and their opening and closing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.connection import Connection, Link, connect, serve
from eventflow.logs.sqlite.errors import explain_error, is_busy
from eventflow.logs.sqlite.files import check_journal, check_place, check_sqlite, make_file, prepare
from eventflow.logs.sqlite.group_commit import GroupCommit
from eventflow.logs.sqlite.locks import LockFile
from eventflow.logs.sqlite.open_files import Places
from eventflow.logs.sqlite.packs import PackReader, PackWriter
from eventflow.logs.sqlite.patience import PATIENCE_S, outlast
from eventflow.logs.sqlite.process import inside
from eventflow.logs.sqlite.reads import Readers
from eventflow.logs.sqlite.transaction import Append, Ledger, store
from eventflow.ports import LogReplaced, LogWriteFailed

__all__ = ["POLL_S", "Opened", "open_for_writing"]

POLL_S: Final = 0.05
"""Seconds between two tries while other processes have the log."""


class Opened:
    """The connections of a handle, its locks and its packs."""

    def __init__(self, path: Path, link: Link, locks: LockFile, ledger: Ledger, places: Places) -> None:
        self.readers = Readers(path, self.check_reader)
        self.commits = GroupCommit(self._store, partial(serve, link))
        self.locks = locks
        self.packs = PackReader(path)
        self.lost: LogReplaced | None = None
        """The reason why nothing is stored any more."""
        self._writing = PackWriter(path)
        self._path = path
        self._link = link
        self._ledger = ledger
        self._places = places

    def check_reader(self, connection: Connection) -> None:
        """Raise `LogReplaced` if a connection has another file open than the writer."""
        self._places.check_reader(connection.identity)

    def _store(self, connection: Connection, appends: Sequence[Append]) -> None:
        """Store a batch; on the writer's thread."""
        if self.lost is not None:
            raise LogReplaced(str(self.lost))
        try:
            with self.locks.appending(), inside:
                try:
                    store(connection, self._ledger, self._writing, appends, self._check_all)
                except sqlite3.Error:
                    self._check_all()  # it explains the error better
                    raise
        except LogReplaced as error:
            self._lose(error)
            raise
        except sqlite3.Error as error:
            if is_busy(error):
                raise
            raise explain_error(error, self._path, LogWriteFailed) from error
        if any(append.stored for append in appends):
            self.locks.nudge()

    def _check_all(self) -> None:
        self._places.check()
        self.locks.check_place()
        self._writing.check_place()

    def check_places(self) -> None:
        """Raise `LogReplaced` if the open files are not those at their paths, or were not at a commit."""
        if self.lost is not None:
            raise LogReplaced(str(self.lost))
        try:
            self._places.check()
            self.locks.check_place()
        except LogReplaced as error:
            self._lose(error)
            raise

    def _lose(self, error: LogReplaced) -> None:
        self.lost = error
        self._places.give_up()

    def _close_writer(self, connection: Connection) -> None:
        """Close the write connection under the append lock: the last one checkpoints the `-wal` and removes it."""
        self._writing.close()
        try:
            with self.locks.appending():
                if self.lost is None:
                    self._places.check()
                    self.locks.check_place()
                connection.close()
        except LogReplaced as error:
            self._lose(error)
            connection.close()

    async def close(self) -> None:
        """Close all connections, the writer's last."""
        with anyio.move_on_after(PATIENCE_S, shield=True) as scope:
            await self.readers.close()
            await serve(self._link, self._close_writer)
            await self._link.close()
        if not scope.cancelled_caught:  # a waiting thread still needs the files
            self.packs.close()
            self.locks.close()


async def open_for_writing(path: Path, ledger: Ledger) -> Opened:
    """Open the write connection on a file that is, or becomes, a log. Raises `LogUnusable` or `LogDamaged`."""
    check_sqlite()
    process.check(path)
    check_place(path)
    make_file(path)
    locks = LockFile.of(path)
    link: Link | None = None
    places: list[Places] = []

    def work(connection: Connection) -> None:
        with locks.appending(), inside:
            locks.check_place()
            check_journal(path)
            prepare(connection, path)
            places.append(Places(path, connection))

    try:
        link = await connect(path, "rw")
        await _patiently(partial(serve, link, work), path)
    except BaseException:
        await outlast(asyncio.ensure_future(_give_back(link, locks)))
        raise
    process.note_born(places[-1].identity)
    return Opened(path, link, locks, ledger, places[-1])


async def _patiently(ask: Callable[[], Awaitable[None]], path: Path) -> None:
    while True:
        try:
            return await ask()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise explain_error(error, path) from error
        await anyio.sleep(POLL_S)


async def _give_back(link: Link | None, locks: LockFile) -> None:
    if link is not None:
        await link.close()
    locks.close()  # only then: a thread that waits for the append lock needs it
