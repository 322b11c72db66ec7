"""The judge of fidelity: whether a value is another one again.

Nothing here is judged by `==`, for which 1, 1.0 and True are one and NaN is none.  One judge per exact
type is asked about two objects of that very type, and asks `_same` again about whatever lies inside.
What has no judge of its own is compared as a pickle without memo, whose bytes tell exact types apart
and do not depend on which parts are shared.

`identical` may call two like values different (then a safer way of keeping them is taken), but never
two different ones identical.  Add a judge here when a type is to be kept whose pickle says too little
or too much.

`lost_in_pickle` asks the same of an object and what its own pickle opened as.  Both begin with bytes, which
C compares.  If the bytes differ (sets have no order, equal texts may be one object or two), the objects are
walked pair by pair.  In either case every part that a class leaves out of its pickle is compared apart.
"""

from __future__ import annotations

import dataclasses
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import cached_property, lru_cache
from operator import attrgetter, eq, is_, methodcaller
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from eventflow.equality.pickle_parts import (
    Handling,
    Pickled,
    handling_of,
    holds_once,
    is_once,
    omitted,
    own_parts,
    pickle_of,
    reduced,
)

__all__ = ["attributes_beside", "fields_of", "identical", "lost_in_pickle", "pickled_flat"]

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
    except RecursionError:  # a cycle, or very deep
        return type(a) is type(b) and _same_pickles(a, b)


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
    if is_once(a):
        return False  # reading is what would tell
    return _same_pickles(a, b)


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
    try:
        return pickle_of(value, size_max=_UNLIMITED).data
    except Exception:  # noqa: BLE001 - a reducer may raise anything; then there is nothing to compare
        return None


# ── objects and their pickles ────────────────────────────────────────────────────────────────────────────────

_UNLIMITED: Final = 1 << 62
_FLAT_MAX: Final = 4
"""How many times larger than its pickle a value without memo may be; shared parts are written again and again."""
_MANY: Final = 256
_EQUAL_ALONE: Final = frozenset({str, int, bytes, bool})
"""Types of which equal values are identical, among their own."""
_Pair: TypeAlias = tuple[Any, Any, str]


def lost_in_pickle(
    value: object, pickled: Pickled, opened: object, unpickler: pickle.Unpickler
) -> str | None:
    """The first part of an object that its pickle does not give back, as `.token` or `[3].name`; None if none.

    `opened` is what `unpickler` gave.
    """
    if type(opened) is not type(value):
        return f"it opens as {type(opened).__qualname__}, and all of it"
    objects = _objects(value, opened, pickled)
    if objects is not None:
        return _Walk(value_of={}).left_out(*objects)
    memo: Mapping[int, Any] = unpickler.memo.copy()
    partners = {key: memo.get(number, _UNSET) for key, (number, _) in pickled.partners().items()}
    return _Walk(value_of=partners).difference([(value, opened, "")])


def _same_pickles(a: Any, b: Any) -> bool:
    """Whether two objects of one type have like pickles, and agree in what those leave out."""
    try:
        objects = _objects(a, b, pickle_of(a))
        walk = _Walk()
        return (walk.difference([(a, b, "")]) if objects is None else walk.left_out(*objects)) is None
    except Exception:  # noqa: BLE001 - a reducer may raise anything; then there is nothing to compare
        return False


def _objects(a: Any, b: Any, mine: Pickled) -> tuple[list[Any], list[Any]] | None:
    """The objects inside two values whose pickles have equal bytes, side by side; None if the bytes differ."""
    try:
        yours = pickle_of(b)
        if mine.data != yours.data:  # equal texts may be one object here and two there
            size_max = _FLAT_MAX * len(mine.data)
            mine, yours = pickle_of(a, size_max=size_max), pickle_of(b, size_max=size_max)
    except Exception:  # noqa: BLE001 - a reducer may raise anything, and cycles need the memo
        return None
    if holds_once(mine):
        return None
    same = mine.data == yours.data and len(mine.objects) == len(yours.objects)
    if not same or not all(map(is_, map(type, mine.objects), map(type, yours.objects))):
        return None
    return mine.objects, yours.objects


def _is_suspect(kind: Any) -> bool:
    """Whether equal bytes of two objects of this type may hide a difference."""
    return handling_of(kind) in (Handling.OWN, Handling.LIBRARY) or issubclass(kind, BaseException)


def _is_own(value: Any) -> bool:
    return handling_of(type(value)) is Handling.OWN  # type: ignore[arg-type]  # types are hashable


