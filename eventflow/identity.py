"""The judge of fidelity: whether a value is another one again.

Nothing here is judged by `==`, for which 1, 1.0 and True are one and NaN is none.  One judge per exact
type is asked about two objects of that very type, and asks `_same` again about whatever lies inside.
What has no judge of its own is compared as a pickle without memo, whose bytes tell exact types apart
and do not depend on which parts are shared.

`identical` may call two like values different (then a safer way of keeping them is taken), but never
two different ones identical.  Add a judge here when a type is to be kept whose pickle says too little
or too much.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from operator import attrgetter, eq, methodcaller
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

__all__ = ["attributes_beside", "fields_of", "identical", "pickled_flat"]

_Judge: TypeAlias = Callable[[Any, Any], bool]

_UNSET: Final = object()
_BUILTIN: Final = (
    BaseException,
    bytearray,
    bytes,
    complex,
    dict,
    float,
    frozenset,
    int,
    list,
    set,
    str,
    tuple,
)
"""Bases whose content lies in no field."""
_NUMERIC_FORMATS: Final = frozenset("?bBhHiIlLqQnNefdgcu") | {"Zf", "Zd", "Zg"}


def identical(a: object, b: object) -> bool:
    """Whether `b` is `a` again: exact types at every node, order of dicts, floats by bits, zones by key.

    Attributes beside the declared fields count, cached properties do not. Which parts are shared does
    not count, except in cyclic and very deep values.
    """
    try:
        return _same(a, b)
    except RecursionError:
        # The memo lets pickle end on a cycle.
        pickled = _pickled(a)
        return pickled is not None and pickled == _pickled(b)


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b):
        return False
    judge = _JUDGES.get(kind)
    return (judge or _judge_for(kind))(a, b)  # type: ignore[arg-type]  # types are hashable


@lru_cache(maxsize=1024)
def _judge_for(kind: type) -> _Judge:
    if issubclass(kind, Enum):
        return _by(attrgetter("_value_"))
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _same_named_tuple
    if not issubclass(kind, _BUILTIN) and (names := fields_of(kind)) is not None:
        return _by_fields(names)
    return _same_buffer


def fields_of(kind: type) -> tuple[str, ...] | None:
    """The declared fields of a msgspec Struct, a dataclass or an attrs class; None for any other type."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    return None if attributes is None else tuple(attribute.name for attribute in attributes)


def _by(key: Callable[[Any], object]) -> _Judge:
    """Judge by what `key` takes out of both."""
    return lambda a, b: _same(key(a), key(b))


def _by_fields(names: tuple[str, ...]) -> _Judge:
    def judge(a: Any, b: Any) -> bool:
        return all(
            _same(getattr(a, name, _UNSET), getattr(b, name, _UNSET)) for name in names
        ) and _same_attributes(a, b, names)

    return judge


def _same_attributes(a: Any, b: Any, beside: Collection[str] = ()) -> bool:
    mine, yours = attributes_beside(a, beside), attributes_beside(b, beside)
    return mine.keys() == yours.keys() and all(_same(value, yours[name]) for name, value in mine.items())


def attributes_beside(value: Any, beside: Collection[str]) -> Mapping[str, Any]:
    """What hangs on the object itself, but for fields and what is computed from them."""
    return {
        name: part
        for name, part in getattr(value, "__dict__", {}).items()
        if name not in beside and not isinstance(getattr(type(value), name, None), cached_property)
    }


def _same_sequence(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


def _same_named_tuple(a: Any, b: Any) -> bool:
    return _same_sequence(a, b) and _same_attributes(a, b)


def _same_dict(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(_same, a, b)) and all(map(_same, a.values(), b.values()))


def _same_set(a: Any, b: Any) -> bool:
    """Pair equal members off; what then remains (NaN equals nothing) is tried against each other."""
    if len(a) != len(b):
        return False
    left = {member: member for member in b}
    strays = []
    for member in a:
        if _same(member, left.get(member, _UNSET)):
            del left[member]
        else:
            strays.append(member)
    rest = list(left.values())
    for member in strays:
        partner = next((i for i, other in enumerate(rest) if _same(member, other)), None)
        if partner is None:
            return False
        del rest[partner]
    return True


def _same_buffer(a: Any, b: Any) -> bool:
    """Judge arrays of numbers by type, shape and bytes, and everything else by its pickle."""
    mine = _buffer(a)
    if mine is not None:
        return mine == _buffer(b) and _same_attributes(a, b)
    flat = pickled_flat(a)
    return flat is not None and flat == pickled_flat(b)


def _buffer(value: Any) -> tuple[object, ...] | None:
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError):
        return None
    if view.format.lstrip("@=<>!^") not in _NUMERIC_FORMATS:
        return None  # pointers, or records that may hold some
    return str(getattr(value, "dtype", "")), view.format, view.shape, view.tobytes()


def pickled_flat(value: object) -> bytes | None:
    """The pickle of a value without memo, or None when it has none.

    Of two values of which one holds only what msgpack decodes to (exact builtin types, moments in UTC) and
    the other only what msgspec encodes, equal bytes prove identity.
    """
    return _pickled(value, fast=True)


def _pickled(value: object, *, fast: bool = False) -> bytes | None:
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5)
    pickler.fast = fast
    try:
        pickler.dump(value)
    except Exception:  # noqa: BLE001 - a reducer may raise anything; then there is nothing to compare
        return None
    return out.getvalue()


def _moment(value: Any) -> object:
    """Fields, fold and zone, as `datetime` itself would pickle them."""
    return value.__reduce_ex__(4)[1]


_JUDGES: Final[Mapping[type, _Judge]] = {
    **dict.fromkeys((type(None), bool, int, str, bytes, bytearray), eq),
    float: _by(struct.Struct("<d").pack),
    list: _same_sequence,
    tuple: _same_sequence,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    complex: _by(lambda value: struct.pack("<dd", value.real, value.imag)),
    range: _by(lambda value: (value.start, value.stop, value.step)),
    Decimal: _by(str),
    UUID: _by(lambda value: (value.int, value.is_safe)),
    **dict.fromkeys((date, time, datetime, timedelta), _by(_moment)),
    timezone: _by(methodcaller("__getinitargs__")),
    # A zone read from a file of no name is like no other.
    ZoneInfo: _by(lambda zone: zone.key or id(zone)),
    **dict.fromkeys((PosixPath, PurePosixPath, WindowsPath, PureWindowsPath), _by(str)),
}
