"""The parts of a handle that is open for writing, and their opening and closing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import anyio

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.connection import Connection, Link, connect, disconnect, post, serve
from eventflow.logs.sqlite.errors import explain_error, is_busy
from eventflow.logs.sqlite.files import check_journal, check_location, check_sqlite, make_file, prepare
from eventflow.logs.sqlite.group_commit import GroupCommit
from eventflow.logs.sqlite.locks import LockFile
from eventflow.logs.sqlite.open_files import OpenFiles
from eventflow.logs.sqlite.packs import PackReader, PackWriter
from eventflow.logs.sqlite.process import inside
from eventflow.logs.sqlite.readers import Readers
from eventflow.logs.sqlite.shield import SHIELD_S, wait_shielded
from eventflow.logs.sqlite.transaction import Append, Ledger, store
from eventflow.ports import LogReplaced, LogWriteFailed

__all__ = ["POLL_S", "WriteHandle", "open_for_writing"]

POLL_S: Final = 0.05
"""Seconds between two tries while other processes have the log."""


class WriteHandle:
    """The connections of a handle, its locks and its packs."""

    def __init__(self, path: Path, link: Link, locks: LockFile, ledger: Ledger, files: OpenFiles) -> None:
        self.readers = Readers(path, self.check_reader)
        self.commits = GroupCommit(self._store, partial(post, link))
        self.locks = locks
        self.packs = PackReader(path)
        self.lost: LogReplaced | None = None
        """The reason why nothing is stored any more."""
        self._pack_writer = PackWriter(path)
        self._path = path
        self._link = link
        self._ledger = ledger
        self._files = files

    def check_reader(self, connection: Connection) -> None:
        """Raise `LogReplaced` if a connection has another file open than the writer."""
        self._files.check_reader(connection.identity)

    def _store(self, connection: Connection, appends: Sequence[Append]) -> None:
        """Store a batch; on the writer's thread."""
        try:
            with self._noting_loss(), self.locks.appending(), inside:
                try:
                    store(connection, self._ledger, self._pack_writer, appends, self._check_before_commit)
                except sqlite3.Error:
                    self._check_before_commit()  # it explains the error better
                    raise
        except sqlite3.Error as error:
            if is_busy(error):
                raise
            raise explain_error(error, self._path, LogWriteFailed) from error
        if any(append.stored for append in appends):
            self.locks.nudge()

    def check_files(self) -> None:
        """Raise `LogReplaced` if the open files are not those at their paths, or were not at a commit."""
        with self._noting_loss():
            self._check_paths()

    def _check_before_commit(self) -> None:
        self._check_paths()
        self._pack_writer.check_files()

    def _check_paths(self) -> None:
        self._files.check()
        self.locks.check_file()

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Refuse the block if the files were lost before; if it raises `LogReplaced`, they are lost from then on."""
        if self.lost is not None:
            raise LogReplaced(str(self.lost))
        try:
            yield
        except LogReplaced as error:
            self.lost = error
            self._files.give_up()
            raise

    def _close_writer(self, connection: Connection) -> None:
        """Close the write connection under the append lock: the last one checkpoints the `-wal` and removes it."""
        self._pack_writer.close()
        try:
            with self.locks.appending():
                if self.lost is None:
                    self.check_files()
                connection.close()
        except LogReplaced:
            connection.close()

    async def close(self) -> None:
        """Close all connections, the writer's last."""
        with anyio.move_on_after(SHIELD_S, shield=True) as scope:
            await self.readers.close()
            await serve(self._link, self._close_writer)
            await disconnect(self._link)
        if not scope.cancelled_caught:  # a waiting thread still needs the files
            self.packs.close()
            self.locks.close()


async def open_for_writing(path: Path, ledger: Ledger) -> WriteHandle:
    """Open the write connection on a file that is, or becomes, a log. Raises `LogUnusable` or `LogDamaged`."""
    check_sqlite()
    process.check(path)
    check_location(path)
    make_file(path)
    locks = LockFile.of(path)
    link: Link | None = None
    open_files: list[OpenFiles] = []

    def prepare_writer(connection: Connection) -> None:
        with locks.appending(), inside:
            locks.check_file()
            check_journal(path)
            prepare(connection, path)
            open_files.append(OpenFiles(path, connection))

    try:
        link = await connect(path, "rw")
        await _retry_while_busy(partial(serve, link, prepare_writer), path)
    except BaseException:
        await wait_shielded(asyncio.ensure_future(_give_back(link, locks)))
        raise
    files = open_files[-1]  # of the try that succeeded
    process.note_born(files.identity)
    return WriteHandle(path, link, locks, ledger, files)


async def _retry_while_busy(ask: Callable[[], Awaitable[None]], path: Path) -> None:
    while True:
        try:
            return await ask()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise explain_error(error, path) from error
        await anyio.sleep(POLL_S)


async def _give_back(link: Link | None, locks: LockFile) -> None:
    if link is not None:
        await disconnect(link)
    locks.close()  # only then: a thread that waits for the append lock needs it
