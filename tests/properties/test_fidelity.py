"""What was kept comes back identical, and no shortcut ever says so of what does not."""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from eventflow.codecs.plain import is_same
from eventflow.result import Inline, Result, SerializationError, enc_hook, identical
from eventflow.serializers import Serializer


class Order(msgspec.Struct):
    """A struct with fields of many types."""

    id: int
    tags: set[str]
    prices: dict[str, float]
    pairs: list[tuple[int, str]]


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: float
    y: bytes | None


class Colour(enum.Enum):
    """An enum."""

    RED = "r"
    BLUE = "b"


class Words(list[Any]):
    """A list that msgspec takes for a list."""


class Table(dict[Any, Any]):
    """A dict that msgspec takes for a dict."""


floats = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]),
)
plain_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 0.0, -0.0, 1.0]),
    floats,
    st.text(),
    st.binary(),
)
zones = st.one_of(
    st.none(),
    st.just(UTC),
    st.builds(
        timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.sampled_from(["", "X", "UTC"])
    ),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.sampled_from(["Europe/Berlin", "UTC", "Asia/Kathmandu"]).map(ZoneInfo),
)
moments = st.builds(
    lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.integers(0, 1)
)
clocks = st.builds(
    lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.times(), zones, st.integers(0, 1)
)
decimals = st.decimals(allow_nan=True, allow_infinity=True)
hashable_leaves = st.one_of(
    plain_leaves,
    st.integers(),
    st.text(st.characters(exclude_categories=())),  # lone surrogates too
    st.complex_numbers(),
    decimals.filter(lambda number: not number.is_snan()),  # a signalling NaN has no hash
    st.dates(),
    clocks,
    moments,
    st.timedeltas(),
    st.uuids(),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
)
hashables = st.recursive(
    hashable_leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=5,
)
values = st.recursive(
    st.one_of(hashable_leaves, decimals, st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=4),
    ),
    max_leaves=12,
)
plain = st.recursive(
    plain_leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(plain_leaves, inner, max_size=4),
    ),
    max_leaves=12,
)
near_plain = st.recursive(
    st.one_of(
        plain_leaves,
        st.binary(max_size=3).map(bytearray),
        st.binary(max_size=3).map(memoryview),
        st.sampled_from(Colour),
        st.dates(),
        moments,
        st.uuids(),
        st.builds(Point, floats, st.binary(max_size=2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(Words),
        st.dictionaries(st.text(max_size=2), inner, max_size=4),
        st.dictionaries(st.text(max_size=2), inner, max_size=4).map(Table),
        st.sets(plain_leaves, max_size=3),
    ),
    max_leaves=10,
)
orders = st.builds(
    Order,
    st.integers(-(2**63), 2**63 - 1),
    st.sets(st.text()),
    st.dictionaries(st.text(), floats),
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text())),
)


def twists(value: Any) -> Iterator[Any]:
    """Values that differ in one place, most of which `==` takes for the same."""
    match value:
        case bool():
            yield int(value)
        case int() if abs(value) < 2**53:
            yield float(value)
        case float():
            yield -value
        case str():
            yield value.encode("utf-8", "surrogatepass")
        case bytes():
            yield bytearray(value)
            yield memoryview(value)
        case datetime() | time():
            yield value.replace(fold=1 - value.fold)
        case list():
            yield tuple(value)
            yield Words(value)
            yield from (
                [*value[:i], part, *value[i + 1 :]] for i in range(len(value)) for part in twists(value[i])
            )
        case tuple():
            yield list(value)
            yield from (tuple(other) for other in twists(list(value)) if type(other) is list)
        case dict():
            yield Table(value)
            yield from ({**value, key: part} for key in value for part in twists(value[key]))
            if len(value) > 1:
                yield dict(reversed(value.items()))
        case set() | frozenset():
            yield (frozenset if type(value) is set else set)(value)


@given(values)
def test_every_standard_value_comes_back_identical(value: Any) -> None:
    """Whatever is made of builtin and standard types is kept without a declared type."""
    payload = Serializer().serialize(value)
    assert payload.codec in {"msgpack", "tagged"}
    assert identical(value, Serializer().deserialize(payload))


@given(plain)
def test_plain_data_never_leaves_the_fast_codec(value: Any) -> None:
    """The shortcut does not refuse what it is made for."""
    payload = Serializer().serialize(value)
    assert payload.codec == "msgpack"
    assert identical(value, Serializer().deserialize(payload))


@given(
    st.lists(st.one_of(orders, st.builds(Point, floats, st.none() | st.binary()), st.sampled_from(Colour)))
)
def test_declared_values_come_back_identical(parts: list[Any]) -> None:
    """Structs, dataclasses and enums, with the types that their tasks declare."""
    for part in parts:
        declared = type(part)
        for value, kind in ((part, declared), ([part], list[declared]), ({"k": part}, dict[str, declared])):
            serializer = Serializer(kind)
            payload = serializer.serialize(value)
            assert payload.codec == "typed"
            assert identical(value, serializer.deserialize(payload))


@given(near_plain, st.booleans())
def test_the_shortcut_never_says_same_where_the_judge_says_different(value: Any, large: bool) -> None:
    """Also with bytes-likes, subclasses and foreign types inside, small and large."""
    if large:
        value = [value, "Ł" * 3000]
    try:
        data = msgspec.msgpack.encode(value)
        opened = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, TypeError, ValueError):
        assume(False)
    assert not is_same(value, opened, data) or identical(value, opened)


@given(near_plain)
def test_kept_or_refused_but_never_changed(value: Any) -> None:
    """What has no codec is a named error; what has one comes back identical."""
    try:
        payload = Serializer().serialize(value)
    except SerializationError:
        return
    assert identical(value, Serializer().deserialize(payload))


@given(values)
def test_no_twist_is_identical(value: Any) -> None:
    """One part of another type, sign or place makes another value, in both directions."""
    assert identical(value, value)
    for other in twists(value):
        assert not identical(value, other)
        assert not identical(other, value)


@given(values)
def test_encoding_a_result_and_opening_it_later(value: Any) -> None:
    """The way of every value: hook, wire, payload, value."""
    data = msgspec.msgpack.encode([Result(value)], enc_hook=enc_hook)
    (payload,) = msgspec.msgpack.decode(data, type=list[Inline])
    assert identical(Result(payload, True).deserialize().value, value)
