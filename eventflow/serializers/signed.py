"""Signed pickles: the last resort, because opening a pickle runs code.

The data is 32 bytes of HMAC-SHA256, then the descriptions of the classes (`pickled_classes`), then the pickle.  The
codec name `pickle+hmac:<key id>` names the signing key.  Nothing is unpickled before the signature is checked.

A new pickle is opened before it is accepted.  If it does not restore every part, the value is refused.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eventflow.equality.identical import lost_in_pickle
from eventflow.equality.pickle_parts import holds_once, pickle_of
from eventflow.fingerprints.type_defs import TypeChanged
from eventflow.result import KeyUnavailable, PickleNotTrusted, SerializationError
from eventflow.serializers.pickled_classes import changed_classes, load_noting, load_same, with_classes

__all__ = ["PICKLE_PREFIX", "Keyring", "changed_pickle", "open_pickle", "sign_pickle"]

PICKLE_PREFIX: Final = "pickle+hmac:"
_SIGNATURE_BYTES: Final = 32
_KEY_BYTES_MIN: Final = 16


class Keyring(msgspec.Struct, frozen=True):
    """Signing keys by id; the first one signs, each of them opens. `repr` shows only the ids."""

    keys: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for key_id, key in self.keys.items():
            if not key_id or len(key) < _KEY_BYTES_MIN:
                raise ValueError(
                    f"key {key_id!r} needs a name and at least {_KEY_BYTES_MIN} bytes, has {len(key)}"
                )

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self.keys)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(key_id, "…") for key_id in self.keys]


def sign_pickle(value: object, keyring: Keyring) -> tuple[str, bytes] | None:
    """Return codec name and data, signed with the first key; None if the keyring is empty.

    Raises `SerializationError` if the value has no pickle, if its pickle does not restore the whole value, or if it
    contains an iterator.
    """
    for key_id, key in keyring.keys.items():
        try:
            signed, flaw = _pickled(value)
        except Exception as error:
            raise SerializationError(f"pickle refuses it: {type(error).__qualname__}: {error}") from error
        if flaw is not None:
            raise SerializationError(flaw)
        return PICKLE_PREFIX + key_id, hmac.digest(key, signed, "sha256") + signed
    return None


def _pickled(value: object) -> tuple[bytes, str | None]:
    """Return the data to sign, and the reason to refuse it, if any."""
    pickled = pickle_of(value)
    if holds_once(pickled):
        return b"", "it holds an iterator, which can be read only once"
    opened, reader = load_noting(pickled.data)
    flaw = None
    lost = lost_in_pickle(value, pickled, opened, reader)
    if lost is not None:
        flaw = "its pickle does not give it back"
        if lost:
            flaw += f": {lost.strip()} is lost or changed; let the class pickle it"
    return with_classes(reader, pickled.data), flaw


def open_pickle(codec: str, data: bytes, keyring: Keyring | None) -> Any:
    """Open a signed pickle; raise `PickleNotTrusted`, before opening it, unless a known key signed these bytes.

    Raises `KeyUnavailable` if the key is missing or unusable, and `TypeChanged` if a class has changed since the
    value was recorded.
    """
    return load_same(_signed(codec, data, keyring))


def changed_pickle(codec: str, data: bytes, keyring: Keyring | None) -> TypeChanged | None:
    """Return why a signed pickle does not match today's classes, or None. Opens nothing; raises `PickleNotTrusted`."""
    return changed_classes(_signed(codec, data, keyring))


def _signed(codec: str, data: bytes, keyring: Keyring | None) -> bytes:
    """Return the data that a known key signed; raise `PickleNotTrusted`."""
    key_id = codec.removeprefix(PICKLE_PREFIX)
    key = None
    if keyring is not None and key_id != codec:
        key = keyring.keys.get(key_id)
    if key is None:
        raise KeyUnavailable(
            f"a pickle of codec {codec!r} was not opened: its key is not at hand; "
            "restore the file of the log's key (`.eventflow/key` or `<log>.key`), add it to EVENTFLOW_KEY, or give "
            "the serializer a Keyring that holds it"
        )
    signature, signed = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, hmac.digest(key, signed, "sha256")):
        raise PickleNotTrusted(
            f"a pickle was not opened: key {key_id!r} did not sign these bytes; they were altered, or "
            "another key has taken that id"
        )
    return signed
