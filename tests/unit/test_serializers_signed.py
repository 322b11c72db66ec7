"""Signed pickle: only with a key, never opened without the right signature."""

from __future__ import annotations

import hmac
import pickle
from typing import Any

import msgspec
import pytest

from eventflow.result import DeserializationError, Inline, PickleNotTrusted, SerializationError
from eventflow.serializers import Keyring, Serializer, digest_of

RING = Keyring({"new": b"n" * 32, "old": b"o" * 32})
OLD = Keyring({"old": b"o" * 32})

opened: list[str] = []


class Loud:
    """Notes when it is unpickled."""

    def __setstate__(self, state: Any) -> None:
        opened.append("opened")

    def __getstate__(self) -> Any:
        return {"x": 1}


class Shifty:
    """Comes out of its pickle as something else."""

    def __reduce__(self) -> Any:
        return (list, ())


class Fragile:
    """Cannot come out of its pickle once `broken` is set."""

    broken = False

    def __setstate__(self, state: Any) -> None:
        if Fragile.broken:
            raise RuntimeError("broken since")

    def __getstate__(self) -> Any:
        return {"x": 1}


def signed_by(key: bytes, value: object, codec: str = "pickle+hmac:new") -> Inline:
    """A payload signed by hand."""
    pickled = pickle.dumps(value, 5)
    data = hmac.digest(key, pickled, "sha256") + pickled
    return Inline(codec, data, digest_of(data))


def test_without_a_key_nothing_is_pickled() -> None:
    """Neither without a keyring nor with an empty one."""
    for serializer in (Serializer(), Serializer(keyring=Keyring({}))):
        with pytest.raises(SerializationError, match="Loud"):
            serializer.serialize(Loud())


def test_the_first_key_signs_and_all_may_open() -> None:
    """The codec's name says which key; an older key goes on opening."""
    payload = Serializer(keyring=RING).serialize(Loud())
    assert payload.codec == "pickle+hmac:new"
    signature, pickled = payload.data[:32], payload.data[32:]
    assert signature == hmac.digest(b"n" * 32, pickled, "sha256")
    assert type(Serializer(keyring=RING).deserialize(payload)) is Loud
    old = Serializer(keyring=OLD).serialize(Loud())
    assert type(Serializer(keyring=RING).deserialize(old)) is Loud


def test_cycles_are_kept_by_pickle() -> None:
    """No other codec can."""
    value: list[Any] = [1]
    value.append(value)
    payload = Serializer(keyring=RING).serialize(value)
    again = Serializer(keyring=RING).deserialize(payload)
    assert again[1] is again
    assert again[0] == 1


def test_pickle_comes_last() -> None:
    """A keyring changes nothing for what other codecs keep."""
    assert Serializer(keyring=RING).serialize((1,)).codec == "tagged"


@pytest.mark.parametrize(
    ("keyring", "payload"),
    [
        (None, signed_by(b"n" * 32, Loud())),
        (Keyring({}), signed_by(b"n" * 32, Loud())),
        (OLD, signed_by(b"n" * 32, Loud())),
        (RING, signed_by(b"x" * 32, Loud())),
        (RING, signed_by(b"n" * 32, Loud(), codec="pickle+hmac:old")),
        (RING, signed_by(b"n" * 32, Loud(), codec="pickle")),
        (RING, signed_by(b"n" * 32, Loud(), codec="pickle+hmac:")),
        (RING, Inline("pickle+hmac:new", (bare := pickle.dumps(Loud())), digest_of(bare))),
        (RING, Inline("pickle", bare, digest_of(bare))),
        (RING, Inline("pickle+hmac:new", b"", digest_of(b""))),
    ],
)
def test_what_is_not_rightly_signed_is_never_opened(keyring: Keyring | None, payload: Inline) -> None:
    """No key, another key, another id, no signature, nothing at all."""
    opened.clear()
    with pytest.raises(PickleNotTrusted, match="not opened"):
        Serializer(keyring=keyring).deserialize(payload)
    assert opened == []


def test_one_altered_bit_is_enough() -> None:
    """Anywhere in signature or pickle, even with a digest made to fit."""
    sound = signed_by(b"n" * 32, Loud())
    opened.clear()
    for i in range(len(sound.data)):
        data = bytearray(sound.data)
        data[i] ^= 1
        with pytest.raises(PickleNotTrusted):
            Serializer(keyring=RING).deserialize(Inline(sound.codec, bytes(data), digest_of(bytes(data))))
    assert opened == []


def test_a_pickle_must_open_as_the_same_type() -> None:
    """And must exist: both refusals say why."""
    with pytest.raises(SerializationError, match="opens as list"):
        Serializer(keyring=RING).serialize(Shifty())
    with pytest.raises(SerializationError, match=r"value\['f'\].*pickle refuses it"):
        Serializer(keyring=RING).serialize({"f": lambda: 1})


def test_a_sound_pickle_that_no_longer_opens_is_a_named_error() -> None:
    """The signature is right, the class has changed."""
    payload = Serializer(keyring=RING).serialize(Fragile())
    Fragile.broken = True
    try:
        with pytest.raises(DeserializationError, match="broken since") as caught:
            Serializer(keyring=RING).deserialize(payload)
        assert not isinstance(caught.value, PickleNotTrusted)
    finally:
        Fragile.broken = False


def test_keys_are_never_shown() -> None:
    """By no repr, and a serializer's repr holds its keyring's."""
    for text in (repr(RING), str(RING), repr(RING.__rich_repr__()), repr(Serializer(keyring=RING))):
        assert "new" in text
        assert "nnn" not in text


def test_weak_keys_are_refused() -> None:
    """A key needs a name and a length."""
    for keys in ({"": b"k" * 32}, {"k": b""}, {"k": b"k" * 15}):
        with pytest.raises((ValueError, msgspec.ValidationError), match="at least 16 bytes"):
            Keyring(keys)
