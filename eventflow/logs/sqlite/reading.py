"""Reading: pages from connections that cannot write, and what a reader asserts of them.

A read is turned into a range of consecutive numbers, positions of the log or versions of a stream, and
fetched page by page; no transaction and no cursor outlives its page.  Since the numbers are dense, a page
must hold exactly those that it was asked for, but positions that were pruned: whatever else is missing is
damage, and is named.  So is a record that fails its checksum, or says another version than its place.

The records of a page are decoded one by one as they are asked for, so that damage comes after the good
records before it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import anyio
import msgspec

from eventflow.events import LogDamaged, Record, checksum, decode
from eventflow.logs.sqlite.connection import Connection, Link, call, connect
from eventflow.logs.sqlite.errors import explain, is_busy
from eventflow.logs.sqlite.files import prepare_reader
from eventflow.logs.sqlite.packs import PackReader, Place, find_rows
from eventflow.logs.sqlite.patience import outlast
from eventflow.logs.sqlite.transaction import digest_key
from eventflow.ports import LogClosed, Value
from eventflow.serializers import has_digest

__all__ = [
    "PAGE",
    "Page",
    "Readers",
    "Span",
    "find_head",
    "find_latest",
    "find_snapshot",
    "find_span",
    "find_values",
]

PAGE: Final = 512
"""Records fetched at once; more would fall out of the processor's cache before they are looked at."""

READERS_MAX: Final = 2
_BUSY_PAUSE_S: Final = 0.01

T = TypeVar("T")
Row: TypeAlias = tuple[int, int, int, int, bytes]
"""Position, number of the stream, version, checksum, body."""

_COLUMNS: Final = "SELECT position, stream, version, crc, body FROM event"
_BY_POSITION: Final = f"{_COLUMNS} WHERE position > ? AND position <= ? ORDER BY position"
_BY_VERSION: Final = f"{_COLUMNS} WHERE stream = ? AND version > ? AND version <= ? ORDER BY version"
_BY_KEY: Final = f"{_COLUMNS} WHERE key = ? AND position <= ? ORDER BY position DESC"
_BY_KEYS: Final = (
    "WITH wanted (number) AS (VALUES {}) SELECT position, stream, version, crc, body FROM wanted JOIN event "
    "ON position = (SELECT max(position) FROM event WHERE key = number AND position <= ?)"
)
_KEYS_MAX: Final = 256
"""Keys looked up at once."""
_PRUNED: Final = "SELECT first, last FROM pruned WHERE first <= ? AND last > ?"
_LAST: Final = (1 << 63) - 1
"""Beyond every position."""


class Readers:
    """Connections that read, opened as they are needed, lent for one call at a time."""

    def __init__(self, path: Path, check: Callable[[Connection], object]) -> None:
        """Have `check` called with each connection that is opened; what it raises is passed on."""
        self._path = path
        self._check = check
        self._links: list[Link] = []
        self._idle: list[Link] = []
        self._free = anyio.Semaphore(READERS_MAX, fast_acquire=True)
        self._closed = False

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Have a function answered on a reader's thread. A busy database is waited for."""
        async with self._free:
            while True:
                if self._closed:
                    raise LogClosed(f"the log {self._path} was closed; open it again")
                try:
                    return await self._ask_one(question)
                except sqlite3.Error as error:
                    if not is_busy(error):
                        raise explain(error, self._path) from error
                await anyio.sleep(_BUSY_PAUSE_S)

    async def _ask_one(self, question: Callable[[Connection], T]) -> T:
        link = self._idle.pop() if self._idle else await self._connect()
        try:
            return await call(link, question)
        finally:
            self._idle.append(link)

    async def _connect(self) -> Link:
        link = await connect(self._path, "ro")
        try:
            await call(link, self._prepare)
        except BaseException:
            await outlast(asyncio.ensure_future(link.close()))
            raise
        self._links.append(link)
        return link

    def _prepare(self, connection: Connection) -> None:
        self._check(connection)
        prepare_reader(connection)

    async def close(self) -> None:
        """Close them all, after the calls that are under way; those that wait for a reader are refused."""
        self._closed = True
        for _ in range(READERS_MAX):
            await self._free.acquire()
        for link in self._links:
            await link.close()
        for _ in range(READERS_MAX):
            self._free.release()


