"""`identical`: what counts as the same value, and what does not although `==` says so."""

from __future__ import annotations

import array
import dataclasses
import enum
import math
import struct
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from eventflow.result import identical


class Order(msgspec.Struct):
    """A struct."""

    id: Any
    note: Any = None


class Derived(Order):
    """Its child, with the same fields."""


@dataclasses.dataclass
class Point:
    """A dataclass whose `==` looks at one field only."""

    x: Any
    y: Any = dataclasses.field(default=0, compare=False)

    @cached_property
    def norm(self) -> float:
        """Computed, so not part of the value."""
        return math.hypot(self.x, self.y)


class Colour(enum.Enum):
    """An enum."""

    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    """An enum that equals its numbers."""

    LOW = 1


class Pair(NamedTuple):
    """A tuple with names."""

    a: Any
    b: Any


class Words(list[str]):
    """A list subclass."""


class Opaque:
    """A plain class: judged by its pickle."""

    def __init__(self, value: Any) -> None:
        self.value = value


LocalPair = namedtuple("LocalPair", "a b")  # noqa: PYI024 - untyped on purpose
NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
MOMENT = datetime.fromisoformat("2026-10-25T02:30")  # in the doubled hour of Berlin
BERLIN = ZoneInfo("Europe/Berlin")


def _with_attribute(value: Any) -> Any:
    value.extra = 1
    return value


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (float("nan"), NAN),
        (1, Level.LOW),
        (0j, complex(-0.0, 0.0)),
        ("a", b"a"),
        (b"a", bytearray(b"a")),
        (b"a", memoryview(b"a")),
        ([1], (1,)),
        ([1], [1.0]),
        (["a"], Words(["a"])),
        ((1, 2), Pair(1, 2)),
        (Pair(1, 2), LocalPair(1, 2)),
        (Pair(1, 2), Pair(1, 2.0)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({1: "a"}, {True: "a"}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, OrderedDict(a=1)),
        ({1, 2}, frozenset({1, 2})),
        ({1}, {1.0}),
        ({(1, 2)}, {(1, True)}),
        ({1, 2}, {1, 2, 3}),
        ({float("nan")}, {NAN}),
        (Decimal(1), Decimal("1.0")),
        (Decimal("sNaN"), Decimal("NaN")),
        (Decimal(0), Decimal("-0")),
        (Decimal("1E+2"), Decimal(100)),
        (date(2026, 1, 1), datetime.fromisoformat("2026-01-01")),
        (MOMENT, MOMENT.replace(fold=1)),
        (MOMENT, MOMENT.replace(tzinfo=UTC)),
        (MOMENT.replace(tzinfo=UTC), MOMENT.replace(tzinfo=ZoneInfo("UTC"))),
        (MOMENT.replace(tzinfo=UTC), MOMENT.replace(tzinfo=timezone(timedelta(0), "Z"))),
        (MOMENT.replace(tzinfo=BERLIN), MOMENT.replace(tzinfo=ZoneInfo("Europe/Paris"))),
        (time(1, fold=0), time(1, fold=1)),
        (UUID(int=1), UUID(int=1, is_safe=SafeUUID.safe)),
        (range(0, 3, 2), range(0, 4, 2)),
        (PureWindowsPath("A"), PureWindowsPath("a")),
        (PurePosixPath("a"), PureWindowsPath("a")),
        (Colour.RED, Colour.BLUE),
        (Order(1), Order(1.0)),
        (Order(1), Derived(1)),
        (Point(1, 2), Point(1, 3)),
        (Point(1, 2), _with_attribute(Point(1, 2))),
        (array.array("i", [1]), array.array("I", [1])),
        (array.array("d", [0.0]), array.array("d", [-0.0])),
        (memoryview(b"abcd").cast("B", (2, 2)), memoryview(b"abcd").cast("B", (4, 1))),
        (Opaque(1), Opaque(1.0)),
        (lambda: 1, lambda: 1),
    ],
)
def test_different(a: Any, b: Any) -> None:
    """However equal they are to Python, alone or inside something."""
    for wrap in (lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: (v,), Order, Point, Opaque):
        assert not identical(wrap(a), wrap(b))
        assert not identical(wrap(b), wrap(a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (None, None),
        (2**70, 2**70),
        (NAN, struct.unpack("<d", struct.pack("<d", NAN))[0]),
        ({"b": [1, (2.5, None)], "a": {True}}, {"b": [1, (2.5, None)], "a": {True}}),
        ({float("nan"), 1, 2}, {2, float("nan"), 1}),
        ({(float("nan"), 1)}, {(float("nan"), 1)}),
        (Decimal("sNaN12"), Decimal("sNaN12")),
        (
            MOMENT.replace(tzinfo=BERLIN, fold=1),
            MOMENT.replace(tzinfo=ZoneInfo.no_cache("Europe/Berlin"), fold=1),
        ),
        (timezone(timedelta(hours=1), "X"), timezone(timedelta(hours=1), "X")),
        (Pair([1], 2), Pair([1], 2)),
        (Order([1], {"a": 1}), Order([1], {"a": 1})),
        (Point(1, 2), Point(1, 2)),
        (Colour.RED, Colour(1)),
        (array.array("d", [1.5, NAN]), array.array("d", [1.5, NAN])),
        (Words(["a"]), Words(["a"])),
        (OrderedDict(a=1), OrderedDict(a=1)),
        (Opaque([1]), Opaque([1])),
        (bytearray(b"a"), bytearray(b"a")),
    ],
)
def test_the_same(a: Any, b: Any) -> None:
    """Two objects, one value."""
    assert identical(a, b)
    assert identical([a], [b])


def test_cached_properties_are_no_part_of_a_value() -> None:
    """What was computed from the fields does not make a difference."""
    seen, fresh = Point(3, 4), Point(3, 4)
    assert seen.norm == 5
    assert identical(seen, fresh)


def test_sharing_does_not_count() -> None:
    """The same list twice is like two like lists."""
    part = [1]
    assert identical([part, part], [[1], [1]])
    assert identical(Opaque([part, part]), Opaque([[1], [1]]))


def test_cycles_and_depth_end() -> None:
    """A value that contains itself, or is deeper than the stack, still gets a verdict."""
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    changed: list[Any] = [2]
    changed.append(changed)
    assert identical(one, other)
    assert not identical(one, changed)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert not identical(deep, [deep, 1])


def test_attrs_classes_go_by_their_fields() -> None:
    """Also fields that take no part in `==`."""
    attrs = pytest.importorskip("attrs")
    kind = attrs.make_class("Kind", {"a": attrs.field(), "b": attrs.field(eq=False)})
    assert identical(kind(1, 2), kind(1, 2))
    assert not identical(kind(1, 2), kind(1, 3))
