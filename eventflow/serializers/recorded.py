"""Values recorded with another declared type than today's: opened only if their bytes need no type."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from eventflow.fingerprints.type_defs import Difference, TypeChanged
from eventflow.result import Inline, ResultSerializer
from eventflow.serializers.default import JSONSerializer, Serializer
from eventflow.serializers.signed import PICKLE_PREFIX

__all__ = ["AsRecorded", "opens_alone"]

_ALONE: Final = frozenset({"msgpack", "tagged", "json"})
"""Codecs whose bytes need no type: builtin and standard types."""


def opens_alone(codec: str) -> bool:
    """Return whether a codec opens bytes as the same value with any declared type; pickles check themselves."""
    return codec in _ALONE or codec.startswith(PICKLE_PREFIX)


class AsRecorded(msgspec.Struct, frozen=True):
    """A serializer for values recorded with another declared type."""

    today: ResultSerializer
    of: str
    """The owner of the type, for the error: `the result of 'fetch'`."""
    differences: tuple[Difference, ...]

    def serialize(self, value: Any) -> Inline:
        """Serialize with today's type."""
        return self.today.serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Return the identical value; raise `TypeChanged` if the meaning of the bytes depends on the type."""
        if isinstance(self.today, Serializer | JSONSerializer) and opens_alone(payload.codec):
            return self.today.deserialize(payload)
        raise TypeChanged(
            f"{self.of} was kept when its type was another one, and would be read as something else; rerun the run, or "
            "open it with the type as it was",
            self.differences,
        )
