"""The commands that `decide` takes. Each is named after the event that it asks for: `StartTask` gives `TaskStarted`.

A command holds no more than the decision needs and names its task by slot. Facts that come from chance, from a clock or
from a callable of the user are computed by the runner and travel in the command into the event.

An event that has no claim is complete before the decision, so its command holds it as it is. The events of tasks get their
claim and their task from the decision.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from eventflow.events import CacheMiss, Failure, Origin, RunClaimed, RunStarted
from eventflow.result import Payload

__all__ = [
    "AbandonTask",
    "BlockTask",
    "ClaimRun",
    "Command",
    "FailTask",
    "FinishRun",
    "MapTask",
    "ReleaseRun",
    "ReuseTask",
    "SkipTask",
    "StartRun",
    "StartTask",
    "SucceedTask",
]


class StartRun(msgspec.Struct, frozen=True):
    """Begin a new run with this event."""

    event: RunStarted


class ClaimRun(msgspec.Struct, frozen=True):
    """Own the run with this event."""

    event: RunClaimed


class ReleaseRun(msgspec.Struct, frozen=True):
    """Give up the run, unfinished."""

    reason: str


class FinishRun(msgspec.Struct, frozen=True):
    """End the run if all its tasks have finished."""

    message: str = ""
    """Why the run failed; left out of the event if it succeeded."""


class StartTask(msgspec.Struct, frozen=True, gc=False):
    """Begin the next attempt of a task that is due."""

    slot: int
    cache: CacheMiss | None = None
    """Why no result is reused; None for a task that is not cached."""
    key: str | None = None
    """The cache key for a success of this attempt; the event has only the parts of the key."""


class MapTask(msgspec.Struct, frozen=True):
    """Give a mapped task its children; with a failure, end it without any."""

    slot: int
    width: int
    failure: Failure | None = None


class ReuseTask(msgspec.Struct, frozen=True, gc=False):
    """End a task that is due with a result that was made before."""

    slot: int
    result: Payload
    source: Origin
    why: Literal["cache", "fork", "shared"]
    parts: bytes = b""
    content: bytes | None = None
    expires_at: int | None = None
    saved_us: int = 0


class SkipTask(msgspec.Struct, frozen=True, gc=False):
    """End a task as skipped."""

    slot: int
    reason: str
    attempt: int = 0
    """The attempt whose body raised `Skip`; 0 if an upstream was skipped."""


class BlockTask(msgspec.Struct, frozen=True, gc=False):
    """End a task whose trigger refused."""

    slot: int


class SucceedTask(msgspec.Struct, frozen=True, gc=False):
    """End an attempt whose body returned. Durations in microseconds."""

    slot: int
    attempt: int
    result: Payload
    queue_us: int = 0
    body_us: int = 0
    encode_us: int = 0
    content: bytes | None = None
    key: str | None = None
    """The cache key; the record becomes an entry of the cache."""


class FailTask(msgspec.Struct, frozen=True):
    """End an attempt that failed."""

    slot: int
    attempt: int
    failure: Failure
    reason: Literal["raised", "timed_out", "unserializable", "input"]
    delay_us: int = 0
    """Time until the next attempt, if the task's policy grants one."""
    body_us: int = 0


class AbandonTask(msgspec.Struct, frozen=True):
    """End an attempt without an outcome."""

    slot: int
    attempt: int
    reason: Literal["lost", "worker_lost", "interrupted"]


Command: TypeAlias = (
    StartTask
    | SucceedTask
    | FailTask
    | SkipTask
    | BlockTask
    | MapTask
    | ReuseTask
    | AbandonTask
    | StartRun
    | ClaimRun
    | ReleaseRun
    | FinishRun
)
