"""Whether a file can be our log, how it is born, and how its connections are set.

    check_place     before anything is opened: folder, file system, permissions
    make_file       an empty file, of mode 0600 whatever the umask
    check_journal   under the append lock, before SQLite reads: nothing beside it that SQLite would obey
    prepare         on the writer's connection: ours and of our format, or empty and made ours

All refuse with one error that names the file and the fix, and leave what they refuse as it was.

A log never has a rollback journal beside it, but for a moment of its birth.  SQLite obeys a journal that it
finds: it writes into the database what stands there, and deletes the file that it names as its superior.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from eventflow.codecs.digests import ALGORITHM
from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.errors import has_journal
from eventflow.logs.sqlite.process import identity_of, is_born
from eventflow.logs.sqlite.schema import SCHEMA, check_schema, harden, tables_in
from eventflow.ports import LogUnusable

__all__ = [
    "APPLICATION_ID",
    "FORMAT",
    "check_journal",
    "check_ours",
    "check_place",
    "check_sqlite",
    "file_system",
    "is_network",
    "is_unborn",
    "is_writable",
    "make_file",
    "prepare",
    "prepare_reader",
    "sync_folder",
]

APPLICATION_ID: Final = 0x65766C67
"""In the file's header: what kind of SQLite file it is."""

FORMAT: Final = 1
"""Version of the tables, in the file's header; a newer one is refused."""

FILE_MODE: Final = 0o600
"""Of a new log; what is made beside it follows the log's mode."""

_HEADER: Final = b"SQLite format 3\x00"
_PAGE_MAX: Final = 64 << 10
"""Bytes of SQLite's largest page, and so of any file that has one."""

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


_MOUNTS: Final = Path("/proc/self/mountinfo")


