"""Contents: what a value is, however it is kept."""

# ruff: noqa: D101, D102 - classes to be looked at, not used

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest

from eventflow.codecs import registry
from eventflow.fingerprints.content import NoContent, content_of, full_name, quick_content
from eventflow.result import Inline
from eventflow.serializers import JSONSerializer, Serializer, digest_of, register_codec


@dataclass
class Point:
    x: Any
    y: Any = 0

    @cached_property
    def sum(self) -> Any:
        return self.x + self.y


@dataclass
class Twin:
    x: Any
    y: Any = 0


class Row(msgspec.Struct):
    x: Any
    y: Any = 0


@attrs.define
class Thing:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    x: Any
    y: Any = 0


Anonymous = namedtuple("Anonymous", ["x", "y"])  # noqa: PYI024 - the other way to make one


class Colour(Enum):
    RED = 1
    GREEN = "1"


class Size(IntEnum):
    ONE = 1


class Other(Enum):
    RED = 1


DISTINCT: list[Any] = [
    None, False, True, 0, 1, -1, 2**63, 2**64, -(2**70), 0.0, -0.0, 1.0, float("nan"), float("inf"), 1j, complex(0, -0.0),
    "", "1", "a", b"", b"1", bytearray(b"1"), "\udc80", [], [1], [1, 2], [2, 1], [[1]], (), (1,), (1, 2), ((1,),), {1}, {1, 2},
    frozenset({1}), {}, {"a": 1}, {"a": 1.0}, {"b": 1}, {"a": 1, "b": 2}, {1: 1}, {"1": 1}, {(1,): 1}, {None: 1},
    Decimal(1), Decimal("1.0"), date(2026, 1, 1), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC),  # noqa: DTZ001
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(0))), datetime(2026, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")),
    timedelta(1), UUID(int=1), range(1), range(2), PurePosixPath("a"), Point(1), Point(1, 1), Twin(1), Row(1), Thing(1),
    Pair(1), Anonymous(1, 0), Colour.RED, Colour.GREEN, Size.ONE, Other.RED, [Point(1)], {"x": 1, "y": 0},
    Point(Point(1)), Point([1]), Point((1,)), [None], {"a": None}, {"a": {"b": 1}}, {"a": [{"b": 1}]},
]  # fmt: skip
"""No two of these are one value."""


def test_different_values_have_different_contents() -> None:
    """Type by type, and field by field."""
    found = {content_of(value): value for value in DISTINCT}
    same = [value for value in DISTINCT if found[content_of(value)] is not value]
    # One moment in one zone: `UTC` is the `timezone` of no offset.
    assert same == [datetime(2026, 1, 1, tzinfo=UTC)]
    assert all(len(content) == 16 for content in found)


@pytest.mark.parametrize("value", DISTINCT, ids=repr)
def test_the_content_is_the_digest_where_that_says_it(value: Any) -> None:
    """What has no dict and no class inside is kept as the very bytes that are digested."""
    try:
        payload = Serializer(type(value)).serialize(value)
    except TypeError:
        return
    quick = quick_content(payload)
    assert quick in (None, content_of(value))
    if payload.codec in ("msgpack", "tagged") and not {*payload.data} & {
        4,
        *range(0x80, 0x90),
        0xDE,
        0xDF,
        0xC7,
        0xD6,
        0xD7,
    }:
        assert quick == payload.digest


def test_the_codec_does_not_count() -> None:
    """A value kept as JSON, as typed or as plain bytes is one value."""
    for value, declared in ((Point(1, 2), Point), ([1, 2], list), ({"b": 1, "a": 2}, dict)):
        contents = {
            content_of(serializer.deserialize(serializer.serialize(value)))
            for serializer in (Serializer(declared), JSONSerializer(declared))
        }
        assert contents == {content_of(value)}


def test_order_does_not_count_where_it_means_nothing() -> None:
    """Keys of dicts of any kind, members of sets; but items of lists and fields of classes do."""
    assert content_of({"a": 1, "b": {"c": 1, "d": 2}}) == content_of({"b": {"d": 2, "c": 1}, "a": 1})
    assert content_of({1: "x", (2,): "y", "z": 0}) == content_of({"z": 0, (2,): "y", 1: "x"})
    assert content_of({"z", "y", 1, None}) == content_of({None, 1, "y", "z"})
    assert content_of({"é": 1, "z": 2, "": 3}) == content_of({"": 3, "z": 2, "é": 1})


