"""Check that the tables, indices and triggers of a file are exactly those of a log.

A database is also a program: a view in place of a table, a trigger, a generated column or an index on an expression
runs when it is read or written, perhaps without end.  So a file is compared with `schema.sql`, text by text, before
any other query, and within a bounded time: even reading the schema follows pages, which a forger may link in a circle.

Later versions may add tables, and indices on columns.  Their names begin with `x_`; this version passes over them,
however many they are.  No code in them runs here: such a table is neither read nor written, and an index on columns
evaluates nothing.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

from eventflow.records import LogDamaged

__all__ = ["BLOB_MAX", "SCHEMA", "check_schema", "harden", "is_later", "tables_in"]

SCHEMA: Final = Path(__file__).with_name("schema.sql")

BLOB_MAX: Final = 256 << 20
"""Bytes of one row; SQLite itself allows four times that, and allocates any size that a file states."""

_STEPS: Final = 100_000
"""Steps of SQLite's machine between two calls of our progress handler."""
_STEPS_MAX: Final = 10_000_000
"""Limit of the steps for reading the schema; it takes about a hundred."""

_HARDENED: Final = (
    "PRAGMA trusted_schema = OFF",  # nothing in the schema calls functions that have effects
    "PRAGMA cell_size_check = ON",
)

_Part: TypeAlias = tuple[object, object, object, object]
"""Type, name, table, text."""
_LATER_PREFIX: Final = "x_"
_LATER_TABLE: Final = re.compile(r"CREATE TABLE (x_\w+) ?\(", re.ASCII)
_PLAIN_INDEX: Final = re.compile(r"CREATE INDEX x_\w+ ON \w+ ?\(\w+(, ?\w+)*\)", re.ASCII)
_READ: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
_PARTS_MAX: Final = 100
"""Parts that are compared; a log has fewer, and no file may make us hold more."""


@cache
def _expected() -> frozenset[_Part]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA.read_text(encoding="utf-8"))
        return frozenset(connection.execute(_READ))


def harden(connection: sqlite3.Connection) -> None:
    """Set a connection up for a file that anybody may have made, and have SQLite read the schema.

    Raises `LogDamaged` or `sqlite3.Error`.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BLOB_MAX)
    with _bounded(connection):
        for pragma in _HARDENED:
            connection.execute(pragma)
        tables_in(connection)


def tables_in(connection: sqlite3.Connection) -> bool:
    """Return whether a file has any content."""
    return connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is not None


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `LogDamaged` unless a file has the schema of a log, and at most additions of a later version."""
    with _bounded(connection):
        ours = (part for part in connection.execute(_READ) if not is_later(part))
        parts = list(islice(ours, _PARTS_MAX))
    expected = _expected()
    if len(parts) == len(expected) and expected.issuperset(parts):
        return
    names = sorted({str(part[1]) for part in expected.symmetric_difference(parts)})
    raise LogDamaged(
        f"{path} does not have the tables of a log: {', '.join(map(repr, names[:5]))} "
        f"{'is' if len(names) == 1 else 'are'} missing, changed, or of another program. Remove what was added, or "
        "restore the file from a copy"
    )


def is_later(part: _Part) -> bool:
    """Whether a part of a schema is a plain table, or an index without expressions, of a later version."""
    kind, name, table, text = part
    if kind == "table":
        beginning = _LATER_TABLE.match(text) if isinstance(text, str) else None
        return beginning is not None and beginning[1] == name
    if kind != "index" or not isinstance(table, str):
        return False
    return table.startswith(_LATER_PREFIX) or (
        isinstance(text, str) and _PLAIN_INDEX.fullmatch(text) is not None
    )


@contextmanager
def _bounded(connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt statements that take too many steps; SQLite then raises an error."""
    left = _STEPS_MAX // _STEPS

    def ask() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(ask, _STEPS)
    try:
        yield
    except UnicodeDecodeError as error:  # part of SQLite's message, which quotes the file's content
        raise LogDamaged(f"the schema of the file is damaged ({error})") from error
    finally:
        connection.set_progress_handler(None, 0)
