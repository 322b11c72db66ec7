"""One transaction: appends are checked under the write lock and stored, on the writer's thread.

A batch contains many appends, and each is judged alone.  Its writes are checked against the current versions,
including the batch's earlier appends.  A conflict ends only its own append, before any of it is staged, so no savepoint
is needed.  The rows of all appends are inserted at the end, many at a time.  The cases of a write are those of the
memory log, see `eventflow.logs.memory`.

The ends of streams are remembered between transactions (`Ledger`) and checked in each one by a single number.
Positions are dense and events permanent (a pruner appends a record).  So if the last position is the one of our last
transaction, nothing has changed.  Otherwise everything is read again, with two lookups each (`lookups`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final

import msgspec

from eventflow.events import Draft, Record, kind_of
from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.lookups import (
    SEGMENT,
    end_of_log,
    end_of_stream,
    moment,
    segment_of,
    streams_named,
)
from eventflow.logs.sqlite.packs import PLAINTEXT, ROW_BYTES_MAX, PackWriter, find_rows, unknown_encoding
from eventflow.ports import Conflict, Value, Write
from eventflow.records import LogDamaged, checksum, encode, name_digest

__all__ = ["Append", "Ledger", "digest_key", "stage", "store"]

_UNKNOWN: Final = -1
_HEADS_MAX: Final = 10_000
"""Number of streams whose ends are remembered between transactions."""

_INSERT_ROWS: Final = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows of one INSERT.  Each statement releases the interpreter lock and waits to get it back.  While the event loop is
busy, this costs more than the statement itself.  So there are few statements, always with the same texts."""

_STREAMS_AT_ONCE: Final = 500
"""Number of streams in one query."""
_KEEP_VALUES: Final = "INSERT OR IGNORE INTO value (digest, codec, encoding, stored_size, data)"
_SELECT_KINDS: Final = "SELECT id, name, crc FROM kind LIMIT 10000"


class _Staged(msgspec.Struct, gc=False):
    """A write with its bytes; times never decrease within it."""

    stream: str
    expect: int
    drafts: Sequence[Draft]
    bodies: Sequence[bytes]


class Append(msgspec.Struct, gc=False):
    """One call of `append`: the data to store, and the outcome."""

    writes: Sequence[_Staged]
    values: Sequence[Value]
    full: bool
    rows: int
    size_bytes: int
    aside: Callable[[Connection], object] | None = None
    """Further work in the same transaction; it is called again if the transaction is repeated."""
    after: Append | None = None
    """The earlier append that it builds on; if that was not stored, neither is this."""
    records: Sequence[Record] = ()
    error: BaseException | None = None
    stored: bool = False
    """Whether anything new was stored."""


class _StreamEnd(msgspec.Struct, frozen=True, gc=False):
    """The end of a stream; `id` 0 is a stream that does not exist."""

    id: int
    version: int
    at: int
    segment: int
    """The segment of its last position, see `lookups`; a record in another segment has a mark."""


_NO_STREAM: Final = _StreamEnd(0, 0, 0, -1)


class Ledger:
    """The contents of the file, as far as appends need them."""

    def __init__(self) -> None:
        self.position = _UNKNOWN
        self.streams = 0
        """The highest number among the streams."""
        self.heads: dict[str, _StreamEnd] = {}
        self.kinds: dict[str, int] = {}
        self.full = True
        """Whether the connection syncs each commit."""
        self._notes: list[Any] = []

    def note_keys(self, keys: Iterable[str]) -> None:
        """Record the ids of signing keys with the next append."""
        for key in keys:
            name = f"key:{key}"
            self._notes += (name, "", sum_of(name, ""))

    def write_notes(self, connection: Connection) -> int:
        """Write the noted ids; return how many to drop after the commit."""
        notes = self._notes[:]
        _insert(connection, "INSERT OR IGNORE INTO info (name, value, crc)", notes, 3)
        return len(notes)

    def drop_notes(self, count: int) -> None:
        """Drop the ids that were written."""
        del self._notes[:count]

    def forget(self) -> None:
        """Read everything again in the next transaction."""
        self.position = _UNKNOWN

    def refresh(self, connection: Connection) -> None:
        """Keep the remembered ends if no other process has appended; otherwise forget them."""
        (position,) = connection.execute("SELECT ifnull(max(position), 0) FROM event").fetchone()
        if position != self.position:
            self.position = end_of_log(connection)
            (self.streams,) = connection.execute("SELECT ifnull(max(id), 0) FROM stream").fetchone()
            self.kinds = {}
            for number, name, crc in connection.execute(_SELECT_KINDS).fetchall():
                check_row(f"kind {number}", number, name, crc)
                self.kinds[name] = number
            self.heads.clear()
        elif len(self.heads) > _HEADS_MAX:
            self.heads.clear()

    def learn_heads(self, connection: Connection, streams: Iterable[str]) -> None:
        """Look up the ends of these streams; two lookups must agree that a stream is new, or on its end."""
        unknown = [name for name in dict.fromkeys(streams) if name not in self.heads]
        for start in range(0, len(unknown), _STREAMS_AT_ONCE):
            names = unknown[start : start + _STREAMS_AT_ONCE]
            numbers = streams_named(connection, names)
            for name in names:
                number = numbers.get(name)
                if number is None:
                    self.heads[name] = _NO_STREAM
                else:
                    end = end_of_stream(connection, number, name)
                    self.heads[name] = _StreamEnd(number, end.version, end.at, segment_of(end.position))

    def kind(self, connection: Connection, name: str) -> int:
        """Return the number of a kind; assign one if it has none."""
        number = self.kinds.get(name)
        if number is None:
            number = max(self.kinds.values(), default=0) + 1
            row = (number, name, sum_of(number, name))
            connection.execute("INSERT INTO kind (id, name, crc) VALUES (?, ?, ?)", row)
            self.kinds[name] = number
        return number


