"""Which event may follow which. Everything that decides whether an event is legal is in this file.

Three tables hold the transitions: `TASK_TRANSITIONS` of a task that runs, `MAPPED_TASK_TRANSITIONS` of a task that is
mapped over something, and `RUN_TRANSITIONS` of the run as a whole. Read a row as "if this event comes in this status, the
status becomes that". Later features add rows (pause, queue, cancel, loop). The diagram in the docs is drawn from the
tables.

`admit` judges an event: by its table, by the claim in force, and by the facts that no table can hold (the attempt, the
upstreams, the width of a map). `evolve` folds only events that `admit` accepts, and `decide` gives only those. That the
versions of a stream are dense is checked where records are folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeAlias

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
    kind_of,
)
from eventflow.machine.inputs import width_max
from eventflow.machine.plan import Plan
from eventflow.machine.state import Phase, RunState, Status

__all__ = [
    "CRASHES",
    "CRASHES_MAX",
    "MAPPED_TASK_TRANSITIONS",
    "RUN_TRANSITIONS",
    "SLOTS_MAX",
    "TASK_TRANSITIONS",
    "IllegalEvent",
    "admit",
    "diagram",
    "outcome_of",
]

SLOTS_MAX: Final = 4_000_000
"""Tasks of one run, children included. Each takes some hundred bytes of memory."""

CRASHES: Final = frozenset({"lost", "worker_lost"})
"""Reasons of `TaskAbandoned` that mean that an attempt ended together with its process or worker."""

CRASHES_MAX: Final = 3
"""After so many crashed attempts in a row a task is `CRASHED`."""


class IllegalEvent(Exception):
    """The rules do not allow an event in the state to which it was given. The state is unchanged."""


P, R, T = Status.PENDING, Status.RUNNING, Status.RETRYING
Transitions: TypeAlias = Mapping[tuple[type[Event], Status], frozenset[Status]]

TASK_TRANSITIONS: Final[Transitions] = {
    (TaskStarted, P): frozenset({R}),
    (TaskStarted, T): frozenset({R}),
    (TaskReused, P): frozenset({Status.REUSED}),
    (TaskSkipped, P): frozenset({Status.SKIPPED}),  # an upstream was skipped
    (TaskSkipped, R): frozenset({Status.SKIPPED}),  # its body raised Skip
    (TaskBlocked, P): frozenset({Status.BLOCKED}),
    (TaskFailed, R): frozenset({T, Status.FAILED, Status.TIMED_OUT, Status.CRASHED}),
    (TaskSucceeded, R): frozenset({Status.SUCCEEDED}),
    (TaskAbandoned, R): frozenset({P}),
}
"""(event, status before) → the statuses that may follow; `outcome_of` says which of them the event names."""

MAPPED_TASK_TRANSITIONS: Final[Transitions] = {
    (TaskMapped, P): frozenset({Status.MAPPED}),
    (TaskSkipped, P): frozenset({Status.SKIPPED}),
    (TaskBlocked, P): frozenset({Status.BLOCKED}),
    (TaskFailed, P): frozenset({Status.FAILED}),  # it cannot be mapped over its inputs
}
"""The same for a mapped task. It has no body; its children do, and for them `TASK_TRANSITIONS` holds."""

RUN_TRANSITIONS: Final[Mapping[tuple[type[Event], Phase], Phase]] = {
    (RunStarted, Phase.NEW): Phase.STARTED,
    (RunClaimed, Phase.STARTED): Phase.CLAIMED,
    (RunClaimed, Phase.RELEASED): Phase.CLAIMED,
    (RunClaimed, Phase.CLAIMED): Phase.CLAIMED,  # taken over: the old owner died or stalled
    (RunReleased, Phase.CLAIMED): Phase.RELEASED,
    (RunFinished, Phase.CLAIMED): Phase.FINISHED,
}
"""(event, phase before) → the phase that follows."""

_OUTCOMES: Final[Mapping[type[Event], Status]] = {
    TaskStarted: Status.RUNNING,
    TaskReused: Status.REUSED,
    TaskMapped: Status.MAPPED,
    TaskSkipped: Status.SKIPPED,
    TaskBlocked: Status.BLOCKED,
    TaskSucceeded: Status.SUCCEEDED,
    TaskAbandoned: Status.PENDING,
}
_OUTCOMES_OF_REASONS: Final = {"timed_out": Status.TIMED_OUT, "crashed": Status.CRASHED}


def outcome_of(event: Event) -> Status:
    """Return the status that an event about a task leads to, be it legal or not."""
    if isinstance(event, TaskFailed):
        if event.retry_at is not None:
            return Status.RETRYING
        return _OUTCOMES_OF_REASONS.get(event.reason, Status.FAILED)
    return _OUTCOMES[type(event)]


def _masks(table: Transitions, kind: type[Event]) -> tuple[int, ...]:
    """Return the rows of one kind: for each status before, a bit for each status that may follow."""
    masks = []
    for before in Status:
        followers = table.get((kind, before), ())
        masks.append(sum(1 << after for after in followers))
    return tuple(masks)


_ATTEMPT_OF: Final = {TaskStarted: 1, TaskSucceeded: 0, TaskFailed: 0, TaskAbandoned: 0}
"""Kinds that name an attempt → how much it is ahead of the task's last one."""

