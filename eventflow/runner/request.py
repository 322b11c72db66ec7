"""What a caller asks of a run: everything that the runner is told beside the flow and the log."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eventflow.events import Origin
from eventflow.machine import Command
from eventflow.ports import Durability, Value
from eventflow.result import Payload
from eventflow.runner.compatibility import OnChange

__all__ = ["Request"]


class Request(msgspec.Struct, frozen=True):
    """What was asked of a run when it was called for."""

    parameters: Mapping[str, Payload]
    given: frozenset[str]
    """Names of the parameters that the caller gave; the others are defaults."""
    durability: Durability
    labels: Mapping[str, str]
    entry: str
    """Where the flow's code is found again: `module:qualname` or a file."""
    beside: tuple[Value, ...] = ()
    """Bytes of large parameters."""
    fresh: bool = False
    """The id was made for this call, so the log cannot know it."""
    on_change: OnChange = "refuse"
    origin: Origin | None = None
    why: str = ""
    """As in `RunStarted`."""
    first: tuple[Command, ...] = ()
    """What to decide right after the birth: the results that a rerun keeps."""
