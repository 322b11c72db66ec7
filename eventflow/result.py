"""The result of a task: a value, and the means to store it and to get it back.

PIN-4 asked for one object that knows three things: the value, whether it is serialized, and how to
(de)serialize it.  `Result` is that object, immutable, with two pure moves between its two forms:

    Result(value, serialized=False) ── serialize() ──►  Result(Payload, serialized=True)
                                    ◄─ deserialize() ─

On the wire there is no `Result`, only its `Payload`, a closed union of the facts about the bytes:

    Inline     the bytes are here           Withheld   never kept, by choice; says why
    Stored     in a named store             Forgotten  removed later; the digest still proves them

Encoding is automatic (`enc_hook` below is the only place), decoding never is: a reader of a thousand
states calls no serializer.  `NoResult` is "nothing was produced", which is not `Result(None)`.

This module knows no serializer.  `eventflow.serializers` installs the default one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Never, Protocol, Self, TypeAlias, assert_never, runtime_checkable

import msgspec

from eventflow.equality.identical import identical

__all__ = [
    "DeserializationError",
    "Forgotten",
    "Inline",
    "KeyUnavailable",
    "NoResult",
    "NoResultType",
    "Payload",
    "PickleNotTrusted",
    "Result",
    "ResultError",
    "ResultNotLoaded",
    "ResultSerializer",
    "SerializationError",
    "Stored",
    "UnknownEncoding",
    "UnknownSerializer",
    "Withheld",
    "default_serializer",
    "enc_hook",
    "identical",
    "install_default_serializer",
]


class ResultError(Exception):
    """Base of everything that can go wrong between a value and its bytes."""


class SerializationError(ResultError, TypeError):
    """No serializer can keep this value so that the identical value comes back."""


class DeserializationError(ResultError, ValueError):
    """The bytes are there but do not open as the value that was kept."""


class UnknownSerializer(DeserializationError):
    """The bytes name a codec that is not registered in this process."""


class PickleNotTrusted(DeserializationError):
    """A pickle is unsigned, signed with an unknown key, or was altered; it was not opened."""


class KeyUnavailable(PickleNotTrusted):
    """The key that is needed is not at hand, or is no secret. No failure of a task: with the key it would go on."""


class UnknownEncoding(DeserializationError):
    """A later version made the stored bytes, or their digest, in a way that this version does not know.

    No failure of a task: with that version it would go on.
    """


class ResultNotLoaded(ResultError):
    """The bytes are not at hand: stored elsewhere, withheld, or forgotten."""


class Inline(msgspec.Struct, frozen=True, array_like=True, tag="inline", gc=False):
    """A payload whose bytes travel with it."""

    codec: str
    """Chain of codec names, innermost first, e.g. `msgpack`."""
    data: bytes
    digest: bytes
    """Of the serialized plaintext: SHA-256, the first 16 bytes."""


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="stored", gc=False):
    """A claim check: the bytes are in a store under their digest."""

    codec: str
    digest: bytes
    size: int
    """Bytes of serialized plaintext."""
    store: str
    """`log` for the value table of the log itself, else the name of a blob store."""


class Withheld(msgspec.Struct, frozen=True, array_like=True, tag="withheld", gc=False):
    """The value was not kept, by choice."""

    reason: str
    digest: bytes | None = None
    """Of the plaintext, so that a value made again can be compared; None for a secret."""
    size: int | None = None
    """Bytes of serialized plaintext; None where it was never serialized."""


class Forgotten(msgspec.Struct, frozen=True, array_like=True, tag="forgotten", gc=False):
    """The bytes were removed on purpose; the digest still proves their identity."""

    digest: bytes
    reason: str
    codec: str = ""
    size: int = 0
    """Bytes of serialized plaintext."""


Payload: TypeAlias = Inline | Stored | Withheld | Forgotten


@runtime_checkable
class ResultSerializer(Protocol):
    r"""Converts a value to an `Inline` payload and back; bound to the declared type of that value.

    ```python
    from eventflow.serializers import Serializer

    serializer = Serializer(list[int])
    payload = serializer.serialize([1, 2])
    print(payload.codec, payload.data, serializer.deserialize(payload))
    ```
    ```text
    msgpack b'\x92\x01\x02' [1, 2]
    ```
    """

    def serialize(self, value: Any) -> Inline:
        """Return the payload of `value`, or raise `SerializationError` with the path and the fix."""
        ...

    def deserialize(self, payload: Inline) -> Any:
        """Return the value, or raise `DeserializationError` (or a subclass)."""
        ...


_default: ResultSerializer | None = None


def install_default_serializer(serializer: ResultSerializer) -> None:
    """Set the serializer of `Result(value)`, when none is given; called by `eventflow.serializers`."""
    global _default  # noqa: PLW0603 - the one seam between this layer and the next
    _default = serializer


def default_serializer() -> ResultSerializer:
    """The serializer for values of no declared type."""
    if _default is None:
        raise UnknownSerializer("no default serializer: import eventflow.serializers first")
    return _default


class NoResultType:
    """The type of `NoResult`; it has one instance, which survives copy and pickle."""

    __slots__ = ()
    _instance: Self | None = None

    def __new__(cls) -> Self:
        """Give the one instance."""
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    @property
    def value(self) -> NoResultType:
        """Itself: there is no value."""
        return self

    serialized: Final = False

    def serialize(self) -> NoResultType:
        """Itself."""
        return self

    def deserialize(self) -> NoResultType:
        """Itself."""
        return self

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NoResult"

    def __reduce__(self) -> str:
        return "NoResult"


NoResult: Final = NoResultType()
"""Nothing was produced. Never equal to `Result(None)`."""


class Result:
    r"""A value, whether it is serialized, and how to (de)serialize it (PIN-4). Immutable.

    `value` is the Python value while `serialized` is false, and a `Payload` when it is true.

    ```python
    from eventflow import Result

    result = Result([1, 2])
    kept = result.serialize()
    print(kept.serialized, kept.value.data, kept.deserialize() == result)
    ```
    ```text
    True b'\x92\x01\x02' True
    ```
    """

    __slots__ = ("_fetch", "serialized", "serializer", "value")

    value: Any
    serialized: bool
    serializer: ResultSerializer
    _fetch: Callable[[Stored], Inline] | None

    def __init__(
        self,
        value: Any,
        serialized: bool = False,
        serializer: ResultSerializer | None = None,
        *,
        fetch: Callable[[Stored], Inline] | None = None,
    ) -> None:
        """Make a result; `fetch` reads locally stored bytes, synchronously, when they are asked for."""
        put = object.__setattr__
        if serializer is None:
            serializer = default_serializer()
        put(self, "value", value)
        put(self, "serialized", serialized)
        put(self, "serializer", serializer)
        put(self, "_fetch", fetch)

    def serialize(self) -> Result:
        """Give the serialized twin; self when already serialized.

        Raises `SerializationError` when nothing can keep the value.
        """
        if self.serialized:
            return self
        return Result(self.serializer.serialize(self.value), True, self.serializer)

    def deserialize(self) -> Result:
        """Give the twin that holds the Python value; self when not serialized.

        Raises `ResultNotLoaded` when the bytes are not at hand, and `DeserializationError` when they
        do not open.
        """
        if not self.serialized:
            return self
        payload = self.value
        if isinstance(payload, Stored) and self._fetch is not None:
            payload = _fetched(payload, self._fetch)
        if not isinstance(payload, Inline):
            raise ResultNotLoaded(_why_not_loaded(payload))
        return Result(self.serializer.deserialize(payload), False, self.serializer)

    def __setattr__(self, name: str, value: Any) -> Never:
        raise AttributeError(f"Result is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> Never:
        raise AttributeError(f"Result is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        return (
            self.serialized == other.serialized
            and self.serializer == other.serializer
            and identical(self.value, other.value)
        )

    __hash__ = None  # type: ignore[assignment]  # values may be unhashable

    def __reduce__(self) -> tuple[Any, ...]:
        return (Result, (self.value, self.serialized, self.serializer))

    def __repr__(self) -> str:
        return f"Result({self.value!r}, serialized={self.serialized})"


def _fetched(address: Stored, fetch: Callable[[Stored], Inline]) -> Inline:
    payload = fetch(address)
    if payload.digest != address.digest:
        raise DeserializationError(
            f"store {address.store!r} gave the bytes of {payload.digest.hex()} for {address.digest.hex()}: "
            "the store is damaged"
        )
    return payload


def _why_not_loaded(payload: Stored | Withheld | Forgotten) -> str:
    match payload:
        case Stored():
            return (
                f"the {payload.size} bytes of this result are in store {payload.store!r} under "
                f"{payload.digest.hex()}, and no log is at hand here: read them with `await log.values([digest])`"
            )
        case Withheld():
            return f"this result was not kept: {payload.reason}"
        case Forgotten():
            return f"the bytes of this result were removed: {payload.reason}"
        case _:
            assert_never(payload)


def enc_hook(value: Any) -> Any:
    """The hook for msgspec's encoders: the one place where a `Result` turns into its `Payload` by itself."""
    if isinstance(value, Result):
        part_of = getattr(value.serializer, "part", None)
        if part_of is not None and value.serialized:
            return part_of(value)  # a view of a part of a value travels as that part
        return value.serialize().value
    if value is NoResult:
        return None
    raise SerializationError(f"cannot encode a {type(value).__qualname__} here")