def test_what_is_computed_from_fields_does_not_count() -> None:
    """A cached property that was asked for makes no other value."""
    asked, fresh = Point(1, 2), Point(1, 2)
    assert asked.sum == 3
    assert content_of(asked) == content_of(fresh)


class Model:
    """No fields."""


class Named(str):
    """More than its text, perhaps."""

    __slots__ = ()


def _cyclic() -> list[Any]:
    value: list[Any] = [1]
    value.append({"me": value})
    return value


def _decorated() -> Point:
    value = Point(1)
    value.note = "beside"  # type: ignore[attr-defined]
    return value


class Hidden:
    __slots__ = ("_seen",)


@attrs.define
class Slotted(Hidden):
    x: Any


def _seen() -> Slotted:
    value = Slotted(1)
    value._seen = True  # type: ignore[attr-defined]
    return value


def _unset() -> Row:
    value = Row(1)
    del value.y
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Model(), "it is a tests.unit.test_canonical:Model"),
        ({"a": [1, {"b": Model()}]}, "['a'][1]['b'] is a tests.unit.test_canonical:Model"),
        (Point(1, [Model()]), ".y[0] is a tests.unit.test_canonical:Model"),
        ((0, {Model}), "[1] (a member) is a type"),
        ({Model: 1}, "(its key "),
        (Named("x"), "it is a tests.unit.test_canonical:Named"),
        (OrderedDict(a=1), "it is a collections:OrderedDict"),
        ([object()], "[0] is a object"),
        (lambda: 1, "it is a function"),
        (ValueError("x"), "it is a ValueError"),
        (_cyclic(), "is a list"),
        (_decorated(), "it is a tests.unit.test_canonical:Point"),
        (_seen(), "it is a tests.unit.test_canonical:Slotted"),
        (_unset(), "it is a tests.unit.test_canonical:Row"),
        (memoryview(b"x"), "it is a memoryview"),
    ],
)
def test_what_might_be_anything_is_refused_with_its_path(value: Any, message: str) -> None:
    """Never a guess."""
    with pytest.raises(NoContent) as caught:
        content_of(value)
    assert message in str(caught.value)


def test_a_value_that_is_too_deep_or_too_odd_ends_in_a_refusal() -> None:
    """Not in a recursion without end, nor in an error of the value's own."""
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NoContent):
        content_of(deep)

    class Angry(msgspec.Struct):
        x: int

        def __repr__(self) -> str:
            raise RuntimeError("no")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = object.__hash__  # type: ignore[assignment]

    assert content_of(Angry(1)) == content_of(Angry(1))
    with pytest.raises(NoContent):
        content_of({Angry(1): Model()})


def test_a_registered_codec_may_promise_canonical_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then equal digests are equal contents, within that codec; otherwise the value is asked."""
    monkeypatch.setattr(registry, "_registered", {})

    class Blob:
        name = "blob"
        canonical = True

        def encode(self, value: object, declared: Any, /) -> bytes | None:
            return None

        def decode(self, data: bytes, declared: Any, /) -> Any:
            return data

    class Loose(Blob):
        name = "loose"
        canonical = False

    for codec in (Blob(), Loose()):
        register_codec(codec)
    one, other = (Inline("blob", data, digest_of(data)) for data in (b"1", b"2"))
    assert quick_content(one) == quick_content(Inline("blob", b"1", digest_of(b"1")))
    assert len({quick_content(one), quick_content(other), one.digest, content_of(b"1")}) == 4
    assert quick_content(Inline("loose", b"1", digest_of(b"1"))) is None


_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.unit.test_canonical import DISTINCT
from eventflow.fingerprints.content import content_of
for value in DISTINCT:
    print(content_of(value).hex())
"""


def test_contents_are_the_same_in_every_process() -> None:
    """Under any hash seed."""
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, str(__file__).rpartition("tests")[0]],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert found == {"".join(content_of(value).hex() + "\n" for value in DISTINCT)}


def test_full_names() -> None:
    """Module and qualified name, with a colon between."""
    assert full_name(Point) == "tests.unit.test_canonical:Point"
    assert full_name(dict) == "builtins:dict"
