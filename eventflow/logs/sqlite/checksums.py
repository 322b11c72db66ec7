"""Checksums of rows that are no events: CRC-32 of the columns, as one MessagePack array in their order.

A row that fails its checksum is damage, and so is one whose columns are not of the types that the schema says:
SQLite does not look at those when it reads.
"""

from __future__ import annotations

from typing import Final, TypeAlias
from zlib import crc32

import msgspec

from eventflow.records import LogDamaged

__all__ = ["Column", "check_row", "sum_of"]

Column: TypeAlias = int | str | bytes | None

_encode: Final = msgspec.msgpack.Encoder().encode


def sum_of(*columns: Column) -> int:
    """The checksum of a row."""
    return crc32(_encode(columns))


def check_row(label: str, *row: object) -> None:
    """Raise `LogDamaged` unless the last column is the checksum of those before it; `label` names the row."""
    *columns, crc = row
    try:
        sound = crc32(_encode(columns)) == crc
    except (TypeError, OverflowError, UnicodeEncodeError):  # a type that no column has
        sound = False
    if not sound:
        raise LogDamaged(f"{label} fails its checksum")