digest_key: Final = name_digest
"""Return the number of a key in the index; another key may have the same."""


def stage(write: Write) -> _Staged:
    """Encode a write as if its stream ended at `expect`; raise any error of encoding."""
    drafts = write.drafts
    if drafts:
        drafts = _in_time(drafts, drafts[0].at)
    bodies = [encode(write.stream, version, draft) for version, draft in enumerate(drafts, write.expect + 1)]
    return _Staged(write.stream, write.expect, drafts, bodies)


def _in_time(drafts: Sequence[Draft], at: int) -> Sequence[Draft]:
    """Return the same drafts, with times not before `at` and never decreasing."""
    moments = [draft.at for draft in drafts]
    if moments == [at] * len(moments):  # all drafts of a round have one time
        return drafts
    moments = list(accumulate(moments, max, initial=at))[1:]
    return [Draft(at, draft.event, draft.key) for at, draft in zip(moments, drafts, strict=True)]


def store(
    connection: Connection,
    ledger: Ledger,
    packs: PackWriter,
    appends: Sequence[Append],
    check_files: Callable[[], object],
) -> None:
    """Store a batch in one transaction; each append then has records or an error.

    Call it under the append lock. `check_files` is called right before the commit, and raises if the commit would be
    lost. Raises if nothing of the batch was stored.
    """
    full = any(append.full for append in appends)
    if full != ledger.full:
        level = "FULL" if full else "NORMAL"
        connection.execute(f"PRAGMA synchronous = {level}")
        ledger.full = full
    connection.execute("BEGIN IMMEDIATE")
    try:
        ledger.refresh(connection)
        ledger.learn_heads(connection, [write.stream for append in appends for write in append.writes])
        batch = _Transaction(connection, ledger)
        for append in appends:
            append.records, append.error, append.stored = (), None, False
            if append.after is not None and append.after.error is not None:
                append.error = append.after.error
                continue
            try:
                batch.take(append)
            except (Conflict, LogDamaged) as error:
                append.error = error
            if append.aside is not None:
                append.aside(connection)
        batch.flush()
        batch.keep_large(packs, full=full)
        notes = ledger.write_notes(connection)
        check_files()
        connection.execute("COMMIT")
        ledger.drop_notes(notes)
    except BaseException:
        ledger.forget()
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


