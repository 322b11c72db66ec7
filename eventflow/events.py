"""Events: the closed union of facts about runs and flows, the record around one, and the names of streams.

Two coordinates are never confused:

    position   dense over the whole log, given by the log; a cursor, never content
    version    dense within one stream, known before the append; the only address of a value

A *source* is the address of a value inside its own run: the version of the record that holds it, alone or with a path
into it (a parameter's name, an element's index, a key).  An `Origin` is one across runs.

Every kind is frozen, keyword-only and array-like on the wire: fields are only ever appended, with a default, and the
tag names the kind with its schema.  A kind enters with the feature that needs it.

Numbers are bounded where they are decoded: a record with a number beyond its bounds is damage, before anything is
computed or allocated from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec

from eventflow.graph import Graph, Subscript, fault_of
from eventflow.result import Payload

__all__ = [
    "FEATURES",
    "WIDTH_MAX",
    "Address",
    "CacheMiss",
    "Draft",
    "Event",
    "Failure",
    "FlowDefined",
    "Known",
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
    "flow_stream",
    "kind_of",
    "missing_features",
    "run_of",
    "run_stream",
]

WIDTH_MAX: Final = 1_000_000
"""Children of one map."""
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Version: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Moment: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999_999)]
"""Microseconds UTC, until the end of the year 9999."""

Address: TypeAlias = Annotated[tuple[_Index, ...], msgspec.Meta(min_length=1, max_length=64)]
"""A task's place in its run: `(node, *path)`; the path is made of map indices, as deep as the nesting."""

Option: TypeAlias = bool | int | float | str | None
"""The value of an option of a run."""

Source: TypeAlias = int | Annotated[tuple[Subscript, ...], msgspec.Meta(min_length=1)]
"""A value's place in its run: the version of its record, or `(version, *path)`."""


FEATURES: Final[frozenset[str]] = frozenset()
"""Words of `requires` that this version knows: so far there is none."""


def missing_features(requires: Iterable[str]) -> tuple[str, ...]:
    """Return the required words that this version does not know.

    ```python
    from eventflow.events import missing_features

    print(missing_features(["time-travel"]))
    ```
    ```text
    ('time-travel',)
    ```
    """
    return tuple(word for word in requires if word not in FEATURES)


