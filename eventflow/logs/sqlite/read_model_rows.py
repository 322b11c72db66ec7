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
from typing import Any, Final

import msgspec

from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.logs.sqlite.lookups import POSITION_MAX, one_moment
from eventflow.ports import Checkpoint, RowsFound
from eventflow.records import LogDamaged

__all__ = ["find_model_rows", "write_model_rows"]

_NAMES_AT_ONCE: Final = 500
"""Number of names in one query."""
_TOTAL: Final = 1 << 32
_SELECT_MODEL: Final = "SELECT id, name, code, position, rows, total, crc FROM read_model WHERE name = ?"
_MODELS_MAX: Final = 1 << 31


class _Model(msgspec.Struct, frozen=True):
    """A row of `read_model`."""

    id: int
    checkpoint: Checkpoint
    rows: int
    total: int


def find_model_rows(
    connection: sqlite3.Connection, table: str, names: Sequence[str] | None, prefix: str
) -> RowsFound:
    """Return checkpoint and rows of one moment. Unless rows are requested by name, check that none is missing."""
    with one_moment(connection):
        model = _find(connection, table)
        if model is None:
            return RowsFound(None, {})
        if names:
            stored = _rows_named(connection, "name, data, crc", model.id, names)
            rows = {name: data for name, data, _ in _checked(stored, model.id)}
        else:
            checked = _all_rows(connection, model, table)  # all are read, even if none is wanted
            rows = {name: data for name, data in checked if names is None and name.startswith(prefix)}
        return RowsFound(model.checkpoint, rows)


def _find(connection: sqlite3.Connection, table: str) -> _Model | None:
    """Return a model after checking its own row, but not its rows."""
    row = connection.execute(_SELECT_MODEL, (table,)).fetchone()
    if row is None:
        return None
    check_row(f"the read model {table!r}", *row)
    number, name, code, position, rows, total, _ = row
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


def _rows_named(
    connection: sqlite3.Connection, columns: str, number: int, names: Iterable[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the existing rows among some names, in the order of their names."""
    wanted = sorted(set(names))
    for start in range(0, len(wanted), _NAMES_AT_ONCE):
        part = wanted[start : start + _NAMES_AT_ONCE]
        marks = ", ".join("?" * len(part))
        rows = connection.execute(
            f"SELECT {columns} FROM read_row WHERE model = ? AND name IN ({marks}) ORDER BY name",  # noqa: S608 - columns and marks
            (number, *part),
        )
        with closing(rows):
            yield from rows


def _all_rows(connection: sqlite3.Connection, model: _Model, table: str) -> Iterator[tuple[str, bytes]]:
    """Yield all rows of a model; at the end, check that no row is missing."""
    rows = connection.execute(
        "SELECT name, data, crc FROM read_row WHERE model = ? ORDER BY name", (model.id,)
    )
    count = total = 0
    with closing(rows):  # otherwise the connection would stay at this moment while the error exists
        for name, data, crc in _checked(rows, model.id):
            count += 1
            total += crc
            yield name, data
    if (count, total % _TOTAL) != (model.rows, model.total):
        raise LogDamaged(
            f"the read model {table!r} has {count} rows, which are not the {model.rows} that it had"
        )


def write_model_rows(
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
    checkpoint = None
    if model is not None:
        checkpoint = model.checkpoint
    if checkpoint != was:
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
            for (crc,) in _rows_named(connection, "crc", number, rows):
                count -= 1
                total -= crc
    kept, deleted = [], []
    for name, data in rows.items():
        if data is None:
            deleted.append((number, name))
        else:
            crc = sum_of(number, name, data)
            kept.append((number, name, data, crc))
            total += crc
    connection.executemany("REPLACE INTO read_row (model, name, data, crc) VALUES (?, ?, ?, ?)", kept)
    connection.executemany("DELETE FROM read_row WHERE model = ? AND name = ?", deleted)
    count += len(kept)
    total %= _TOTAL
    row = (number, table, now.code, now.position, count, total)
    connection.execute(
        "REPLACE INTO read_model (id, name, code, position, rows, total, crc) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*row, sum_of(*row)),
    )
    return True


def _usable(connection: sqlite3.Connection, table: str, was: Checkpoint | None) -> _Model | None:
    """Return the model to continue; a damaged one is deleted if the caller starts from nothing."""
    try:
        model = _find(connection, table)
        if was is None and model is not None:
            for _ in _all_rows(connection, model, table):
                pass
    except LogDamaged:
        if was is not None:
            raise
        connection.execute("DELETE FROM read_model WHERE name = ?", (table,))
        return None
    return model
