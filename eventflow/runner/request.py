"""A caller's request for a run: its options, the flow's entry, and the parameters as payloads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eventflow.events import Origin
from eventflow.logs.urls import check_url
from eventflow.machine import Command
from eventflow.ports import Durability, EventLog, Value, World
from eventflow.result import Payload
from eventflow.runner.compatibility import OnChange

__all__ = ["Request", "RunOptions"]

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+@-]{0,199}")
_ON_CHANGE: Final = ("refuse", "keep")
_DURABILITIES: Final = ("full", "normal", "pipelined")


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a flow is run, apart from its parameters: the options of `flow.options(...)`, from there to the runner."""

    run_id: str | None = None
    """A new id starts a run. The id of a known run resumes it, or returns its recorded state if it has finished."""
    log: EventLog | str | None = None
    """A log, or a URL like `sqlite:///runs.db`. None for the default log; see `eventflow.logs.open`."""
    labels: Mapping[str, str] = {}
    """Text by text, recorded with the run."""
    durability: Durability = "full"
    """When a result may be handed on: synced (`full`), committed (`normal`), or at once (`pipelined`)."""
    wait: bool = True
    """False: return the recorded state of the run `run_id` now; start and resume nothing."""
    on_change: OnChange = "refuse"
    """`keep`: resume although the code of finished tasks changed, and keep their results."""
    world: World | None = None
    """Clock, ids and randomness. None for the real ones; a `VirtualWorld` in tests."""

    def check(self, flow: str) -> None:
        """Raise `TypeError` or `ValueError` if an option is invalid; `flow` is the flow's name, for the message."""
        where = f"flow {flow!r}, options"
        _check_run_id(where, self.run_id, self.wait)
        _check_log(where, self.log)
        if self.durability not in _DURABILITIES:
            raise ValueError(f"{where}: durability={self.durability!r} is none of {', '.join(_DURABILITIES)}")
        if self.on_change not in _ON_CHANGE:
            raise ValueError(f"{where}: on_change={self.on_change!r} is none of {', '.join(_ON_CHANGE)}")
        if not isinstance(self.labels, Mapping):
            raise TypeError(f"{where}: labels={self.labels!r:.80} is not a mapping of text to text")
        for key, text in self.labels.items():
            if not _is_text(key) or not _is_text(text):
                raise TypeError(f"{where}: labels are text by text, not {key!r}: {text!r:.80}")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call for a run of one flow."""

    options: RunOptions
    entry: str
    """Where the flow's code can be loaded from: `module:qualname`, or a file."""
    parameters: Mapping[str, Payload]
    given: frozenset[str] = frozenset()
    """Names of the parameters that the caller gave. The others are defaults, or as recorded."""
    extra_values: tuple[Value, ...] = ()
    """Bytes of the parameters that are too large for an event."""
    origin: Origin | None = None
    """The run that a rerun was made from."""
    why: str = ""
    """As in `RunStarted`."""
    first: tuple[Command, ...] = ()
    """Commands for the run's first round: the results that a rerun keeps."""


def _check_run_id(where: str, run_id: Any, wait: Any) -> None:
    if run_id is not None and not (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id)):
        raise ValueError(
            f"{where}: run_id={run_id!r} is not 1 to 200 of letters, digits and any of _.:+@- "
            "(the first a letter or digit)"
        )
    if type(wait) is not bool:
        raise TypeError(f"{where}: wait={wait!r:.80} is neither True nor False")
    if not wait and run_id is None:
        raise ValueError(
            f"{where}: wait=False only looks at a run that exists, so say which: run_id=...; to start a run, leave "
            "wait=False out"
        )


def _check_log(where: str, log: Any) -> None:
    if isinstance(log, str):
        check_url(log, f"{where}, log")
    elif isinstance(log, type):
        raise TypeError(f"{where}: log={log.__name__} is a class; give a log made of it")
    elif log is not None and not callable(getattr(log, "append", None)):
        raise TypeError(
            f"{where}: log={log!r:.80} is no log; give one like MemoryLog(), or a URL like 'sqlite:///runs.db'"
        )


def _is_text(text: object) -> bool:
    return isinstance(text, str) and text.isprintable()
