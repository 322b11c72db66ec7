"""The serializer for the result of a run's own state: the states of its tasks, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eventflow.result import Inline, enc_hook
from eventflow.serializers import digest_of, register_codec
from eventflow.states import AnyState, Mapped, State, dec_hook

__all__ = ["StatesSerializer"]

_encoder: Final = msgspec.msgpack.Encoder(enc_hook=enc_hook)
_decoder: Final[msgspec.msgpack.Decoder[dict[str, AnyState]]] = msgspec.msgpack.Decoder(
    dict[str, AnyState], dec_hook=dec_hook
)


class StatesSerializer:
    """The serializer for the result of a run's state, which is a mapping of names to states.

    The mapping is loaded as a plain dict, with an entry of its own for each child of a mapped task, as `enrich[0]`.
    """

    codec: Final = "states"

    def serialize(self, value: Mapping[str, State]) -> Inline:
        """Dump every state. Raises `SerializationError`."""
        flat: dict[str, State] = {}
        for name in value:
            _add(flat, name, value[name])
        data = _encoder.encode(flat)
        return Inline(self.codec, data, digest_of(data))

    def deserialize(self, payload: Inline) -> Mapping[str, State]:
        """Load the states, with their own results serialized."""
        return _decoder.decode(payload.data)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(self.codec)


def _add(flat: dict[str, State], name: str, state: State) -> None:
    """Add a state, and the states of its children under names of their own."""
    flat[name] = state
    if isinstance(state, Mapped):
        for nth, child in enumerate(state.map_states):
            if child is not None:
                _add(flat, f"{name}[{nth}]", child)


class _StatesCodec:
    """The codec of `StatesSerializer`, for readers that do not know that a result is that of a run."""

    name: Final = StatesSerializer.codec

    def encode(self, _value: object, _declared: Any) -> None:
        """Return None for every value: only the result of a run is kept by this codec."""

    def decode(self, data: bytes, _declared: Any) -> Mapping[str, State]:
        """Load the states."""
        return _decoder.decode(data)


register_codec(_StatesCodec())
