"""Values of a declared type that msgspec knows: Structs, dataclasses, attrs, enums, generics of them.

The bytes say nothing of types, so they open only with the declared type at hand; the value that comes
back is compared before the bytes count, since msgspec converts (a subclass comes back as its base).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import msgspec

from eventflow.equality.identical import identical
from eventflow.result import DeserializationError

__all__ = ["TYPED", "TYPED_JSON", "Typed"]


class Typed:
    """Codec of one of msgspec's formats, bound to the declared type at each call."""

    def __init__(self, name: str, encoder: Callable[..., Any], decoder: Callable[[Any], Any]) -> None:
        self.name = name
        # Sorted first: the bytes of a set must not depend on the hash seed. Where that moves the keys of
        # a dict the value does not come back identical, and the order at hand is taken.
        self._encoders: tuple[Callable[[Any], bytes], ...] = (
            encoder(order="deterministic").encode,
            encoder().encode,
        )
        self._decoder = decoder

    def encode(self, value: object, declared: Any, /) -> bytes | None:
        """Give the bytes if they open as the identical value with this type."""
        if declared is Any:
            return None
        decode = self._decode_as(declared)
        if decode is None:
            return None
        for encode in self._encoders:
            try:
                data = encode(value)
                if identical(value, decode(data)):
                    return data
            except Exception:  # noqa: BLE001, S112 - a part that msgspec or the type itself refuses
                continue
        return None

    def decode(self, data: bytes, declared: Any, /) -> Any:
        """Open as the declared type."""
        if declared is Any:
            raise DeserializationError(
                f"codec {self.name!r} stores no type, so this value needs the declared type of its task: read the run with "
                "FLOW.options(run_id=..., wait=False).run(), or open the payload with Serializer(TYPE)"
            )
        decode = self._decode_as(declared)
        if decode is None:
            raise DeserializationError(
                f"codec {self.name!r} cannot open as {declared!r}: msgspec does not know it"
            )
        return decode(data)

    def _decode_as(self, declared: Any) -> Callable[[bytes], Any] | None:
        try:
            return _decode_as(self._decoder, declared)
        except TypeError:  # a type that has no hash, e.g. annotated with a list
            return _decode_as.__wrapped__(self._decoder, declared)


@lru_cache(maxsize=512)
def _decode_as(decoder: Callable[[Any], Any], declared: Any) -> Callable[[bytes], Any] | None:
    try:
        decode: Callable[[bytes], Any] = decoder(declared).decode
    except Exception:  # noqa: BLE001 - no type of msgspec's, or a name in it that does not resolve
        return None
    return decode


TYPED: Final = Typed("typed", msgspec.msgpack.Encoder, msgspec.msgpack.Decoder)
TYPED_JSON: Final = Typed("json+typed", msgspec.json.Encoder, msgspec.json.Decoder)
