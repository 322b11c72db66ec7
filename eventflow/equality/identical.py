"""Fidelity: whether a restored value is identical to the original.

`==` is never used: for it, 1, 1.0 and True are equal, and NaN equals nothing.  Each exact type has a judge, a
function that compares two objects of that type and calls `_same` for their parts.  Values of a type without a
judge are compared as pickles without memo.  The bytes of such a pickle distinguish exact types, and do not depend on
shared parts.

`identical` may call two equal values different: then a safer serializer is used.  It never calls two different values
identical.  Add a judge here for a type whose pickle contains too little or too much.

`lost_in_pickle` compares an object with its unpickled copy.  Both functions compare bytes first, in C.  If the bytes
differ (sets have no order, equal strings may be one object or two), the objects are walked pair by pair.  In
both cases, every part that a class leaves out of its pickle is compared separately.
"""

from __future__ import annotations

import dataclasses
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
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
    BUILTIN,
    UNLIMITED,
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

__all__ = ["extra_attributes", "fields_of", "identical", "lost_in_pickle", "pickled_flat"]

_Judge: TypeAlias = Callable[[Any, Any], bool]

_UNSET: Final = object()
_NUMERIC_FORMATS: Final = frozenset("?bBhHiIlLqQnNefdgcu") | {"Zf", "Zd", "Zg"}


def identical(a: object, b: object) -> bool:
    """Return whether `a` and `b` are identical: exact types everywhere, dict order, floats by bits, zones by key.

    Attributes in addition to declared fields count, cached properties do not. Sharing of parts counts only in cyclic
    and very deep values.

    ```python
    from eventflow.equality.identical import identical

    print(identical([1, float("nan")], [1, float("nan")]), identical([1], [True]))
    ```
    ```text
    True False
    ```
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
        return _judge_by(attrgetter("_value_"))
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _same_named_tuple
    names = fields_of(kind)
    if names is None or issubclass(kind, (BaseException, *BUILTIN)):  # the content is not in fields
        return _same_buffer
    return _by_fields(names)


def fields_of(kind: type) -> tuple[str, ...] | None:
    """Return the declared fields of a msgspec Struct, a dataclass or an attrs class; None for another type."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is None:
        return None
    return tuple(attribute.name for attribute in attributes)


def _judge_by(key: Callable[[Any], object]) -> _Judge:
    """Return a judge that compares `key` of both."""
    return lambda a, b: _same(key(a), key(b))


def _by_fields(names: tuple[str, ...]) -> _Judge:
    def judge(a: Any, b: Any) -> bool:
        for name in names:
            if not _same(getattr(a, name, _UNSET), getattr(b, name, _UNSET)):
                return False
        return _same_attributes(a, b, names)

    return judge


def _same_attributes(a: Any, b: Any, fields: Collection[str] = ()) -> bool:
    mine, yours = extra_attributes(a, fields), extra_attributes(b, fields)
    return mine.keys() == yours.keys() and all(_same(value, yours[name]) for name, value in mine.items())


def extra_attributes(value: Any, fields: Collection[str]) -> Mapping[str, Any]:
    """Return the attributes of the object, except fields and cached properties."""
    return {
        name: part
        for name, part in getattr(value, "__dict__", {}).items()
        if name not in fields and not isinstance(getattr(type(value), name, None), cached_property)
    }


def _same_sequence(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(_same, a, b))


def _same_named_tuple(a: Any, b: Any) -> bool:
    return _same_sequence(a, b) and _same_attributes(a, b)


def _same_dict(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(_same, a, b)) and all(map(_same, a.values(), b.values()))


def _same_set(a: Any, b: Any) -> bool:
    """Pair equal members; then try the rest (NaN equals nothing) against each other."""
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
    """Compare arrays of numbers by type, shape and bytes, and everything else by its pickle."""
    mine = _buffer(a)
    if mine is not None:
        return mine == _buffer(b) and _same_attributes(a, b)
    if is_once(a):
        return False  # only reading would find out
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
    """Return the pickle of a value without memo, or None if it has none.

    Equal bytes prove identity if one value has only types that msgpack decodes to (exact builtin types, UTC times),
    and the other only types that msgspec encodes.
    """
    try:
        return pickle_of(value, size_max=UNLIMITED).data
    except Exception:  # noqa: BLE001 - a reducer may raise anything; then there is nothing to compare
        return None


