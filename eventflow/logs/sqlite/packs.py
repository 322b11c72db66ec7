"""Large values: append-only pack files in a folder beside the log, `<file>.packs/000001.pack` and so on.

A value larger than `ROW_BYTES_MAX` costs several times as much in the database as in a plain file.  So its row has
only the location, and these rules keep the location valid:

    Bytes are written, and synced if the commit will be, before the commit of their row.
    A crash in between leaves bytes without a row; they are harmless, and stay.
    A pack only grows, under the append lock, so all processes share one pack; new bytes go to its end.  If a pack
    is shorter than a row says, it was tampered with, and gets no more bytes.
    The bytes of a row are checked at every read.  If they are missing or changed, the error says so.  They are
    repaired when the same value is stored again.

Without a sync (`normal`), a power cut may keep a row and lose its bytes: the same error, the same repair.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.errors import explain_pack
from eventflow.logs.sqlite.files import is_writable, sync_folder
from eventflow.ports import LogReplaced, LogUnusable, Value
from eventflow.records import LogDamaged
from eventflow.result import UnknownEncoding
from eventflow.serializers import has_digest

__all__ = [
    "PLAINTEXT",
    "ROW_BYTES_MAX",
    "PackLocation",
    "PackReader",
    "PackWriter",
    "find_rows",
    "unknown_encoding",
]

ROW_BYTES_MAX: Final = 64 << 10
"""A larger value, in bytes, is in a pack and not in the database itself."""

PLAINTEXT: Final = ""
"""The encoding of a row whose bytes are the plaintext; the only one that this version writes and knows."""

PACK_BYTES_MAX: Final = 256 << 20
"""A pack of this size gets no more bytes; its last batch may exceed it."""

DESCRIPTORS_MAX: Final = 32
"""Number of packs that a reader keeps open."""

_BUFFERS_MAX: Final = 512
"""Buffers of one system call; the smallest IOV_MAX in use is 1,024."""
_READ_MAX: Final = 1 << 30
"""Bytes of one system call; no supported system reads more than 2 GiB at once."""
_DIGESTS_AT_ONCE: Final = 512
"""Number of digests in one query."""

_SELECT_VALUES: Final = "SELECT digest, codec, encoding, data, pack, offset, stored_size FROM value"
_NAME: Final = re.compile(r"(\d{6,})\.pack")


class PackLocation(msgspec.Struct, frozen=True, order=True, gc=False):
    """The location of a value; locations are ordered by the time of writing."""

    pack: int
    offset: int
    size: int


class _Folder:
    """The packs of one log, listed at their first use; a log without large values has none."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The folder, which need not exist; all paths of one log have the same."""
        if self._path is None:
            self._path = Path(f"{self._log.resolve()}.packs")
        return self._path

    def pack(self, number: int) -> Path:
        """Return the file of a pack."""
        return self.path / f"{number:06d}.pack"

    def last(self) -> int:
        """Return the highest number of an existing pack; 0 if there is none."""
        last = 0
        with suppress(FileNotFoundError, NotADirectoryError):
            for path in self.path.iterdir():
                name = _NAME.fullmatch(path.name)
                if name is not None:
                    last = max(last, int(name[1]))
        return last

    def make(self, number: int) -> int:
        """Open a pack for appending; create it and its folder if needed. Both survive a power cut.

        New files have the modes of the log, independent of the umask.
        """
        mode = self._log.stat().st_mode & 0o666
        folder_mode = mode | (mode & 0o444) >> 2
        try:
            self.path.mkdir(folder_mode)
            self.path.chmod(folder_mode)
        except FileExistsError:
            if not self.path.is_dir():
                raise
        if not is_writable(self.path):
            raise PermissionError(errno.EACCES, "its folder is read-only")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self.pack(number), flags, mode)
        try:
            status = _regular(descriptor)
            if not status.st_size and stat.S_IMODE(status.st_mode) != mode:
                os.fchmod(descriptor, mode)
            # Also if they exist: their creator may have died before this step.
            for folder in (self.path, self.path.parent):
                sync_folder(folder)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor


