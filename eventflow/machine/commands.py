"""What the runner asks `decide` for: imperative, and holding no more than the decision needs.

Tasks are named by their slot.  What chance, the clock of the body or a user's callable had to say was
found out by the runner and travels here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from eventflow.events import CacheMiss, Failure, Origin
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
    """Give birth to a run."""

    flow: str
    parameters: Mapping[str, Payload]
    durability: str
    labels: Mapping[str, str]
    origin: Origin | None = None
    entry: str = ""
    why: str = ""


class ClaimRun(msgspec.Struct, frozen=True):
    """Own the run."""

    owner: str
    environment: Mapping[str, str]
    flow: str


class ReleaseRun(msgspec.Struct, frozen=True):
    """Let go of the run."""

    reason: str


class FinishRun(msgspec.Struct, frozen=True):
    """End the run, if nothing is open any more; `message` says why it failed, if it did."""

    message: str = ""


class StartTask(msgspec.Struct, frozen=True, gc=False):
    """Begin the next attempt of a task that is due; `cache` says why no result is reused."""

    slot: int
    cache: CacheMiss | None = None


class MapTask(msgspec.Struct, frozen=True):
    """Give a mapped task its children, or say why it can have none."""

    slot: int
    width: int
    failure: Failure | None = None


class ReuseTask(msgspec.Struct, frozen=True, gc=False):
    """Take a result from elsewhere."""

    slot: int
    result: Payload
    source: Origin
    why: Literal["cache", "fork", "shared"]
    parts: bytes = b""
    content: bytes | None = None
    expires_at: int | None = None
    saved_us: int = 0


class SkipTask(msgspec.Struct, frozen=True, gc=False):
    """End a task as skipped: by its upstreams (attempt 0) or by its own body."""

    slot: int
    reason: str
    attempt: int = 0


class BlockTask(msgspec.Struct, frozen=True, gc=False):
    """End a task whose trigger refused."""

    slot: int
    message: str


class SucceedTask(msgspec.Struct, frozen=True, gc=False):
    """The body returned, and this is its result. Durations in microseconds."""

    slot: int
    attempt: int
    result: Payload
    queue_us: int = 0
    body_us: int = 0
    encode_us: int = 0
    content: bytes | None = None
    key: str | None = None
    """Makes it an entry of the cache."""


class FailTask(msgspec.Struct, frozen=True):
    """The attempt failed; `delay_us` is how long to wait, if there is to be another."""

    slot: int
    attempt: int
    failure: Failure
    reason: Literal["raised", "timed_out", "unserializable", "input"]
    delay_us: int = 0
    body_us: int = 0


class AbandonTask(msgspec.Struct, frozen=True):
    """The attempt ended without an outcome: `lost` with its process, or `interrupted`."""

    slot: int
    attempt: int
    reason: Literal["lost", "interrupted"]


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
