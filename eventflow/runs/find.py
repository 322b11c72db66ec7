"""Find runs in a log: all of them, one by a shortened id, its status, and the entry of its code.

Nothing here writes to a log that was opened read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventflow.events import RunClaimed, RunFinished, RunStarted, run_stream
from eventflow.ports import EventLog
from eventflow.projections import RunNotFound, Runs, view_of
from eventflow.read_models import ReadModel
from eventflow.suggestions import did_you_mean
from eventflow.views.run_list import RunRow

__all__ = [
    "LAST",
    "EntryNotRecorded",
    "RunAmbiguous",
    "find_run",
    "has_finished",
    "list_runs",
    "recorded_entry",
    "status_of",
]

LAST = "@last"
"""Names the run that was started last."""
_NAMED_MAX = 8


class RunAmbiguous(LookupError):
    """Several runs have ids that begin with the given text."""


class EntryNotRecorded(LookupError):
    """A run does not record where the code of its flow is."""


async def list_runs(log: EventLog) -> Mapping[str, RunRow]:
    """Return a row for each run, by run id, in the order of their start.

    ```python
    from eventflow import MemoryLog
    from eventflow.runs.find import list_runs, status_of

    log = MemoryLog()
    for row in (await list_runs(log)).values():
        print(row.run, row.name, await status_of(log, row))
    ```
    """
    rows = await ReadModel.of(log, Runs())
    return Runs.of(await rows.under())


async def find_run(log: EventLog, text: str) -> str:
    """Return the id of the run that is meant by an id, by the unique beginning of an id, or by `@last`.

    Raises `RunAmbiguous` if several ids begin with the text, and `RunNotFound` if none does.
    """
    if text != LAST and await log.head(run_stream(text)):
        return text
    runs = await list_runs(log)
    if text == LAST and runs:
        return [*runs][-1]
    matches = [run_id for run_id in runs if run_id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunAmbiguous(f"{text!r} is the beginning of several runs: {_listed(matches)}")
    raise RunNotFound(f"there is no run {text!r} in this log{did_you_mean(text, runs, otherwise='')}")


def _listed(run_ids: Sequence[str]) -> str:
    """The ids in a message, a long list shortened."""
    shown = ", ".join(map(_printable, run_ids[:_NAMED_MAX]))
    if len(run_ids) <= _NAMED_MAX:
        return shown
    return f"{shown} and {len(run_ids) - _NAMED_MAX} more"


def _printable(run_id: str) -> str:
    """A run id as it is; with escapes if it has characters that cannot be printed."""
    if run_id.isprintable():
        return run_id
    return repr(run_id)


async def status_of(log: EventLog, row: RunRow) -> str:
    """Return the status of a run in one word.

    A finished run has its outcome: `success`, `failed` or `cancelled`. A run that is not finished is `started` before
    its first claim, `running`, `released` by its owner, or `stopped` if its owner has ended without releasing it.
    """
    if row.status == "finished":
        return row.outcome
    if row.status == "running" and not await log.is_live(row.run):
        return "stopped"
    return row.status


async def has_finished(log: EventLog, run_id: str) -> bool:
    """Return whether a run has finished, so that it can only be shown. Reads its last event; False if there is no such run."""
    async for record in log.read(stream=run_stream(run_id), backwards=True):
        return isinstance(record.event, RunFinished)
    return False


async def recorded_entry(log: EventLog, run_id: str) -> tuple[str, str]:
    """Return the entry of a run's code, as its last owner recorded it, and the name of its flow.

    `eventflow.authoring.loader.load_entry` loads the flow. Raises `RunNotFound`, and `EntryNotRecorded` if the run has
    no entry.
    """
    view, entry = None, ""
    async for record in log.read(stream=run_stream(run_id)):
        if view is None:
            view = await view_of(log, record)
        match record.event:
            case RunStarted():
                entry = record.event.entry
            case RunClaimed():
                entry = record.event.environment.get("entry", "") or entry
            case _:
                pass
    if view is None:
        raise RunNotFound(f"there is no run {run_id!r} in this log")
    if not entry:
        raise EntryNotRecorded(f"run {run_id!r} does not record where its code is: name the flow's code")
    return entry, view.plan.graph.name
