"""Read models in the file: rows that projections computed from events, each model with its checkpoint.

Nothing here is a fact.  All of it may be deleted at any time, and is made again from the events.  A damaged model
raises `LogDamaged` when it is read, and is replaced when it is written from the beginning.

Each row has a checksum.  The model has the number of its rows and the sum of their checksums, which proves that no
row is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Final

import msgspec

from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.logs.sqlite.lookups import POSITION_MAX, one_moment
from eventflow.ports import Checkpoint, RowsFound
from eventflow.records import LogDamaged

__all__ = ["find_rows_of", "write_rows"]

_ASKED: Final = 500
"""Number of names in one query."""
_TOTAL: Final = 1 << 32
_MODEL: Final = "SELECT id, name, code, position, rows, total, crc FROM read_model WHERE name = ?"
_MODELS_MAX: Final = 1 << 31


class _Model(msgspec.Struct, frozen=True):
    """A row of `read_model`."""

    id: int
    checkpoint: Checkpoint
    rows: int
    total: int


def find_rows_of(
    connection: sqlite3.Connection, table: str, names: Sequence[str] | None, prefix: str
) -> RowsFound:
    """Return checkpoint and rows of one moment. Unless rows are requested by name, check that none is missing."""
    with one_moment(connection):
        model = _find(connection, table)
        if model is None:
            return RowsFound(None, {})
        if names:
            return RowsFound(model.checkpoint, dict(_named(connection, model.id, names)))
        rows: dict[str, bytes] = {}
        _check_all(connection, model, table, None if names is not None else (prefix, rows))
        return RowsFound(model.checkpoint, rows)


def _find(connection: sqlite3.Connection, table: str) -> _Model | None:
    """Return a model after checking its own row, but not its rows."""
    found = connection.execute(_MODEL, (table,)).fetchone()
    if found is None:
        return None
    check_row(f"the read model {table!r}", *found)
    number, name, code, position, rows, total, _ = found
    try:
        model = msgspec.convert(
            (number, Checkpoint(code, position), rows, total), type=tuple[int, Checkpoint, int, int]
        )
    except msgspec.ValidationError as error:
        raise LogDamaged(f"the read model {table!r} is none: {error}") from error
    if name != table or not 0 <= position <= POSITION_MAX or not 0 < number <= _MODELS_MAX:
        raise LogDamaged(f"the read model {table!r} is at position {position}, which is none")
    return _Model(*model)


def _checked(
    rows: Iterable[tuple[object, object, object]], number: int, after: str | None = None
) -> Iterator[tuple[str, bytes, int]]:
    """Yield rows in the order of their names, after checking each."""
    for name, data, crc in rows:
        check_row(f"a row of read model {number}", number, name, data, crc)
        if not (isinstance(name, str) and isinstance(data, bytes) and isinstance(crc, int)):
            raise LogDamaged(f"a row of read model {number} is none")
        if after is not None and name.encode() <= after.encode():  # pages that form a circle
            raise LogDamaged(f"the rows of read model {number} are out of order at {name!r}")
        after = name
        yield name, data, crc


def _named(connection: sqlite3.Connection, number: int, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _ASKED):
        part = wanted[start : start + _ASKED]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(
            f"SELECT name, data, crc FROM read_row WHERE model = ? AND name IN ({marks}) ORDER BY name",  # noqa: S608 - marks only
            (number, *part),
        )
        with closing(rows):
            for name, data, _ in _checked(rows, number):
                yield name, data


def _check_all(
    connection: sqlite3.Connection, model: _Model, table: str, into: tuple[str, dict[str, bytes]] | None
) -> None:
    """Check that no row of a model is missing, and return those whose names have the prefix."""
    rows = connection.execute(
        "SELECT name, data, crc FROM read_row WHERE model = ? ORDER BY name", (model.id,)
    )
    count = total = 0
    with closing(rows):  # otherwise the connection would stay at this moment while the error exists
        for name, data, crc in _checked(rows, model.id):
            count += 1
            total += crc
            if into is not None and name.startswith(into[0]):
                into[1][name] = data
    if (count, total % _TOTAL) != (model.rows, model.total):
        raise LogDamaged(
            f"the read model {table!r} has {count} rows, which are not the {model.rows} that it had"
        )


def write_rows(
    connection: sqlite3.Connection,
    table: str,
    was: Checkpoint | None,
    now: Checkpoint,
    rows: Mapping[str, bytes | None],
) -> bool:
    """Within a write transaction: write rows and checkpoint, if the checkpoint is still `was`.

    If `was` is None and the model exists, it is deleted if it is damaged.
    """
    model = _usable(connection, table, was)
    if (None if model is None else model.checkpoint) != was:
        return False
    count = total = 0
    if model is None:
        (last,) = connection.execute("SELECT max(model) FROM read_row").fetchone()
        (other,) = connection.execute("SELECT max(id) FROM read_model").fetchone()
        number = max(last or 0, other or 0) + 1
    else:
        number = model.id
        if model.checkpoint.code != now.code:
            connection.execute("DELETE FROM read_row WHERE model = ?", (number,))
        else:
            count, total = model.rows, model.total
            for _, crc in _sums(connection, number, rows):
                count -= 1
                total -= crc
    kept = [
        (number, name, data, sum_of(number, name, data)) for name, data in rows.items() if data is not None
    ]
    connection.executemany("REPLACE INTO read_row (model, name, data, crc) VALUES (?, ?, ?, ?)", kept)
    connection.executemany(
        "DELETE FROM read_row WHERE model = ? AND name = ?",
        [(number, name) for name, data in rows.items() if data is None],
    )
    count += len(kept)
    total = (total + sum(row[3] for row in kept)) % _TOTAL
    row = (number, table, now.code, now.position, count, total)
    connection.execute(
        "REPLACE INTO read_model (id, name, code, position, rows, total, crc) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*row, sum_of(*row)),
    )
    return True


def _sums(connection: sqlite3.Connection, number: int, names: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Return the checksums of the existing rows among some names."""
    wanted = sorted(names)
    for start in range(0, len(wanted), _ASKED):
        part = wanted[start : start + _ASKED]
        marks = ", ".join("?" * len(part))
        yield from connection.execute(
            f"SELECT name, crc FROM read_row WHERE model = ? AND name IN ({marks})",  # noqa: S608 - marks only
            (number, *part),
        )


def _usable(connection: sqlite3.Connection, table: str, was: Checkpoint | None) -> _Model | None:
    """Return the model to continue; a damaged one is deleted if the caller starts from nothing."""
    try:
        model = _find(connection, table)
        if was is None and model is not None:
            _check_all(connection, model, table, None)
    except LogDamaged:
        if was is not None:
            raise
        connection.execute("DELETE FROM read_model WHERE name = ?", (table,))
        return None
    return model
