"""Two values have one content exactly when they are one value, up to the order of dicts and sets."""

from __future__ import annotations

import struct
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from eventflow.fingerprints.content import content_of, quick_content
from eventflow.result import Inline
from eventflow.serializers import Serializer

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 300), st.floats(), st.text(max_size=3),
    st.binary(max_size=3), st.decimals(allow_nan=False), st.timedeltas(), st.dates(), st.uuids(),
    st.datetimes(timezones=st.just(UTC)), st.datetimes(),
)  # fmt: skip
keys = st.one_of(st.text(max_size=2), st.integers(-1, 2), st.none(), st.tuples(st.integers(0, 1)))
values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
    ),
    max_leaves=8,
)


def normal(value: Any) -> Any:
    """What a value is, worked out another way: hashable, exact types everywhere, without the order of dicts and sets."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack("<d", value)
    if kind in (list, tuple):
        return kind, tuple(map(normal, value))
    if kind is dict:
        return kind, frozenset((normal(key), normal(part)) for key, part in value.items())
    if kind in (set, frozenset):
        return kind, frozenset(map(normal, value))
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind is timedelta:
        return kind, (value.days, value.seconds, value.microseconds)
    return kind, value


def turned(value: Any) -> Any:
    """The same value with every dict and set the other way round."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(map(turned, value))
    if kind is dict:
        return {key: turned(part) for key, part in reversed(value.items())}
    return kind(reversed(list(value))) if kind in (set, frozenset) else value


@given(values, values)
@example([1], (1,))
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
@example({1: "a"}, {True: "a"})
def test_one_content_is_one_value(one: Any, other: Any) -> None:
    """In both directions."""
    assert (content_of(one) == content_of(other)) == (normal(one) == normal(other))


@given(values)
def test_order_and_codec_do_not_count(value: Any) -> None:
    """Turned round, or kept and opened again, it has the content that it had; and the quick way says the same."""
    content = content_of(value)
    assert content_of(turned(value)) == content
    payload = Serializer().serialize(value)
    assert content_of(Serializer().deserialize(payload)) == content
    assert quick_content(payload) in (None, content)


@given(st.binary(max_size=8), st.sampled_from(["msgpack", "tagged"]))
def test_quick_contents_of_any_bytes(data: bytes, codec: str) -> None:
    """Whatever bytes say their own content has no map inside."""
    payload = Inline(codec, data, b"d" * 16)
    if quick_content(payload) == payload.digest:
        assert not {*data} & {*range(0x80, 0x90), 0xDE, 0xDF}
