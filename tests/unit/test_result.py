"""`Result`, `NoResult` and their payloads: two forms, pure moves, one hook on encode, none on decode."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import msgspec
import pytest

from eventflow.result import (
    DeserializationError,
    Forgotten,
    Inline,
    NoResult,
    NoResultType,
    Payload,
    Result,
    ResultNotLoaded,
    ResultSerializer,
    SerializationError,
    Stored,
    Withheld,
    default_serializer,
    enc_hook,
)
from eventflow.serializers import Serializer, digest_of


class Counting(msgspec.Struct, frozen=True):
    """A serializer that notes how often it is called."""

    calls: list[str]
    inner: Serializer = Serializer()

    def serialize(self, value: Any) -> Inline:
        """Count, then do it."""
        self.calls.append("serialize")
        return self.inner.serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Count, then do it."""
        self.calls.append("deserialize")
        return self.inner.deserialize(payload)


class Holder(msgspec.Struct):
    """Something that people encode, with a result in it."""

    result: Any


class Wire(msgspec.Struct):
    """The same as it is read."""

    result: Payload | None


def test_the_two_forms_and_the_moves_between_them() -> None:
    """Serializing and deserializing give new results; the one at hand stays as it is."""
    live = Result({"a": 1})
    kept = live.serialize()
    assert (live.value, live.serialized) == ({"a": 1}, False)
    assert isinstance(kept.value, Inline)
    assert kept.serialized
    assert kept.serialize() is kept
    assert live.deserialize() is live
    opened = kept.deserialize()
    assert opened == live
    assert opened is not live
    assert opened.value is not live.value


def test_a_result_alone_takes_the_default_serializer() -> None:
    """`Result(value)` knows how to be serialized."""
    assert Result(1).serializer is default_serializer()
    assert isinstance(default_serializer(), ResultSerializer)


def test_a_result_is_immutable() -> None:
    """Neither its fields nor new ones can be set or deleted."""
    result = Result(1)
    for name in ("value", "serialized", "serializer", "other"):
        with pytest.raises(AttributeError, match=name):
            setattr(result, name, 2)
        with pytest.raises(AttributeError, match=name):
            delattr(result, name)
    assert result.value == 1


def test_equality_is_exact() -> None:
    """1, 1.0 and True make three results, NaN equals itself, and serializers count."""
    assert Result(1) != Result(1.0)
    assert Result([1]) != Result([True])
    assert Result(float("nan")) == Result(float("nan"))
    assert Result(1) != Result(1, False, Serializer(int))
    assert Result(1) != Result(1).serialize()
    assert Result(1) != 1


def test_a_result_survives_pickle_and_copy() -> None:
    """Value, form and serializer go along."""
    for result in (Result([1], False, Serializer(list[int])), Result("x").serialize()):
        for twin in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
            assert twin == result


@pytest.mark.parametrize("payload", [Withheld("by choice"), Forgotten(b"d" * 16, "by retention")])
def test_what_is_gone_says_why(payload: Payload) -> None:
    """A withheld or forgotten value is never None, but an error with the reason."""
    with pytest.raises(ResultNotLoaded, match=payload.reason):
        Result(payload, True).deserialize()


def test_stored_bytes_need_a_fetch() -> None:
    """Without one the error names store and way out; with one the value opens."""
    inline = Serializer().serialize([1, 2])
    stored = Stored(inline.codec, inline.digest, len(inline.data), "blobs")
    with pytest.raises(ResultNotLoaded, match=r"'blobs'.*log\.values"):
        Result(stored, True).deserialize()
    assert Result(stored, True, fetch=lambda _: inline).deserialize().value == [1, 2]


def test_bytes_of_another_digest_are_refused() -> None:
    """A store that gives sound bytes of another value is found out."""
    inline = Serializer().serialize([1, 2])
    stored = Stored("msgpack", digest_of(b"another"), 7, "blobs")
    with pytest.raises(DeserializationError, match="damaged"):
        Result(stored, True, fetch=lambda _: inline).deserialize()


def test_no_result_is_one_and_like_nothing_else() -> None:
    """It survives copy and pickle as itself, is false, and is not `Result(None)`."""
    for twin in (copy.copy(NoResult), copy.deepcopy(NoResult), NoResultType()):
        assert twin is NoResult
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(NoResult, protocol)) is NoResult
    assert NoResult != Result(None)
    assert Result(None) != NoResult
    assert NoResult is not None
    assert not NoResult
    assert NoResult.serialize() is NoResult.deserialize() is NoResult.value is NoResult
    assert repr(NoResult) == "NoResult"


def test_encoding_serializes_by_itself() -> None:
    """MessagePack and JSON dump a live result as its payload, once, and leave the live one alone."""
    calls: list[str] = []
    live = Result({"a": (1, 2)}, False, Counting(calls))
    for encode, decode in (
        (msgspec.msgpack.encode, msgspec.msgpack.decode),
        (msgspec.json.encode, msgspec.json.decode),
    ):
        calls.clear()
        data = encode(Holder(live), enc_hook=enc_hook)
        assert calls == ["serialize"]
        found = decode(data, type=Wire).result
        assert found == live.serialize().value
        assert Result(found, True).deserialize().value == {"a": (1, 2)}
    assert not live.serialized


def test_encoding_a_serialized_result_calls_no_serializer() -> None:
    """What has a payload already is written as it is."""
    calls: list[str] = []
    kept = Result(Serializer().serialize(1), True, Counting(calls))
    msgspec.msgpack.encode(Holder(kept), enc_hook=enc_hook)
    assert calls == []


def test_decoding_calls_no_serializer() -> None:
    """A thousand loaded payloads make no call; opening one makes one."""
    calls: list[str] = []
    data = msgspec.msgpack.encode(
        [Holder(Result(i, False, Counting(calls))) for i in range(1000)], enc_hook=enc_hook
    )
    calls.clear()
    results = [Result(h.result, True, Counting(calls)) for h in msgspec.msgpack.decode(data, type=list[Wire])]
    assert calls == []
    assert results[7].deserialize().value == 7
    assert calls == ["deserialize"]


def test_every_payload_travels_both_ways() -> None:
    """The closed union comes back as the same member, in both formats."""
    for payload in (
        Inline("msgpack", b"\x01", b"d" * 16),
        Stored("tagged", b"d" * 16, 700, "log"),
        Withheld("persist=False"),
        Forgotten(b"d" * 16, "retention"),
    ):
        result = Result(payload, True)
        for encode, decode in (
            (msgspec.msgpack.encode, msgspec.msgpack.decode),
            (msgspec.json.encode, msgspec.json.decode),
        ):
            assert decode(encode(Holder(result), enc_hook=enc_hook), type=Wire).result == payload


def test_encoding_what_cannot_be_kept_raises_the_named_error() -> None:
    """The error of the serializer comes through the encoder, and so does one for strangers."""
    for encode in (msgspec.msgpack.encode, msgspec.json.encode):
        with pytest.raises(SerializationError, match=r"value\['lock'\]: _thread.lock"):
            encode(Holder(Result({"lock": threading.Lock()})), enc_hook=enc_hook)
        with pytest.raises(SerializationError, match="object"):
            encode(Holder(object()), enc_hook=enc_hook)


def test_no_result_encodes_as_null() -> None:
    """Nothing was produced: null on the wire, where `Result(None)` is a payload."""
    data = msgspec.json.encode(Holder(NoResult), enc_hook=enc_hook)
    assert data == b'{"result":null}'
    assert msgspec.json.encode(Holder(Result(None)), enc_hook=enc_hook) != data
