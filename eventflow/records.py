"""The envelope of an event, and its bytes.

The runner makes a `Draft`; the log adds stream, version and position and makes it a `Record`.  Stored bytes are the array
`[stream, version, at, key, event]` (`encode`), where the stream is a 64-bit digest of its name; the checksum covers all
of it.  So a record proves its own stream and version, and no index has to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias
from zlib import crc32

import msgspec

from eventflow.codecs.digests import number_of
from eventflow.events import (
    TAGS,
    Draft,
    Event,
    Known,
    Moment,
    Record,
    RunClaimed,
    RunStarted,
    Unknown,
    Version,
    missing_features,
)

__all__ = [
    "UPCASTERS",
    "LogDamaged",
    "Upcaster",
    "checksum",
    "decode",
    "encode",
    "encode_event",
    "flow_of_birth",
    "name_digest",
]


class LogDamaged(Exception):
    """Stored bytes have changed since they were written; the message names the record."""


class _Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    stream: int
    version: Version
    at: Moment
    key: str | None
    event: Known


class _RawEnvelope(msgspec.Struct, frozen=True, array_like=True):
    stream: int
    version: Version
    at: Moment
    key: str | None
    event: msgspec.Raw


class _Tagged(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of an event of any kind; the rest is not looked at."""

    kind: str


Upcaster: TypeAlias = Callable[[list[Any]], list[Any]]
"""From the fields of an older schema, its tag first, to those of the next one, its tag first."""

