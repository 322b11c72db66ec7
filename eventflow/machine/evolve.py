"""What an event changes.

One function per kind, found in a dict.  Each first checks the table (`rules.TASK`), then writes the
columns, then tells the neighbours: work per event is O(neighbours), never O(tasks).  An illegal event
raises `IllegalEvent` before anything is written.  `at` and `version` are content, a position never is.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from eventflow.events import (
    Draft,
    Event,
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
from eventflow.graph import Input, ListOf, Ref, TupleOf, refs
from eventflow.machine.inputs import width_max
from eventflow.machine.plan import Plan
from eventflow.machine.rules import (
    CRASHES,
    FAILED,
    FINISHED,
    RUN,
    SLOTS_MAX,
    TASK,
    IllegalEvent,
    Phase,
    Status,
    outcome_of,
)
from eventflow.machine.state import MapState, RunState

__all__ = ["evolve"]

PENDING: Final = int(Status.PENDING)
RUNNING: Final = int(Status.RUNNING)
SUCCEEDED: Final = int(Status.SUCCEEDED)
SKIPPED: Final = int(Status.SKIPPED)
CLAIMED: Final = Phase.CLAIMED
_FAILED: Final = bytes(status in FAILED for status in range(256))
_FINISHED: Final = bytes(status in FINISHED for status in range(256))


def evolve(plan: Plan, run: RunState, version: int, draft: Draft | Record) -> RunState:
    """Fold one event into the state it owns, and give that state.

    Raises `IllegalEvent`, with nothing changed, when the event may not stand here: a version that is
    not the next, a stale claim, a transition that the table lacks, a task that the run does not have.
    """
    event = draft.event
    handler = _HANDLERS.get(type(event))
    if handler is None or version != run.version + 1:
        raise IllegalEvent(f"{kind_of(event)} cannot be version {version} after {run.version}")
    handler(plan, run, version, event)
    run.version = version
    run.at = draft.at
    return run


def _enter(plan: Plan, run: RunState, event: Any) -> int:
    """Check an owned task event against the table and move its task; give its slot."""
    if event.claim != run.claim or run.phase is not CLAIMED:
        raise IllegalEvent(
            f"{kind_of(event)} bears claim {event.claim}, in force is {run.claim} ({run.phase.name})"
        )
    try:
        slot = run.slot(event.task)
    except (LookupError, TypeError) as error:
        raise IllegalEvent(f"{kind_of(event)}: the run has no task {event.task}") from error
    before = Status(run.status[slot])
    after = outcome_of(event)
    if after not in TASK.get((type(event), before), ()):
        raise IllegalEvent(f"{kind_of(event)}: task {event.task} is {before.name}, not to be {after.name}")
    if before is Status.PENDING and run.waiting[slot]:
        raise IllegalEvent(f"{kind_of(event)}: task {event.task} waits for {run.waiting[slot]} upstreams")
    attempt = getattr(event, "attempt", None)
    current = run.attempt[slot] + (type(event) is TaskStarted)
    if attempt is not None and attempt != current:
        raise IllegalEvent(f"{kind_of(event)}: attempt {attempt} of task {event.task}, which is at {current}")
    if slot in plan.mapped and type(event) in (TaskStarted, TaskReused):
        raise IllegalEvent(f"{kind_of(event)}: task {event.task} is mapped, its children are what runs")
    if before is Status.RUNNING:
        run.running -= 1
    run.status[slot] = after
    return slot


def _started(plan: Plan, run: RunState, version: int, event: TaskStarted) -> None:
    task = event.task
    if (
        len(task) == 1
        and event.claim == run.claim
        and run.phase is CLAIMED
        and 0 <= task[0] < len(plan.nodes)
    ):
        slot = task[0]  # the common case, spelled out: a plain node
        if (
            run.status[slot] != PENDING
            or run.waiting[slot]
            or event.attempt != run.attempt[slot] + 1
            or slot in plan.mapped
        ):
            slot = _enter(plan, run, event)
        else:
            run.status[slot] = RUNNING
    else:
        slot = _enter(plan, run, event)
    run.attempt[slot] = event.attempt
    run.started[slot] = version
    run.running += 1
    if run.timers:
        _take_timers(run, slot)
    _take_due(run)


def _succeeded(plan: Plan, run: RunState, version: int, event: TaskSucceeded) -> None:
    task = event.task
    if (
        len(task) == 1
        and event.claim == run.claim
        and run.phase is CLAIMED
        and 0 <= task[0] < len(plan.nodes)
    ):
        slot = task[0]
        if run.status[slot] != RUNNING or event.attempt != run.attempt[slot]:
            slot = _enter(plan, run, event)
        else:
            run.status[slot] = SUCCEEDED
            run.running -= 1
    else:
        slot = _enter(plan, run, event)
    run.source[slot] = version
    if run.crashes:
        run.crashes.pop(slot, None)
    _finished(plan, run, slot)


def _ended(plan: Plan, run: RunState, version: int, event: TaskReused | TaskSkipped | TaskBlocked) -> None:
    slot = _enter(plan, run, event)
    run.source[slot] = version
    _take_due(run)
    _finished(plan, run, slot)


def _failed(plan: Plan, run: RunState, version: int, event: TaskFailed) -> None:
    slot = _enter(plan, run, event)
    run.failures[slot] = run.failures.get(slot, 0) + 1
    run.crashes.pop(slot, None)
    if event.retry_at is None:
        run.source[slot] = version
        _take_due(run)
        _finished(plan, run, slot)
    else:
        run.retry_at[slot] = event.retry_at
        heappush(run.timers, (event.retry_at, slot))


def _abandoned(plan: Plan, run: RunState, version: int, event: TaskAbandoned) -> None:
    slot = _enter(plan, run, event)
    if event.reason in CRASHES:
        run.crashes[slot] = run.crashes.get(slot, 0) + 1
    run.due.append(slot)


def _mapped(plan: Plan, run: RunState, version: int, event: TaskMapped) -> None:
    width = event.width
    if event.task[0] not in plan.mapped or len(event.task) > 1 or width < 0:
        raise IllegalEvent(f"{kind_of(event)}: task {event.task} is not to have {width} children")
    limit = width_max(plan, run, event.task[0])
    if limit is not None and width > limit:
        raise IllegalEvent(f"{kind_of(event)}: task {event.task} can have {limit} children, not {width}")
    base = len(run.status)
    if base + width > SLOTS_MAX:
        raise IllegalEvent(
            f"{kind_of(event)}: the run would have {base + width} tasks, more than {SLOTS_MAX}"
        )
    slot = _enter(plan, run, event)
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
    _take_due(run)
    for consumer in plan.each.get(slot, ()):
        _tell(run, consumer, 0, 0)
    if width == 0:
        _map_done(plan, run, slot)


def _waits_of_children(plan: Plan, run: RunState, slot: int, children: MapState) -> list[int]:
    """For each new child, how many upstreams of its own are unfinished; finished ones are counted in."""
    inputs = plan.tasks[slot].inputs
    waiting = [0] * children.width
    followed: set[int] = set()
    for item in inputs:
        if plan.follows(item):
            assert isinstance(item.arg, Ref)
            followed.add(item.arg.node)
    for up in followed:
        others = run.maps[up].base
        for nth in range(children.width):
            waiting[nth] += _wait_or_count(run, children.base + nth, others + nth)
    for nth, up in _elements(plan, inputs, children.width):
        waiting[nth] += _wait_or_count(run, children.base + nth, up)
    return waiting


def _elements(plan: Plan, inputs: tuple[Input, ...], width: int) -> set[tuple[int, int]]:
    """(child, node) for each node in the written lists that a task is mapped over."""
    return {
        (nth, ref.node)
        for item in inputs
        if item.each and isinstance(item.arg, ListOf | TupleOf)
        for nth, part in enumerate(item.arg.items[:width])
        for ref in refs(part)
        if ref.node in plan.tasks
    }


def _wait_or_count(run: RunState, child: int, up: int) -> int:
    if not _done(run, up):
        return 1
    failed, skipped = run.ends(up)
    run.failed[child] += failed
    run.skipped[child] += skipped
    return 0


def _done(run: RunState, slot: int) -> bool:
    """Whether a task has finished for those who wait for its end."""
    children = run.maps.get(slot)
    return children.open == 0 if children is not None else bool(_FINISHED[run.status[slot]])


def _finished(plan: Plan, run: RunState, slot: int) -> None:
    """Tell those who waited for this task's end."""
    status = run.status[slot]
    failed, skipped = _FAILED[status], status == SKIPPED
    parent = run.parent[slot]
    if parent >= 0:
        _child_finished(plan, run, parent, slot, failed, skipped)
    else:
        run.open -= 1
        _tell_consumers(plan, run, slot, failed, skipped)
        if plan.each:
            for consumer in plan.each.get(slot, ()):  # a mapped task that got no children
                _tell(run, consumer, failed, skipped)


