"""The serializers: which codec keeps a value, and which opens its bytes.

Codecs are asked in a fixed order, and the first whose bytes provably open as the identical value wins:

    msgpack ► typed ► tagged ► registered codecs ► signed pickle
    json    ► json+typed                                          (`JSONSerializer`)

Opening never tries: the payload names its codec, and its digest is compared first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from eventflow.codecs.digests import digest_of, has_digest
from eventflow.codecs.plain import JSON, MSGPACK, SCALARS, pack, unpack
from eventflow.codecs.registry import (
    RESERVED,
    Codec,
    codec_named,
    guarded,
    is_kept,
    registered_codecs,
)
from eventflow.codecs.tagged import TAGGED
from eventflow.codecs.typed import TYPED, TYPED_JSON
from eventflow.equality.pickle_parts import is_once
from eventflow.result import DeserializationError, Inline, ResultSerializer, SerializationError
from eventflow.serializers.faults import describe_fault, describe_once
from eventflow.serializers.signed import Keyring, open_pickle, sign_pickle

__all__ = ["JSONSerializer", "Serializer", "is_immutable", "refuse_once", "reopen"]

_OWN: Final[dict[str, Codec]] = {codec.name: codec for codec in (MSGPACK, TYPED, TAGGED, JSON, TYPED_JSON)}
assert _OWN.keys() == RESERVED

_IMMUTABLE: Final = SCALARS | {complex, Decimal, UUID, date, range, timedelta}


class Serializer(msgspec.Struct, frozen=True):
    """The default `ResultSerializer`: keeps a value so that the identical one comes back, or refuses.

    Equal serializers have equal types and keyrings. It pickles, which carries the keys along.
    """

    type: Any = Any
    """The declared type of the values; `Any` for no declaration."""
    keyring: Keyring | None = None
    """Without keys nothing is pickled and no pickle is opened."""

    def with_keyring(self, keyring: Keyring | None) -> Serializer:
        """The same serializer, signing and opening pickles with these keys."""
        return Serializer(self.type, keyring)

    def serialize(self, value: object) -> Inline:
        """Give the payload, or raise `SerializationError` with the path to the part at fault and the fix."""
        data = pack(value)
        if data is None:
            return self._serialize_otherwise(value)
        return Inline("msgpack", data, digest_of(data))

    def deserialize(self, payload: Inline) -> Any:
        """Give the identical value back.

        Raises `DeserializationError` when the bytes are not those of the digest or do not open,
        `UnknownSerializer` when their codec is not registered here, and `PickleNotTrusted` for a pickle
        that no key at hand has signed.
        """
        data = payload.data
        if payload.codec != "msgpack" or digest_of(data) != payload.digest:
            return _open(payload, self.type, self.keyring)
        try:
            return unpack(data)
        except msgspec.DecodeError:
            return _open(payload, self.type, self.keyring)

    def _serialize_otherwise(self, value: object) -> Inline:
        refuse_once(value)
        payload = _offer(value, self.type, (TYPED, TAGGED)) or _offer_registered(value, self.type)
        if payload is not None:
            return payload
        why = None
        if self.keyring is not None:
            try:
                signed = sign_pickle(value, self.keyring)
            except SerializationError as error:
                why = error
            else:
                if signed is not None:
                    codec, data = signed
                    return Inline(codec, data, digest_of(data))
        raise SerializationError(_refusal(value, self.type, why)) from why


class JSONSerializer(msgspec.Struct, frozen=True):
    """A `ResultSerializer` whose bytes people can read; refuses values that JSON cannot give back identical."""

    type: Any = Any
    """The declared type of the values; `Any` for no declaration."""

    def serialize(self, value: object) -> Inline:
        """Give the payload as JSON, or raise `SerializationError`."""
        refuse_once(value)
        payload = _offer(value, self.type, (JSON, TYPED_JSON))
        if payload is None:
            raise SerializationError(
                f"JSON cannot keep the value, a {type(value).__qualname__}: it would not come back identical; "
                "declare its type, use the default serializer, or return text, numbers, lists and dicts of str"
            )
        return payload

    def deserialize(self, payload: Inline) -> Any:
        """Give the value back; raises as `Serializer.deserialize` does."""
        return _open(payload, self.type, None)


def _offer(value: object, declared: Any, codecs: Sequence[Codec]) -> Inline | None:
    """The payload of the first of the engine's own codecs that keeps the value."""
    for codec in codecs:
        data = codec.encode(value, declared)
        if data is not None:
            return Inline(codec.name, data, digest_of(data))
    return None


def _offer_registered(value: object, declared: Any) -> Inline | None:
    """The payload of the first registered codec that takes the value and, unless lossless, proves it."""
    for codec in registered_codecs():
        try:
            data = codec.encode(value, declared)
        except Exception as error:
            raise SerializationError(
                f"codec {codec.name!r} failed on a {type(value).__qualname__}: {error}; a codec returns None "
                "for a value that is not its own"
            ) from error
        if data is not None and (getattr(codec, "lossless", False) or is_kept(codec, value, data, declared)):
            return Inline(codec.name, data, digest_of(data))
    return None


def _open(payload: Inline, declared: Any, keyring: Keyring | None) -> Any:
    name, data = payload.codec, payload.data
    if not has_digest(data, payload.digest):
        raise DeserializationError(
            f"{len(data)} bytes of codec {name!r} are not those of digest {payload.digest.hex()}: "
            "they were damaged after they were written"
        )
    if name.partition("+")[0] == "pickle":
        return guarded(name, lambda: open_pickle(name, data, keyring))
    codec = _OWN.get(name) or codec_named(name)
    return guarded(name, lambda: codec.decode(data, declared))


def refuse_once(value: object) -> None:
    """Raise `SerializationError` for an iterator, a generator or an open file: it is spent when it has been kept."""
    if is_once(value):
        raise SerializationError(f"cannot keep {describe_once(value)}")


def _refusal(value: object, declared: Any, why: SerializationError | None) -> str:
    once = describe_once(value)
    if once is not None:
        return f"cannot keep {once}"
    fault = describe_fault(value)
    if why is not None:
        fault += f" ({why})"
    if declared in (Any, object):
        annotate = "annotate what the task returns with a type that msgspec knows"
    else:
        annotate = f"let it agree with the declared type {declared!r}"
    return (
        f"cannot keep {fault}: no serializer would give the identical value back; {annotate}, "
        "register a codec for it (eventflow.serializers.register_codec), or return something else"
    )


def is_immutable(value: object) -> bool:
    """Whether the value is immutable, judged by its exact type alone."""
    return type(value) in _IMMUTABLE


def reopen(payload: Inline, serializer: ResultSerializer) -> Any:
    """A fresh copy of a value, from bytes that never left this process or were checked when read.

    So it need not compare their digest again, which is half the cost of opening something small.
    """
    if payload.codec == "msgpack" and type(serializer) is Serializer:
        return unpack(payload.data)
    return serializer.deserialize(payload)
