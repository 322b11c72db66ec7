"""Ownership of a run: fold it, refuse to continue it where that would be wrong, watch its live owner.

Two fences protect a run.  The *hold* makes takeover fast: it says which process is alive, belongs to the log, and ends
with its process.  The *claim* makes it safe: it is the version of the last `RunClaimed`, every event of an owner
contains it, and a process whose claim is stale cannot append.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping
from functools import cache
from logging import getLogger
from typing import Final

import anyio

from eventflow.events import RunFinished, RunReleased, RunStarted
from eventflow.graph import Graph
from eventflow.machine import Phase
from eventflow.ports import EventLog
from eventflow.projections import Fold, dump, latest_fold, read_graph
from eventflow.runner.compatibility import FlowChanged, check_shape
from eventflow.runner.task_context import current
from eventflow.views.run import RunFacts, RunView

__all__ = [
    "OwnershipLost",
    "RunAwaitsItself",
    "UnknownEvents",
    "check_known",
    "check_not_awaited",
    "environment",
    "is_over",
    "keep_snapshot",
    "read_run",
    "unknown_events",
    "watch",
]

_logger: Final = getLogger("eventflow.runner")

SNAPSHOT_EVENTS_MIN: Final = 4_096
"""Shorter runs are folded as fast as a snapshot of them is read."""

_NAMED_MAX: Final = 5
"""Number of words in a message."""

WATCH_S: Final = 0.5
"""How long a follower listens before it asks whether the owner still lives."""


class OwnershipLost(Exception):
    """Another runner claimed the run; this one must append nothing more."""


class UnknownEvents(RuntimeError):
    """A newer version wrote to the run; this one can show it, but not continue it."""


class RunAwaitsItself(RuntimeError):
    """A body waits for the end of the run that it is a part of, which would never come."""


def check_not_awaited(run_id: str) -> None:
    """Refuse to wait for a live run in one of its own bodies; raises `RunAwaitsItself`."""
    body = current.get(None)
    while body is not None:
        if body.run == run_id:
            raise RunAwaitsItself(
                f"task {body.task!r} of run {run_id!r} waits for the end of that run, which cannot end before the task: "
                "give the inner run an id of its own, or leave `run_id` out"
            )
        body = body.outer


async def read_run(log: EventLog, view: RunView) -> RunFacts:
    """Read a run from the log and fold it.

    Raises `FlowChanged` when it is of another flow or shape than the view's plan, and `UnknownEvents` when it is of
    another shape and a newer version wrote it.
    """
    snapshot = await latest_fold(log, view)
    facts, graph = snapshot.state, view.plan.graph
    async for record in log.read(stream=view.stream, after=snapshot.position):
        event = record.event
        if isinstance(event, RunStarted) and event.flow != graph.digest:
            recorded = await read_graph(log, event.flow)
            facts.note_missing((*recorded.requires, *event.requires))
            _check_graph(recorded, facts, view)
        facts = view.apply(facts, record)
    return facts


def _check_graph(recorded: Graph, facts: RunFacts, view: RunView) -> None:
    """Refuse to fold the events of a graph by the plan of another one, whose nodes have other numbers."""
    graph = view.plan.graph
    if recorded.digest == graph.digest:  # the view is of an outline, whose digest is its own
        return
    try:
        check_shape(recorded, graph, view.run_id)
    except FlowChanged as error:
        if facts.is_newer and recorded.name == graph.name:  # neither the old code nor a rerun would help
            raise unknown_events(facts, view.run_id) from error
        raise


async def keep_snapshot(log: EventLog, view: RunView, facts: RunFacts, position: int) -> None:
    """Have the log keep the fold of a long run at a record's position; an error is only logged."""
    if facts.run.version < SNAPSHOT_EVENTS_MIN:
        return
    try:
        await log.keep_snapshot(view.snapshot_name, dump(Fold(view, facts, position)))
    except Exception:
        _logger.warning("no snapshot of run %r was kept", view.run_id, exc_info=True)


def check_known(facts: RunFacts, run_id: str) -> None:
    """Refuse to go on with a run, or to judge it, if it has events or features that this version does not know.

    Raises `UnknownEvents`.
    """
    if facts.is_newer:
        raise unknown_events(facts, run_id)


def unknown_events(facts: RunFacts, run_id: str) -> UnknownEvents:
    """Return the error for a run that a newer version wrote to."""
    has, words = "has events of kinds", facts.unknown
    if not words:
        has, words = "requires features", facts.missing
    named = ", ".join(word if word.isprintable() else repr(word) for word in words[:_NAMED_MAX])
    more = f" and {len(words) - _NAMED_MAX} more" if len(words) > _NAMED_MAX else ""
    return UnknownEvents(
        f"run {run_id!r} {has} that this version does not know ({named}{more}): a newer eventflow wrote it, so use "
        "that one"
    )


@cache
def _fixed_environment() -> Mapping[str, str]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 12 ms, needed once a run

    try:
        engine = version("eventflow")
    except PackageNotFoundError:
        engine = "unknown"
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "eventflow": engine,
        "platform": sys.platform,
    }


def environment(entry: str) -> Mapping[str, str]:
    """Return the facts that a claim records: host and process, versions, and the entry of the flow's code."""
    return {**_fixed_environment(), "pid": str(os.getpid()), "entry": entry}


async def watch(log: EventLog, view: RunView, after: int) -> None:
    """Wait until a run that is live elsewhere ends, is let go of, or may have lost its owner.

    Returns at the latest after half a second without a sign; cancelled, it just stops.
    """
    with anyio.move_on_after(WATCH_S):
        async for record in log.follow(after=after):
            if record.stream == view.stream and isinstance(record.event, RunFinished | RunReleased):
                return


def is_over(facts: RunFacts) -> bool:
    """Whether the run has finished."""
    return facts.run.phase == Phase.FINISHED
