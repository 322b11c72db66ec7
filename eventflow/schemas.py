"""The digest of a declared type: what tells a cached result that it would open as the same thing today.

It covers what decides how bytes open: names of classes, their fields with types, members of enums, and so on
inwards.  Methods and checks are code, and no part of it.  It is the same in every process.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import EnumMeta
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from eventflow.identity import fields_of
from eventflow.serializers import digest_of
from eventflow.serializers.canonical import NoContent, content_of, full_name

__all__ = ["schema_of", "settings_of"]


def schema_of(declared: Any) -> bytes:
    """BLAKE2b-128 of a declared type."""
    return digest_of(msgspec.msgpack.encode(_shape(declared, ())))


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
        return _named(declared, above)
    if declared in above or declared.__module__ == "builtins":
        return full_name(declared)
    return [full_name(declared), *_inside(declared, (*above, declared))]


def _named(declared: Any, above: tuple[type, ...]) -> Any:
    """What is no class, but has a name and something behind it: a NewType, an alias, a type variable."""
    name = full_name(declared) if hasattr(declared, "__qualname__") else str(declared)
    behind = [getattr(declared, part, None) for part in ("__supertype__", "__value__", "__bound__")]
    behind += getattr(declared, "__constraints__", ())
    return [name, *(_shape(part, above) for part in behind if part is not None)]


def _inside(declared: type, above: tuple[type, ...]) -> Iterator[Any]:
    """What belongs to a class of data; nothing for any other class."""
    if isinstance(declared, EnumMeta):
        members: dict[str, Any] = dict(declared.__members__)
        yield from ([name, _told(member.value)] for name, member in members.items())
        return
    if issubclass(declared, msgspec.Struct):
        yield from _struct(declared, above)
        return
    names = fields_of(declared) or getattr(declared, "_fields", None) or ()
    hints = _hints(declared)
    for name in hints if is_typeddict(declared) else names:
        yield [name, _shape(hints.get(name, "?"), above)]


def _struct(declared: type[msgspec.Struct], above: tuple[type, ...]) -> Iterator[Any]:
    """A Struct's form on the wire: what is written under which name, and what stands for what is not."""
    config = declared.__struct_config__
    yield [repr(config.tag), repr(config.tag_field), config.array_like, config.omit_defaults]
    hints = _hints(declared)
    for field in msgspec.structs.fields(declared):
        made = field.default_factory
        default = getattr(made, "__qualname__", "") if made is not msgspec.NODEFAULT else _told(field.default)
        yield [field.name, field.encode_name, default, _shape(hints.get(field.name, "?"), above)]


def _told(value: object) -> str:
    """A value in a word that is the same everywhere; only its type, where it might be anything."""
    try:
        return content_of(value).hex()
    except NoContent:
        return full_name(type(value))


def settings_of(serializer: object) -> bytes:
    """What tells two serializers of one class apart; raises `NoContent` when that cannot be compared."""
    kind = type(serializer)
    names = fields_of(kind)
    settings = (
        {name: getattr(serializer, name) for name in names}
        if names is not None
        else dict(getattr(serializer, "__dict__", {}))
    )
    told = [[name, _setting(settings[name])] for name in sorted(settings)]
    return digest_of(msgspec.msgpack.encode([full_name(kind), told]))


def _setting(value: Any) -> bytes:
    is_type = value is Any or isinstance(value, type) or get_origin(value) is not None
    return schema_of(value) if is_type else content_of(value)


def _hints(declared: type) -> dict[str, Any]:
    try:
        return get_type_hints(declared, include_extras=True)
    except Exception:  # noqa: BLE001 - any expression may stand in an annotation
        return {name: str(text) for name, text in getattr(declared, "__annotations__", {}).items()}
