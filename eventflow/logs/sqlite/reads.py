"""Reading: pages of records, single rows by name or key, and the checks of all of them.

A read is a range of consecutive numbers, positions of the log or versions of a stream, which is fetched page by page.
No transaction and no cursor outlives its page.  The numbers are dense, so a page must contain exactly the requested
numbers, except pruned positions.  Everything else that is missing is damage, and the error names it.  A record that
fails its checksum, or has another version than its place, is damage, too.

The records of a page are decoded one by one when they are needed, so that the good records come before the damage.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import Final, Literal, TypeAlias

import msgspec

from eventflow.events import Record
from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.logs.sqlite.errors import is_busy
from eventflow.logs.sqlite.lookups import check_stream, end_of_log, end_of_stream, one_moment, streams_named
from eventflow.logs.sqlite.packs import PLAINTEXT, PackLocation, PackReader, find_rows, unknown_encoding
from eventflow.logs.sqlite.schema import BLOB_MAX
from eventflow.logs.sqlite.transaction import digest_key
from eventflow.ports import Value
from eventflow.records import LogDamaged, checksum, decode
from eventflow.serializers import has_digest

__all__ = [
    "PAGE_ROWS",
    "Page",
    "Span",
    "find_head",
    "find_info",
    "find_keys",
    "find_latest",
    "find_snapshot",
    "find_span",
    "find_values",
    "keys_in",
]

PAGE_ROWS: Final = 512
"""Number of records of a page; more would leave the processor's cache before they are decoded."""

Row: TypeAlias = tuple[int, int, int, int, bytes]
"""Position, number of the stream, version, checksum, body."""

_COLUMNS: Final = "SELECT position, stream, version, crc, body FROM event"
_BY_POSITION: Final = f"{_COLUMNS} WHERE position > ? AND position <= ? ORDER BY position {{}} LIMIT ?"
_BY_VERSION: Final = (
    f"{_COLUMNS} WHERE stream = ? AND version > ? AND version <= ? ORDER BY version {{}} LIMIT ?"
)
_BY_KEY: Final = f"{_COLUMNS} WHERE key = ? AND position <= ? ORDER BY position DESC"
_BY_KEYS: Final = (
    "WITH wanted (number) AS (VALUES {}) SELECT position, stream, version, crc, body, number FROM wanted JOIN event "
    "ON position = (SELECT max(position) FROM event WHERE key = number AND position <= ?)"
)
_INFO: Final = "SELECT name, value, crc FROM info LIMIT 10000"
_KEYS_MAX: Final = 256
"""Number of keys in one query."""
_PRUNED_BEFORE: Final = "SELECT first, last, crc FROM pruned WHERE first <= ? ORDER BY first DESC LIMIT 1"
_PRUNED_AFTER: Final = "SELECT first, last, crc FROM pruned WHERE first > ? AND first <= ? ORDER BY first"
_ABOVE_ALL: Final = (1 << 63) - 1
"""A number above every position."""
_ROW_BYTES: Final = 1 << 20
"""Limit of the size of a row, in bytes, that is fetched together with others."""
_PAGE_BYTES: Final = 8 << 20
"""A page ends with the record that reaches this size in bytes."""


class Span(msgspec.Struct, frozen=True):
    """A range to read: numbers `low` < n ≤ `high` of a stream, or of the log (stream 0)."""

    stream: int
    low: int
    high: int

    @property
    def is_empty(self) -> bool:
        """Whether the range is empty."""
        return self.low >= self.high

    @property
    def column(self) -> Literal[0, 2]:
        """The index of the number in a `Row`: the position, or the version."""
        return 2 if self.stream else 0


def find_span(
    connection: sqlite3.Connection, stream: str | None, after: int, until: int | None
) -> Span | None:
    """Return the range for bounds that are positions; None if there is no such stream."""
    if stream is None:
        high = find_head(connection, None)
        if until is not None:
            high = min(until, high)
        return Span(0, max(after, 0), high)
    with one_moment(connection):
        number = streams_named(connection, (stream,)).get(stream)
        if number is None:
            return None
        end = end_of_stream(connection, number, stream)

        def position_of(version: int) -> int:
            """Return the position of the first stored record from a version on; positions rise within a stream."""
            row = connection.execute(
                "SELECT position FROM event WHERE stream = ? AND version >= ? ORDER BY version LIMIT 1",
                (number, version),
            ).fetchone()
            if row is None:
                return _ABOVE_ALL
            return int(row[0])

        versions = range(1, end.version + 1)
        low, high = 0, len(versions)
        if after > 0:
            low = bisect_right(versions, after, key=position_of)
        if until is not None:
            high = bisect_right(versions, until, key=position_of)
        return Span(number, low, high)


