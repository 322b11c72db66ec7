"""Who runs a run: fold it, be its one live runner, claim it, take over what a dead owner left.

Two fences, one for speed and one for truth.  The *hold* says which process is alive; it belongs to the
log and ends with its process.  The *claim*, the version of the last `RunClaimed`, is what counts: every
event of an owner bears it, so one who was overtaken cannot add anything.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import anyio

from eventflow.events import RunFinished, RunReleased, RunStarted
from eventflow.graph import Graph, TaskNode
from eventflow.machine import FINISHED, Phase
from eventflow.ports import EventLog
from eventflow.projections import replay
from eventflow.runfacts import RunFacts
from eventflow.runview import RunView

__all__ = [
    "FlowChanged",
    "Lost",
    "ParametersDiffer",
    "UnknownEvents",
    "check_code",
    "check_parameters",
    "check_shape",
    "environment",
    "first_flow",
    "fold",
    "fold_to_own",
    "is_over",
    "watch",
]

WATCH_S = 0.5
"""How long a follower listens before it asks whether the owner still lives."""


class Lost(Exception):
    """Another runner claimed the run; this one may append nothing more."""


class UnknownEvents(RuntimeError):
    """A newer version wrote to the run; this one can show it, but not go on with it."""


class FlowChanged(ValueError):
    """The run was started with a flow that differs where it may not."""


class ParametersDiffer(ValueError):
    """The run was started with other parameters."""


async def fold(log: EventLog, view: RunView) -> RunFacts:
    """The run as it stands in the log."""
    found = await replay(log, view, stream=view.stream)
    return found.state


async def fold_to_own(log: EventLog, view: RunView) -> RunFacts:
    """The run as it stands in the log, for one who means to write to it; raises `UnknownEvents`."""
    facts = await fold(log, view)
    if facts.unknown:
        raise UnknownEvents(
            f"run {view.run_id!r} has events of kinds that this version does not know "
            f"({', '.join(facts.unknown)}): a newer eventflow wrote them, so run it with that one"
        )
    return facts


async def first_flow(log: EventLog, view: RunView) -> str | None:
    """Digest of the graph with which the run was born, if it was."""
    async for record in log.read(stream=view.stream):
        if isinstance(record.event, RunStarted):
            return record.event.flow
        break
    return None


def check_shape(recorded: Graph, today: Graph, run_id: str) -> None:
    """Refuse to go on with another flow, or with one of another shape."""
    if recorded.name != today.name:
        raise FlowChanged(
            f"run {run_id!r} is a run of flow {recorded.name!r}, not of {today.name!r}: "
            "use another run_id, or resume it with its own flow"
        )
    if recorded.digests.shape != today.digests.shape:
        before, after = set(recorded.index), set(today.index)
        gone, new = ", ".join(sorted(before - after)), ", ".join(sorted(after - before))
        detail = "; ".join(
            text for text in (gone and f"gone: {gone}", new and f"new: {new}") if text
        ) or ", ".join(a.name for a, b in zip(recorded.nodes, today.nodes, strict=True) if a != b)
        raise FlowChanged(
            f"run {run_id!r} was started with another shape of flow {today.name!r} ({detail}): "
            f"finish it with the old code, or begin again with `rerun({run_id!r})`"
        )


def check_code(recorded: Graph, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Refuse to go on with a flow that has other code for tasks that have finished; shapes are equal."""
    changed = [
        node.name
        for i, node in enumerate(today.nodes)
        if isinstance(node, TaskNode)
        and facts.run.status[i] in FINISHED
        and _differ(recorded.task_of(i).code, today.task_of(i).code)
    ]
    if changed:
        raise FlowChanged(
            f"run {run_id!r}: the code of finished tasks changed ({', '.join(changed[:5])}): their results "
            f"would not be what today's code gives; begin again with `rerun({run_id!r})`, or set `version=`"
        )


def _differ(before: bytes, now: bytes) -> bool:
    """Whether two code digests prove a change; an empty one is code whose source nobody could read."""
    return bool(before and now) and before != now


def check_parameters(recorded: Mapping[str, Any], today: Mapping[str, Any], run_id: str) -> None:
    """Refuse to resume with other parameters; both are payloads by name."""
    differing = [
        name
        for name, payload in today.items()
        if name not in recorded or recorded[name].digest != payload.digest
    ]
    if differing:
        raise ParametersDiffer(
            f"run {run_id!r} was started with other values of {', '.join(map(repr, differing))}: "
            "leave them out to resume it, or use another run_id"
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
    """What is written beside a claim: where it runs, and where the flow's code is found again."""
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
