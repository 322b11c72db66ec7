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
    "Abandon",
    "Block",
    "Claim",
    "Command",
    "Fail",
    "Finish",
    "Map",
    "Release",
    "Reuse",
    "Skip",
    "Start",
    "StartRun",
    "Succeed",
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


class Claim(msgspec.Struct, frozen=True):
    """Own the run."""

    owner: str
    environment: Mapping[str, str]
    flow: str


class Release(msgspec.Struct, frozen=True):
    """Let go of the run."""

    reason: str


class Finish(msgspec.Struct, frozen=True):
    """End the run, if nothing is open any more; `message` says why it failed, if it did."""

    message: str = ""


class Start(msgspec.Struct, frozen=True, gc=False):
    """Begin the next attempt of a task that is due; `cache` says why no result is reused."""

    slot: int
    cache: CacheMiss | None = None


class Map(msgspec.Struct, frozen=True):
    """Give a mapped task its children, or say why it can have none."""

    slot: int
    width: int
    failure: Failure | None = None


class Reuse(msgspec.Struct, frozen=True, gc=False):
    """Take a result from elsewhere."""

    slot: int
    result: Payload
    source: Origin
    why: Literal["cache", "fork", "shared"]
    parts: bytes = b""
    content: bytes | None = None
    expires_at: int | None = None
    saved_us: int = 0


class Skip(msgspec.Struct, frozen=True, gc=False):
    """End a task as skipped: by its upstreams (attempt 0) or by its own body."""

    slot: int
    reason: str
    attempt: int = 0


class Block(msgspec.Struct, frozen=True, gc=False):
    """End a task whose trigger refused."""

    slot: int
    message: str


class Succeed(msgspec.Struct, frozen=True, gc=False):
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


class Fail(msgspec.Struct, frozen=True):
    """The attempt failed; `delay_us` is how long to wait, if there is to be another."""

    slot: int
    attempt: int
    failure: Failure
    reason: Literal["raised", "timed_out", "unserializable", "input"]
    delay_us: int = 0
    body_us: int = 0


class Abandon(msgspec.Struct, frozen=True):
    """The attempt ended without an outcome: `lost` with its process, or `interrupted`."""

    slot: int
    attempt: int
    reason: Literal["lost", "interrupted"]


Command: TypeAlias = (
    Start | Succeed | Fail | Skip | Block | Map | Reuse | Abandon | StartRun | Claim | Release | Finish
)