class _Transaction:
    """A transaction in progress: accepted appends that are not inserted yet."""

    def __init__(self, connection: Connection, ledger: Ledger) -> None:
        self._connection = connection
        self._ledger = ledger
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._values: list[Any] = []
        self._large: dict[bytes, Value] = {}
        self._accepted: list[Append] = []

    def take(self, append: Append) -> None:
        """Accept a whole append, or raise `Conflict` or `LogDamaged` and change nothing."""
        ledger = self._ledger
        ends: dict[str, _StreamEnd] = {}
        streams: list[Any] = []
        events: list[Any] = []
        records: list[Record] = []
        position = ledger.position
        for write in append.writes:
            name = write.stream
            head = ends.get(name) or ledger.heads[name]
            if write.expect != head.version:
                records += self._already_stored(write, head)
                continue
            if not write.drafts:
                continue
            number = head.id
            if not number:
                number = ledger.streams + len(streams) // 3 + 1
                streams += (number, name, sum_of(name))
            drafts, bodies = write.drafts, write.bodies
            if drafts[0].at < head.at:
                drafts = _in_time(drafts, head.at)
                bodies = [
                    encode(name, version, draft) for version, draft in enumerate(drafts, head.version + 1)
                ]
            rows, ends[name] = self._rows_of(write.stream, number, head, drafts, bodies, position, records)
            events += rows
            position += len(drafts)
        ledger.position = position
        ledger.streams += len(streams) // 3
        ledger.heads.update(ends)
        self._streams += streams
        self._events += events
        self._take_values(append.values)
        append.records = records
        append.stored = bool(events)
        self._accepted.append(append)

    def _rows_of(
        self,
        stream: str,
        number: int,
        head: _StreamEnd,
        drafts: Sequence[Draft],
        bodies: Sequence[bytes],
        position: int,
        records: list[Record],
    ) -> tuple[list[Any], _StreamEnd]:
        """Return the rows of new records after a position, as a flat list, and the new end of their stream."""
        connection, ledger = self._connection, self._ledger
        version, segment = head.version, head.segment
        rows: list[Any] = []
        for draft, body in zip(drafts, bodies, strict=True):
            mark = None
            if position // SEGMENT != segment:
                mark, segment = 1, position // SEGMENT
            position += 1
            version += 1
            event, key = draft.event, draft.key
            kind = ledger.kind(connection, kind_of(event))
            short = None if key is None else digest_key(key)
            rows += (position, number, version, kind, short, body, checksum(body, position), mark)
            records.append(Record(position, stream, version, draft.at, key, event))
        return rows, _StreamEnd(number, version, drafts[-1].at, segment)

    def _take_values(self, values: Sequence[Value]) -> None:
        for value in values:
            if len(value.data) > ROW_BYTES_MAX:
                self._large.setdefault(value.digest, value)
            else:
                self._values += (value.digest, value.codec, PLAINTEXT, len(value.data), value.data)

    def flush(self) -> None:
        """Insert the accepted appends."""
        connection = self._connection
        for rows, width, head in (
            (self._streams, 3, "INSERT INTO stream (id, name, crc)"),
            (self._events, 8, "INSERT INTO event (position, stream, version, kind, key, body, crc, mark)"),
        ):
            _insert(connection, head, rows, width)
            rows.clear()
        before = connection.total_changes
        _insert(connection, _KEEP_VALUES, self._values, 5)
        if connection.total_changes - before < len(self._values) // 5:
            self._heal()
        self._values.clear()

    def _heal(self) -> None:
        """Repair stored values whose rows have changed; refuse those that a later version stored."""
        connection, values = self._connection, self._values
        wanted = dict(zip(values[::5], values[4::5], strict=True))
        for digest, _, encoding, data, _, _, size in list(find_rows(connection, tuple(wanted))):
            if encoding != PLAINTEXT:
                self._refuse(digest, encoding)
            elif data is not None and (data != wanted[digest] or size != len(data)):
                connection.execute("DELETE FROM value WHERE digest = ?", (digest,))
        _insert(connection, _KEEP_VALUES, values, 5)

    def _refuse(self, digest: bytes, encoding: str) -> None:
        """Raise `UnknownEncoding` if an append relies on a value that this version could not read.

        Its bytes may not be stored in place of the row, and new records that name it would have no value. An append
        whose records are all stored already needs nothing.
        """
        for append in self._accepted:
            is_needed = append.stored or not append.writes
            if is_needed and any(value.digest == digest for value in append.values):
                raise unknown_encoding(digest, encoding)

    def keep_large(self, packs: PackWriter, *, full: bool) -> None:
        """Write all large values to a pack, and their locations to rows; the last step of a batch."""
        rows = packs.keep(self._connection, self._large, self._refuse, full=full)
        _insert(
            self._connection,
            "INSERT INTO value (digest, codec, encoding, stored_size, pack, offset)",
            rows,
            6,
        )

    def _already_stored(self, write: _Staged, head: _StreamEnd) -> Iterable[Record]:
        """Return the stored records that equal a write; raise `Conflict` if there are none."""
        first, stream, count = write.expect, write.stream, len(write.drafts)
        if not 0 <= first <= head.version - count:
            raise Conflict(stream, first, head.version)
        self.flush()  # they may belong to an earlier append of the batch
        rows = self._connection.execute(
            "SELECT position, version, crc, body FROM event "
            "WHERE stream = ? AND version > ? AND version <= ? ORDER BY version",
            (head.id, first, first + count),
        ).fetchall()
        if len(rows) != count:
            raise Conflict(stream, first, head.version)
        records = []
        for draft, (position, version, crc, body) in zip(write.drafts, rows, strict=True):
            at = moment(stream, version, position, crc, body)
            if encode(stream, version, Draft(at, draft.event, draft.key)) != body:
                raise Conflict(stream, first, head.version)
            records.append(Record(position, stream, version, at, draft.key, draft.event))
        return records


def _insert(connection: Connection, head: str, rows: list[Any], width: int) -> None:
    """Insert the rows of a flat list."""
    start, end = 0, len(rows)
    row = f"({', '.join('?' * width)})"
    for size in _INSERT_ROWS:
        step = size * width
        while end - start >= step:
            connection.execute(f"{head} VALUES {', '.join([row] * size)}", rows[start : start + step])
            start += step
