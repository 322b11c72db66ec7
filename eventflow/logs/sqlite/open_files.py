"""Checks that the open files are still the files at their paths.

A process can still write to a file that was deleted or replaced, and all of it would be lost.  If a `-wal` is gone,
another process has checkpointed it.  Then our own `-wal` is older than the database, and must not be written into it.
POSIX locks do not prevent this: SQLite's locks are dropped when this process closes any descriptor of the database, for
example when a body copies the folder.

So the writer compares right before each commit, and a run compares once more before its end is reported.  A comparison
after each commit would cost three times as much, because the processor caches have gone cold during the disk write.
Other processes of eventflow checkpoint only under the append lock, which the writer holds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.process import Identity, has_open, identity_of
from eventflow.ports import LogReplaced

__all__ = ["OpenFiles"]

_WAL: Final = "-wal"


def _look(path: str) -> tuple[int, int, int]:
    """Return device, inode and size in bytes of the file at a path; impossible numbers if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - at each append; a Path costs as much again
    except OSError:
        return -1, -1, -1
    return status.st_dev, status.st_ino, status.st_size


class OpenFiles:
    """A database that is open, with its `-wal`."""

    def __init__(self, path: Path, connection: Connection) -> None:
        """Remember which files a connection has open; call it under the append lock, after a read or write.

        From then on the connection has a lock on the database. While it has that, no SQLite removes the `-wal`.
        Raises `LogReplaced` if the files at the paths are not the open ones.
        """
        assert connection.identity is not None, "opened by `open_here`"
        self.identity: Final = connection.identity
        self._path = path
        self._database = str(path)
        self._wal = f"{path.resolve()}{_WAL}"  # SQLite makes it next to the target of a symbolic link
        self._size_bytes = 0
        """Size of the database in bytes; it never shrinks."""
        wal = identity_of(self._wal)
        self._wal_identity = wal
        self.check()
        if wal is None:
            raise self._replaced(f"{path}{_WAL}")
        if not has_open(self.identity) or not has_open(wal):
            raise self._replaced(str(path))

    def check(self) -> None:
        """Raise `LogReplaced` unless both files are at their paths and the database was not truncated.

        An empty `-wal` proves nothing: another program may have checkpointed it.
        """
        device, inode, size_bytes = _look(self._database)
        if (device, inode) != self.identity or size_bytes < self._size_bytes:
            raise self._replaced(self._database)
        self._size_bytes = size_bytes
        if identity_of(self._wal) != self._wal_identity:
            raise self._replaced(self._wal)

    def give_up(self) -> None:
        """Prevent all writes to files that are no longer at their paths, even when closing."""
        process.lose(self.identity)

    def check_reader(self, identity: Identity | None) -> None:
        """Raise `LogReplaced` if a reader has another file open than the writer."""
        if identity != self.identity:
            raise self._replaced(self._database)

    def _replaced(self, name: str) -> LogReplaced:
        return LogReplaced(
            f"{name} was deleted, moved, replaced or cut off while the log {self._path} is open: nothing more is stored by "
            "this handle, and appends that were not acknowledged may be lost. Put the file back, or find the program that removes it, "
            "then open the log again"
        )