UPCASTERS: Final[dict[str, Upcaster]] = {}
"""Tag of every schema that this version reads and does not write any more → how it is lifted.

A kind keeps its tag while fields are only appended, with defaults, that an older reader can do without. Any other change,
be it a new word in a closed vocabulary, is a new tag (`task_succeeded@2`), and the old one comes here, for ever.
"""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Envelope).decode
_decode_event: Final[Callable[[bytes], Known]] = msgspec.msgpack.Decoder(Known).decode
_decode_tag: Final = msgspec.msgpack.Decoder(_Tagged).decode
_decode_raw: Final = msgspec.msgpack.Decoder(_RawEnvelope).decode
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of decoding bytes that are no MessagePack, or nested too deeply."""
checksum: Final = crc32
"""Of a record: of its bytes, begun with its position, so that it proves that as well."""


def encode_event(event: Event) -> bytes:
    r"""Return the bytes of an event alone; equal bytes make two appends the same.

    ```python
    from eventflow.events import TaskMapped
    from eventflow.records import encode_event

    print(encode_event(TaskMapped(claim=2, task=(0,), width=3)))
    ```
    ```text
    b'\x94\xabtask_mapped\x02\x91\x00\x03'
    ```
    """
    return event.data if isinstance(event, Unknown) else _encode(event)


@lru_cache(maxsize=1024)
def name_digest(name: str) -> int:
    """Return the number of a name: the first 8 bytes of its SHA-256, as a signed big-endian integer.

    ```python
    from eventflow.records import name_digest

    print(name_digest("run/monday"))
    ```
    ```text
    6253412404510201447
    ```
    """
    return number_of(name)


def encode(stream: str, version: int, draft: Draft) -> bytes:
    """Return the bytes that a log stores for one record.

    ```python
    from eventflow.events import Draft, TaskMapped
    from eventflow.records import decode, encode

    event = TaskMapped(claim=2, task=(0,), width=3)
    body = encode("run/monday", 7, Draft(1_800_000_000_000_000, event))
    print(decode(12, "run/monday", body).event == event)
    ```
    ```text
    True
    ```
    """
    event, number = draft.event, name_digest(stream)
    if isinstance(event, Unknown):
        return _encode(_RawEnvelope(number, version, draft.at, draft.key, msgspec.Raw(event.data)))
    return _encode(_Envelope(number, version, draft.at, draft.key, event))


def decode(position: int, stream: str, body: bytes) -> Record:
    """Turn stored bytes into a record.

    An older schema is converted to today's. A kind that this version does not know becomes `Unknown`. Bytes that are
    not a record, or a record of another stream, raise `LogDamaged`. The caller must check the checksum first.

    ```python
    from eventflow.events import Draft, TaskMapped
    from eventflow.records import decode, encode

    event = TaskMapped(claim=2, task=(0,), width=3)
    record = decode(12, "run/monday", encode("run/monday", 7, Draft(1_800_000_000_000_000, event)))
    print(record.position, record.stream, record.version)
    ```
    ```text
    12 run/monday 7
    ```
    """
    try:
        envelope = _decode(body)
    except msgspec.ValidationError as error:
        return _decode_other(position, stream, body, error)
    except _BROKEN as error:
        raise LogDamaged(f"record {position} of {stream!r} is no record: {error}") from error
    if envelope.stream != name_digest(stream):
        raise LogDamaged(_of_another(position, stream))
    return Record(position, stream, envelope.version, envelope.at, envelope.key, envelope.event)


def _of_another(position: int, stream: str) -> str:
    return f"record {position} is found in stream {stream!r} and says that it belongs to another"


def _decode_other(position: int, stream: str, body: bytes, fault: msgspec.ValidationError) -> Record:
    """Decode a record whose event is not of a kind and schema that this version writes; `fault` says why."""
    try:
        raw = _decode_raw(body)
        kind = _decode_tag(raw.event).kind
    except _BROKEN as error:
        raise LogDamaged(f"record {position} of {stream!r} is no record: {error}") from error
    if raw.stream != name_digest(stream):
        raise LogDamaged(_of_another(position, stream))
    if kind in UPCASTERS:
        event: Event = _lift(position, stream, kind, raw.event)
    elif kind in TAGS.values() and not _requires_more(kind, raw.event):
        raise LogDamaged(f"record {position} of {stream!r} is a damaged {kind!r}: {fault}") from fault
    else:
        event = Unknown(kind, bytes(raw.event))
    return Record(position, stream, raw.version, raw.at, raw.key, event)


_REQUIRES: Final[Mapping[str, Callable[[list[Any]], Any]]] = {
    "flow_defined": lambda fields: fields[1]["requires"],
    "run_started": itemgetter(RunStarted.__struct_fields__.index("requires") + 1),
    "run_claimed": itemgetter(RunClaimed.__struct_fields__.index("requires") + 1),
}
"""Where the event of a kind names the features that it requires."""


def _requires_more(kind: str, data: msgspec.Raw) -> bool:
    """Whether an event that does not decode requires features that this version does not know."""
    if kind not in _REQUIRES:
        return False
    try:
        words = _REQUIRES[kind](msgspec.msgpack.decode(data, type=list))
        return bool(missing_features(msgspec.convert(words, tuple[str, ...])))
    except (*_BROKEN, LookupError, TypeError):
        return False


def flow_of_birth(event: Unknown) -> str:
    """Return the digest of the graph that a `run_started` names which does not decode; empty for other events.

    ```python
    import msgspec
    from eventflow.events import Unknown
    from eventflow.records import flow_of_birth

    print(flow_of_birth(Unknown("run_started", msgspec.msgpack.encode(["run_started", "5f2a", "no parameters"]))))
    ```
    ```text
    5f2a
    ```
    """
    if event.kind != "run_started":
        return ""
    try:
        _, flow, *_ = msgspec.msgpack.decode(event.data, type=list)
    except (*_BROKEN, ValueError):
        return ""
    return flow if isinstance(flow, str) else ""


def _lift(position: int, stream: str, kind: str, data: msgspec.Raw) -> Event:
    """The event of today's schema, by as many steps as it takes."""
    try:
        fields = msgspec.msgpack.decode(data, type=list)
        while (lift := UPCASTERS.get(fields[0])) is not None:
            fields = lift(fields)
        return _decode_event(_encode(fields))
    except Exception as error:
        raise LogDamaged(f"record {position} of {stream!r} is a damaged {kind!r}: {error}") from error
