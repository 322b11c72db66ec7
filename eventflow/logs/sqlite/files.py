"""Whether a file can be our log, and how its connections are set.

    check_place     before anything is opened: folder, file system, permissions
    prepare         on the writer's connection: ours and of our format, or empty and made ours

Both refuse with one error that names the file and the fix, and leave what they refuse as it was.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import sys
import warnings
from pathlib import Path
from typing import Final

from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.errors import LogUnusable, WalResetWarning

__all__ = [
    "APPLICATION_ID",
    "FORMAT",
    "check_place",
    "check_sqlite",
    "prepare",
    "prepare_reader",
    "sync_folder",
]

APPLICATION_ID: Final = 0x65766C67
"""In the file's header: what kind of SQLite file it is."""

FORMAT: Final = 1
"""Version of the tables, in the file's header; a newer one is refused."""

_SCHEMA: Final = Path(__file__).with_name("schema.sql")
_STRICT_SINCE: Final = (3, 37, 0)

_WRITER: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA recursive_triggers = ON",  # or INSERT OR REPLACE would slip past the triggers
    "PRAGMA fullfsync = ON",  # macOS, where a plain sync stays in the drive's cache; nothing elsewhere
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA journal_size_limit = 67108864",  # a burst does not leave its size behind
    "PRAGMA cache_size = -16384",
    "PRAGMA mmap_size = 0",  # mapped, a passing fault of the disk becomes damage
)
_READER: Final = (
    "PRAGMA query_only = ON",
    "PRAGMA wal_autocheckpoint = 0",  # only who holds the append lock checkpoints
    "PRAGMA cache_size = -8192",
    "PRAGMA mmap_size = 0",
)

_NETWORK: Final = re.compile(
    r"afp\w*|afs|beegfs|ceph|cifs|coda|(fuse\.)?(davfs2?|gcsfuse|glusterfs|rclone|s3fs|sshfs)|gpfs|lustre"
    r"|ncpfs|nfs4?|orangefs|pvfs2|smb\d|smbfs"
)
"""File systems on which several machines meet, as Linux names them: SQLite's shared memory and locks do
not work across machines."""


def check_place(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Raise `LogUnusable` when there can be no log at a path."""
    folder = path.parent
    if path.is_dir():
        raise LogUnusable(f"{path} is a folder: name a file in it, like {path / 'log.db'}")
    if not folder.is_dir():
        raise LogUnusable(f"{folder}, where the log {path.name} should be, is no folder: create it")
    kind = _file_system(folder, mounts)
    if kind is not None and _NETWORK.fullmatch(kind):
        raise LogUnusable(
            f"{path} is on a network file system ({kind}), on which SQLite loses data: put it on a local "
            "disk, or use a PostgreSQL log to share it between machines"
        )
    if path.exists():
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise LogUnusable(f"{path} is no regular file: name another one")
        # The bits are looked at, too: root may write whatever they say, but somebody has meant them.
        if not (found.st_mode & 0o222 and os.access(path, os.W_OK)):
            raise LogUnusable(f"{path} is read-only: `chmod u+w` it, or copy it and use the copy")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LogUnusable(
            f"{folder} is read-only, and SQLite needs two files beside {path.name}: make it writable"
        )


def _file_system(folder: Path, mounts: Path) -> str | None:
    """The type of the file system of a folder, where the system tells it (Linux)."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, rest = line.partition(" - ")
        if mount.split()[2:3] == [number]:
            return rest.split()[0]
    return None


def check_sqlite(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> None:
    """Refuse a SQLite that is too old; warn once in a process of one that may damage files."""
    name = ".".join(map(str, version))
    if version < _STRICT_SINCE:
        raise LogUnusable(f"this Python has SQLite {name}; logs need 3.37 or newer: use another Python")
    if _resets_wal(version) and not _warned:
        _warned.append(name)
        warnings.warn(
            f"SQLite {name} can damage a file that two connections write to and checkpoint at once "
            "(fixed in 3.51.3, 3.50.7 and 3.44.6). eventflow takes turns by a lock file; do not write "
            "to its logs with other programs, or use a Python with a newer SQLite",
            WalResetWarning,
            stacklevel=2,
        )


_warned: Final[list[str]] = []


def _resets_wal(version: tuple[int, int, int]) -> bool:
    """Whether a version has the WAL-reset bug, see https://sqlite.org/wal.html."""
    branch = version[:2]
    if branch in ((3, 44), (3, 50)):
        return version < ((3, 44, 6) if branch == (3, 44) else (3, 50, 7))
    return version < (3, 51, 3)


def prepare(connection: Connection, path: Path) -> None:
    """See that a file is ours, making it so if it is empty, and set the connection up to write.

    To be called under the append lock. Raises `LogUnusable` or `sqlite3.Error`.
    """
    found, version = _number(connection, "application_id"), _number(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    empty = not tables and found in (0, APPLICATION_ID)
    if not empty and found != APPLICATION_ID:
        raise LogUnusable(f"{path} is a SQLite file of another program, not a log: name another file")
    if version > FORMAT:
        raise LogUnusable(
            f"{path} has format {version}, this eventflow knows up to {FORMAT}: use a newer eventflow"
        )
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LogUnusable(f"{path} cannot be switched to WAL mode, it stays in {mode!r}: use a local disk")
    for pragma in _WRITER:
        connection.execute(pragma)
    if empty:
        try:
            connection.executescript(_SCHEMA.read_text(encoding="utf-8"))
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    else:
        connection.execute("BEGIN IMMEDIATE")  # a file that SQLite could open for reading only shows here
        connection.execute("ROLLBACK")


def prepare_reader(connection: sqlite3.Connection) -> None:
    """Set a connection up to read."""
    for pragma in _READER:
        connection.execute(pragma)


def sync_folder(folder: Path) -> None:
    """See that the names of new files in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(connection: Connection, pragma: str) -> int:
    (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)


if sys.platform == "win32":
    raise ImportError("the SQLite log needs POSIX locks; on Windows run it under WSL")
