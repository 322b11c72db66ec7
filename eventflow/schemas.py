"""The digest of a declared type: what tells a cached result that it would open as the same thing today.

It covers what decides how bytes open: names of classes, their fields with types, members of enums, and so on
inwards.  Methods and checks are code, and no part of it.  It is the same in every process.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import EnumMeta
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from eventflow.identity import fields_of
from eventflow.serializers.canonical import full_name

__all__ = ["schema_of"]


def schema_of(declared: Any) -> bytes:
    """BLAKE2b-128 of a declared type."""
    return blake2b(msgspec.msgpack.encode(_shape(declared, ())), digest_size=16).digest()


_UNIONS: Final = (Union, types.UnionType)


def _shape(declared: Any, above: tuple[type, ...]) -> Any:  # noqa: PLR0911 - one return for each form
    """The type as nested lists of texts; `above` are the classes that are being described."""
    origin, args = get_origin(declared), get_args(declared)
    if origin is Annotated:
        marks = [repr(mark) for mark in args[1:] if isinstance(mark, msgspec.Meta)]
        return ["annotated", _shape(args[0], above), *marks]
    if origin is Literal:
        return ["literal", *map(repr, args)]
    if origin in _UNIONS:
        return ["union", *(_shape(part, above) for part in args)]
    if origin is not None:
        return [_shape(origin, above), *(_shape(part, above) for part in args)]
    if isinstance(declared, list | tuple):  # the arguments of a Callable
        return [_shape(part, above) for part in declared]
    if not isinstance(declared, type):
        return str(declared)
    if declared in above or declared.__module__ == "builtins":
        return full_name(declared)
    return [full_name(declared), *_inside(declared, (*above, declared))]


def _inside(declared: type, above: tuple[type, ...]) -> Iterator[Any]:
    """What belongs to a class of data; nothing for any other class."""
    if isinstance(declared, EnumMeta):
        members: dict[str, Any] = dict(declared.__members__)
        yield from ([name, repr(member.value)] for name, member in members.items())
        return
    names = fields_of(declared) or getattr(declared, "_fields", None) or ()
    hints = _hints(declared)
    for name in hints if is_typeddict(declared) else names:
        yield [name, _shape(hints.get(name, "?"), above)]


def _hints(declared: type) -> dict[str, Any]:
    try:
        return get_type_hints(declared, include_extras=True)
    except Exception:  # noqa: BLE001 - any expression may stand in an annotation
        return {name: str(text) for name, text in getattr(declared, "__annotations__", {}).items()}
