"""Read a run from a log as it was after one of its events."""

from __future__ import annotations

from typing import NamedTuple

from eventflow.events import run_stream
from eventflow.machine import Phase
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, latest_fold, view_of
from eventflow.views.run import RunFacts, RunView
from eventflow.views.timeline import TimelineState

__all__ = ["RunMoment", "VersionNotFound", "is_stopped", "read_moment"]


class VersionNotFound(LookupError):
    """A run has no event with the given number."""


class RunMoment(NamedTuple):
    """A run after one of its events."""

    view: RunView
    facts: RunFacts
    head: int
    """The version of the run's last event when it was read."""
    is_stopped: bool
    """Whether its owner has ended without releasing it; False for a moment that is not now."""


async def read_moment(
    log: EventLog, run_id: str, *, version: int | None = None, timeline: Fold[TimelineState] | None = None
) -> RunMoment:
    """Read a run as it is now, or as it was after its event number `version`.

    A `timeline` is folded up to the same event, in place. Each record of the run is read once; the snapshot that the
    runner kept is used if it is not newer than `version`. Raises `RunNotFound`, `VersionNotFound`, and `LogDamaged`.
    """
    stream = run_stream(run_id)
    head = await log.head(stream)
    last = head if version is None else version
    if head and not 1 <= last <= head:
        raise VersionNotFound(f"run {run_id!r} has events 1 to {head}, and none with the number {version}")
    view, run_fold = None, None
    async for record in log.read(stream=stream):
        if view is None or run_fold is None:
            view = await view_of(log, record)
            run_fold = await _start(log, view, last)
        if timeline is not None:
            timeline.push(record)
        if record.position > run_fold.position:
            run_fold.push(record)
        if record.version == last:
            stopped = await is_stopped(log, run_id, run_fold.state)
            return RunMoment(view, run_fold.state, head, stopped)
    raise RunNotFound(f"there is no run {run_id!r} in this log")


async def is_stopped(log: EventLog, run_id: str, facts: RunFacts) -> bool:
    """Return whether the owner of a run has ended without releasing it; False for facts that are not those of now.

    The log is asked, since events do not contain whether the owner lives.
    """
    if facts.run.phase != Phase.CLAIMED or await log.is_live(run_id):
        return False
    return await log.head(run_stream(run_id)) == facts.run.version  # else it went on, and may have finished


async def _start(log: EventLog, view: RunView, version: int) -> Fold[RunFacts]:
    """Return the log's snapshot of a run, or the fold of no records if there is none up to this version."""
    snapshot = await latest_fold(log, view)
    if snapshot.state.run.version <= version:
        return snapshot
    return Fold.start(view)
