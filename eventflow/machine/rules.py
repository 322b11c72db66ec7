"""Which event may follow which: every legal transition, in two tables.

`TASK` is read as "in this status, this happens, and the status becomes that"; `RUN` likewise for the
run as a whole.  Nothing else in the engine decides legality: `evolve` looks here, `decide` emits only
what stands here (a property test holds it to that), and the diagrams in the docs are drawn from here.

Later parts add rows (pause, queue, cancel, loop), not code.

`judge` is the other rule of this page: what the outcomes of its upstreams mean for a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from eventflow.events import (
    Event,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)

__all__ = [
    "CRASHES",
    "CRASHES_MAX",
    "FAILED",
    "FINISHED",
    "RUN",
    "SLOTS_MAX",
    "TASK",
    "IllegalEvent",
    "Phase",
    "Status",
    "Verdict",
    "diagram",
    "judge",
    "outcome_of",
]

SLOTS_MAX: Final = 4_000_000
"""Tasks of one run, children included: some hundred bytes of memory each."""

CRASHES: Final = frozenset({"lost", "worker_lost"})
"""Reasons of `TaskAbandoned` that say that an attempt took its process or its worker with it."""

CRASHES_MAX: Final = 3
"""So many interrupted attempts in a row, each by the death of its process, make a task `Crashed`."""


class IllegalEvent(Exception):
    """An event that the table does not allow where it came; the state is unchanged."""


class Status(IntEnum):
    """What is known of one task; `states` shows each as a class of PIN-4's tree."""

    PENDING = 0
    RUNNING = 1
    RETRYING = 2
    SUCCEEDED = 3
    REUSED = 4
    MAPPED = 5
    SKIPPED = 6
    FAILED = 7
    TIMED_OUT = 8
    BLOCKED = 9
    CRASHED = 10


class Phase(IntEnum):
    """Where a run stands."""

    NEW = 0
    STARTED = 1
    CLAIMED = 2
    RELEASED = 3
    FINISHED = 4


P, R, T = Status.PENDING, Status.RUNNING, Status.RETRYING

_TASK: Final[dict[tuple[type[Event], Status], set[Status]]] = {
    (TaskStarted, P): {R},
    (TaskStarted, T): {R},
    (TaskReused, P): {Status.REUSED},
    (TaskMapped, P): {Status.MAPPED},
    (TaskSkipped, P): {Status.SKIPPED},  # an upstream was skipped
    (TaskSkipped, R): {Status.SKIPPED},  # its body said so
    (TaskBlocked, P): {Status.BLOCKED},
    (TaskFailed, P): {Status.FAILED},  # what it should map over is no list
    (TaskFailed, R): {T, Status.FAILED, Status.TIMED_OUT, Status.CRASHED},
    (TaskSucceeded, R): {Status.SUCCEEDED},
    (TaskAbandoned, R): {P},
}
TASK: Final = {key: frozenset(targets) for key, targets in _TASK.items()}
"""(event, status before) → statuses it may lead to; which one, the event itself says (`outcome_of`)."""

RUN: Final[Mapping[tuple[type[Event], Phase], Phase]] = {
    (RunStarted, Phase.NEW): Phase.STARTED,
    (RunClaimed, Phase.STARTED): Phase.CLAIMED,
    (RunClaimed, Phase.RELEASED): Phase.CLAIMED,
    (RunClaimed, Phase.CLAIMED): Phase.CLAIMED,  # taken over: the old owner died or stalled
    (RunReleased, Phase.CLAIMED): Phase.RELEASED,
    (RunFinished, Phase.CLAIMED): Phase.FINISHED,
}

FAILED: Final = frozenset({Status.FAILED, Status.TIMED_OUT, Status.BLOCKED, Status.CRASHED})
FINISHED: Final = FAILED | {Status.SUCCEEDED, Status.REUSED, Status.MAPPED, Status.SKIPPED}

_FIXED: Final[Mapping[type[Event], Status]] = {
    TaskStarted: Status.RUNNING,
    TaskReused: Status.REUSED,
    TaskMapped: Status.MAPPED,
    TaskSkipped: Status.SKIPPED,
    TaskBlocked: Status.BLOCKED,
    TaskSucceeded: Status.SUCCEEDED,
    TaskAbandoned: Status.PENDING,
}
_REASONS: Final = {"timed_out": Status.TIMED_OUT, "crashed": Status.CRASHED}


def outcome_of(event: Event) -> Status:
    """The status that an event says it leads to; whether it may, the table says."""
    if isinstance(event, TaskFailed):
        if event.retry_at is not None:
            return Status.RETRYING
        return _REASONS.get(event.reason, Status.FAILED)
    return _FIXED[type(event)]


class Verdict(IntEnum):
    """What a task's upstreams, all finished, mean for it."""

    RUN = 0
    SKIP = 1
    BLOCK = 2


def judge(failed: int, skipped: int) -> Verdict:
    """The trigger `all_successful`, after skip propagation.

    Skip is looked at first, so one skipped and one failed upstream give a skip (the order that PIN-4's
    runner had). A mapped upstream counts once for each of its children.
    """
    if skipped:
        return Verdict.SKIP
    return Verdict.BLOCK if failed else Verdict.RUN


def diagram() -> str:
    """Both tables as one Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    state Task {", "        [*] --> PENDING"]
    for (event, before), targets in TASK.items():
        lines += [f"        {before.name} --> {after.name}: {event.__name__}" for after in sorted(targets)]
    lines += ["    }", "    state Run {", "        [*] --> NEW"]
    lines += [f"        {a.name} --> {b.name}: {event.__name__}" for (event, a), b in RUN.items()]
    return "\n".join([*lines, "    }"])
