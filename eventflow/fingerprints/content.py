"""The content of a value, however it is stored: the digest that cache keys are made of.

A payload's digest names bytes; two equal dicts may have different ones, two unlike classes the same.
`content_of` names the value: equal contents, equal digest, in every process, under every hash seed, in any
order of a dict's keys, and whichever codec keeps it.

    plain and standard types    as the codec `tagged` writes them, so 1, 1.0 and True differ, and so do (1,) and [1]
    dicts                       sorted by key, other keys than text by their bytes
    classes with fields         Structs, dataclasses, attrs, named tuples: by `module:QualName`, name and value
    enums                       by class, name and value

Where no dict and no class is inside, these are the very bytes that are stored, and the payload's digest is
the content (`quick_content`).  Any other value is refused, with its path, because
its content cannot be determined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from inspect import getattr_static
from reprlib import repr as short
from types import BuiltinFunctionType, MemberDescriptorType
from typing import Any, Final, Generic, Protocol

import msgspec

from eventflow.codecs.digests import digest_of
from eventflow.codecs.registry import registered_codecs
from eventflow.codecs.tagged import Extension, Rule, extension, rules_for
from eventflow.equality.identical import extra_attributes, fields_of
from eventflow.fingerprints.script_modules import home_of
from eventflow.result import Inline

__all__ = ["NoContent", "content_of", "full_name", "quick_content"]

_encode: Final = msgspec.msgpack.Encoder().encode
_SUSPECT: Final = {
    "msgpack": bytes([*range(0x80, 0x90), 0xDE, 0xDF, *range(0xC7, 0xCA), *range(0xD4, 0xD9)]),
    "tagged": bytes([*range(0x80, 0x90), 0xDE, 0xDF, Extension.DICT]),
}
"""Codec → bytes with which a map begins, or an extension that `tagged` does not know; each may mean something else too."""


class NoContent(TypeError):
    """A value has no content: a part of it might be anything."""

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(f"{path or 'it'} is a {kind}")
        self.path = path
        """Where in the value, e.g. `['rows'][3].lock`; empty for the value itself."""
        self.kind = kind


def content_of(value: object) -> bytes:
    """Return the digest of a value by its content; raises `NoContent` when a part of it might be anything."""
    try:
        data = _encode(_canonical(value))
    except RecursionError:
        raise NoContent("", f"{_kind_of(value)}, nested too deeply or within itself") from None
    except (Exception, SystemExit):  # noqa: BLE001 - a part that might be anything, or whose own code raises
        raise _refusal(value) from None
    return digest_of(data)


def quick_content(payload: Inline) -> bytes | None:
    """The content of a payload's value where its digest says it already; None where it must be opened."""
    codec, data = payload.codec, payload.data
    suspect = _SUSPECT.get(codec)
    if suspect is not None:
        if len(data.translate(None, suspect)) < len(data):
            return None
        return payload.digest
    for registered in registered_codecs():
        if registered.name == codec and getattr(registered, "canonical", False):
            return digest_of(codec.encode() + b"\0" + payload.digest)
    return None


def full_name(thing: Any) -> str:
    """`module:QualName` of a class or function; one of a script as if the script had been imported."""
    return f"{home_of(thing)}:{thing.__qualname__}"


class _Opaque(Exception):
    """A part might be anything."""


def _canonical(value: Any) -> Any:
    kind = type(value)
    return (_RULES.get(kind) or _rule_for(kind))(value)  # type: ignore[arg-type]  # types are hashable


def _dict(value: dict[Any, Any]) -> Any:
    if all(type(key) is str and (key.isascii() or type(_canonical(key)) is str) for key in value):
        return {key: _canonical(value[key]) for key in sorted(value)}
    parts: list[Any] = []
    for key, item in sorted((_encode(_canonical(key)), item) for key, item in value.items()):
        parts += (msgspec.Raw(key), _canonical(item))
    return extension(Extension.DICT, parts)


_UNSET: Final = extension(Extension.OBJECT, ["msgspec:UNSET", []])
_RULES: Final[Mapping[type, Rule]] = {**rules_for(_canonical, _dict), msgspec.UnsetType: lambda _: _UNSET}


@lru_cache(maxsize=1024)
def _rule_for(kind: type) -> Rule:
    if issubclass(kind, Enum):
        return lambda value: extension(
            Extension.ENUM, [full_name(kind), value._name_, _canonical(value._value_)]
        )
    if not all(map(_is_plain, kind.__mro__)):
        return _opaque
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind)
    if issubclass(kind, tuple):
        return _opaque
    names = fields_of(kind)
    is_honest = kind.__getattribute__ is object.__getattribute__
    if names is None or not is_honest or any(_is_computed(kind, name) for name in names):
        return _opaque
    return _object(kind, names)


def _is_plain(base: type) -> bool:
    """Whether the attributes of an instance are its whole state; a class that is written in C may hold more."""
    return base in _PLAIN or not isinstance(vars(base).get("__new__"), BuiltinFunctionType)


_PLAIN: Final = (object, tuple, msgspec.Struct, Generic, Protocol)


def _is_computed(kind: type, name: str) -> bool:
    """Whether a field is a property, which may return something else than the stored value."""
    part = getattr_static(kind, name, None)
    return hasattr(type(part), "__set__") and type(part) is not MemberDescriptorType


def _named_tuple(kind: type) -> Rule:
    def rule(value: Any) -> Any:
        if extra_attributes(value, ()):
            raise _Opaque
        items = [_canonical(item) for item in tuple.__iter__(value)]
        return extension(Extension.OBJECT, [full_name(kind), [*kind._fields], items])  # type: ignore[attr-defined]

    return rule


def _object(kind: type, names: tuple[str, ...]) -> Rule:
    other_slots: list[str] = []
    for base in kind.__mro__:
        for name, part in vars(base).items():
            if type(part) is MemberDescriptorType and name not in names:
                other_slots.append(name)

    def rule(value: Any) -> Any:
        has_more = extra_attributes(value, names) or any(hasattr(value, name) for name in other_slots)
        if has_more or not all(hasattr(value, name) for name in names):
            raise _Opaque
        fields = [[name, _canonical(getattr(value, name))] for name in names]
        return extension(Extension.OBJECT, [full_name(kind), fields])

    return rule


def _opaque(_value: object) -> Any:
    raise _Opaque


# ── why not ──────────────────────────────────────────────────────────────────────────────────────────────────


def _refusal(value: object) -> NoContent:
    """The error that names the first part without content; slow, and only for those that have one."""
    path = ""
    above = {id(value)}
    with suppress(Exception, SystemExit):  # raised by a part's own code
        while (opaque := _first_opaque_part(value, above)) is not None:
            step, value = opaque
            path += step
            above.add(id(value))
    return NoContent(path, _kind_of(value))


def _first_opaque_part(value: object, above: set[int]) -> tuple[str, Any] | None:
    """Return the first part without content, and its step of the path; `above` are the ids of the values around it."""
    for step, part in _parts(value):
        if id(part) not in above and not _has_content(part):
            return step, part
    return None


def _kind_of(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return full_name(kind)


def _has_content(value: object) -> bool:
    try:
        _encode(_canonical(value))
    except (Exception, SystemExit):  # noqa: BLE001 - properties and cached ones run code of the value's own
        return False
    return True


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if kind is dict:
        for key, part in value.items():
            yield f" (its key {short(key)})", key
            yield f"[{short(key)}]", part
    elif kind in (list, tuple):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif kind in (set, frozenset):
        yield from ((" (a member)", part) for part in value)
    else:
        for name in getattr(kind, "_fields", None) or fields_of(kind) or ():
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
