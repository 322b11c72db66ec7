"""Decide which event a command gives.

One function for each command, looked up in a dict, makes the event that the command asks for. `rules.admit` then judges
the event exactly as `evolve` will.

A command that no longer applies gives `()`: a second report, an answer of an earlier attempt, a start of a task that
waits. So repeating a command is never an error, and late answers are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from eventflow.events import (
    Event,
    Failure,
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
from eventflow.machine.inputs import sources
from eventflow.machine.plan import Plan
from eventflow.machine.rules import CRASHES, CRASHES_MAX, IllegalEvent, admit
from eventflow.machine.state import RunState, Status
from eventflow.machine.triggers import TRIGGER, why_blocked

__all__ = ["decide"]

_FINAL_REASONS: Final = frozenset({"unserializable", "input"})
"""Failures that another attempt would only repeat."""


def decide(plan: Plan, run: RunState, command: Command, now: int) -> tuple[Event, ...]:
    """Return the events that a command gives at `now` (microseconds UTC); `()` if it does not apply. Changes nothing."""
    event = _EVENTS[type(command)](plan, run, command, now)
    if event is None:
        return ()
    try:
        admit(plan, run, event)
    except IllegalEvent:
        return ()
    return (event,)


def _start(plan: Plan, run: RunState, command: StartTask, now: int) -> TaskStarted:
    slot = command.slot
    return TaskStarted(
        claim=run.claim,
        task=(slot,) if run.parent[slot] < 0 else run.address(slot),
        attempt=run.attempt[slot] + 1,
        inputs=sources(plan, run, slot),
        cache=command.cache,
    )


def _succeed(plan: Plan, run: RunState, command: SucceedTask, now: int) -> TaskSucceeded:
    slot = command.slot
    expires_at = None
    if command.key is not None:
        expires_at = _expires_at(plan, run, slot, now)
    return TaskSucceeded(
        claim=run.claim,
        task=(slot,) if run.parent[slot] < 0 else run.address(slot),
        attempt=command.attempt,
        result=command.result,
        queue_us=command.queue_us,
        body_us=command.body_us,
        encode_us=command.encode_us,
        expires_at=expires_at,
        content=command.content,
    )


def _expires_at(plan: Plan, run: RunState, slot: int, now: int) -> int | None:
    cache = plan.graph.task_of(run.node(slot)).policy.cache
    if cache is None or not cache.for_us:
        return None
    return now + cache.for_us


def _fail(plan: Plan, run: RunState, command: FailTask, now: int) -> TaskFailed | None:
    slot = command.slot
    if run.status[slot] != Status.RUNNING:  # a failure without an attempt is that of `MapTask`
        return None
    retries = plan.graph.task_of(run.node(slot)).policy.retries
    may_retry = command.reason not in _FINAL_REASONS and run.failures.get(slot, 0) < retries
    retry_at = now + command.delay_us if may_retry else None
    return TaskFailed(
        claim=run.claim,
        task=run.address(slot),
        attempt=command.attempt,
        failure=command.failure,
        reason=command.reason,
        retry_at=retry_at,
        body_us=command.body_us,
    )


def _abandon(plan: Plan, run: RunState, command: AbandonTask, now: int) -> TaskAbandoned | TaskFailed:
    slot, attempt = command.slot, command.attempt
    task = run.address(slot)
    if command.reason in CRASHES and run.crashes.get(slot, 0) + 1 >= CRASHES_MAX:
        cause = "the process died"
        if command.reason == "worker_lost":
            cause = "the executor lost or cancelled the body"
        message = f"{cause} during {CRASHES_MAX} attempts in a row; the last was {attempt}"
        failure = Failure(type="eventflow.Crashed", message=message)
        return TaskFailed(claim=run.claim, task=task, attempt=attempt, failure=failure, reason="crashed")
    return TaskAbandoned(claim=run.claim, task=task, attempt=attempt, reason=command.reason)


def _skip(plan: Plan, run: RunState, command: SkipTask, now: int) -> TaskSkipped | None:
    """Make the event unless it is of another attempt; the event itself names none."""
    slot = command.slot
    attempt = 0
    if run.status[slot] == Status.RUNNING:
        attempt = run.attempt[slot]
    if command.attempt != attempt:
        return None
    return TaskSkipped(claim=run.claim, task=run.address(slot), reason=command.reason)


def _block(plan: Plan, run: RunState, command: BlockTask, now: int) -> TaskBlocked:
    task, message = run.address(command.slot), why_blocked(plan, run, command.slot)
    return TaskBlocked(claim=run.claim, task=task, trigger=TRIGGER, message=message)


def _map(plan: Plan, run: RunState, command: MapTask, now: int) -> TaskMapped | TaskFailed:
    task = run.address(command.slot)
    if command.failure is not None:
        return TaskFailed(claim=run.claim, task=task, attempt=0, failure=command.failure, reason="input")
    return TaskMapped(claim=run.claim, task=task, width=command.width)


def _reuse(plan: Plan, run: RunState, command: ReuseTask, now: int) -> TaskReused:
    return TaskReused(
        claim=run.claim,
        task=run.address(command.slot),
        result=command.result,
        source=command.source,
        why=command.why,
        parts=command.parts,
        content=command.content,
        expires_at=command.expires_at,
        saved_us=command.saved_us,
    )


def _begin(plan: Plan, run: RunState, command: StartRun | ClaimRun, now: int) -> RunStarted | RunClaimed:
    """Return the event that the command holds: nothing in it depends on the state."""
    return command.event


def _release_run(plan: Plan, run: RunState, command: ReleaseRun, now: int) -> RunReleased:
    return RunReleased(claim=run.claim, reason=command.reason)


def _finish_run(plan: Plan, run: RunState, command: FinishRun, now: int) -> RunFinished:
    if any(run.ends(slot)[0] for slot in plan.judged):
        return RunFinished(claim=run.claim, outcome="failed", message=command.message)
    return RunFinished(claim=run.claim, outcome="success")


_EVENTS: Final[dict[type[Command], Callable[[Plan, RunState, Any, int], Event | None]]] = {
    StartTask: _start,
    SucceedTask: _succeed,
    FailTask: _fail,
    SkipTask: _skip,
    BlockTask: _block,
    MapTask: _map,
    ReuseTask: _reuse,
    AbandonTask: _abandon,
    StartRun: _begin,
    ClaimRun: _begin,
    ReleaseRun: _release_run,
    FinishRun: _finish_run,
}