def find_head(connection: sqlite3.Connection, stream: str | None) -> int:
    """Return the last position of the log, or the last version of a stream; 0 if there is none."""
    with one_moment(connection):
        if stream is None:
            return end_of_log(connection)
        number = streams_named(connection, (stream,)).get(stream)
        if number is None:
            return 0
        return end_of_stream(connection, number, stream).checked().version


class Page:
    """The first records of a span, as stored; `rest` is the remaining span."""

    def __init__(
        self, span: Span, rest: Span, rows: Sequence[Row], names: Mapping[int, str], *, backwards: bool
    ) -> None:
        self.rest: Final = rest
        self._span = span
        self._rows = rows
        self._names = names
        self._backwards = backwards
        self._pruned: Sequence[tuple[int, int]] = ()
        """Ranges of numbers that may be missing."""
        self._broken = ""

    @classmethod
    def find(
        cls, connection: sqlite3.Connection, span: Span, names: dict[int, str], *, backwards: bool
    ) -> Page:
        """Fetch a page; the names of its streams are added to `names`."""
        rows, whole, broken = _fetch(connection, span, backwards=backwards)
        rest = Span(span.stream, span.high, span.high)
        if not whole:
            last: object = rows[-1][span.column]
            if isinstance(last, int) and backwards:  # if it is no integer, the check of the record reports it
                rest = Span(span.stream, span.low, last - 1)
            elif isinstance(last, int):
                rest = Span(span.stream, last, span.high)
        page = cls(span, rest, rows, names, backwards=backwards)
        if broken or not page._is_dense():
            page._broken = broken
            page._pruned = _pruned(connection, page._reach())
        _learn_names(connection, {span.stream, *(row[1] for row in rows)} - {0}, names)
        return page

    def _reach(self) -> Span:
        """The part of the span that it covers."""
        span, rest = self._span, self.rest
        if rest.is_empty:
            return span
        if self._backwards:
            return Span(span.stream, rest.high, span.high)
        return Span(span.stream, span.low, rest.low)

    def _is_dense(self) -> bool:
        """Whether nothing can be missing; each number is checked all the same."""
        reach = self._reach()
        return len(self._rows) == reach.high - reach.low

    def records(self) -> Iterator[Record]:
        """Decode the records one by one; raise `LogDamaged` at the first changed one."""
        span, names, column = self._span, self._names, self._span.column
        if self._backwards:
            number, step = span.high, -1
        else:
            number, step = span.low + 1, 1
        for row in self._rows:
            if row[column] != number:
                self._check_gap(number, row, step)
                number = row[column]
            yield open_row(row, names)
            number += step
        if self.rest.is_empty and span.low < number <= span.high:
            self._check_gap(number, None, step)

    def _check_gap(self, number: int, row: Row | None, step: int) -> None:
        """Check that all missing numbers, up to that of a row, were pruned."""
        end: object
        if row is not None:
            end = row[self._span.column]
        elif self._backwards:
            end = self._span.low
        else:
            end = self._span.high + 1
        if type(end) is int and (end - number) * step > 0:
            for first, last in self._pruned[::step]:
                if first <= number <= last:
                    number = (last if step > 0 else first) + step
            if (end - number) * step <= 0:
                return
        raise LogDamaged(self._describe_gap(number))

    def _describe_gap(self, number: int) -> str:
        """Return an error that names the missing record, and the record after it, where to look."""
        stream, column = self._span.stream, self._span.column
        if stream:
            return f"version {number} of {self._names.get(stream)!r} is missing{self._broken}"
        rows = [row for row in self._rows if type(row[column]) is int and row[column] > number]
        fault = f"position {number} is missing{self._broken}"
        if not rows:
            return fault
        after = min(rows, key=lambda row: int(row[column]))
        return f"{fault}: position {after[0]} ({self._names.get(after[1])!r}) follows"


