"""The parts of an object that its pickle contains, and the parts that it leaves out.

By default, a pickle contains every attribute, slot and item of an object.  A class may choose another state
(`__reduce__`, `__getstate__`, `__getnewargs__`, `copyreg`).  The bytes of such a pickle prove only the chosen state.
So the other parts must be compared separately: `omitted` returns them.

    BY_NAME    classes and functions: the pickle has their name
    WHOLE      Python's default
    OWN        the class chooses its state: every attribute is compared
    LIBRARY    a class of the standard library or an installed package chooses its state: public attributes are
               compared.  Its private ones are often caches and handles (pandas, numpy, scikit-learn, Pillow …)
    ONCE       iterators: the first reader uses them up
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections import abc
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from functools import cached_property, lru_cache
from types import FunctionType, MemberDescriptorType
from typing import Any, Final, NamedTuple

__all__ = [
    "BUILTIN",
    "UNLIMITED",
    "Handling",
    "Pickled",
    "handling_of",
    "holds_once",
    "is_library",
    "is_once",
    "omitted",
    "own_parts",
    "pickle_of",
    "reduced",
]


UNLIMITED: Final = 1 << 62
"""A `size_max` above the size of every pickle."""

BUILTIN: Final = (str, bytes, int, float, complex, tuple, list, dict, set, frozenset, bytearray)
"""Base classes whose content is in no attribute and no field."""


class Handling(Enum):
    """The way in which an object is pickled; it decides which parts to compare in addition to the bytes."""

    BY_NAME = auto()
    WHOLE = auto()
    OWN = auto()
    LIBRARY = auto()
    ONCE = auto()


class Pickled(NamedTuple):
    """A pickle, and the objects that were pickled."""

    data: bytes
    objects: list[Any]
    """Every object but builtin data, in the order of the pickle."""
    partners: Callable[[], Mapping[int, tuple[int, Any]]]
    """Maps the `id` of a part to its number in the pickle's memo, and the part."""


def pickle_of(value: object, *, size_max: int | None = None) -> Pickled:
    """Pickle a value; with `size_max`, without memo and up to that size in bytes. Raises any error of a part."""
    has_memo = size_max is None
    file = _Bounded(UNLIMITED if size_max is None else size_max)
    objects: list[Any] = []
    pickler = _Tracing(file, 5)
    pickler.seen = objects
    pickler.fast = not has_memo
    pickler.dump(value)
    return Pickled(file.getvalue(), objects, pickler.memo.copy)


class _Tracing(pickle.Pickler):
    """A pickler that records every object."""

    seen: list[Any]

    def reducer_override(self, obj: Any) -> Any:
        self.seen.append(obj)
        return NotImplemented


class _Bounded(io.BytesIO):
    """A file of limited size: without memo, a shared part is written at each reference."""

    def __init__(self, size_max: int) -> None:
        super().__init__()
        self._left = size_max

    def write(self, data: Any, /) -> int:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise OverflowError("more than was allowed")
        return super().write(data)


def holds_once(pickled: Pickled) -> bool:
    """Return whether the objects of a pickle include an iterator."""
    return any(handling_of(kind) is Handling.ONCE for kind in set(map(type, pickled.objects)))


def is_once(value: Any) -> bool:
    """Return whether one reading uses a value up: an iterator, a generator, an open file."""
    return handling_of(type(value)) is Handling.ONCE  # type: ignore[arg-type]  # types are hashable


@lru_cache(maxsize=4096)
def handling_of(kind: type) -> Handling:
    """Return how objects of exactly this type are pickled."""
    if issubclass(kind, type) or kind is FunctionType:
        return Handling.BY_NAME
    if issubclass(kind, abc.Iterator | abc.AsyncIterator):
        return Handling.ONCE
    by_library = [*_overrides(kind)]
    if not by_library:
        return Handling.WHOLE
    if all(by_library):
        return Handling.LIBRARY
    return Handling.OWN


_METHODS: Final = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
_FAITHFUL: Final = frozenset({"attr._make", "dataclasses"})
"""Modules that add a `__getstate__` of every field to classes with slots."""


def _overrides(kind: type) -> Iterator[bool]:
    """Yield, for each override of Python's default, whether a library defines it."""
    function = copyreg.dispatch_table.get(kind)
    if function is not None:
        yield is_library(function)
    names = [*_METHODS, "__getattribute__"]
    if issubclass(kind, list | dict):
        names += ("__iter__", "items")
    for name in names:
        base = next((base for base in kind.__mro__ if name in vars(base)), object)
        if base is object or (base in BUILTIN and base not in (set, frozenset, bytearray)):
            continue
        method = vars(base)[name]
        if getattr(method, "__module__", None) in _FAITHFUL:
            continue
        yield base in BUILTIN or is_library(base)


