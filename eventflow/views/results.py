"""Gives the values that a run recorded, as `Result`s that open on access."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from eventflow.events import Source
from eventflow.graph import Subscript
from eventflow.ports import Value, inline_of
from eventflow.records import LogDamaged
from eventflow.result import (
    Inline,
    NoResult,
    NoResultType,
    Payload,
    Result,
    ResultSerializer,
    Stored,
    Withheld,
)
from eventflow.serializers import Serializer
from eventflow.views.run import Ending, RunFacts
from eventflow.views.run_serializers import RunSerializers
from eventflow.views.sequences import follow_path

__all__ = ["PartSerializer", "Peek", "ResultReader", "fetcher"]

Peek: TypeAlias = Callable[[bytes], Value | None]
"""Reads a stored value by its digest, synchronously, as `EventLog.peek` does; None if it is not at hand."""


class ResultReader:
    """Gives the Results of one run's tasks and inputs."""

    def __init__(self, run_id: str, serializers: RunSerializers, peek: Peek | None = None) -> None:
        """Without `peek`, values that are stored outside the events raise `ResultNotLoaded` when they are opened."""
        self._run_id = run_id
        self._serializers = serializers
        self._fetch = None if peek is None else fetcher(peek)

    def result(
        self, facts: RunFacts, source: Source, slot: int, *, is_element: bool = False
    ) -> Result | NoResultType:
        """Return the Result at a source that was taken from `slot`; nothing is opened yet.

        `is_element` says that the source's path ends with the position of an element. Raises `LogDamaged` if the
        source is no address of a value.
        """
        version, *path = (source,) if isinstance(source, int) else source
        if not isinstance(version, int) or (version == 1 and not path):
            raise LogDamaged(
                f"run {self._run_id!r} records {source!r} as the source of an input, which is no address"
            )
        if version == 1:  # the record with the parameters of the run
            payload: Payload | Ending | None = facts.parameters.get(str(path.pop(0)))
        else:
            payload = facts.kept.get(version)
        if payload is None or isinstance(payload, Ending):
            return NoResult
        serializer = self._serializers.deserializer_of(slot, facts)
        if path:
            serializer = PartSerializer(serializer, tuple(path), is_element=is_element)
        return Result(payload, True, serializer, fetch=self._fetch)


def fetcher(peek: Peek) -> Callable[[Stored], Inline]:
    """Return a function that reads stored bytes synchronously; it raises `ResultNotLoaded` if they are not at hand."""

    def fetch(stored: Stored) -> Inline:
        return inline_of(stored, peek(stored.digest))

    return fetch


class PartSerializer:
    """Opens a part of a value: deserializes the whole and follows a path of keys."""

    def __init__(
        self, whole: ResultSerializer, path: tuple[Subscript, ...], *, is_element: bool = False
    ) -> None:
        self.whole = whole
        self.path = path
        self.is_element = is_element
        """Whether the path ends with the position of an element."""

    def serialize(self, value: Any) -> Inline:
        """Serialize a part by itself: the declared type of the whole is not that of the part."""
        if isinstance(self.whole, Serializer):
            return Serializer(type(value), self.whole.keyring).serialize(value)
        return self.whole.serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Open the whole and follow the path; raises the value's own error for a missing key."""
        value = self.whole.deserialize(payload)
        return follow_path(value, self.path, is_element=self.is_element)

    def part(self, result: Result) -> Payload:
        """Return the payload of the part by itself, for encodings that have no room for a path."""
        try:
            return self.serialize(result.deserialize().value)
        except Exception as error:  # noqa: BLE001 - indexing runs code of the value's own
            return Withheld(f"a part of a value that is kept as a whole: {error}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PartSerializer):
            return False
        return (self.whole, self.path, self.is_element) == (other.whole, other.path, other.is_element)

    def __hash__(self) -> int:
        return hash(self.path)
