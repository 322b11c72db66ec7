"""A disk that forgets: a VFS that records what SQLite asks of it, and the images that a power cut may leave.

Whatever was synced is on the disk; of what was written since, any part may be, in any order, torn at any
sector.  `kill -9` proves nothing about that, for what was written then is still in the system's cache.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import apsw

__all__ = ["Connection", "Disk"]

SECTOR = 512


class Disk(apsw.VFS):
    """Passes everything on to the real file system, and records it."""

    def __init__(self, name: str) -> None:
        self.journal: list[tuple[str, str, int, bytes]] = []
        """What was done: action, file, offset or size, bytes."""
        super().__init__(name, base="")
        self.name = name

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - as apsw calls it
        """Open a file whose changes are recorded."""
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - as apsw calls it
        """Delete and record it."""
        self.record("delete", filename)
        super().xDelete(filename, syncdir)

    def record(self, action: str, file: str, at: int = 0, data: bytes = b"") -> None:
        """Note what was done."""
        self.journal.append((action, Path(file).name, at, data))

    def cut(self, folder: Path, chance: random.Random) -> int:
        """Leave in a folder what a power cut at a random moment may leave; gives the last acknowledgement."""
        end = chance.randrange(len(self.journal) + 1)
        done = self.journal[:end]
        synced: dict[str, int] = {}
        acknowledged = 0
        deleted: list[str] = []
        for index, (action, name, at, _) in enumerate(done):
            if action == "sync":
                if name not in synced:  # SQLite syncs the folder with the first sync of a journal
                    synced.update(dict.fromkeys(deleted, index))
                synced[name] = index
            elif action == "delete":
                deleted.append(name)
            elif action == "acknowledge":
                acknowledged = at
        kept = chance.choice((0.0, 0.5, 0.9, 1.0))
        files: dict[str, bytearray] = {}
        for index, (action, name, at, data) in enumerate(done):
            if action in ("sync", "acknowledge") or (
                index > synced.get(name, -1) and chance.random() >= kept
            ):
                continue
            file = files.setdefault(name, bytearray())
            match action:
                case "write":
                    whole = index < synced.get(name, -1) or chance.random() < 0.8
                    _write(
                        file,
                        at,
                        data if whole else data[: chance.randrange(len(data) // SECTOR + 1) * SECTOR],
                    )
                case "truncate":
                    del file[at:]
                case "delete":
                    files.pop(name)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return acknowledged


def _write(file: bytearray, at: int, data: bytes) -> None:
    file.extend(bytes(max(0, at + len(data) - len(file))))
    file[at : at + len(data)] = data


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else (name or "temporary")
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - as apsw calls it
        super().xWrite(data, offset)
        self._disk.record("write", self._name, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - as apsw calls it
        super().xTruncate(newsize)
        self._disk.record("truncate", self._name, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - as apsw calls it
        super().xSync(flags)
        self._disk.record("sync", self._name)


class _Cursor:
    """What the log reads of a cursor of sqlite3."""

    def __init__(self, connection: apsw.Connection, rows: list[Any]) -> None:
        self.lastrowid = connection.last_insert_rowid()
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int) -> list[Any]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return list(self._rows)


class Connection:
    """A connection on such a disk, with as much of sqlite3's face as the log's own statements use."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._inside = apsw.Connection(str(path), vfs=disk.name)
        self.execute("PRAGMA locking_mode = EXCLUSIVE")  # so that no shared memory is needed

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._inside.in_transaction

    @property
    def total_changes(self) -> int:
        """As sqlite3 has it."""
        return self._inside.total_changes()

    def execute(self, sql: str, parameters: Any = None) -> _Cursor:
        """Run a statement to its end."""
        return _Cursor(self._inside, list(self._inside.execute(sql, parameters)))

    def executescript(self, sql: str) -> _Cursor:
        """Run statements."""
        return self.execute(sql)

    def executemany(self, sql: str, rows: Iterable[Any]) -> None:
        """Run a statement for each row."""
        for row in rows:
            self.execute(sql, row)

    def setlimit(self, category: int, limit: int) -> int:
        """As sqlite3 has it."""
        return self._inside.limit(category, limit)

    def set_progress_handler(self, handler: Any, steps: int) -> None:
        """As sqlite3 has it."""
        self._inside.set_progress_handler(handler, steps)

    def close(self) -> None:
        """Close it."""
        self._inside.close()