def is_library(thing: Any) -> bool:
    """Return whether a class or function is of the standard library, an installed package, or this package."""
    top = (getattr(thing, "__module__", None) or "").partition(".")[0]
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return True
    module = sys.modules.get(top)
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any("site-packages" in path or "dist-packages" in path for path in paths if path)


def reduced(value: Any) -> Any:
    """Return the reduced form that pickle uses for an object. Raises any error of its class."""
    function: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
    if function is not None:
        return function(value)
    return value.__reduce_ex__(5)


_MISSING: Final = object()


class Missing:
    """Placeholder for an attribute that one of two objects does not have."""


def omitted(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Return the parts that two equal pickles do not compare, as label and both values.

    If one object lacks a value, its value is a `Missing`.
    """
    kind = type(a)
    handling = handling_of(kind)  # type: ignore[arg-type]
    if issubclass(kind, BaseException):
        yield " (its cause)", _cause(a), _cause(b)
    if handling is Handling.OWN:
        yield from _all_attributes(a, b)
    elif handling is Handling.LIBRARY:
        yield from _public_attributes(a, b)


def _cause(error: BaseException) -> BaseException | None:
    """Return the exception that a traceback shows as the cause."""
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def own_parts(value: Any) -> dict[str, Any]:
    """Return all attributes and slots of an object and the content of its builtin type."""
    slots, computed, bases = _layout_of(type(value))  # type: ignore[arg-type]  # types are hashable
    parts = dict(getattr(value, "__dict__", None) or {})
    for name in slots:
        content = getattr(value, name, _MISSING)
        if content is not _MISSING:
            parts[name] = content
    for name in computed:
        parts.pop(name, None)
    for base in bases:
        parts[f" (its content as a {base.__name__})"] = _content(base, value)
    return parts


@lru_cache(maxsize=1024)
def _layout_of(kind: type) -> tuple[tuple[str, ...], tuple[str, ...], tuple[type, ...]]:
    """Return the names of a class's slots and cached properties, and its builtin base type."""
    slots, computed = [], []
    for base in kind.__mro__:
        for name, part in vars(base).items():
            if isinstance(part, MemberDescriptorType) and "__slots__" in vars(base):
                slots.append(name)
            elif isinstance(part, cached_property):
                computed.append(name)
    builtin_bases = tuple(base for base in BUILTIN if issubclass(kind, base))
    return tuple(slots), tuple(computed), builtin_bases


def _all_attributes(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    mine, yours = own_parts(a), own_parts(b)
    written, opened = _state(a), _state(b)
    for name in {**mine, **yours}:
        va, vb = mine.get(name, Missing), yours.get(name, Missing)
        is_compared = written.get(name, _MISSING) is va and opened.get(name, _MISSING) is vb
        if va is not vb and not is_compared:
            label = name if name.startswith(" ") else f".{name}"
            yield label, va, vb


def _public_attributes(a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Return the attributes that one of them lacks, or that differ in type or in plain data."""
    mine = getattr(a, "__dict__", None)
    if not mine:
        return
    yours = vars(b)
    for name, va in mine.items():
        if name.startswith("_") or isinstance(getattr(type(a), name, None), cached_property):
            continue
        vb = yours.get(name, Missing)
        if va is not vb and (type(va) is not type(vb) or type(va) in _PLAIN):
            yield f".{name}", va, vb


_PLAIN: Final = frozenset({*BUILTIN, bool, type(None)})


def _state(value: Any) -> Mapping[str, Any]:
    """Return the written attributes by name, if the class writes them by name."""
    try:
        parts = reduced(value)
    except Exception:  # noqa: BLE001 - code of the class's own
        return {}
    if not isinstance(parts, tuple) or len(parts) < 3:
        return {}
    state = parts[2]
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        attributes, slots = state
        return {**(attributes or {}), **slots}
    if isinstance(state, dict):
        return state
    return {}


def _content(base: type, value: Any) -> Any:
    """Return the content of the builtin base type of an object."""
    if base is dict:
        return list(dict.items(value))
    if base in (set, frozenset):
        return frozenset(base.__iter__(value))
    if base is list:
        return list.__getitem__(value, slice(None))
    if base is bytearray:
        return bytearray.__getitem__(value, slice(None))
    return base.__getnewargs__(value)  # type: ignore[attr-defined]