def _fetch(connection: sqlite3.Connection, span: Span, *, backwards: bool) -> tuple[Sequence[Row], bool, str]:
    """Return the first rows of a span, whether these are all, and the error that ended the page.

    Small rows are fetched at once, within a limit of memory. A page with large rows, or a damaged page, is fetched row
    by row.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_BYTES)
    try:
        with closing(_select(connection, span, backwards=backwards)) as cursor:
            rows = cursor.fetchall()
            return rows, len(rows) < PAGE_ROWS, ""
    except sqlite3.DatabaseError as error:
        if is_busy(error):
            raise
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BLOB_MAX)
    rows, size = [], 0
    try:
        with closing(_select(connection, span, backwards=backwards)) as cursor:
            for row in cursor:
                rows.append(row)
                size += len(row[4])
                if size > _PAGE_BYTES:
                    return rows, False, ""
    except sqlite3.DatabaseError as error:
        if is_busy(error):
            raise
        return rows, True, f" ({error})"  # the rows before it are in `rows`
    except TypeError:
        return rows, True, " (a body is no blob)"
    return rows, len(rows) < PAGE_ROWS, ""


def _select(connection: sqlite3.Connection, span: Span, *, backwards: bool) -> sqlite3.Cursor:
    order = "DESC" if backwards else "ASC"
    if span.stream:
        return connection.execute(_BY_VERSION.format(order), (span.stream, span.low, span.high, PAGE_ROWS))
    return connection.execute(_BY_POSITION.format(order), (span.low, span.high, PAGE_ROWS))


def _pruned(connection: sqlite3.Connection, span: Span) -> Sequence[tuple[int, int]]:
    """Return the numbers of a page that may be missing, as ranges that neither touch nor overlap."""
    if span.stream:  # all of a stream that was pruned since the read began, or nothing
        row = connection.execute("SELECT 1 FROM stream WHERE id = ?", (span.stream,)).fetchone()
        if row is not None:
            return ()
        return ((span.low + 1, span.high),)
    before = connection.execute(_PRUNED_BEFORE, (span.low,)).fetchall()
    ranges: list[tuple[int, int]] = []
    with closing(connection.execute(_PRUNED_AFTER, (span.low, span.high))) as after:
        for first, last, crc in chain(before, after):
            check_row(f"the range of pruned positions from {first} on", first, last, crc)
            if type(last) is not int or last < first or (ranges and first <= ranges[-1][1]):
                raise LogDamaged(
                    f"the range of pruned positions from {first} on is none, or overlaps another one"
                )
            if ranges and first == ranges[-1][1] + 1:
                ranges[-1] = (ranges[-1][0], last)
            else:
                ranges.append((first, last))
    return ranges


def _learn_names(connection: sqlite3.Connection, streams: set[int], names: dict[int, str]) -> None:
    for number in streams.difference(names):
        if type(number) is int:
            row = connection.execute("SELECT name, crc FROM stream WHERE id = ?", (number,)).fetchone()
            if row is not None:
                names[number] = check_stream(number, *row)


def open_row(row: Row, names: Mapping[int, str]) -> Record:
    """Return the record of a row, after checking its bytes."""
    position, number, version, crc, body = row
    stream = names.get(number)
    if stream is None:
        raise LogDamaged(f"record {position} belongs to stream {number}, which has no name")
    try:
        sound = checksum(body, position) == crc
    except TypeError:  # the body is not a blob
        sound = False
    if not sound:
        raise LogDamaged(f"record {position} (version {version} of {stream!r}) fails its checksum")
    record = decode(position, stream, body)
    if record.version != version:
        raise LogDamaged(
            f"record {position} of {stream!r} is stored as version {version} and says that it is version {record.version}"
        )
    return record


def find_info(connection: sqlite3.Connection) -> Mapping[str, str]:
    """Return the log's description of itself, by name."""
    info: dict[str, str] = {}
    for name, value, crc in connection.execute(_INFO).fetchall():
        check_row(f"the row {name!r} of info", name, value, crc)
        info[name] = value
    if not {"id", "created", "digest"} <= info.keys():
        raise LogDamaged("the log has lost its id, the time of its birth, or the algorithm of its digests")
    return info


