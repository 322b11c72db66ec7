"""How to break what a SQLite log has stored, with the triggers out of the way."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from eventflow.ports import Value

__all__ = ["damage", "execute", "execute_plain", "insert_value", "lose", "omit"]


def execute(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Run statements with all triggers gone, and put those back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for sql, parameters in statements:
            assert connection.execute(sql, parameters).rowcount
        for _, sql in triggers:
            connection.execute(sql)


def damage(path: Path, position: int) -> None:
    """Flip the last bit of a record."""
    with closing(sqlite3.connect(path)) as connection:
        (body,) = connection.execute("SELECT body FROM event WHERE position = ?", (position,)).fetchone()
    changed = body[:-1] + bytes([body[-1] ^ 1])
    execute(path, ("UPDATE event SET body = ? WHERE position = ?", (changed, position)))


def lose(path: Path, position: int) -> None:
    """Take a record out, without closing the gap in the numbers."""
    execute(path, ("DELETE FROM event WHERE position = ?", (position,)))


def execute_plain(path: Path, sql: str, *parameters: object) -> None:
    """Run a statement as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, parameters)


def insert_value(path: Path, kept: Value) -> None:
    """Put a value into the database itself, whatever its size."""
    execute_plain(
        path,
        "INSERT INTO value (digest, codec, encoding, stored_size, data) VALUES (?, ?, '', ?, ?)",
        kept.digest,
        kept.codec,
        len(kept.data),
        kept.data,
    )


def omit(path: Path, index: str, columns: str, kept: str) -> None:
    """Have an index leave out what a condition does not keep, while its table has all."""
    table = columns.partition("(")[0].strip()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"CREATE INDEX less ON {columns} WHERE {kept}")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'less') "
            "WHERE name = ? AND tbl_name = ?",
            (index, table),
        )
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'less'")
