"""Standard types at any depth, as msgpack with tags for the types.

A type without a msgpack format becomes an extension: a number from the table below, and content that is msgpack
or text.  The numbers are on disk for ever: add numbers, never change or reuse one.  Sets are sorted by the bytes of
their members, so equal sets have equal bytes under every hash seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import IntEnum
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, TypeAlias
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import msgspec

from eventflow.codecs.registry import is_kept
from eventflow.result import DeserializationError

__all__ = ["TAGGED", "Extension", "Rule", "Tagged", "extension", "rules_for"]


class Extension(IntEnum):
    """Extension numbers, on disk for ever."""

    TUPLE = 1
    SET = 2
    FROZENSET = 3
    DICT = 4
    INT = 5
    STR = 6
    BYTEARRAY = 7
    COMPLEX = 8
    DECIMAL = 9
    DATE = 10
    TIME = 11
    DATETIME = 12
    TIMEDELTA = 13
    UUID = 14
    RANGE = 15
    PATH = 16
    OBJECT = 17
    ENUM = 18
    """These two are only used for content digests, never stored."""


class _NotStandard(Exception):
    """A part has no standard type."""


# ── to bytes ─────────────────────────────────────────────────────────────────────────────────────────


def _tag(value: Any) -> Any:
    """Return the value with extensions for all types without a msgpack format."""
    rule = _RULES.get(type(value))
    if rule is None:
        raise _NotStandard
    return rule(value)


def extension(tag: Extension, content: object) -> msgspec.msgpack.Ext:
    """Return content as an extension with that number."""
    return _ext_raw(tag, _encode(content))


def _ext_raw(tag: Extension, data: bytes) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(tag.value, data)


def _int(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    return _ext_raw(Extension.INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _str(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates, as in file names that are not UTF-8
        return _ext_raw(Extension.STR, value.encode("utf-8", "surrogatepass"))
    return value


def _dict(value: dict[Any, Any]) -> Any:
    keys = [_tag(key) for key in value]
    if all(type(key) is str for key in keys):
        return dict(zip(keys, map(_tag, value.values()), strict=True))
    parts: list[Any] = []
    for key, item in zip(keys, value.values(), strict=True):
        parts += (key, _tag(item))
    return extension(Extension.DICT, parts)


def _zone(zone: tzinfo | None) -> Any:
    """Return None, the key of a `ZoneInfo`, or `[offset in µs]` of a `timezone`, perhaps with its name."""
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # what pickle calls
        return [offset // timedelta(microseconds=1), *name]
    raise _NotStandard


def _moment(tag: Extension) -> Callable[[Any], Any]:
    def rule(value: datetime | time) -> Any:
        clock = value.replace(tzinfo=None, fold=0).isoformat()
        return extension(tag, [clock, value.fold, _zone(value.tzinfo)])

    return rule


def _path(value: PurePath) -> Any:
    text = str(value).encode("utf-8", "surrogatepass")
    return extension(Extension.PATH, [_PATH_KINDS.index(type(value)), text])


_PATH_KINDS: Final[tuple[type[PurePath], ...]] = (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)
"""Their indices here are on disk."""

Rule: TypeAlias = Callable[[Any], Any]
"""Converts a value of one type to types with a msgpack format."""

_LEAVES: Final[Mapping[type, Rule]] = {
    **dict.fromkeys((type(None), bool, float, bytes), lambda value: value),
    int: _int,
    str: _str,
    bytearray: lambda value: _ext_raw(Extension.BYTEARRAY, bytes(value)),
    complex: lambda value: extension(Extension.COMPLEX, [value.real, value.imag]),
    Decimal: lambda value: extension(Extension.DECIMAL, str(value)),
    date: lambda value: extension(Extension.DATE, value.isoformat()),
    time: _moment(Extension.TIME),
    datetime: _moment(Extension.DATETIME),
    timedelta: lambda value: extension(Extension.TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    UUID: lambda value: extension(Extension.UUID, [value.bytes, value.is_safe.value]),
    range: lambda value: extension(
        Extension.RANGE, [_int(bound) for bound in (value.start, value.stop, value.step)]
    ),
    **dict.fromkeys(_PATH_KINDS, _path),
}
"""Types that contain no values of other types."""


def rules_for(tag: Rule, of_dict: Rule) -> Mapping[type, Rule]:
    """Return the rules of all standard types; `tag` is called for the items of lists, tuples and sets.

    Sets are sorted by the bytes of their members.
    """

    def members(value: Iterable[Any]) -> list[Any]:
        return [tag(member) for member in value]

    def sorted_members(value: Iterable[Any]) -> list[msgspec.Raw]:
        encoded = sorted(_encode(tag(member)) for member in value)
        return [msgspec.Raw(member) for member in encoded]

    return {
        **_LEAVES,
        list: members,
        dict: of_dict,
        tuple: lambda value: extension(Extension.TUPLE, members(value)),
        set: lambda value: extension(Extension.SET, sorted_members(value)),
        frozenset: lambda value: extension(Extension.FROZENSET, sorted_members(value)),
    }


_encode: Final = msgspec.msgpack.Encoder().encode
_RULES: Final = rules_for(_tag, _dict)


# ── and back ─────────────────────────────────────────────────────────────────────────────────────────


def _untag(number: int, data: memoryview) -> Any:
    opener = _OPENERS.get(number)
    if opener is None:
        raise DeserializationError(
            f"codec 'tagged' has no extension {number}: the bytes were written by a newer eventflow; upgrade"
        )
    return opener(data)


def _open_dict(data: memoryview) -> dict[Any, Any]:
    parts = iter(_decode(data))
    return dict(zip(parts, parts, strict=True))


def _open_zone(zone: Any) -> tzinfo | None:
    if zone is None:
        return None
    if isinstance(zone, str):
        return ZoneInfo(zone)
    offset_us, *name = zone
    return timezone(timedelta(microseconds=offset_us), *name)


def _open_moment(kind: type[datetime | time]) -> Callable[[memoryview], Any]:
    def opener(data: memoryview) -> Any:
        clock, fold, zone = _decode(data)
        return kind.fromisoformat(clock).replace(fold=fold, tzinfo=_open_zone(zone))

    return opener


def _open_uuid(data: memoryview) -> UUID:
    number, is_safe = _decode(data)
    return UUID(bytes=number, is_safe=SafeUUID(is_safe))


def _open_path(data: memoryview) -> PurePath:
    index, text = _decode(data)
    kind: type[PurePath] = _PATH_KINDS[index]
    return kind(text.decode("utf-8", "surrogatepass"))


_OPENERS: Final[Mapping[int, Callable[[memoryview], Any]]] = {
    Extension.TUPLE: lambda data: tuple(_decode(data)),
    Extension.SET: lambda data: set(_decode(data)),
    Extension.FROZENSET: lambda data: frozenset(_decode(data)),
    Extension.DICT: _open_dict,
    Extension.INT: lambda data: int.from_bytes(data, "big", signed=True),
    Extension.STR: lambda data: str(data, "utf-8", "surrogatepass"),
    Extension.BYTEARRAY: bytearray,
    Extension.COMPLEX: lambda data: complex(*_decode(data)),
    Extension.DECIMAL: lambda data: Decimal(_decode(data)),
    Extension.DATE: lambda data: date.fromisoformat(_decode(data)),
    Extension.TIME: _open_moment(time),
    Extension.DATETIME: _open_moment(datetime),
    Extension.TIMEDELTA: lambda data: timedelta(*_decode(data)),
    Extension.UUID: _open_uuid,
    Extension.RANGE: lambda data: range(*_decode(data)),
    Extension.PATH: _open_path,
}

_decode: Final[Callable[[Any], Any]] = msgspec.msgpack.Decoder(ext_hook=_untag).decode


class Tagged:
    """The codec for standard types, alone or at any depth of lists, dicts, tuples and sets."""

    name = "tagged"

    def encode(self, value: object, declared: Any, /) -> bytes | None:
        """Return the bytes if every part has a standard type and the restored value is identical."""
        try:
            data = _encode(_tag(value))
        except (_NotStandard, RecursionError, ValueError):
            return None  # another type, a cycle, or more than msgpack can count
        if not is_kept(self, value, data, declared):
            return None
        return data

    def decode(self, data: bytes, _declared: Any, /) -> Any:
        """Decode a value by its tags."""
        return _decode(data)


TAGGED: Final = Tagged()