_ROWS: Final[dict[type[Event], tuple[tuple[int, ...], tuple[int, ...], int | None]]] = {
    kind: (_masks(TASK_TRANSITIONS, kind), _masks(MAPPED_TASK_TRANSITIONS, kind), _ATTEMPT_OF.get(kind))
    for kind in (*_OUTCOMES, TaskFailed)
}
"""The tables of tasks by kind, as bits, since every event of every run is looked up here."""

_CLAIMED: Final = Phase.CLAIMED


def admit(plan: Plan, run: RunState, event: Any) -> int:
    """Return the slot of the task that a legal event changes, or -1 for an event about the run.

    Raises `IllegalEvent` if the event is not legal as the next one. Changes nothing.
    """
    kind = type(event)
    row = _ROWS.get(kind)
    if row is None:
        _admit_to_run(run, event)
        return -1
    of_task, of_mapped, ahead = row
    if event.claim != run.claim or run.phase is not _CLAIMED:
        _refuse(event, f"has claim {event.claim}, in force is {run.claim} ({run.phase.name})")
    task = event.task
    if len(task) == 1 and task[0] in plan.tasks:
        slot: int = task[0]
    else:
        slot = _slot_of(run, event)
    statuses = of_mapped if slot in plan.mapped else of_task
    outcomes = statuses[run.status[slot]]
    if not outcomes or (kind is TaskFailed and not outcomes >> outcome_of(event) & 1):
        before, after = Status(run.status[slot]), outcome_of(event)
        _refuse(event, f"task {task} is {before.name} and cannot become {after.name}")
    if run.waiting[slot]:
        _refuse(event, f"task {task} waits for {run.waiting[slot]} upstreams")
    if ahead is not None and event.attempt != run.attempt[slot] + ahead:
        _refuse(event, f"attempt {event.attempt} of task {task}, which is at {run.attempt[slot]}")
    if kind is TaskMapped:
        _admit_width(plan, run, slot, event)
    return slot


def _slot_of(run: RunState, event: Any) -> int:
    try:
        return run.slot(event.task)
    except (LookupError, TypeError) as error:
        raise IllegalEvent(f"{kind_of(event)}: the run has no task {event.task}") from error


def _refuse(event: Event, why: str) -> NoReturn:
    raise IllegalEvent(f"{kind_of(event)}: {why}")


def _admit_width(plan: Plan, run: RunState, slot: int, event: TaskMapped) -> None:
    """Refuse more children than the inputs have elements, and more slots than a run may have."""
    width = event.width
    limit = width_max(plan, run, slot)
    if width < 0 or (limit is not None and width > limit):
        _refuse(event, f"task {event.task} can have {limit} children, not {width}")
    slots = len(run.status) + width
    if slots > SLOTS_MAX:
        _refuse(event, f"the run would have {slots} tasks, more than {SLOTS_MAX}")


def _admit_to_run(run: RunState, event: Event) -> None:
    """Refuse an event about the run that is illegal in its phase, or that its owner did not write."""
    if (type(event), run.phase) not in RUN_TRANSITIONS:
        _refuse(event, f"the run is {run.phase.name}")
    if isinstance(event, RunReleased | RunFinished) and event.claim != run.claim:
        _refuse(event, f"has claim {event.claim}, in force is {run.claim}")
    if isinstance(event, RunFinished) and run.open:
        _refuse(event, f"{run.open} tasks of the run have not finished")


def diagram() -> str:
    """Return the tables as one Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for name, table in (("Task", TASK_TRANSITIONS), ("MappedTask", MAPPED_TASK_TRANSITIONS)):
        lines += [f"    state {name} {{", "        [*] --> PENDING"]
        for (event, before), targets in table.items():
            lines += [_arrow(event, before, after) for after in sorted(targets)]
        lines.append("    }")
    lines += ["    state Run {", "        [*] --> NEW"]
    lines += [_arrow(event, before, after) for (event, before), after in RUN_TRANSITIONS.items()]
    lines.append("    }")
    return "\n".join(lines)


def _arrow(event: type[Event], before: Status | Phase, after: Status | Phase) -> str:
    return f"        {before.name} --> {after.name}: {event.__name__}"