def _tell_consumers(plan: Plan, run: RunState, slot: int, failed: int, skipped: int) -> None:
    waiting = run.waiting
    for consumer in plan.whole[slot]:
        if failed:
            run.failed[consumer] += failed
        if skipped:
            run.skipped[consumer] += skipped
        left = waiting[consumer] - 1
        waiting[consumer] = left
        if not left:
            run.due.append(consumer)
    if plan.element:
        for consumer, nth in plan.element.get(slot, ()):
            children = run.maps.get(consumer)
            if children is not None and nth < children.width:
                _tell(run, children.base + nth, failed, skipped)


def _tell(run: RunState, slot: int, failed: int, skipped: int) -> None:
    run.failed[slot] += failed
    run.skipped[slot] += skipped
    run.waiting[slot] -= 1
    if not run.waiting[slot]:
        run.due.append(slot)


def _child_finished(plan: Plan, run: RunState, parent: int, slot: int, failed: int, skipped: int) -> None:
    children = run.maps[parent]
    nth = slot - children.base
    for consumer in plan.each.get(parent, ()):
        others = run.maps.get(consumer)
        if others is not None and nth < others.width:
            _tell(run, others.base + nth, failed, skipped)
    children.open -= 1
    children.failed += failed
    children.skipped += skipped
    if not children.open:
        _map_done(plan, run, parent)