class Origin(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record of any stream: the origin of a reused value, or of a run that was made from another one."""

    stream: str
    version: Version


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An exception as data: never pickled, always readable."""

    type: str
    """`module.QualName` of the exception, without `builtins.`."""
    message: str
    traceback: str = ""
    """Formatted, the engine's own frames left out; below it the notes, and a line for each member."""
    cause: Failure | None = None
    members: tuple[Failure, ...] = ()
    """The members of an exception group; of groups nested too deeply, only the innermost members."""
    notes: tuple[str, ...] = ()
    """Notes that were added by `add_note`, and notes about parts that are left out here."""
    details: Payload | None = None
    """Room for details that are too large for an event; this version stores none."""


class CacheMiss(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The question to the cache before an attempt, and the reason for the miss."""

    parts: bytes
    """Of the key, see `TaskDef.cache_key`; of a reason `opaque` empty, for there is no key."""
    reason: str
    """`new`: no entry. `expired`: the entry is too old. `future`: the entry was made by a clock that was ahead.
    `lost`: the bytes of the entry are gone or damaged. `unreadable`: they do not open as the declared type.
    `opaque`: an input has no sound content. `retry`: the cache is not asked again after a failure. `refresh`: the
    caller asked for a new result. `dropped`: the entry was dropped. Any other word is read as `new`."""
    detail: str = ""


class _Fact(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of all kinds."""


class FlowDefined(_Fact, frozen=True, kw_only=True, array_like=True, tag="flow_defined"):
    """A graph, in its own stream `flow/<digest>`, once."""

    graph: Graph

    def __post_init__(self) -> None:
        """Refuse a graph that is none; decoding says it as it says every other fault."""
        if fault := fault_of(self.graph):
            raise ValueError(fault)


class RunStarted(_Fact, frozen=True, kw_only=True, array_like=True, tag="run_started"):
    """A run was born. Version 1 of its stream."""

    flow: str
    """Digest of the graph."""
    parameters: Mapping[str, Payload]
    """The converted values, in the order of declaration."""
    durability: str
    origin: Origin | None = None
    """The run this one was made from, and up to where."""
    labels: Mapping[str, str] = {}
    entry: str = ""
    """Where the flow's code was found at the birth: `module:qualname` or a file."""
    parent: Origin | None = None
    """Of a child run: its parent's stream, and the version of the call there. A forked child has an `origin` too."""
    why: str = ""
    """The cause of the run, if it was no plain call: `rerun`, `fork`, `schedule` …"""
    options: Mapping[str, Option] = {}
    """How the run is to be run, by name: queue, priority, timeout …; a reader passes over names it does not know."""
    requires: tuple[str, ...] = ()
    """Features that a runner must know to go on with the run, those of its graph included; see `FEATURES`."""


class RunClaimed(_Fact, frozen=True, kw_only=True, array_like=True, tag="run_claimed"):
    """A runner owns the run from here on; this record's version is its claim."""

    owner: str
    """Unique to one runner: two claims never have equal bytes."""
    environment: Mapping[str, str]
    """Host, process id, Python and engine version, and where the flow's code is found again."""
    flow: str
    """Digest of the graph in force from here on."""
    requires: tuple[str, ...] = ()
    """Features of the events that follow, and of the graph; they add to earlier ones."""


class _Owned(_Fact, frozen=True, kw_only=True, array_like=True):
    """A fact written by the run's owner."""

    claim: Version
    """Version of the owner's `RunClaimed`: the fence."""


class RunReleased(_Owned, frozen=True, kw_only=True, array_like=True, tag="run_released"):
    """The owner let go of an unfinished run; anyone may claim it."""

    reason: str


class RunFinished(_Owned, frozen=True, kw_only=True, array_like=True, tag="run_finished"):
    """The run is over; nothing follows."""

    outcome: Literal["success", "failed", "cancelled"]
    message: str = ""


class TaskStarted(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_started", gc=False):
    """An attempt is about to run its body; durable before it does."""

    task: Address
    attempt: _Index
    """1 for the first; every start counts, also after a crash."""
    inputs: tuple[Source, ...] = ()
    """A source for each leaf of the task's inputs, in order; that of a mapped upstream taken whole is its
    `TaskMapped`, which means the results of all its children."""
    cache: CacheMiss | None = None
    """None for a task that is not cached."""


class TaskSucceeded(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_succeeded", gc=False):
    """The body returned and its result is kept. A record with a key is an entry of the cache."""

    task: Address
    attempt: _Index
    result: Payload
    queue_us: _Count = 0
    """From being started to the body's first instruction."""
    body_us: _Count = 0
    encode_us: _Count = 0
    expires_at: Moment | None = None
    """Until when the entry is good, microseconds UTC; None for ever."""
    content: bytes | None = None
    """Content digest of the value, for the cache keys of downstream tasks. Empty if the result's digest is the
    content, None if no downstream task is cached."""


class TaskReused(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_reused", gc=False):
    """A result made elsewhere is taken; the body does not run."""

    task: Address
    result: Payload
    source: Origin
    """The record that it was taken from: of the cache always the `TaskSucceeded`, of a fork perhaps a `TaskReused`."""
    why: str
    """`cache`, `fork` or `shared`; any other word is read as `cache`."""
    parts: bytes = b""
    """Of the key of a hit, as in `CacheMiss`."""
    content: bytes | None = None
    expires_at: Moment | None = None
    saved_us: _Count = 0
    """Body and encoding time of the original."""


class TaskFailed(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_failed"):
    """An attempt failed; with `retry_at` another one will follow."""

    task: Address
    attempt: _Index
    failure: Failure
    reason: str
    """`raised`: the body did. `timed_out`. `crashed`: its process died again and again. `unserializable`: its result
    cannot be kept. `input`: its arguments cannot be had. `trigger`: the function that decides whether it runs failed.
    `limit`: a bound was met. `refused`: a person refused. Any other word is read as `raised`."""
    retry_at: Moment | None = None
    """Microseconds UTC, jitter included, decided once."""
    body_us: _Count = 0


class TaskAbandoned(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_abandoned"):
    """An attempt ended without an outcome: its process died, or it was interrupted."""

    task: Address
    attempt: _Index
    reason: str
    """`lost`: its process died. `worker_lost`: its executor lost or cancelled it. `interrupted`: its run was. `cancelled`:
    it was cancelled. Any other word is read as `interrupted`."""


class TaskSkipped(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_skipped"):
    """The task has nothing to do."""

    task: Address
    reason: str


class TaskBlocked(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_blocked"):
    """The task's trigger refused; its body will never run."""

    task: Address
    trigger: str
    message: str


class TaskMapped(_Owned, frozen=True, kw_only=True, array_like=True, tag="task_mapped"):
    """A mapped task now has its children `(*task, 0)` … `(*task, width - 1)`."""

    task: Address
    width: Annotated[int, msgspec.Meta(ge=0, le=WIDTH_MAX)]


Known: TypeAlias = (
    TaskSucceeded
    | TaskStarted
    | TaskFailed
    | TaskReused
    | TaskAbandoned
    | TaskSkipped
    | TaskBlocked
    | TaskMapped
    | RunStarted
    | RunClaimed
    | RunReleased
    | RunFinished
    | FlowDefined
)
"""Every kind that this version can write."""


class Unknown(msgspec.Struct, frozen=True):
    """An event of a kind that this version does not know, with its bytes intact."""

    kind: str
    data: bytes


Event: TypeAlias = Known | Unknown

TAGS: Final[Mapping[type, str]] = {kind: kind.__struct_config__.tag for kind in get_args(Known)}


def kind_of(event: Event) -> str:
    """Return the stable tag of an event.

    ```python
    from eventflow.events import TaskMapped, kind_of

    print(kind_of(TaskMapped(claim=2, task=(0,), width=3)))
    ```
    ```text
    task_mapped
    ```
    """
    return event.kind if isinstance(event, Unknown) else TAGS[type(event)]


# ── the record around an event ───────────────────────────────────────────────────────────────────────────────


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A record before it is appended: a time, an optional key for look-ups, an event."""

    at: int
    """Microseconds UTC."""
    event: Event
    key: str | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One event in its place: the envelope that the log hands out."""

    position: int
    stream: str
    version: int
    at: int
    """Microseconds UTC; never decreases within its stream."""
    key: str | None
    event: Event


# ── the names of streams: each is its kind and an id ─────────────────────────────────────────────────────────

_RUN: Final = "run/"
_FLOW: Final = "flow/"


def run_stream(run_id: str) -> str:
    """Return the name of a run's stream.

    ```python
    from eventflow.events import run_stream

    print(run_stream("nightly-7"))
    ```

    ```text
    run/nightly-7
    ```
    """
    return _RUN + run_id


def run_of(stream: str) -> str:
    """Return the id of the run that a stream belongs to; the name of any other stream unchanged.

    ```python
    from eventflow.events import run_of

    print(run_of("run/nightly-7"))
    ```

    ```text
    nightly-7
    ```
    """
    return stream.removeprefix(_RUN)


def flow_stream(digest: str) -> str:
    """Return the name of the stream that holds the graph with this digest.

    ```python
    from eventflow.events import flow_stream

    print(flow_stream("5f2a"))
    ```

    ```text
    flow/5f2a
    ```
    """
    return _FLOW + digest
