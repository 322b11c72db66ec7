"""Read-only access: a log is read, but nothing of it is written, locked or created.

    with a `-wal`       opened for reading only.  SQLite still writes into `-shm`, which is not data and which it creates
                        if it is gone, and takes shared reader locks, which block no other process
    without             opened as immutable: SQLite takes no lock and creates no file

Another process may write to a file that is open as immutable.  It then creates a `-wal` first, and changes the file
later.  So both are compared after each query.  If they have changed, the answer is discarded and the file is opened
again.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from eventflow.logs.sqlite.connection import Connection, open_here
from eventflow.logs.sqlite.errors import has_journal, is_busy
from eventflow.logs.sqlite.files import (
    file_system,
    is_network,
    is_unborn,
    is_writable,
    prepare_reader,
)
from eventflow.logs.sqlite.process import inside, is_born
from eventflow.ports import LogUnusable

__all__ = ["ReadOnlyConnection"]

T = TypeVar("T")

AGAIN_MAX_S: Final = 10.0
"""Seconds for which a query is repeated while other processes change the file."""
_PAUSE_S: Final = 0.01

_Stamp: TypeAlias = tuple[int, ...]


class ReadOnlyConnection:
    """A read-only connection, opened at its first use; for one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: Connection | None = None
        self._stamp: _Stamp | None = None
        """The marks of an immutable file at its opening."""

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query. Raises `LogUnusable` if there is no readable log, or an error of SQLite."""
        until = time.monotonic() + AGAIN_MAX_S
        while True:
            try:
                connection = self._connection or self._open()
                with inside:
                    answer = question(connection)
            except Exception as error:
                again = self._has_changed() or is_busy(error)
                self.close()
                if not again or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE_S)
            else:
                if not self._has_changed():
                    return answer
                self.close()

    def close(self) -> None:
        """Close the connection; it is opened again when needed."""
        self._stamp = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        path = self._path
        check_readable(path)
        if _has_no_wal(path):
            self._stamp = _stamp_of(path)
            connection = open_here(path, "immutable")
        else:
            self._stamp = None
            connection = open_here(path, "ro")
        self._connection = connection
        with inside:
            is_log = prepare_reader(connection, path)
        if not is_log:
            raise _not_yet(path)
        return connection

    def _has_changed(self) -> bool:
        return self._stamp is not None and self._stamp != _stamp_of(self._path)


def check_readable(path: Path) -> None:
    """Raise `LogUnusable` if there is no log, or one that SQLite must not open."""
    try:
        status = path.stat()
    except OSError as error:
        raise LogUnusable(
            f"there is no log {path} ({error.strerror}): run a flow here first, change to the folder of your project, or "
            f"name another log by its URL"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise LogUnusable(f"{path} is a folder: name a file in it, like {path / 'log.db'}")
    if not stat.S_ISREG(status.st_mode):
        raise LogUnusable(f"{path} is no regular file: name another one")
    if not os.access(path, os.R_OK):
        raise LogUnusable(f"{path} cannot be read by this user: `chmod u+r` it, or ask its owner for a copy")
    if os.path.lexists(f"{os.path.realpath(path)}-journal"):
        if is_born((status.st_dev, status.st_ino)) or not is_unborn(path):
            raise LogUnusable(has_journal(path))
        raise _not_yet(path)
    if not status.st_size:
        raise _not_yet(path)


def _not_yet(path: Path) -> LogUnusable:
    return LogUnusable(
        f"{path} is not yet a log: it is just being made, or its making was cut short, which the next run on it mends"
    )


def _has_no_wal(path: Path) -> bool:
    """Return whether the file itself has all data; raise `LogUnusable` if it has not and the rest cannot be read."""
    if not _wal_bytes(path):
        return True
    folder = Path(os.path.realpath(path)).parent
    if not is_writable(folder):
        raise LogUnusable(
            f"{path} has commits in {path.name}-wal, and to read those SQLite needs a folder that it can write to: "
            f"make {folder} writable, or copy both files elsewhere and look there"
        )
    kind = file_system(folder)
    if is_network(kind):
        raise LogUnusable(
            f"{path} has commits in {path.name}-wal, which cannot be read on a network file system ({kind}): copy "
            "both files to a local disk, while nobody uses the log, and look there"
        )
    return False


def _wal_bytes(path: Path) -> int:
    try:
        return Path(f"{os.path.realpath(path)}-wal").stat().st_size
    except OSError:
        return 0


def _stamp_of(path: Path) -> _Stamp:
    """Return marks that change when a file is, or may have been, written to."""
    try:
        status = path.stat()
    except OSError:
        return ()
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times, _wal_bytes(path)