class Span(msgspec.Struct, frozen=True):
    """What to read: numbers `low` < n ≤ `high`, of a stream or of the log (stream 0)."""

    stream: int
    low: int
    high: int

    def pages(self, *, backwards: bool) -> Iterator[Span]:
        """The parts of it, in the order of reading."""
        starts = range(self.low, self.high, PAGE)
        for start in reversed(starts) if backwards else starts:
            yield Span(self.stream, start, min(start + PAGE, self.high))


def find_span(
    connection: sqlite3.Connection, stream: str | None, after: int, until: int | None
) -> Span | None:
    """The numbers to read for bounds that are positions; None when there is no such stream."""
    if stream is None:
        head = find_head(connection, None)
        return Span(0, max(after, 0), head if until is None else min(until, head))
    row = connection.execute("SELECT id FROM stream WHERE name = ?", (stream,)).fetchone()
    if row is None:
        return None
    (number,) = row

    def position_of(version: int) -> int:
        """Of the first record that is there from a version on; in a stream, positions rise."""
        found = connection.execute(
            "SELECT position FROM event WHERE stream = ? AND version >= ? ORDER BY version LIMIT 1",
            (number, version),
        ).fetchone()
        return _LAST if found is None else int(found[0])

    versions = range(1, find_head(connection, stream) + 1)
    low = bisect_right(versions, after, key=position_of) if after > 0 else 0
    high = len(versions) if until is None else bisect_right(versions, until, key=position_of)
    return Span(number, low, high)


def find_head(connection: sqlite3.Connection, stream: str | None) -> int:
    """The last position of the log, or the last version of a stream; 0 when there is none."""
    if stream is None:
        row = connection.execute("SELECT max(position) FROM event").fetchone()
    else:
        row = connection.execute(
            "SELECT max(version) FROM event WHERE stream = (SELECT id FROM stream WHERE name = ?)", (stream,)
        ).fetchone()
    return row[0] or 0


class Page:
    """The records of one part of a span, as they were found."""

    def __init__(
        self,
        span: Span,
        rows: Sequence[Row],
        names: Mapping[int, str],
        pruned: Sequence[tuple[int, int]],
        broken: str,
    ) -> None:
        self._span = span
        self._rows = rows
        self._names = names
        self._pruned = pruned
        self._broken = broken

    @classmethod
    def find(cls, connection: Connection, span: Span, names: dict[int, str]) -> Page:
        """Fetch a page; `names` are those of streams met before, and more are added."""
        rows: list[Row] = []
        pruned: list[tuple[int, int]] = []
        broken = ""
        try:
            if span.stream:
                rows.extend(connection.execute(_BY_VERSION, (span.stream, span.low, span.high)))
                if len(rows) < span.high - span.low and not _has_stream(connection, span.stream):
                    pruned = [(span.low, span.high)]  # since the reading began
            else:
                rows.extend(connection.execute(_BY_POSITION, (span.low, span.high)))
                if len(rows) < span.high - span.low:
                    pruned = connection.execute(_PRUNED, (span.high, span.low)).fetchall()
        except sqlite3.DatabaseError as error:
            if is_busy(error):
                raise
            broken = f" ({error})"  # what came before it is in `rows`
        _learn_names(connection, {span.stream, *(row[1] for row in rows)} - {0}, names)
        return cls(span, rows, names, pruned, broken)

    def records(self, *, backwards: bool) -> Iterator[Record]:
        """Open them one by one; raises `LogDamaged` at the first that is not what was written."""
        span, names = self._span, self._names
        column = 2 if span.stream else 0
        numbers = range(span.low + 1, span.high + 1)
        if len(self._rows) == len(numbers):
            rows: Iterable[Row | None] = self._rows
        else:
            found = {row[column]: row for row in self._rows}
            rows = [found.get(number) for number in numbers]
        pairs = zip(numbers, rows, strict=True)
        for number, row in reversed(list(pairs)) if backwards else pairs:
            if row is not None and row[column] == number:
                yield open_row(row, names)
            elif not any(first <= number <= last for first, last in self._pruned):
                raise LogDamaged(self._describe_gap(number))

    def _describe_gap(self, number: int) -> str:
        """Name what is missing, and what stands after it, which is where to look."""
        column = 2 if self._span.stream else 0
        after = next((row for row in self._rows if int(row[column]) > number), None)
        name = self._names.get(self._span.stream if after is None else after[1])
        if self._span.stream:
            return f"version {number} of {name!r} is missing{self._broken}"
        beside = f": position {after[0]} ({name!r}) stands after it" if after is not None else ""
        return f"position {number} is missing{self._broken}{beside}"


