"""The rules of a run, pure and synchronous: no clock, no I/O, no chance, no user code.

    decide.decide(plan, run, command, now)     the events that a command gives
    evolve.evolve(plan, run, version, draft)   the state after an event
    ready.ready(plan, run, now, limit)         the tasks that are due

`rules` holds the tables of legal transitions, `plan` the facts that are derived from a graph once, `state` the compact state
of a run, `commands` the commands, and `inputs` the addresses of a task's inputs.

Modules and functions have the same names here, so the three functions are imported from their modules.
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
