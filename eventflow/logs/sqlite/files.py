"""Checks that a file can be our log, its creation, and the settings of its connections.

    check_location  before anything is opened: folder, file system, permissions
    make_file       an empty file with mode 0600, independent of the umask
    check_journal   under the append lock, before SQLite reads: no journal that SQLite would obey
    prepare         on the writer's connection: a log of our format, or an empty file that becomes one

Each of them refuses a file with an error that names the file and the fix, and never changes a refused file.

A log has a rollback journal only for a moment of its creation.  SQLite obeys a journal that it finds: it writes its
contents into the database, and deletes the file that the journal names as its superior.
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
from eventflow.records import LogDamaged

__all__ = [
    "APPLICATION_ID",
    "FORMAT",
    "check_journal",
    "check_location",
    "check_ours",
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
"""In the file's header: marks an SQLite file as a log of ours."""

FORMAT: Final = 1
"""Version of the tables, in the file's header; a newer one is refused."""

FILE_MODE: Final = 0o600
"""Mode of a new log; new files next to it get the log's mode."""

_HEADER: Final = b"SQLite format 3\x00"
_PAGE_MAX: Final = 64 << 10
"""Bytes of SQLite's largest page, and so the limit of a file with one page."""

_STRICT_SINCE: Final = (3, 37, 0)

_WRITER: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA recursive_triggers = ON",  # otherwise INSERT OR REPLACE would bypass the triggers
    "PRAGMA fullfsync = ON",  # macOS, where a plain sync stays in the drive's cache; no effect elsewhere
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA journal_size_limit = 67108864",  # the file shrinks after a burst
    "PRAGMA cache_size = -16384",
    "PRAGMA mmap_size = 0",  # with a mapping, a temporary fault of the disk would become damage
)
_READER: Final = (
    "PRAGMA query_only = ON",
    "PRAGMA wal_autocheckpoint = 0",  # only the holder of the append lock checkpoints
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


def check_location(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raise `LogUnusable` if there can be no log at a path."""
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
        if not path.is_file():
            raise LogUnusable(f"{path} is no regular file: name another one")
        if not is_writable(path):
            raise LogUnusable(f"{path} is read-only: `chmod u+w` it, or copy it and use the copy")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LogUnusable(
            f"{folder} is read-only, and SQLite needs two files beside {path.name}: make it writable"
        )


def is_writable(path: Path) -> bool:
    """Return whether to write there. The mode bits count too: root may always write, but their owner set them."""
    return bool(path.stat().st_mode & 0o222) and os.access(path, os.W_OK)


def is_network(kind: str | None) -> bool:
    """Return whether a type of file system is shared by several machines."""
    return kind is not None and _NETWORK.fullmatch(kind) is not None


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the file system of a folder, if the system reports it (Linux)."""
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
    """Create an empty file that only its owner can read, whatever the umask; an existing file stays as it is.

    An existing file is never opened: closing a descriptor would drop the locks of this process on it.
    """
    target = Path(os.path.realpath(path))  # the target of a link; SQLite would create that, too
    try:
        os.mknod(target, stat.S_IFREG | FILE_MODE)
    except FileExistsError:
        return
    except PermissionError:  # systems on which only root may; also a read-only folder, reported below
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
        os.close(descriptor)
        try:
            with suppress(FileExistsError):
                os.link(name, target)
        finally:
            Path(name).unlink()
    target.chmod(FILE_MODE)


def check_journal(path: Path) -> None:
    """Check that SQLite finds no rollback journal; remove the journal of an interrupted creation.

    Call it under the append lock, before SQLite reads. Raises `LogUnusable` for any other journal.
    """
    journal = Path(f"{os.path.realpath(path)}-journal")
    if not os.path.lexists(journal):
        return
    identity = identity_of(path)
    if identity is None or is_born(identity) or not is_unborn(path):
        raise LogUnusable(has_journal(path))
    # Before the creation there was nothing, so nothing must be restored; the creation starts over.
    os.truncate(path, 0)
    journal.unlink()


def is_unborn(path: Path) -> bool:
    """Return whether a file that is not `is_born` is empty, or has only the rest of an interrupted creation."""
    if path.stat().st_size > _PAGE_MAX:
        return False
    with path.open("rb") as file:
        data = file.read(_PAGE_MAX + 1)
    if not data.strip(b"\x00"):
        return True
    page_bytes = int.from_bytes(data[16:18])
    if page_bytes == 1:  # 64 KiB, which two bytes cannot hold
        page_bytes = _PAGE_MAX
    is_one_page = data.startswith(_HEADER) and len(data) == page_bytes
    has_tables = data[100:101] != b"\x0d" or data[103:105] != b"\x00\x00"  # a leaf of the tree, without cells
    return is_one_page and not has_tables


def check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether a file is a log; if not, it is empty. Call it before any other query.

    Raises `LogUnusable` if the file is neither, `LogDamaged` for a log with other tables, or `sqlite3.Error`.
    """
    harden(connection)
    application, version = _number(connection, "application_id"), _number(connection, "user_version")
    empty = not tables_in(connection) and application in (0, APPLICATION_ID)
    if not empty and application != APPLICATION_ID:
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
    """Refuse a log whose digests have an algorithm that this version does not know."""
    row = connection.execute("SELECT name, value, crc FROM info WHERE name = 'digest'").fetchone()
    if row is None:
        raise LogDamaged(f"{path} has lost the row of info that names the algorithm of its digests")
    check_row(f"the row 'digest' of info in {path}", *row)
    if row[1] != ALGORITHM:
        raise LogUnusable(
            f"{path} has digests by {row[1]!r}, this eventflow knows {ALGORITHM!r}: use a newer eventflow"
        )


def prepare(connection: Connection, path: Path) -> None:
    """Check that a file is a log, make an empty file a log, and set the connection up for writing.

    Call it under the append lock. Raises `LogUnusable`, `LogDamaged` or `sqlite3.Error`.
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
        connection.execute("BEGIN IMMEDIATE")  # shows a file that SQLite could open only for reading
        connection.execute("ROLLBACK")


def prepare_reader(connection: sqlite3.Connection, path: Path) -> bool:
    """Set a connection up for reading, and return whether the file is a log; see `check_ours`."""
    is_log = check_ours(connection, path)
    for pragma in _READER:
        connection.execute(pragma)
    return is_log


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names of new files survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (number,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)


if sys.platform == "win32":
    raise ImportError("the SQLite log needs POSIX locks; on Windows run it under WSL")
