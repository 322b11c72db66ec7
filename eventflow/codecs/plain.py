"""Plain data, made of exact builtin types, as msgpack or JSON.

This is the hot path, so the proof that a value survives must be cheap.  `marshal` at version 2 knows
neither references nor subclasses, tells every exact builtin type from every other, and writes floats by
their bits; equal bytes prove identity, but for one hole: bytes, bytearray, memoryview and all else that
exports a buffer look the same.  msgpack closes it: msgspec writes the three bytes-likes it takes as `bin`,
which begins with 0xc4, 0xc5 or 0xc6.  Where none of these bytes occurs, nothing bytes-like is inside.
Where one does (perhaps only in a text), the judge walks, or for large values pickle compares.

msgpack itself has moments in UTC, so those stay plain where they lie in a list or a dict.
"""

from __future__ import annotations

from marshal import dumps
from typing import Any, Final

import msgspec

from eventflow.codecs.registry import is_kept
from eventflow.equality.identical import identical, pickled_flat

__all__ = ["JSON", "MSGPACK", "SCALARS", "is_same", "pack", "unpack"]

SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Exact types that msgpack keeps without proof."""

_WALK_BYTES_MAX: Final = 2048
"""Up to here a walk in Python is cheaper than two pickles."""

_encode: Final = msgspec.msgpack.Encoder().encode
unpack: Final = msgspec.msgpack.Decoder().decode
_encode_json: Final = msgspec.json.Encoder().encode


def pack(value: object) -> bytes | None:
    """The msgpack of plain data; None when the identical value would not come back."""
    kind = type(value)
    if kind is not dict and kind is not list and kind not in SCALARS:
        return None
    try:
        data = _encode(value)
        if kind in SCALARS or is_same(value, unpack(data), data):
            return data
    except Exception:  # noqa: BLE001 - msgspec met what is not plain (a foreign type, a huge integer, a cycle)
        return None
    return None


def is_same(value: Any, opened: Any, data: bytes) -> bool:
    """Whether `opened`, which msgspec made of `data` alone, is identical to `value`, which it made into it."""
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
        except Exception:  # noqa: BLE001 - not JSON, for whatever reason msgspec gives
            return None
        return data if is_kept(self, value, data, declared) else None

    def decode(self, data: bytes, _declared: Any, /) -> Any:
        return msgspec.json.decode(data)


MSGPACK: Final = _Msgpack()
JSON: Final = _Json()
