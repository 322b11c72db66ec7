"""Plain data, made of exact builtin types, as msgpack or JSON.

This is the hot path, so the proof that a value survives must be cheap.  `marshal` at version 2 has no
references and no subclasses, distinguishes all exact builtin types, and writes floats by their bits.  So equal bytes
prove identity, with one exception: bytes, bytearray, memoryview and other buffers look the same.  msgpack closes this
gap: msgspec writes the three bytes-likes as `bin`, which begins with 0xc4, 0xc5 or 0xc6.  If none of these bytes
occurs, the value contains no bytes-like.  If one occurs (perhaps only in a string), `identical` walks the value, or
compares pickles if the value is large.

msgpack has a format for times in UTC, so these stay plain inside a list or a dict.
"""

from __future__ import annotations

from marshal import dumps
from typing import Any, Final

import msgspec

from eventflow.codecs.registry import is_kept
from eventflow.equality.identical import identical, pickled_flat

__all__ = ["JSON", "MSGPACK", "SCALARS", "is_same", "pack", "unpack"]

SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Exact types that msgpack restores without a proof."""

_WALK_BYTES_MAX: Final = 2048
"""Up to this size in bytes, a walk in Python is cheaper than two pickles."""

_encode: Final = msgspec.msgpack.Encoder().encode
unpack: Final = msgspec.msgpack.Decoder().decode
_encode_json: Final = msgspec.json.Encoder().encode


def pack(value: object) -> bytes | None:
    """Return the msgpack of plain data; None if the restored value would not be identical."""
    kind = type(value)
    if kind is not dict and kind is not list and kind not in SCALARS:
        return None
    try:
        data = _encode(value)
        if kind in SCALARS or is_same(value, unpack(data), data):
            return data
    except Exception:  # noqa: BLE001 - the value is not plain (a foreign type, a huge integer, a cycle)
        return None
    return None


def is_same(value: Any, opened: Any, data: bytes) -> bool:
    """Return whether `opened`, decoded from `data`, is identical to `value`, which was encoded as `data`."""
    if 0xC4 in data or 0xC5 in data or 0xC6 in data:
        if len(data) <= _WALK_BYTES_MAX:
            return identical(value, opened)
        flat = pickled_flat(opened)
        return flat is not None and flat == pickled_flat(value)
    try:
        return dumps(value, 2) == dumps(opened, 2)
    except ValueError:  # a subclass or a foreign type inside, or nested too deeply for marshal
        return identical(value, opened)


class _Msgpack:
    name = "msgpack"

    def encode(self, value: object, _declared: Any, /) -> bytes | None:
        return pack(value)

    def decode(self, data: bytes, _declared: Any, /) -> Any:
        return unpack(data)


class _Json:
    name = "json"

    def encode(self, value: object, declared: Any, /) -> bytes | None:
        try:
            data = _encode_json(value)
        except Exception:  # noqa: BLE001 - not JSON, for any reason
            return None
        if not is_kept(self, value, data, declared):
            return None
        return data

    def decode(self, data: bytes, _declared: Any, /) -> Any:
        return msgspec.json.decode(data)


MSGPACK: Final = _Msgpack()
JSON: Final = _Json()
