"""Whether the files that are open are still those at their paths.

A file that was deleted or replaced can still be written to, and all of it would be lost.  And a `-wal` that is
gone has a reason: somebody has tidied up behind us, so what we would write into the database from our own one
is older than what is there.  POSIX locks do not prevent that: SQLite's are dropped when this process closes
any descriptor of the database, as a body that copies the folder does.

So the writer compares right before each commit, and whoever ran a run compares once more before it is said to have
ended.  After each commit would cost three times as much: the processor has gone cold while the disk was written.
Other processes of ours tidy up under the append lock only, and we hold it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.process import Identity, has_open, identity_of
from eventflow.ports import LogReplaced

__all__ = ["Places"]

_WAL: Final = "-wal"


def _look(path: str) -> tuple[int, int, int]:
    """Device, inode and size in bytes of the file at a path; of none, numbers that no file has."""
    try:
        found = os.stat(path)  # noqa: PTH116 - at each append; a Path costs as much again
    except OSError:
        return -1, -1, -1
    return found.st_dev, found.st_ino, found.st_size


class Places:
    """A database that is open, with its `-wal`."""

    def __init__(self, path: Path, connection: Connection) -> None:
        """Note which files a connection has open; to be made under the append lock, once it has read or written.

        From then on the connection has a lock on the database, as long as which no SQLite takes the `-wal` away.
        Raises `LogReplaced` where what is at the paths is not what this process has open.
        """
        assert connection.identity is not None, "opened by `open_here`"
        self.identity: Final = connection.identity
        self._path = path
        self._database = str(path)
        self._wal = f"{path.resolve()}{_WAL}"  # SQLite makes it beside the file that a link leads to
        self._size_bytes = 0
        """Of the database, which never shrinks."""
        wal = identity_of(self._wal)
        self._wal_identity = wal
        self.check()
        if wal is None or not has_open(self.identity) or not has_open(wal):
            raise self._replaced(f"{path}{_WAL if wal is None else ''}")

    def check(self) -> None:
        """Raise `LogReplaced` unless both files are where they were, and the database was not cut off.

        A `-wal` of no bytes proves nothing: other programs may have folded it into the database.
        """
        found = _look(self._database)
        if found[:2] != self.identity or found[2] < self._size_bytes:
            raise self._replaced(self._database)
        self._size_bytes = found[2]
        if identity_of(self._wal) != self._wal_identity:
            raise self._replaced(self._wal)

    def give_up(self) -> None:
        """See to it that nothing is written into files that are not ours any more, not even by closing."""
        process.lose(self.identity)

    def check_reader(self, identity: Identity | None) -> None:
        """Raise `LogReplaced` for a reader that was opened on another file than the writer."""
        if identity != self.identity:
            raise self._replaced(self._database)

    def _replaced(self, name: str) -> LogReplaced:
        return LogReplaced(
            f"{name} was deleted, moved, replaced or cut off while the log {self._path} is open: nothing more is stored by "
            "this handle, and what was not acknowledged may be lost. Put the file back or see who takes it away, "
            "then open the log again"
        )