def _has_stream(connection: sqlite3.Connection, number: int) -> bool:
    return connection.execute("SELECT 1 FROM stream WHERE id = ?", (number,)).fetchone() is not None


def _learn_names(connection: sqlite3.Connection, streams: set[int], names: dict[int, str]) -> None:
    for number in streams.difference(names):
        found = connection.execute("SELECT name FROM stream WHERE id = ?", (number,)).fetchone()
        if found is not None:
            names[number] = found[0]


def open_row(row: Row, names: Mapping[int, str]) -> Record:
    """The record of a row, whose bytes must be those that were written."""
    position, number, version, crc, body = row
    stream = names.get(number)
    if stream is None:
        raise LogDamaged(f"record {position} belongs to stream {number}, which has no name")
    if checksum(body) != crc:
        raise LogDamaged(f"record {position} (version {version} of {stream!r}) fails its checksum")
    record = decode(position, stream, body)
    if record.version != version:
        raise LogDamaged(
            f"record {position} of {stream!r} stands as version {version} and says {record.version}"
        )
    return record


def find_snapshot(connection: sqlite3.Connection, name: str) -> bytes | None:
    """What is kept under a name."""
    row = connection.execute("SELECT data FROM snapshot WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def find_latest(
    connection: sqlite3.Connection, keys: Sequence[str], until: int | None
) -> Mapping[str, Record]:
    """For each key that is there, its last record."""
    last = _LAST if until is None else until
    names: dict[int, str] = {}
    if len(keys) == 1:  # what a chain asks at each step; half the time that the question for many takes
        record = _find_last(connection, keys[0], last, names)
        return {} if record is None else {keys[0]: record}
    found: dict[str, Record] = {}
    for start in range(0, len(keys), _KEYS_MAX):
        numbers = {key: digest_key(key) for key in keys[start : start + _KEYS_MAX]}
        marks = ", ".join(["(?)"] * len(numbers))
        rows = connection.execute(_BY_KEYS.format(marks), (*numbers.values(), last)).fetchall()
        _learn_names(connection, {row[1] for row in rows}, names)
        records = {str(record.key): record for record in (open_row(row, names) for row in rows)}
        missing = [key for key in numbers if key not in records]
        found.update({key: record for key, record in records.items() if key in numbers})
        taken = {digest_key(key) for key in records} if missing else ()
        for key in missing:
            if numbers[key] in taken:  # another key of the same number came after it
                record = _find_last(connection, key, last, names)
                found.update({} if record is None else {key: record})
    return found


def _find_last(connection: sqlite3.Connection, key: str, last: int, names: dict[int, str]) -> Record | None:
    with closing(connection.execute(_BY_KEY, (digest_key(key), last))) as rows:
        for row in rows:
            _learn_names(connection, {row[1]}, names)
            record = open_row(row, names)
            if record.key == key:  # and not another of the same number
                return record
    return None


def find_values(
    connection: sqlite3.Connection, packs: PackReader, digests: Iterable[bytes]
) -> Mapping[bytes, Value]:
    """The values that are there; one whose bytes are lost or have changed raises `LogDamaged`."""
    found = {}
    for digest, codec, data, *place in find_rows(connection, tuple(digests)):
        if data is None:
            data = packs.read(digest, Place(*place))  # noqa: PLW2901 - the rest of the row
        elif not has_digest(data, digest):
            raise LogDamaged(f"the value {digest.hex()} does not have its bytes any more; run its task again")
        found[digest] = Value(digest, codec, data)
    return {digest: found[digest] for digest in digests if digest in found}
