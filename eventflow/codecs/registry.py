"""The codec protocol, and the registry of codecs by name.

A codec turns some values into bytes and back.  Its name travels with the bytes, so a reader needs
only a codec of that name to open them.  The engine's own are fixed; `register_codec` adds others, which
are offered whole values that none of its own (but signed pickle) can keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from eventflow.equality.identical import identical
from eventflow.result import DeserializationError, ResultError, UnknownSerializer

__all__ = [
    "RESERVED",
    "Codec",
    "codec_named",
    "guarded",
    "is_kept",
    "register_codec",
    "registered_codecs",
]

RESERVED: Final = frozenset({"msgpack", "typed", "tagged", "json", "json+typed"})
"""Names of the engine's own codecs; other codecs cannot have them, nor names that begin with `pickle+`."""


class Codec(Protocol):
    """Some values as bytes and back.

    A codec with the attribute `lossless = True` promises that it decodes to identical values, and is believed. The
    bytes of any other codec are decoded once more, and the copy is compared with the value, before they count.
    """

    @property
    def name(self) -> str:
        """Short and for ever, e.g. `arrow`; give a new name to a new format."""
        ...

    def encode(self, value: Any, declared: Any, /) -> bytes | None:
        """Give the bytes, or None when this value is not this codec's; deterministic where it can be.

        `declared` is the type that the value was declared to have, `Any` when none was.
        """
        ...

    def decode(self, data: bytes, declared: Any, /) -> Any:
        """Give the value back; may raise anything, which comes out as `DeserializationError`."""
        ...


_registered: Final[dict[str, Codec]] = {}


def register_codec(codec: Codec) -> None:
    """Offer a codec to every serializer of this process, after those registered before it.

    Every process that opens the bytes must register it too. Registering a class again (a reloaded module)
    replaces it; another class under a taken name is a `ValueError`.
    """
    name = codec.name
    if name in RESERVED or name.partition("+")[0] == "pickle":
        raise ValueError(
            f"codec name {name!r} is the engine's own: give {_class_name_of(codec)} another name"
        )
    present = _registered.get(name)
    if present is not None and _class_name_of(present) != _class_name_of(codec):
        raise ValueError(
            f"codec name {name!r} is taken by {_class_name_of(present)}: give {_class_name_of(codec)} another name"
        )
    _registered[name] = codec


def registered_codecs() -> Iterator[Codec]:
    """The added codecs, in the order in which they were registered."""
    return iter(tuple(_registered.values()))


def codec_named(name: str) -> Codec:
    """The added codec of that name, or `UnknownSerializer`."""
    try:
        return _registered[name]
    except KeyError:
        raise UnknownSerializer(
            f"no codec {name!r} in this process: import what registers it, or call "
            f"eventflow.serializers.register_codec with a codec of that name, before the value is opened"
        ) from None


def guarded(codec: str, decode: Callable[[], Any]) -> Any:
    """Return the result of `decode`; any exception of it becomes a `DeserializationError`."""
    try:
        return decode()
    except ResultError:
        raise
    except Exception as error:
        raise DeserializationError(
            f"codec {codec!r} cannot open these bytes: {type(error).__qualname__}: {error}"
        ) from error


def is_kept(codec: Codec, value: object, data: bytes, declared: Any) -> bool:
    """Whether the bytes open as the identical value."""
    try:
        return identical(value, codec.decode(data, declared))
    except Exception:  # noqa: BLE001 - whatever opening raises, the value would not come back
        return False


def _class_name_of(codec: Codec) -> str:
    kind = type(codec)
    return f"{kind.__module__}.{kind.__qualname__}"