# ── objects and their pickles ────────────────────────────────────────────────────────────────────────────────

_FLAT_MAX: Final = 4
"""Maximal ratio of a pickle without memo to the normal one; without memo, shared parts are written repeatedly."""
_MANY: Final = 256
_EQUAL_ALONE: Final = frozenset({str, int, bytes, bool})
"""Types whose equal values are identical."""
_Pair: TypeAlias = tuple[Any, Any, str]


def lost_in_pickle(
    value: object, pickled: Pickled, opened: object, unpickler: pickle.Unpickler
) -> str | None:
    """Return the first part of an object that its pickle does not restore, as `.token` or `[3].name`; None if none.

    `opened` is the object that `unpickler` returned.
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
    """Return whether two objects of one type have equal pickles and equal parts that these leave out."""
    try:
        objects = _objects(a, b, pickle_of(a))
        if objects is None:
            return _Walk().difference([(a, b, "")]) is None
        return _Walk().left_out(*objects) is None
    except Exception:  # noqa: BLE001 - a reducer may raise anything; then there is nothing to compare
        return False


def _objects(a: Any, b: Any, mine: Pickled) -> tuple[list[Any], list[Any]] | None:
    """Return the objects in two values with equal pickles, in pairs; None if the bytes differ."""
    try:
        yours = pickle_of(b)
        if mine.data != yours.data:  # equal strings may be one object in one value and two in the other
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
    """Return whether equal bytes of two objects of this type may hide a difference."""
    return handling_of(kind) in (Handling.OWN, Handling.LIBRARY) or issubclass(kind, BaseException)


def _is_own(value: Any) -> bool:
    return handling_of(type(value)) is Handling.OWN  # type: ignore[arg-type]  # types are hashable


class _Walk:
    """Compare two object graphs pair by pair, each pair once, so that cycles end."""

    def __init__(self, value_of: Mapping[int, Any] | None = None) -> None:
        self._partners = value_of or {}
        """`id` of a part → its unpickled copy, if a pickle shows it."""
        self._is_proof = value_of is not None
        self._seen: set[tuple[int, int]] = set()
        self._kept: list[Any] = []
        """The objects of the ids in `_seen`: kept alive, so that no id is reused."""

    def difference(self, pairs: Iterable[_Pair]) -> str | None:
        """Return the label of the first pair that differs."""
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
        """Return the first difference in the parts that equal bytes do not compare."""
        kinds = set(filter(_is_suspect, set(map(type, a))))
        if not kinds:
            return None
        pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not y and type(x) in kinds]
        new = [pair for pair in pairs if (id(pair[0]), id(pair[1])) not in self._seen]
        self._seen.update((id(x), id(y)) for x, y in new)
        self._kept += new
        own = [pair for pair in new if _is_own(pair[0])]
        if own:  # all at once: fast if nothing differs
            mine, yours = [own_parts(x) for x, _ in own], [own_parts(y) for _, y in own]
            with suppress(Exception):  # a part that is left out may have no pickle
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
        """Return the pairs that decide whether two objects are the same; None if they differ."""
        kind = type(a)
        if kind is not type(b):
            return None
        judge = _JUDGES.get(kind)
        if judge is not None and kind not in _CONTAINERS:
            return _no_pairs_if(judge(a, b))
        if (id(a), id(b)) in self._seen:
            return []
        self._seen.add((id(a), id(b)))
        self._kept += (a, b)
        if kind in _CONTAINERS and len(a) >= _MANY and self._are_like(a, b):
            return []
        if kind in _CONTAINERS and len(a) != len(b):
            return None
        if kind in (list, tuple):
            return _each(a, b, label)
        if kind is dict:
            return [*_each(a, b, label), *_values(a, b, label)]
        if kind in (set, frozenset):
            return self._members(a, b, label)
        if kind is pickle.PickleBuffer:
            return _no_pairs_if(a.raw() == b.raw())
        mine = _buffer(a)
        if mine is None:
            return self._object(a, b, label)
        if mine != _buffer(b):
            return None
        return _omitted(a, b, label)

    def _are_like(self, a: Any, b: Any) -> bool:
        """Return whether large containers have equal bytes, which is faster than a comparison of parts."""
        if isinstance(a, set | frozenset):
            kinds = set(map(type, a))
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
        except Exception:  # noqa: BLE001 - a lock or connection has no pickle, so the pickle under test leaves it out
            return _no_pairs_if(self._is_proof)
        if isinstance(mine, str) or isinstance(yours, str):
            return _no_pairs_if(isinstance(mine, str) and mine == yours)
        if len(mine) != len(yours):
            return None
        pairs = _omitted(a, b, label)
        for index, (part, other) in enumerate(zip(mine, yours, strict=True)):
            if index in (3, 4) and part is not None and other is not None:  # iterators over items
                pairs.append((list(part), list(other), label))
            elif index == 2 and type(part) is type(other) is dict and part.keys() == other.keys():
                pairs += _values(part, other, label, ".{}")
                pairs += _each(part, other, label)
            else:
                pairs.append((part, other, label))
        return pairs

    def _members(self, a: Any, b: Any, label: str) -> list[_Pair] | None:
        """Pair the members of two sets by the pickle's memo, by equality, or by their own pickles."""
        by_id = {id(member): member for member in b}
        by_value = {member: member for member in b}
        pairs: list[_Pair] = []
        strays = []
        for member in a:
            unpickled = self._partners.get(id(member), _UNSET)
            if unpickled is _UNSET:
                partner = by_value.get(member, _UNSET)
            else:
                partner = by_id.get(id(unpickled), _UNSET)
            if partner is _UNSET:
                strays.append(member)
            else:
                del by_id[id(partner)]
                by_value.pop(partner, None)
                pairs.append((member, partner, label))
        mine = Counter(map(pickled_flat, strays))
        yours = Counter(map(pickled_flat, by_id.values()))
        if mine != yours or None in mine:
            return None
        return pairs


