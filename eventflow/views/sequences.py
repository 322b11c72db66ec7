"""Sequences, over which a task can be mapped: values with a length whose elements have positions.

    list, tuple, range, deque and any other `collections.abc.Sequence` except text and bytes
    arrays of one dimension (numpy, array.array and others that have `ndim` or `shape`)
    Series of pandas and polars, in order of position: a label is no position

Elements are identified by number.  So mappings, sets and tables are refused: a mapping has keys, a set has no order, and
a table has rows and columns.
"""

from __future__ import annotations

from collections import UserString, abc
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from eventflow.suggestions import with_article

__all__ = ["Refusal", "elements_of", "follow_path", "item_at", "length_of", "refused", "refused_type"]

_TEXTS: Final = (str, UserString, bytes, bytearray, memoryview)


def length_of(value: Any) -> int:
    """Return the number of elements; raises `TypeError` for anything but a sequence, and says what to write instead."""
    refusal = refused(value)
    if refusal is not None:
        kind = with_article(type(value).__qualname__)
        if " of " in refusal.what:  # an array, with its dimensions
            kind = refusal.what
        raise TypeError(f"cannot map over {kind}: {refusal.fix}")
    return len(value)


def item_at(value: Any, position: int) -> Any:
    """Return the element at a position; the labels of a Series are ignored."""
    if isinstance(value, list | tuple):
        return value[position]
    by_position = getattr(value, "iloc", value)
    return by_position[position]


def follow_path(value: Any, path: Sequence[int | str], *, is_element: bool) -> Any:
    """Return the part of a value under a path of keys; with `is_element` the last key is the position of an element."""
    keys = path[:-1] if is_element else path
    for key in keys:
        value = value[key]
    if is_element:
        value = item_at(value, int(path[-1]))
    return value


def elements_of(value: Any) -> list[Any]:
    """Return all elements in order; those of an array or a Series as Python's own values, if it can convert them."""
    length_of(value)
    for name in ("tolist", "to_list"):
        plain = getattr(value, name, None)
        if callable(plain):
            return list(plain())
    return list(value)


def _is_sequence(value: Any) -> bool:
    if isinstance(value, abc.Sequence):
        return not isinstance(value, _TEXTS)
    if isinstance(value, abc.Mapping | abc.Set):
        return False
    return _dimensions(value) == 1 and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _dimensions(value: Any) -> int | None:
    dimensions = getattr(value, "ndim", None)
    if isinstance(dimensions, int):
        return dimensions
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return len(shape)
    return None


class Refusal(NamedTuple):
    """The reason why a value cannot be mapped over."""

    what: str
    """The kind of value, such as `a dict`."""
    fix: str
    """The code to write instead."""


def refused(value: Any) -> Refusal | None:
    """Return the reason why a value cannot be mapped over; None for a sequence."""
    if _is_sequence(value):
        return None
    kind = type(value)
    refusal = refused_type(kind)
    if refusal is not None:
        return refusal
    name = with_article(kind.__qualname__)
    dimensions = _dimensions(value)
    if dimensions is not None:
        fix = "write `list(value)` for its rows, or `value.ravel()`"
        return Refusal(f"{name} of {dimensions} dimensions", fix)
    return Refusal(name, "give a list or a tuple")


def refused_type(kind: Any) -> Refusal | None:  # noqa: PLR0911 - one return for each kind
    """Return the reason why no value of a type can be mapped over; None if that depends on the value."""
    if not isinstance(kind, type):
        return None
    name = with_article(kind.__qualname__)
    if issubclass(kind, str):
        return Refusal("text", "write `value.split()`, or `list(value)` for its characters")
    if issubclass(kind, _TEXTS):
        return Refusal(kind.__qualname__, "write `list(value)`")
    if issubclass(kind, abc.Mapping):
        return Refusal(name, "write `list(value.items())` or `list(value.values())`")
    if issubclass(kind, abc.Set):
        return Refusal(name, "it has no order: write `sorted(value)`")
    if kind.__name__ == "DataFrame":
        rows = "value.to_dicts()" if hasattr(kind, "to_dicts") else "value.to_dict('records')"
        return Refusal(name, f"write `{rows}` for its rows, or `list(value.columns)`")
    return None
