"""The rules of a run, pure and synchronous: no clock, no I/O, no chance, no user code.

    decide(plan, run, command, now)     what a command makes true: events
    evolve(plan, run, version, draft)   what an event changes: the run's state
    ready(plan, run, now, limit)        what is owed next

`rules` holds the one table of legal transitions, `plan` what is derived from a graph once, `run` the
compact state of a run, `inputs` where a task's inputs come from.
"""

from __future__ import annotations

from eventflow.machine.commands import (
    AbandonTask,
    BlockTask,
    ClaimRun,
    Command,
    FailTask,
    FinishRun,
    MapTask,
    ReleaseRun,
    ReuseTask,
    SkipTask,
    StartRun,
    StartTask,
    SucceedTask,
)
from eventflow.machine.inputs import bind, causes, sources
from eventflow.machine.plan import Plan
from eventflow.machine.ready import Due
from eventflow.machine.rules import IllegalEvent
from eventflow.machine.state import FAILED, FINISHED, Phase, RunState, Status

__all__ = [
    "FAILED",
    "FINISHED",
    "AbandonTask",
    "BlockTask",
    "ClaimRun",
    "Command",
    "Due",
    "FailTask",
    "FinishRun",
    "IllegalEvent",
    "MapTask",
    "Phase",
    "Plan",
    "ReleaseRun",
    "ReuseTask",
    "RunState",
    "SkipTask",
    "StartRun",
    "StartTask",
    "Status",
    "SucceedTask",
    "bind",
    "causes",
    "sources",
]
