"""The reason why a value cannot be serialized: the path to its first bad part, for the error message.

Runs only after every codec has refused, so it may be slow but must end and never raise: values hold
cycles, and their `repr` may do anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from reprlib import repr as short
from typing import Any, Final

from eventflow.codecs.tagged import TAGGED
from eventflow.equality.identical import fields_of
from eventflow.equality.pickle_parts import is_once

__all__ = ["describe_fault", "describe_once"]

_CONTAINERS: Final = (dict, list, tuple, set, frozenset)


def describe_fault(value: object) -> str:
    """Return the first part that no codec can encode, as `value['rows'][3].lock: _thread.lock`.

    A part of an unknown type comes before a known class that only lacks a declared type. If no part looks bad, the
    whole value is named.
    """
    suspect = None
    try:
        for path, kind, certain in _faults(value, "value", ()):
            if certain:
                return f"{path}: {kind}"
            suspect = suspect or f"{path}: {kind}"
    except RecursionError:
        return f"value: {_name_of(value)}, which is nested too deeply"
    return suspect or f"value: {_name_of(value)}"


def describe_once(value: object) -> str | None:
    """Return the first iterator or open file in a value, with the fix; None if there is none."""
    try:
        for path, part in _walk(value, "value", ()):
            if is_once(part):
                fix = "return a list: `list(...)`"
                if hasattr(part, "read"):
                    fix = "return its content or its path"
                return f"{path}: {_name_of(part)}, which can be read only once; {fix}"
    except RecursionError:
        pass
    return None


def _walk(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    """Yield a value and the parts of its containers and objects, each with its path."""
    if id(value) in above:
        return
    yield path, value
    parts = None
    if not is_once(value):
        parts = _parts(value)
    if parts is None:
        parts = _attributes(value)
    for step, part in parts:
        yield from _walk(part, path + step, (*above, id(value)))


def _faults(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, str, bool]]:
    """Yield path and type of each part without a standard type, and whether no declared type could help."""
    if id(value) in above:
        yield path, f"{_name_of(value)}, which contains itself", True
        return
    kind = type(value)
    parts = _parts(value)
    if parts is None:
        if isinstance(value, Enum):
            yield path, _name_of(value), False
        elif TAGGED.encode(value, Any) is None:
            yield path, _name_of(value), True
        return
    if kind not in _CONTAINERS:
        yield path, _name_of(value), False
    for step, part in parts:
        yield from _faults(part, path + step, (*above, id(value)))


def _parts(value: Any) -> Iterator[tuple[str, Any]] | None:
    """Return the parts of a container, each with its step of the path; None if it is not a container."""
    kind = type(value)
    if isinstance(value, dict):
        return _entries(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return ((f".{name}", part) for name, part in zip(kind._fields, value, strict=False))
    if isinstance(value, list | tuple):
        return ((f"[{i}]", part) for i, part in enumerate(value))
    if isinstance(value, set | frozenset):
        return (("{…}", part) for part in value)
    names = fields_of(kind)
    if names is None:
        return None
    return ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict:
        for name, part in attributes.items():
            yield f".{name}", part


def _entries(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        step = f"[{short(key)}]"
        yield f"{step} (the key)", key
        yield step, part


def _name_of(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
