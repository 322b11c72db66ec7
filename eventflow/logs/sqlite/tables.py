"""Read models in the file: rows that projections have made of the events, with how far they are folded.

Nothing here is a fact.  All of it may be deleted at any time, and is made again from the events.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from eventflow.ports import Checkpoint, RowsFound

__all__ = ["find_rows_of", "write_rows"]

_ASKED: Final = 500
"""Names of one query."""


def find_rows_of(
    connection: sqlite3.Connection, table: str, names: Sequence[str] | None, prefix: str
) -> RowsFound:
    """Checkpoint and rows of one moment."""
    connection.execute("BEGIN")
    try:
        number, checkpoint = _model(connection, table)
        rows = _under(connection, number, prefix) if names is None else _named(connection, number, names)
        return RowsFound(checkpoint, dict(rows))
    finally:
        connection.execute("ROLLBACK")


def _model(connection: sqlite3.Connection, table: str) -> tuple[int, Checkpoint | None]:
    found = connection.execute(
        "SELECT id, code, position FROM read_model WHERE name = ?", (table,)
    ).fetchone()
    return (0, None) if found is None else (found[0], Checkpoint(found[1], found[2]))


def _named(connection: sqlite3.Connection, number: int, names: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _ASKED):
        part = wanted[start : start + _ASKED]
        marks = ", ".join("?" * len(part))
        yield from connection.execute(
            f"SELECT name, data FROM read_row WHERE model = ? AND name IN ({marks}) ORDER BY name",  # noqa: S608 - marks only
            (number, *part),
        )


def _under(connection: sqlite3.Connection, number: int, prefix: str) -> Iterable[tuple[str, bytes]]:
    for name, data in connection.execute(
        "SELECT name, data FROM read_row WHERE model = ? AND name >= ? ORDER BY name", (number, prefix)
    ):
        if not name.startswith(prefix):
            return
        yield name, data


def write_rows(
    connection: sqlite3.Connection,
    table: str,
    was: Checkpoint | None,
    now: Checkpoint,
    rows: Mapping[str, bytes | None],
) -> bool:
    """Within a transaction that writes: move the checkpoint with the rows, if it still is where it was."""
    number, found = _model(connection, table)
    if found != was:
        return False
    if found is None:
        number = connection.execute(
            "INSERT INTO read_model (name, code, position) VALUES (?, ?, ?) RETURNING id",
            (table, now.code, now.position),
        ).fetchone()[0]
    else:
        if found.code != now.code:
            connection.execute("DELETE FROM read_row WHERE model = ?", (number,))
        connection.execute(
            "UPDATE read_model SET code = ?, position = ? WHERE id = ?", (now.code, now.position, number)
        )
    connection.executemany(
        "REPLACE INTO read_row (model, name, data) VALUES (?, ?, ?)",
        [(number, name, data) for name, data in rows.items() if data is not None],
    )
    connection.executemany(
        "DELETE FROM read_row WHERE model = ? AND name = ?",
        [(number, name) for name, data in rows.items() if data is None],
    )
    return True
