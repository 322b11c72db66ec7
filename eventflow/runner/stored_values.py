"""The bytes of values: which are stored outside their events, and reading those."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eventflow.ports import EventLog, Value, inline_of
from eventflow.result import Inline, Stored

__all__ = ["EVENT_INLINE_BYTES_MAX", "read_stored", "to_store"]

EVENT_INLINE_BYTES_MAX: Final = 512
"""Bytes of a result that are stored in its event; larger results are stored in the log's value table."""


def to_store(payload: Inline) -> tuple[Inline | Stored, Value | None]:
    """Return the payload for a result's event, and the value to store in the same append if the bytes are too large for it."""
    if len(payload.data) <= EVENT_INLINE_BYTES_MAX:
        return payload, None
    stored = Stored(payload.codec, payload.digest, len(payload.data), "log")
    return stored, Value(payload.digest, payload.codec, payload.data)


async def read_stored(log: EventLog, payloads: Iterable[Stored]) -> dict[bytes, Inline]:
    """Read the bytes of these payloads in one go; returns them by digest.

    Raises `ResultNotLoaded` if the log does not have some of them.
    """
    wanted = {payload.digest: payload for payload in payloads}
    values = await log.values(wanted)
    return {digest: inline_of(payload, values.get(digest)) for digest, payload in wanted.items()}
