"""Errors of a log file: each message names the file, the fault and the fix.

SQLite's own errors never leave this package.  A busy database is not an error: the caller waits and retries
(`is_busy`).
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Final

from eventflow.ports import LogUnusable, LogWriteFailed
from eventflow.records import LogDamaged

__all__ = [
    "explain_error",
    "explain_pack",
    "has_journal",
    "is_busy",
]


_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


_DAMAGE: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_ERROR,  # our statements are right, so a table has been changed
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_CONSTRAINT,  # stored rows were checked, so an index contradicts its table
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_INTERRUPT,  # by us, when reading the schema takes for ever
}


def _code(error: BaseException) -> int:
    """Return the primary code of SQLite; 0 if the error is not from SQLite."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: BaseException) -> bool:
    """Return whether another process has the lock, so that waiting helps."""
    return isinstance(error, sqlite3.OperationalError) and _code(error) in _BUSY


def explain_error(error: sqlite3.Error, path: Path, raised: type[Exception] = LogUnusable) -> Exception:
    """Return the error to raise instead: `LogDamaged`, `LogUnusable`, or `raised` if the fault may be temporary."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
        return LogUnusable(has_journal(path))
    match _code(error):
        case sqlite3.SQLITE_TOOBIG if raised is LogWriteFailed:
            about = "takes no record above 256 MiB, and nothing of this was stored: store less in one event"
        case code if code in _DAMAGE or (not code and "Could not decode to UTF-8" in str(error)):
            return LogDamaged(
                f"{path} is damaged ({error}): restore it from a copy, or salvage it with "
                "`sqlite3 <file> .recover`"
            )
        case sqlite3.SQLITE_NOTADB:
            raised = LogUnusable
            about = (
                "is no SQLite file, so it is no log: name another file; if it was a log, its beginning is "
                "damaged: restore it from a copy"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            raised = LogUnusable
            about = "is read-only: make it and its folder writable, or name another file"
        case sqlite3.SQLITE_CANTOPEN:
            raised = LogUnusable
            about = "cannot be opened: see that its folder exists and is writable"
        case sqlite3.SQLITE_FULL:
            about = "is on a full disk, and nothing of this was stored: free some space"
        case sqlite3.SQLITE_IOERR:
            about = (
                f"met an error of the disk ({error}), and nothing of this was stored: see to the disk, its "
                "quota and the limit on file sizes"
            )
        case _:
            about = f"gave {type(error).__name__}: {error}"
    return raised(f"{path} {about}")


def has_journal(path: Path) -> str:
    """Return the message about a rollback journal next to a log."""
    return (
        f"{path}-journal is no file of a log, and by one like it SQLite can be made to delete other files: look "
        f"where {path} comes from, then remove the journal"
    )


def explain_pack(error: OSError, pack: Path) -> LogWriteFailed:
    """Return the error to raise if writing to a pack file failed."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            about = "is on a full disk or beyond its quota: free some space"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            about = f"cannot be written ({error.strerror}): make it and its folder writable"
        case _:
            about = f"cannot be written ({error.strerror}): see to the disk, its quota and the limit on file sizes"
    return LogWriteFailed(f"{pack}, where large values go, {about}; nothing of this was stored")