def keys_in(rows: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of signing keys among the names in `info`."""
    return tuple(name.removeprefix("key:") for name in rows if name.startswith("key:"))


def find_keys(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return the ids of the keys that signed, or may have signed."""
    return keys_in(find_info(connection))


def find_snapshot(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Return the snapshot with a name; None if it is damaged, because it can be made again."""
    row = connection.execute("SELECT name, data, crc FROM snapshot WHERE name = ?", (name,)).fetchone()
    if row is None:
        return None
    stored_name, data, crc = row
    if stored_name != name or type(data) is not bytes or sum_of(name, data) != crc:
        return None
    return data


def find_latest(
    connection: sqlite3.Connection, keys: Sequence[str], until: int | None
) -> Mapping[str, Record]:
    """Return the last record of each known key."""
    last = _ABOVE_ALL if until is None else until
    names: dict[int, str] = {}
    latest: dict[str, Record] = {}
    if len(keys) == 1:  # a chain does this at each step; it takes half the time of the query for many keys
        record = _find_last(connection, keys[0], last, names)
        if record is not None:
            latest[keys[0]] = record
        return latest
    for start in range(0, len(keys), _KEYS_MAX):
        numbers = {key: digest_key(key) for key in keys[start : start + _KEYS_MAX]}
        latest |= _find_last_of_each(connection, numbers, last, names)
    return latest


def _find_last_of_each(
    connection: sqlite3.Connection, numbers: Mapping[str, int], last: int, names: dict[int, str]
) -> dict[str, Record]:
    """Return the last record of each key of `numbers`, which maps the keys to their numbers in the index."""
    marks = ", ".join(["(?)"] * len(numbers))
    rows = connection.execute(_BY_KEYS.format(marks), (*numbers.values(), last)).fetchall()
    _learn_names(connection, {row[1] for row in rows}, names)
    latest: dict[str, Record] = {}
    used: set[int] = set()
    for *row, number in rows:
        record = open_row(tuple(row), names)
        key = _checked_key(record, number)
        if key in numbers:
            latest[key] = record
        used.add(number)
    for key, number in numbers.items():
        if key not in latest and number in used:  # a later record has another key with the same number
            record_of_key = _find_last(connection, key, last, names)
            if record_of_key is not None:
                latest[key] = record_of_key
    return latest


def _find_last(connection: sqlite3.Connection, key: str, last: int, names: dict[int, str]) -> Record | None:
    with closing(connection.execute(_BY_KEY, (digest_key(key), last))) as rows:
        for row in rows:
            _learn_names(connection, {row[1]}, names)
            record = open_row(row, names)
            if record.key == key:
                return record
            _checked_key(record, digest_key(key))  # it has another key with the same number
    return None


def _checked_key(record: Record, number: int) -> str:
    """Return the key of a record, which was found by that key's number; raise `LogDamaged` if it has another number."""
    if record.key is None or digest_key(record.key) != number:
        raise LogDamaged(f"record {record.position} is indexed under a key that it does not have")
    return record.key


def find_values(
    connection: sqlite3.Connection, packs: PackReader, digests: Iterable[bytes]
) -> Mapping[bytes, Value]:
    """Return the values that are there.

    Raises `LogDamaged` if bytes are lost or changed, and `UnknownEncoding` if a later version stored a value.
    """
    values = {}
    for digest, codec, encoding, data, *location in find_rows(connection, tuple(digests)):
        if encoding != PLAINTEXT:
            raise unknown_encoding(digest, encoding)
        if data is None:
            data = packs.read(digest, PackLocation(*location))  # noqa: PLW2901 - the rest of the row
        elif not has_digest(data, digest):
            raise LogDamaged(f"the value {digest.hex()} does not have its bytes any more; run its task again")
        elif location[-1] != len(data):
            raise LogDamaged(
                f"the row of the value {digest.hex()} names {location[-1]} bytes and has {len(data)}; run its task again"
            )
        values[digest] = Value(digest, codec, data)
    return {digest: values[digest] for digest in digests if digest in values}