class PackReader:
    """Reads the bytes of rows, from any thread; it must be closed."""

    def __init__(self, log: Path) -> None:
        self._folder = _Folder(log)
        self._guard = threading.Lock()
        self._descriptors: dict[int, int] = {}

    def read(self, digest: bytes, location: PackLocation) -> bytes:
        """Return the bytes of a value; raise `LogDamaged` if they were changed."""
        path = self._folder.pack(location.pack)
        try:
            with self._using(location.pack) as descriptor:
                data = _read(descriptor, location)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _lost(digest, path, location, "which is missing") from error
        except OSError as error:
            if error.errno == errno.EIO:
                raise _lost(digest, path, location, f"which cannot be read ({error.strerror})") from error
            raise LogUnusable(
                f"{path}, which holds large values, cannot be opened or read ({error.strerror}): see to its "
                "permissions and to the limit on open files"
            ) from error
        if len(data) == location.size and has_digest(data, digest):
            return data
        self._forget(location.pack)  # a good copy may replace it
        if len(data) < location.size:
            raise _lost(digest, path, location, "which is too short for that")
        raise _lost(digest, path, location, "where there are other bytes by now")

    def holds(self, location: PackLocation, data: bytes) -> bool:
        """Return whether a location has exactly these bytes, in the current file."""
        try:
            if not self.is_current(location.pack):
                self._forget(location.pack)
            with self._using(location.pack) as descriptor:
                return location.size == len(data) and _read(descriptor, location) == data
        except OSError:
            return False

    def sync(self, pack: int) -> None:
        """Sync a pack, so that its bytes survive a power cut, also those of other processes."""
        with self._using(pack) as descriptor:
            _sync(descriptor)

    def close(self) -> None:
        """Close all packs; they are opened again when needed."""
        for pack in tuple(self._descriptors):
            self._forget(pack)

    def is_current(self, pack: int) -> bool:
        """Return whether an open pack is the one at its path; for a closed pack, whether there is one."""
        with self._guard:
            descriptor = self._descriptors.get(pack)
            if descriptor is None:
                return self._folder.pack(pack).exists()
            return _is_at(descriptor, self._folder.pack(pack))

    @contextmanager
    def _using(self, pack: int) -> Iterator[int]:
        """Yield an open pack, which stays open during the block."""
        with self._guard:
            descriptor = self._descriptors.get(pack)
            if descriptor is None:
                descriptor = os.open(self._folder.pack(pack), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    _regular(descriptor)
                except OSError:
                    os.close(descriptor)
                    raise
                if len(self._descriptors) >= DESCRIPTORS_MAX:
                    os.close(self._descriptors.pop(next(iter(self._descriptors))))
                self._descriptors[pack] = descriptor
            yield descriptor

    def _forget(self, pack: int) -> None:
        with self._guard:
            descriptor = self._descriptors.pop(pack, None)
            if descriptor is not None:
                os.close(descriptor)


class PackWriter:
    """Appends to the last pack of a log; all of it on the writer's thread, under the append lock."""

    def __init__(self, log: Path) -> None:
        self._folder = _Folder(log)
        self._reader = PackReader(log)
        self._pack = 0
        self._descriptor: int | None = None
        self.unsynced = False
        """Whether our bytes still need a sync."""
        self._relied_on: set[int] = set()
        """Packs on which the current transaction relies."""

    def keep(
        self,
        connection: Connection,
        values: Mapping[bytes, Value],
        refuse: Callable[[bytes, str], None],
        *,
        full: bool,
    ) -> list[Any]:
        """Write values that are missing or damaged; return their rows, as a flat list.

        A row is digest, codec, encoding, stored size, pack, offset. `refuse` is called for a stored value in another
        encoding, and raises if it is needed. With `full`, all the values are synced on return, also those that were stored
        before. Raises `LogWriteFailed`.
        """
        missing = dict(values)
        packs: set[int] = set()
        for digest, _, encoding, data, pack, offset, size in find_rows(connection, tuple(values)):
            large = values[digest].data
            if encoding != PLAINTEXT:
                refuse(digest, encoding)
            elif data is None and self._reader.holds(PackLocation(pack, offset, size), large):
                packs.add(pack)
            elif data != large or size != len(large):
                connection.execute("DELETE FROM value WHERE digest = ?", (digest,))
                continue
            del missing[digest]
        locations: Sequence[PackLocation] = ()
        try:
            if missing:
                locations = self._append(connection, [value.data for value in missing.values()])
            if full:
                for pack in packs:
                    self._reader.sync(pack)
                self._sync()
        except OSError as error:
            raise explain_pack(error, self._folder.pack(self._pack)) from error
        self._relied_on = packs.union(location.pack for location in locations)
        rows: list[Any] = []
        for value, location in zip(missing.values(), locations, strict=True):
            rows += (value.digest, value.codec, PLAINTEXT, location.size, location.pack, location.offset)
        return rows

    def check_files(self) -> None:
        """Before a commit: raise `LogReplaced` unless the packs with its bytes are still at their paths."""
        for pack in self._relied_on:
            if pack == self._pack and self._descriptor is not None:
                is_current = _is_at(self._descriptor, self._folder.pack(pack))
            else:
                is_current = self._reader.is_current(pack)
            if not is_current:
                raise LogReplaced(
                    f"{self._folder.pack(pack)}, which holds large values, was deleted, moved or replaced while they "
                    "were being stored: nothing more is stored by this handle. Put the file back, or find the program that removes "
                    "it away, then open the log again"
                )
        self._relied_on = set()

    def close(self) -> None:
        """Close the packs, after a sync if one is needed, because closing the database syncs the rows, too."""
        self._reader.close()
        self._release()

    def _append(self, connection: Connection, blobs: Sequence[bytes]) -> list[PackLocation]:
        """Write blobs to the end of the last pack, or nothing."""
        descriptor, start = self._open(connection)
        self.unsynced = True
        try:
            _write(descriptor, blobs)
        except OSError:
            with suppress(OSError):  # no row names bytes that cannot be removed
                os.ftruncate(descriptor, start)
            raise
        locations = []
        for blob in blobs:
            locations.append(PackLocation(self._pack, start, len(blob)))
            start += len(blob)
        return locations

    def _open(self, connection: Connection) -> tuple[int, int]:
        """Return the pack to append to, the last one or a new one, and its end."""
        row = connection.execute(
            "SELECT pack, offset, stored_size FROM value WHERE pack IS NOT NULL ORDER BY pack DESC, offset DESC LIMIT 1"
        ).fetchone()
        last = PackLocation(*(row or (0, 0, 0)))
        if self._descriptor is None or not self._fits(self._descriptor, last):
            self._release()
            self._pack = max(self._folder.last(), last.pack, 1)
            if self._pack == last.pack and not self._folder.pack(last.pack).exists():
                self._pack += 1  # missing bytes stay missing, and a copy can be restored
            self._descriptor = self._folder.make(self._pack)
            if not self._fits(self._descriptor, last):
                self._release()
                self._pack += 1
                self._descriptor = self._folder.make(self._pack)
        return self._descriptor, os.fstat(self._descriptor).st_size

    def _fits(self, descriptor: int, last: PackLocation) -> bool:
        """Return whether the open pack is still the one to append to; `last` is the last location in rows."""
        size = os.fstat(descriptor).st_size
        is_current = _is_at(descriptor, self._folder.pack(self._pack))
        is_whole = (self._pack, size) >= (last.pack, last.offset + last.size)
        return is_current and is_whole and size < PACK_BYTES_MAX

    def _sync(self) -> None:
        if self._descriptor is not None and self.unsynced:
            _sync(self._descriptor)
        self.unsynced = False

    def _release(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):  # bytes of a synced commit were synced before it
                self._sync()
            os.close(self._descriptor)
            self._descriptor, self.unsynced = None, False


def _regular(descriptor: int) -> os.stat_result:
    """Return the status of an open file; refuse a pipe and everything else that is no regular file."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return status


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def unknown_encoding(digest: bytes, encoding: str) -> UnknownEncoding:
    """Return the error for a value that a later version stored."""
    return UnknownEncoding(
        f"the value {digest.hex()} is stored as {encoding!r}, which this version cannot open: use a newer eventflow"
    )


def find_rows(connection: sqlite3.Connection, digests: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
    """Yield digest, codec, data, pack, offset and size of the values that have rows, in any order."""
    for start in range(0, len(digests), _DIGESTS_AT_ONCE):
        part = digests[start : start + _DIGESTS_AT_ONCE]
        marks = ", ".join("?" * len(part))
        yield from connection.execute(f"{_SELECT_VALUES} WHERE digest IN ({marks})", part).fetchall()


def _read(descriptor: int, location: PackLocation) -> bytes:
    """Return the bytes of a location; fewer than its size if the file is too short."""
    offset = location.offset
    end = min(offset + location.size, os.fstat(descriptor).st_size)  # a wrong size allocates no memory
    parts = []
    while offset < end and (part := os.pread(descriptor, min(end - offset, _READ_MAX), offset)):
        parts.append(part)
        offset += len(part)
    if len(parts) == 1:
        return parts[0]  # not copied
    return b"".join(parts)


def _write(descriptor: int, blobs: Iterable[bytes]) -> None:
    """Append blobs in few calls: each releases the interpreter lock, and then must wait for it."""
    rest = [memoryview(blob) for blob in blobs]
    rest.reverse()
    while rest:
        done = os.writev(descriptor, rest[: -_BUFFERS_MAX - 1 : -1])
        while rest and done >= len(rest[-1]):
            done -= len(rest.pop())
        if done:
            rest[-1] = rest[-1][done:]


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # macOS: a plain sync stays in the drive's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def _lost(digest: bytes, path: Path, location: PackLocation, why: str) -> LogDamaged:
    return LogDamaged(
        f"the value {digest.hex()} is lost: its {location.size} bytes are at offset {location.offset} of {path}, "
        f"{why}. Put the file back from a copy, or have the result of its task made again"
    )
