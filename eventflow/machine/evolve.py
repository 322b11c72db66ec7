"""Fold an event into the state of a run.

`rules.admit` judges the event first, so an illegal event raises `IllegalEvent` before anything is written. Then one
function for each kind, looked up in a dict, writes the columns and informs the tasks downstream. The work for an event is
O(neighbours), never O(tasks).

The moment and the version of a record are content, its position never is.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from eventflow.events import (
    Draft,
    Record,
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
from eventflow.graph import Input, ListOf, TupleOf, refs
from eventflow.machine.plan import Plan
from eventflow.machine.rules import CRASHES, RUN_TRANSITIONS, IllegalEvent, admit, outcome_of
from eventflow.machine.state import FAILED, FINISHED, MapState, Phase, RunState, Status

__all__ = ["evolve", "evolve_beyond"]

_PENDING: Final = int(Status.PENDING)
_RUNNING: Final = int(Status.RUNNING)
_SUCCEEDED: Final = int(Status.SUCCEEDED)
_SKIPPED: Final = int(Status.SKIPPED)
_FAILED: Final = bytes(status in FAILED for status in range(256))
_FINISHED: Final = bytes(status in FINISHED for status in range(256))


def evolve(plan: Plan, run: RunState, version: int, draft: Draft | Record) -> RunState:
    """Fold one event into a state that the caller owns, and return that state.

    Raises `IllegalEvent`, with nothing changed, if `version` is not the next one or if the rules do not allow the event.
    """
    event = draft.event
    if version != run.version + 1:
        raise IllegalEvent(f"{kind_of(event)} cannot be version {version} after {run.version}")
    slot = admit(plan, run, event)
    _HANDLERS[type(event)](plan, run, slot, version, event)
    run.version = version
    run.at = draft.at
    return run


def evolve_beyond(run: RunState, version: int, draft: Draft | Record) -> None:
    """Fold an event that a later version allows and `evolve` does not; what it means for the tasks is not known.

    The phase of the run follows its own events, so that a run is shown as finished when it is. Raises `IllegalEvent`,
    with nothing changed, if `version` is not the next one.
    """
    event = draft.event
    if version != run.version + 1:
        raise IllegalEvent(f"{kind_of(event)} cannot be version {version} after {run.version}")
    match event:
        case RunClaimed():
            run.phase, run.claim, run.flow = Phase.CLAIMED, version, event.flow
        case RunReleased():
            run.phase = Phase.RELEASED
        case RunFinished():
            run.phase, run.outcome = Phase.FINISHED, event.outcome
        case _:
            pass
    run.version, run.at = version, draft.at


def _task_started(plan: Plan, run: RunState, slot: int, version: int, event: TaskStarted) -> None:
    run.status[slot] = _RUNNING
    run.attempt[slot] = event.attempt
    run.started[slot] = version
    run.running += 1
    if run.timers:
        _drop_timers(run, slot)
    _trim_due(run)


def _task_succeeded(plan: Plan, run: RunState, slot: int, version: int, event: TaskSucceeded) -> None:
    run.status[slot] = _SUCCEEDED
    run.running -= 1
    run.source[slot] = version
    if run.crashes:
        run.crashes.pop(slot, None)
    _finished(plan, run, slot, 0, 0)


def _task_ended(
    plan: Plan, run: RunState, slot: int, version: int, event: TaskReused | TaskSkipped | TaskBlocked
) -> None:
    _end(plan, run, slot, version, outcome_of(event))


def _task_failed(plan: Plan, run: RunState, slot: int, version: int, event: TaskFailed) -> None:
    run.failures[slot] = run.failures.get(slot, 0) + 1
    run.crashes.pop(slot, None)
    if event.retry_at is None:
        _end(plan, run, slot, version, outcome_of(event))
    else:
        _set_status(run, slot, Status.RETRYING)
        run.retry_at[slot] = event.retry_at
        heappush(run.timers, (event.retry_at, slot))


def _task_abandoned(plan: Plan, run: RunState, slot: int, version: int, event: TaskAbandoned) -> None:
    _set_status(run, slot, Status.PENDING)
    if event.reason in CRASHES:
        run.crashes[slot] = run.crashes.get(slot, 0) + 1
    run.due.append(slot)


def _task_mapped(plan: Plan, run: RunState, slot: int, version: int, event: TaskMapped) -> None:
    base, width = len(run.status), event.width
    run.status[slot] = Status.MAPPED
    run.source[slot] = version
    run.maps[slot] = children = MapState(base, width, width)
    run.status += bytes(width)
    for column in (run.attempt, run.started, run.source):
        column.extend([0] * width)
    run.failed += [run.failed[slot]] * width
    run.skipped += [run.skipped[slot]] * width
    run.parent += [slot] * width
    run.waiting += _waits_of_children(plan, run, slot, children)
    run.due += [child for child in range(base, base + width) if not run.waiting[child]]
    _trim_due(run)
    for task in plan.each.get(slot, ()):
        _inform(run, task, 0, 0)
    if width == 0:
        _map_finished(plan, run, slot)


def _end(plan: Plan, run: RunState, slot: int, version: int, after: Status) -> None:
    _set_status(run, slot, after)
    run.source[slot] = version
    _trim_due(run)
    _finished(plan, run, slot, _FAILED[after], after == _SKIPPED)


def _set_status(run: RunState, slot: int, after: Status) -> None:
    """Give a task its next status; if it was running, it no longer is."""
    if run.status[slot] == _RUNNING:
        run.running -= 1
    run.status[slot] = after


def _waits_of_children(plan: Plan, run: RunState, slot: int, children: MapState) -> list[int]:
    """Return for each new child how many upstreams of its own have not finished; count the outcomes of the others."""
    waiting = [0] * children.width
    for up in plan.followed.get(slot, ()):
        others = run.maps[up].base
        for nth in range(children.width):
            waiting[nth] += _wait_or_count(run, children.base + nth, others + nth)
    for nth, up in _elements(plan, plan.tasks[slot].inputs, children.width):
        waiting[nth] += _wait_or_count(run, children.base + nth, up)
    return waiting


def _elements(plan: Plan, inputs: tuple[Input, ...], width: int) -> set[tuple[int, int]]:
    """Return (child, node) for each task node in the written lists that a task is mapped over."""
    elements: set[tuple[int, int]] = set()
    for item in inputs:
        if item.each and isinstance(item.arg, ListOf | TupleOf):
            for nth, part in enumerate(item.arg.items[:width]):
                elements.update((nth, ref.node) for ref in refs(part) if ref.node in plan.tasks)
    return elements


def _wait_or_count(run: RunState, child: int, up: int) -> int:
    """Return 1 if an upstream has not finished; if it has, count its outcome for the child and return 0."""
    if not _has_finished(run, up):
        return 1
    failed, skipped = run.ends(up)
    run.failed[child] += failed
    run.skipped[child] += skipped
    return 0


def _has_finished(run: RunState, slot: int) -> bool:
    """Return whether a task has finished; a map has when all its children have."""
    children = run.maps.get(slot)
    if children is not None:
        return children.open == 0
    return bool(_FINISHED[run.status[slot]])


def _finished(plan: Plan, run: RunState, slot: int, failed: int, skipped: int) -> None:
    """Inform those that wait for the end of this task: (failed, skipped) is how it counts for them."""
    parent = run.parent[slot]
    if parent >= 0:
        _child_finished(plan, run, parent, slot, failed, skipped)
        return
    run.open -= 1
    _inform_downstream(plan, run, slot, failed, skipped)
    if plan.each:
        for task in plan.each.get(slot, ()):  # a mapped task that got no children
            _inform(run, task, failed, skipped)


def _inform_downstream(plan: Plan, run: RunState, slot: int, failed: int, skipped: int) -> None:
    waiting = run.waiting
    for task in plan.whole[slot]:
        if failed:
            run.failed[task] += failed
        if skipped:
            run.skipped[task] += skipped
        left = waiting[task] - 1
        waiting[task] = left
        if not left:
            run.due.append(task)
    if plan.element:
        for task, nth in plan.element.get(slot, ()):
            children = run.maps.get(task)
            if children is not None and nth < children.width:
                _inform(run, children.base + nth, failed, skipped)


def _inform(run: RunState, slot: int, failed: int, skipped: int) -> None:
    run.failed[slot] += failed
    run.skipped[slot] += skipped
    run.waiting[slot] -= 1
    if not run.waiting[slot]:
        run.due.append(slot)


def _child_finished(plan: Plan, run: RunState, parent: int, slot: int, failed: int, skipped: int) -> None:
    children = run.maps[parent]
    nth = slot - children.base
    for task in plan.each.get(parent, ()):
        others = run.maps.get(task)
        if others is not None and nth < others.width:
            _inform(run, others.base + nth, failed, skipped)
    children.open -= 1
    children.failed += failed
    children.skipped += skipped
    if not children.open:
        _map_finished(plan, run, parent)


def _map_finished(plan: Plan, run: RunState, slot: int) -> None:
    run.open -= 1
    children = run.maps[slot]
    _inform_downstream(plan, run, slot, children.failed, children.skipped)


def _trim_due(run: RunState) -> None:
    """Move the head of the queue past tasks that are no longer due; amortised O(1) for an event."""
    due, head, status = run.due, run.due_head, run.status
    while head < len(due) and status[due[head]] != _PENDING:
        head += 1
    if head > 1024 and head * 2 > len(due):
        del due[:head]
        run.due_gone += head
        head = 0
    run.due_head = head


def _drop_timers(run: RunState, slot: int) -> None:
    """Remove the timer of a task that starts, and void timers at the head of the heap."""
    run.retry_at.pop(slot, None)
    timers, valid = run.timers, run.retry_at
    while timers and valid.get(timers[0][1]) != timers[0][0]:
        heappop(timers)


def _run_started(plan: Plan, run: RunState, _slot: int, version: int, event: RunStarted) -> None:
    run.phase = RUN_TRANSITIONS[RunStarted, run.phase]
    run.flow, run.durability, run.origin = event.flow, event.durability, event.origin
    run.labels = dict(event.labels)
    for slot in plan.parameters:
        run.status[slot] = Status.SUCCEEDED
        run.source[slot] = version
    run.due += [slot for slot in plan.tasks if not run.waiting[slot]]


def _run_claimed(plan: Plan, run: RunState, _slot: int, version: int, event: RunClaimed) -> None:
    run.phase = RUN_TRANSITIONS[RunClaimed, run.phase]
    run.claim, run.flow = version, event.flow


def _run_released(plan: Plan, run: RunState, _slot: int, version: int, event: RunReleased) -> None:
    run.phase = RUN_TRANSITIONS[RunReleased, run.phase]


def _run_finished(plan: Plan, run: RunState, _slot: int, version: int, event: RunFinished) -> None:
    run.phase = RUN_TRANSITIONS[RunFinished, run.phase]
    run.outcome = event.outcome


_HANDLERS: Final[dict[type, Callable[[Plan, RunState, int, int, Any], None]]] = {
    TaskStarted: _task_started,
    TaskSucceeded: _task_succeeded,
    TaskFailed: _task_failed,
    TaskReused: _task_ended,
    TaskSkipped: _task_ended,
    TaskBlocked: _task_ended,
    TaskAbandoned: _task_abandoned,
    TaskMapped: _task_mapped,
    RunStarted: _run_started,
    RunClaimed: _run_claimed,
    RunReleased: _run_released,
    RunFinished: _run_finished,
}