def _no_pairs_if(is_same: bool) -> list[_Pair] | None:
    """Return no pairs if a comparison showed that two objects are the same; None if it did not."""
    return [] if is_same else None


def _omitted(a: Any, b: Any, label: str) -> list[_Pair]:
    return [(mine, yours, f"{label}{name}") for name, mine, yours in omitted(a, b)]


def _each(a: Any, b: Any, label: str) -> list[_Pair]:
    return [(mine, yours, f"{label}[{i}]") for i, (mine, yours) in enumerate(zip(a, b, strict=True))]


def _values(a: Any, b: Any, label: str, form: str = "[{!r:.40}]") -> list[_Pair]:
    pairs = zip(a, a.values(), b.values(), strict=True)
    return [(mine, yours, label + form.format(key)) for key, mine, yours in pairs]


def _pickled_moment(value: Any) -> object:
    """Return fields, fold and zone, as `datetime` itself pickles them."""
    return value.__reduce_ex__(4)[1]


_JUDGES: Final[Mapping[type, _Judge]] = {
    **dict.fromkeys((type(None), bool, int, str, bytes, bytearray), eq),
    float: _judge_by(struct.Struct("<d").pack),
    list: _same_sequence,
    tuple: _same_sequence,
    dict: _same_dict,
    set: _same_set,
    frozenset: _same_set,
    complex: _judge_by(lambda value: struct.pack("<dd", value.real, value.imag)),
    range: _judge_by(lambda value: (value.start, value.stop, value.step)),
    Decimal: _judge_by(str),
    UUID: _judge_by(lambda value: (value.int, value.is_safe)),
    **dict.fromkeys((date, time, datetime, timedelta), _judge_by(_pickled_moment)),
    timezone: _judge_by(methodcaller("__getinitargs__")),
    # A zone from a file without a name equals no other zone.
    ZoneInfo: _judge_by(lambda zone: zone.key or id(zone)),
    **dict.fromkeys((PosixPath, PurePosixPath, WindowsPath, PureWindowsPath), _judge_by(str)),
}
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