def check_place(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raise `LogUnusable` when there can be no log at a path."""
    folder = path.parent
    if path.is_dir():
        raise LogUnusable(f"{path} is a folder: name a file in it, like {path / 'log.db'}")
    if not folder.is_dir():
        raise LogUnusable(f"{folder}, where the log {path.name} should be, is no folder: create it")
    kind = file_system(folder, mounts)
    if is_network(kind):
        raise LogUnusable(
            f"{path} is on a network file system ({kind}), on which SQLite loses data: put it on a local "
            "disk, or use a PostgreSQL log to share it between machines"
        )
    if path.exists():
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise LogUnusable(f"{path} is no regular file: name another one")
        if not is_writable(path):
            raise LogUnusable(f"{path} is read-only: `chmod u+w` it, or copy it and use the copy")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LogUnusable(
            f"{folder} is read-only, and SQLite needs two files beside {path.name}: make it writable"
        )


def is_writable(path: Path) -> bool:
    """Whether to write there. The bits are looked at, too: root may whatever they say, but somebody has meant them."""
    return bool(path.stat().st_mode & 0o222) and os.access(path, os.W_OK)


def is_network(kind: str | None) -> bool:
    """Whether several machines meet on a type of file system."""
    return kind is not None and _NETWORK.fullmatch(kind) is not None


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
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
    """Refuse a SQLite that is too old."""
    if version < _STRICT_SINCE:
        name = ".".join(map(str, version))
        raise LogUnusable(f"this Python has SQLite {name}; logs need 3.37 or newer: use another Python")


def make_file(path: Path) -> None:
    """Make an empty file, readable by its owner only whatever the umask says; what is there stays as it is.

    It is never opened for that: closing a descriptor would drop locks that this process has on the file by then.
    """
    place = Path(os.path.realpath(path))  # where a link leads to, which SQLite would make, too
    try:
        os.mknod(place, stat.S_IFREG | FILE_MODE)
    except FileExistsError:
        return
    except PermissionError:  # systems on which only root may; also a folder that is read-only, told below
        descriptor, name = tempfile.mkstemp(prefix=f"{place.name}.", dir=place.parent)
        os.close(descriptor)
        try:
            with suppress(FileExistsError):
                os.link(name, place)
        finally:
            Path(name).unlink()
    place.chmod(FILE_MODE)


def check_journal(path: Path) -> None:
    """See that SQLite finds no rollback journal; the rest of a birth that was cut short is cleared away.

    To be called under the append lock and before SQLite reads. Raises `LogUnusable` for a journal that is
    no such rest.
    """
    journal = Path(f"{os.path.realpath(path)}-journal")
    if not os.path.lexists(journal):
        return
    identity = identity_of(path)
    if identity is None or is_born(identity) or not is_unborn(path):
        raise LogUnusable(has_journal(path))
    # There was nothing before that birth, so nothing is to be restored; it begins again.
    os.truncate(path, 0)
    journal.unlink()


def is_unborn(path: Path) -> bool:
    """Whether a file that is not `is_born` here is empty, or has only what a birth that was cut short leaves."""
    if path.stat().st_size > _PAGE_MAX:
        return False
    with path.open("rb") as file:
        data = file.read(_PAGE_MAX + 1)
    if not data.strip(b"\x00"):
        return True
    size = int.from_bytes(data[16:18])
    is_one_page = data.startswith(_HEADER) and len(data) == (_PAGE_MAX if size == 1 else size)
    has_tables = data[100:101] != b"\x0d" or data[103:105] != b"\x00\x00"  # a leaf of the tree, without cells
    return is_one_page and not has_tables


def check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a file is a log already, or else empty; to be asked before anything else is.

    Raises `LogUnusable` for what can be neither, `LogDamaged` for a log with other tables, or `sqlite3.Error`.
    """
    harden(connection)
    found, version = _number(connection, "application_id"), _number(connection, "user_version")
    empty = not tables_in(connection) and found in (0, APPLICATION_ID)
    if not empty and found != APPLICATION_ID:
        raise LogUnusable(f"{path} is a SQLite file of another program, not a log: name another file")
    if version > FORMAT:
        raise LogUnusable(
            f"{path} has format {version}, this eventflow knows up to {FORMAT}: use a newer eventflow"
        )
    if not empty:
        check_schema(connection, path)
        _check_digests(connection, path)
    return not empty


def _check_digests(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a log whose digests are of an algorithm that this version does not know."""
    row = connection.execute("SELECT name, value, crc FROM info WHERE name = 'digest'").fetchone()
    if row is None:
        return  # no log of ours is without it, and whoever reads `info` says so
    check_row(f"the row 'digest' of info in {path}", *row)
    if row[1] != ALGORITHM:
        raise LogUnusable(
            f"{path} has digests by {row[1]!r}, this eventflow knows {ALGORITHM!r}: use a newer eventflow"
        )


def prepare(connection: Connection, path: Path) -> None:
    """See that a file is ours, making it so if it is empty, and set the connection up to write.

    To be called under the append lock. Raises `LogUnusable`, `LogDamaged` or `sqlite3.Error`.
    """
    empty = not check_ours(connection, path)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LogUnusable(f"{path} cannot be switched to WAL mode, it stays in {mode!r}: use a local disk")
    for pragma in _WRITER:
        connection.execute(pragma)
    if empty:
        try:
            connection.executescript(SCHEMA.read_text(encoding="utf-8"))
            created = {"id": token_hex(16), "created": str(time.time_ns() // 1000), "digest": ALGORITHM}
            rows = [(name, value, sum_of(name, value)) for name, value in created.items()]
            connection.executemany("INSERT INTO info (name, value, crc) VALUES (?, ?, ?)", rows)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    else:
        connection.execute("BEGIN IMMEDIATE")  # a file that SQLite could open for reading only shows here
        connection.execute("ROLLBACK")


def prepare_reader(connection: sqlite3.Connection, path: Path) -> bool:
    """Set a connection up to read, and give whether the file is a log; see `check_ours`."""
    is_log = check_ours(connection, path)
    for pragma in _READER:
        connection.execute(pragma)
    return is_log


def sync_folder(folder: Path) -> None:
    """See that the names of new files in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(found)


if sys.platform == "win32":
    raise ImportError("the SQLite log needs POSIX locks; on Windows run it under WSL")
