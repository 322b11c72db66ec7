"""Opens what was kept under another declared type than today's: only where the bytes need no type, or else not at all."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from eventflow.fingerprints.type_defs import Difference, TypeChanged
from eventflow.result import Inline, ResultSerializer
from eventflow.serializers.default import JSONSerializer, Serializer
from eventflow.serializers.signed import PICKLE_PREFIX

__all__ = ["AsRecorded", "opens_alone"]

_ALONE: Final = frozenset({"msgpack", "tagged", "json"})
"""Codecs whose bytes say all: builtin and standard types."""


def opens_alone(codec: str) -> bool:
    """Whether bytes of a codec open as the same value whatever is declared; pickles look after themselves."""
    return codec in _ALONE or codec.startswith(PICKLE_PREFIX)


class AsRecorded(msgspec.Struct, frozen=True):
    """A serializer for values of a time when their declared type was another one."""

    today: ResultSerializer
    of: str
    """Whose type it is, for the error: `the result of 'fetch'`."""
    differences: tuple[Difference, ...]

    def serialize(self, value: Any) -> Inline:
        """Serialize as today."""
        return self.today.serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Give the identical value back, or raise `TypeChanged` where the bytes mean what the type says."""
        if isinstance(self.today, Serializer | JSONSerializer) and opens_alone(payload.codec):
            return self.today.deserialize(payload)
        raise TypeChanged(
            f"{self.of} was kept when its type was another one, and would be read as something else; rerun the run, or "
            "open it with the type as it was",
            self.differences,
        )