class _Walk:
    """Compares two graphs of objects pair by pair, each pair once, so that cycles end."""

    def __init__(self, value_of: Mapping[int, Any] | None = None) -> None:
        self._partners = value_of or {}
        """`id` of a part → what it was opened as, where a pickle tells."""
        self._is_proof = value_of is not None
        self._seen: set[tuple[int, int]] = set()
        self._kept: list[Any] = []
        """What the ids in `_seen` belong to, which must not be used again."""

    def difference(self, pairs: Iterable[_Pair]) -> str | None:
        """The label of the first pair that differs."""
        for first in pairs:
            todo = [first]
            while todo:
                a, b, label = todo.pop()
                if a is b:
                    continue
                parts = self._parts(a, b, label)
                if parts is None:
                    return label
                todo += parts
        return None

    def left_out(self, a: list[Any], b: list[Any]) -> str | None:
        """The first difference in what the equal bytes of objects do not compare."""
        kinds = {kind for kind in set(map(type, a)) if _is_suspect(kind)}
        pairs = (
            [(x, y) for x, y in zip(a, b, strict=True) if x is not y and type(x) in kinds] if kinds else []
        )
        new = [pair for pair in pairs if (id(pair[0]), id(pair[1])) not in self._seen]
        self._seen.update((id(x), id(y)) for x, y in new)
        self._kept += new
        own = [pair for pair in new if _is_own(pair[0])]
        if own:  # all at once, which is quick where all is well
            mine, yours = [own_parts(x) for x, _ in own], [own_parts(y) for _, y in own]
            with suppress(Exception):  # what is left out may have no pickle
                objects = _objects(mine, yours, pickle_of(mine))
                if objects is not None:
                    causes = [pair for pair in new if not _is_own(pair[0])]
                    causes += [pair for pair in own if isinstance(pair[0], BaseException)]
                    return self.left_out(*objects) or self._each_left_out(causes)
        return self._each_left_out(new)

    def _each_left_out(self, pairs: list[tuple[Any, Any]]) -> str | None:
        return self.difference(
            (mine, yours, f"{label} of a {type(a).__qualname__}")
            for a, b in pairs
            for label, mine, yours in omitted(a, b)
        )

    def _parts(self, a: Any, b: Any, label: str) -> list[_Pair] | None:  # noqa: PLR0911 - one return for each form
        """The pairs on which it depends whether two objects are the same; None if they are not."""
        kind = type(a)
        if kind is not type(b):
            return None
        judge = _JUDGES.get(kind)
        if judge is not None and kind not in _CONTAINERS:
            return [] if judge(a, b) else None
        if (id(a), id(b)) in self._seen:
            return []
        self._seen.add((id(a), id(b)))
        self._kept += (a, b)
        if kind in _CONTAINERS and len(a) >= _MANY and self._are_like(a, b):
            return []
        if kind in (list, tuple):
            return None if len(a) != len(b) else _each(a, b, label)
        if kind is dict:
            return None if len(a) != len(b) else [*_each(a, b, label), *_values(a, b, label)]
        if kind in (set, frozenset):
            return self._members(a, b, label)
        if kind is pickle.PickleBuffer:
            return [] if a.raw() == b.raw() else None
        mine = _buffer(a)
        if mine is not None:
            return [*_omitted(a, b, label)] if mine == _buffer(b) else None
        return self._object(a, b, label)

    def _are_like(self, a: Any, b: Any) -> bool:
        """Whether large containers are the same by their bytes, which is quicker than part by part."""
        kinds = set(map(type, a)) if isinstance(a, set | frozenset) else set()
        if len(kinds) == 1 and kinds <= _EQUAL_ALONE:
            return bool(a == b) and kinds == set(map(type, b))
        with suppress(Exception):
            objects = _objects(a, b, pickle_of(a))
            return objects is not None and self.left_out(*objects) is None
        return False

    def _object(self, a: Any, b: Any, label: str) -> list[_Pair] | None:
        handling = handling_of(type(a))  # type: ignore[arg-type]  # types are hashable
        if handling in (Handling.BY_NAME, Handling.ONCE):
            return None
        try:
            mine, yours = reduced(a), reduced(b)
        except Exception:  # noqa: BLE001 - a lock, a connection: with no pickle, so left out of the one to be proved
            return [] if self._is_proof else None
        if isinstance(mine, str) or isinstance(yours, str) or len(mine) != len(yours):
            return [] if mine == yours and isinstance(mine, str) else None
        found = [*_omitted(a, b, label)]
        for place, (part, other) in enumerate(zip(mine, yours, strict=True)):
            if place in (3, 4) and part is not None and other is not None:  # iterators over items
                found.append((list(part), list(other), label))
            elif place == 2 and type(part) is type(other) is dict and part.keys() == other.keys():
                found += _values(part, other, label, ".{}")
                found += _each(part, other, label)
            else:
                found.append((part, other, label))
        return found

    def _members(self, a: Any, b: Any, label: str) -> list[_Pair] | None:
        """Pair the members of two sets: by the pickle's memo, by equality, or by their own pickles."""
        if len(a) != len(b):
            return None
        by_id, by_value = {id(member): member for member in b}, {member: member for member in b}
        found: list[_Pair] = []
        strays = []
        for member in a:
            partner = self._partners.get(id(member), _UNSET)
            partner = (
                by_id.get(id(partner), _UNSET) if partner is not _UNSET else by_value.get(member, _UNSET)
            )
            if partner is _UNSET:
                strays.append(member)
            else:
                del by_id[id(partner)]
                by_value.pop(partner, None)
                found.append((member, partner, label))
        mine, yours = Counter(map(pickled_flat, strays)), Counter(map(pickled_flat, by_id.values()))
        return found if mine == yours and None not in mine else None


def _omitted(a: Any, b: Any, label: str) -> Iterator[_Pair]:
    return ((mine, yours, f"{label}{name}") for name, mine, yours in omitted(a, b))


def _each(a: Any, b: Any, label: str) -> list[_Pair]:
    return [(mine, yours, f"{label}[{i}]") for i, (mine, yours) in enumerate(zip(a, b, strict=True))]


def _values(a: Any, b: Any, label: str, form: str = "[{!r:.40}]") -> list[_Pair]:
    pairs = zip(a, a.values(), b.values(), strict=True)
    return [(mine, yours, label + form.format(key)) for key, mine, yours in pairs]


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
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