def _map_done(plan: Plan, run: RunState, slot: int) -> None:
    run.open -= 1
    children = run.maps[slot]
    _tell_consumers(plan, run, slot, children.failed, children.skipped)


def _take_due(run: RunState) -> None:
    """Move the head of the queue past what is no longer due; amortised O(1) an event."""
    due, head, status = run.due, run.due_head, run.status
    while head < len(due) and status[due[head]] != PENDING:
        head += 1
    if head > 1024 and head * 2 > len(due):
        del due[:head]
        run.due_gone += head
        head = 0
    run.due_head = head


def _take_timers(run: RunState, slot: int) -> None:
    """Forget the timer of a task that starts, and those at the head of the heap that became void."""
    run.retry_at.pop(slot, None)
    timers, wanted = run.timers, run.retry_at
    while timers and wanted.get(timers[0][1]) != timers[0][0]:
        heappop(timers)


def _turn(run: RunState, event: Event) -> None:
    after = RUN.get((type(event), run.phase))
    if after is None:
        raise IllegalEvent(f"{kind_of(event)}: the run is {run.phase.name}")
    if isinstance(event, RunReleased | RunFinished) and event.claim != run.claim:
        raise IllegalEvent(f"{kind_of(event)} bears claim {event.claim}, in force is {run.claim}")
    run.phase = after


def _run_started(plan: Plan, run: RunState, version: int, event: RunStarted) -> None:
    _turn(run, event)
    run.flow, run.durability, run.origin = event.flow, event.durability, event.origin
    run.labels = dict(event.labels)
    for slot in plan.parameters:
        run.status[slot] = Status.SUCCEEDED
        run.source[slot] = version
    run.due += [slot for slot in plan.tasks if not run.waiting[slot]]


def _run_claimed(plan: Plan, run: RunState, version: int, event: RunClaimed) -> None:
    _turn(run, event)
    run.claim, run.flow = version, event.flow


def _run_released(plan: Plan, run: RunState, version: int, event: RunReleased) -> None:
    _turn(run, event)


def _run_finished(plan: Plan, run: RunState, version: int, event: RunFinished) -> None:
    if run.open:
        raise IllegalEvent(f"{kind_of(event)}: {run.open} tasks of the run have not finished")
    _turn(run, event)
    run.outcome = event.outcome


_HANDLERS: Final[dict[type, Callable[[Plan, RunState, int, Any], None]]] = {
    TaskStarted: _started,
    TaskSucceeded: _succeeded,
    TaskFailed: _failed,
    TaskReused: _ended,
    TaskSkipped: _ended,
    TaskBlocked: _ended,
    TaskAbandoned: _abandoned,
    TaskMapped: _mapped,
    RunStarted: _run_started,
    RunClaimed: _run_claimed,
    RunReleased: _run_released,
    RunFinished: _run_finished,
}
