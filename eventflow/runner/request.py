"""A caller's request for a run: its options, the flow's entry, and the parameters as payloads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypedDict, get_args

import msgspec

from eventflow.events import Origin
from eventflow.logs.urls import check_url
from eventflow.machine import Command
from eventflow.ports import Durability, EventLog, Value, World
from eventflow.result import Payload
from eventflow.runner.compatibility import OnChange
from eventflow.suggestions import did_you_mean

__all__ = ["Request", "RunOptions", "checked_run_options"]

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+@-]{0,199}")
_ON_CHANGE: Final = get_args(OnChange)
_DURABILITIES: Final = get_args(Durability)


class RunOptions(TypedDict, total=False):
    """The options of `flow.options(...)`: how a flow is run, apart from its parameters. Each may be left out."""

    run_id: str | None
    """A new id starts a run. The id of a known run resumes it, or returns its recorded state if it has finished."""
    log: EventLog | str | None
    """A log, or a URL like `sqlite:///runs.db`. By default the default log; see `eventflow.logs.open`."""
    labels: Mapping[str, str] | None
    """Text by text, recorded with the run."""
    durability: Durability
    """When a result may be handed on: synced (`full`, the default), committed (`normal`), or at once (`pipelined`)."""
    wait: bool
    """False: return the recorded state of the run `run_id` now; start and resume nothing."""
    on_change: OnChange
    """`keep`: resume although the code of finished tasks changed, and keep their results. `refuse` by default."""
    world: World | None
    """Clock, ids and randomness. By default the real ones; a `VirtualWorld` in tests."""


_DEFAULTS: Final[RunOptions] = {
    "run_id": None,
    "log": None,
    "labels": None,
    "durability": "full",
    "wait": True,
    "on_change": "refuse",
    "world": None,
}


def checked_run_options(flow: str, options: RunOptions) -> RunOptions:
    """Return the options with the defaults of those that are left out; `flow` is the flow's name, for messages.

    Raises `TypeError` for an unknown option or one of another type, `ValueError` for a value that cannot work.
    """
    where = f"flow {flow!r}, options"
    for name in options:
        if name not in _DEFAULTS:
            raise TypeError(f"{where}: there is no option {name!r}{did_you_mean(name, _DEFAULTS)}")
    complete: RunOptions = {**_DEFAULTS, **options}
    _check_run_id(where, complete["run_id"], complete["wait"])
    _check_log(where, complete["log"])
    _check_word(where, "durability", complete["durability"], _DURABILITIES)
    _check_word(where, "on_change", complete["on_change"], _ON_CHANGE)
    _check_labels(where, complete["labels"])
    return complete


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call for a run of one flow."""

    options: RunOptions
    """All of them, checked."""
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


def _check_word(where: str, option: str, word: Any, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ValueError(f"{where}: {option}={word!r} is none of {', '.join(words)}")


def _check_labels(where: str, labels: Any) -> None:
    if labels is None:
        return
    if not isinstance(labels, Mapping):
        raise TypeError(f"{where}: labels={labels!r:.80} is not a mapping of text to text")
    for key, text in labels.items():
        if not _is_text(key) or not _is_text(text):
            raise TypeError(f"{where}: labels are text by text, not {key!r}: {text!r:.80}")


def _is_text(text: object) -> bool:
    return isinstance(text, str) and text.isprintable()
