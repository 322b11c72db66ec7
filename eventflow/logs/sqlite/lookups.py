"""Two lookups for each fact: the number of a stream, the end of a stream, the end of the log.

A record found through an index is checked against its own content.  But a damaged index can also hide a record, and
then there is nothing to check: a finished run would look new, and run again.  So a *missing* record is looked up twice,
in two trees that share no pages:

    the name of a stream   in its index, and in the index of the checksums of names
    the end of a stream    in the index of versions, and in the index of marks.  A mark names `SEGMENT` positions among
                           which the stream has records.  The last of these positions are then read one by one
    the end of the log     the last record follows another one, or proves its position by its checksum, and no
                           record is found after it

If the two disagree, the log is damaged, and no process writes to it.  A process looks up each stream once, a read-only
handle once per query.  An append to a stream whose end is known needs no lookup.

Call each function within a transaction, so that both answers are of one moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

import msgspec

from eventflow.logs.sqlite.checksums import check_row, sum_of
from eventflow.records import LogDamaged, checksum, name_digest

__all__ = [
    "POSITION_MAX",
    "SEGMENT",
    "End",
    "check_stream",
    "end_of_log",
    "end_of_stream",
    "moment",
    "one_moment",
    "segment_of",
    "streams_named",
]

SEGMENT: Final = 64
"""Positions that share a mark; a power of two, part of the format."""

POSITION_MAX: Final = 1 << 53
"""The maximal number of records of a log."""

_NAMED: Final = (
    "WITH wanted (name, crc) AS (VALUES {}) SELECT wanted.name, named.id, other.id, other.name, other.crc FROM wanted "
    "LEFT JOIN stream AS named ON named.name = wanted.name LEFT JOIN stream AS other ON other.crc = wanted.crc "
    "LIMIT ?"
)
_CANDIDATES_MAX: Final = 100
"""Limit of names that share a checksum; among a million streams, two may."""
_END_OF_STREAM: Final = (
    "SELECT position, version, crc, body, "
    "(SELECT position FROM event WHERE stream = ? AND mark IS NOT NULL ORDER BY position DESC LIMIT 1) "
    "FROM event WHERE stream = ? ORDER BY version DESC LIMIT 1"
)
_AMONG: Final = "SELECT stream FROM event WHERE position > ? AND position <= ? ORDER BY position LIMIT 64"
_LAST_TWO: Final = "SELECT position FROM event ORDER BY position DESC LIMIT 2"
_RECORD: Final = "SELECT crc, body FROM event WHERE position = ?"
_BEYOND: Final = "SELECT position FROM event WHERE position > ? LIMIT 1"


class _EnvelopeStart(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a stored envelope; the rest is not decoded."""

    stream: int
    version: int
    at: int


_decode_start: Final = msgspec.msgpack.Decoder(_EnvelopeStart).decode


class End(msgspec.Struct, frozen=True, gc=False):
    """The last record of a stream, as found in the table."""

    stream: str
    position: int
    version: int
    crc: int
    body: bytes

    @property
    def at(self) -> int:
        """Return its time, after checking it; raise `LogDamaged` if it was changed."""
        return moment(self.stream, self.version, self.position, self.crc, self.body)

    def checked(self) -> Self:
        """Return it after checking it; raise `LogDamaged` if it was changed."""
        moment(self.stream, self.version, self.position, self.crc, self.body)
        return self


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Answer all queries of the block as of one moment.

    Close or exhaust cursors within the block: an open cursor keeps the connection at this moment.
    """
    is_within = connection.in_transaction
    if is_within:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # an error may have ended it
            connection.execute("ROLLBACK")


def streams_named(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, int]:
    """Return the numbers of the existing streams among some names."""
    marks = ", ".join(["(?, ?)"] * len(names))
    wanted: list[object] = []
    for name in names:
        wanted += (name, sum_of(name))
    limit = len(names) * _CANDIDATES_MAX
    rows = connection.execute(_NAMED.format(marks), [*wanted, limit]).fetchall()
    by_name: dict[str, int] = {}
    by_sum: dict[str, set[int]] = {name: set() for name in names}
    for name, number, other, other_name, crc in rows:
        if number is not None:
            by_name[name] = number
        if other is not None:
            check_row(f"the name of stream {other}", other_name, crc)
            if other_name == name:
                by_sum[name].add(other)
    for name in names:
        expected = {by_name[name]} if name in by_name else set()
        if by_sum[name] != expected:
            raise LogDamaged(f"the indices of streams disagree about {name!r}")
    return by_name


def check_stream(number: int, name: Any, crc: object) -> str:
    """Return the name of a stream, after checking it."""
    check_row(f"the name of stream {number}", name, crc)
    if isinstance(name, str):
        return name
    raise LogDamaged(f"the name of stream {number} is no text")


def end_of_stream(connection: sqlite3.Connection, number: int, name: str) -> End:
    """Return the last record of a stream that has a name, and so has records."""
    row = connection.execute(_END_OF_STREAM, (number, number)).fetchone()
    if row is None:  # if a stream was pruned, its name is gone, too
        raise LogDamaged(f"all records of {name!r} are missing")
    position, version, crc, body, marked = row
    if type(version) is not int or not 0 < position <= POSITION_MAX:
        raise LogDamaged(f"the last record of {name!r} has no place")
    end = (segment_of(position) + 1) * SEGMENT
    if type(marked) is not int or not end - SEGMENT < marked <= position:
        raise LogDamaged(
            f"the indices of events disagree about the end of {name!r}, which may be version {version}"
        )
    if (number,) in connection.execute(_AMONG, (position, end)).fetchall():
        raise LogDamaged(f"{name!r} has records after version {version} that are not found by their versions")
    return End(name, position, version, crc, body)


def end_of_log(connection: sqlite3.Connection) -> int:
    """Return the last position; 0 for an empty log."""
    positions = [position for (position,) in connection.execute(_LAST_TWO)]
    last, before = (*positions, 0, 0)[:2]
    last = int(last)
    if positions and last != before + 1:  # the record before it may have been pruned
        _check_record(f"record {last}, the last,", last, *connection.execute(_RECORD, (last,)).fetchone())
    if last > POSITION_MAX:
        raise LogDamaged(f"the last record is at position {last}, and no log has that")
    if connection.execute(_BEYOND, (last,)).fetchone() is not None:
        raise LogDamaged(f"position {last} is said to be the last, and there are records after it")
    return last


def segment_of(position: int) -> int:
    """Return the positions that share a mark with this one."""
    return (position - 1) // SEGMENT


def moment(stream: str, version: int, position: int, crc: object, body: bytes) -> int:
    """Return the time of a stored record, after checking the record."""
    _check_record(f"record {position} of {stream!r}", position, crc, body)
    try:
        stored = _decode_start(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LogDamaged(f"record {position} of {stream!r} is no record: {error}") from error
    if (stored.stream, stored.version) != (name_digest(stream), version):
        raise LogDamaged(f"record {position} is found as version {version} of {stream!r} and says otherwise")
    return stored.at


def _check_record(label: str, position: int, crc: object, body: object) -> None:
    if not 0 < position <= POSITION_MAX:
        raise LogDamaged(f"{label} is at position {position}, and no log has that")
    if type(body) is not bytes or checksum(body, position) != crc:
        raise LogDamaged(f"{label} fails its checksum")
