"""Events: the closed union of facts about runs and flows, and the envelope of one.

    kinds      every kind of event
    records    the envelope, and its bytes

Two coordinates, never confused:

    position   dense over the whole log, given by the log; a cursor, never content
    version    dense within one stream, known before the append; the only address of a value

A *source* addresses a value inside its own run: the version of the record that holds it, alone or
with a path into it (a parameter's name, an element's index, a key).  An `Origin` does so across runs.
"""

from eventflow.events.kinds import (
    FEATURES,
    WIDTH_MAX,
    Address,
    CacheMiss,
    Event,
    Failure,
    FlowDefined,
    Known,
    Option,
    Origin,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    Source,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    kind_of,
    missing_features,
)
from eventflow.events.records import (
    UPCASTERS,
    Draft,
    LogDamaged,
    Record,
    Upcaster,
    checksum,
    decode,
    encode,
    encode_event,
    name_digest,
)

__all__ = [
    "FEATURES",
    "UPCASTERS",
    "WIDTH_MAX",
    "Address",
    "CacheMiss",
    "Draft",
    "Event",
    "Failure",
    "FlowDefined",
    "Known",
    "LogDamaged",
    "Option",
    "Origin",
    "Record",
    "RunClaimed",
    "RunFinished",
    "RunReleased",
    "RunStarted",
    "Source",
    "TaskAbandoned",
    "TaskBlocked",
    "TaskFailed",
    "TaskMapped",
    "TaskReused",
    "TaskSkipped",
    "TaskStarted",
    "TaskSucceeded",
    "Unknown",
    "Upcaster",
    "checksum",
    "decode",
    "encode",
    "encode_event",
    "kind_of",
    "missing_features",
    "name_digest",
]
