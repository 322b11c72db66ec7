"""What a command makes true.

A command that no longer applies (a second report, an answer for an old attempt, an end that is not yet
one) decides to nothing, `()`: repeating is never an error, and late answers fall on the floor.  What is
decided here `evolve` accepts; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

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
from eventflow.machine.inputs import sources, width_max
from eventflow.machine.plan import Plan
from eventflow.machine.rules import CRASHES, CRASHES_MAX, Phase, Status
from eventflow.machine.state import RunState

__all__ = ["decide"]

_PENDING: Final = int(Status.PENDING)
_RUNNING: Final = int(Status.RUNNING)
_CLAIMED: Final = Phase.CLAIMED
_ABOUT_RUNS: Final = frozenset({StartRun, ClaimRun, ReleaseRun, FinishRun})
_STARTABLE: Final = (_PENDING, int(Status.RETRYING))
_FINAL_REASONS: Final = frozenset({"unserializable", "input"})
"""Failures that another attempt would only repeat."""


def decide(plan: Plan, run: RunState, command: Command, now: int) -> tuple[Event, ...]:
    """Say what the command makes true at `now` (microseconds UTC); `()` when nothing."""
    kind = type(command)
    if run.phase is not _CLAIMED and kind not in _ABOUT_RUNS:
        return ()
    return _DECIDERS[kind](plan, run, command, now)


def _start(plan: Plan, run: RunState, command: StartTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if run.status[slot] not in _STARTABLE or run.waiting[slot] or slot in plan.mapped:
        return ()
    return (
        TaskStarted(
            claim=run.claim,
            task=(slot,) if run.parent[slot] < 0 else run.address(slot),
            attempt=run.attempt[slot] + 1,
            inputs=sources(plan, run, slot),
            cache=command.cache,
        ),
    )


def _is_current(run: RunState, slot: int, attempt: int) -> bool:
    return run.status[slot] == _RUNNING and run.attempt[slot] == attempt


def _succeed(plan: Plan, run: RunState, command: SucceedTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if run.status[slot] != _RUNNING or run.attempt[slot] != command.attempt:
        return ()
    return (
        TaskSucceeded(
            claim=run.claim,
            task=(slot,) if run.parent[slot] < 0 else run.address(slot),
            attempt=command.attempt,
            result=command.result,
            queue_us=command.queue_us,
            body_us=command.body_us,
            encode_us=command.encode_us,
            expires_at=None if command.key is None else _expires_at(plan, run, slot, now),
            content=command.content,
        ),
    )


def _expires_at(plan: Plan, run: RunState, slot: int, now: int) -> int | None:
    cache = plan.graph.task_of(run.node(slot)).policy.cache
    return now + cache.for_us if cache is not None and cache.for_us else None


def _fail(plan: Plan, run: RunState, command: FailTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if not _is_current(run, slot, command.attempt):
        return ()
    policy = plan.graph.task_of(run.node(slot)).policy
    again = command.reason not in _FINAL_REASONS and run.failures.get(slot, 0) < policy.retries
    return (
        TaskFailed(
            claim=run.claim,
            task=run.address(slot),
            attempt=command.attempt,
            failure=command.failure,
            reason=command.reason,
            retry_at=now + command.delay_us if again else None,
            body_us=command.body_us,
        ),
    )


def _abandon(plan: Plan, run: RunState, command: AbandonTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if not _is_current(run, slot, command.attempt):
        return ()
    if command.reason in CRASHES and run.crashes.get(slot, 0) + 1 >= CRASHES_MAX:
        from_crash = Failure(
            type="eventflow.Crashed",
            message=f"the process died during {CRASHES_MAX} attempts in a row; the last was {command.attempt}",
        )
        return (
            TaskFailed(
                claim=run.claim,
                task=run.address(slot),
                attempt=command.attempt,
                failure=from_crash,
                reason="crashed",
            ),
        )
    return (
        TaskAbandoned(
            claim=run.claim, task=run.address(slot), attempt=command.attempt, reason=command.reason
        ),
    )


def _is_due(run: RunState, slot: int) -> bool:
    return run.status[slot] == _PENDING and not run.waiting[slot]


def _skip(plan: Plan, run: RunState, command: SkipTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    applies = _is_current(run, slot, command.attempt) if command.attempt else _is_due(run, slot)
    if not applies:
        return ()
    return (TaskSkipped(claim=run.claim, task=run.address(slot), reason=command.reason),)


def _block(plan: Plan, run: RunState, command: BlockTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if not _is_due(run, slot):
        return ()
    return (
        TaskBlocked(
            claim=run.claim, task=run.address(slot), trigger="all_successful", message=command.message
        ),
    )


def _map(plan: Plan, run: RunState, command: MapTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if slot not in plan.mapped or not _is_due(run, slot):
        return ()
    task = run.address(slot)
    if command.failure is not None:
        return (TaskFailed(claim=run.claim, task=task, attempt=0, failure=command.failure, reason="input"),)
    limit = width_max(plan, run, slot)
    if limit is not None and command.width > limit:
        return ()
    return (TaskMapped(claim=run.claim, task=task, width=command.width),)


def _reuse(plan: Plan, run: RunState, command: ReuseTask, now: int) -> tuple[Event, ...]:
    slot = command.slot
    if slot in plan.mapped or not _is_due(run, slot):
        return ()
    return (
        TaskReused(
            claim=run.claim,
            task=run.address(slot),
            result=command.result,
            source=command.source,
            why=command.why,
            parts=command.parts,
            content=command.content,
            expires_at=command.expires_at,
            saved_us=command.saved_us,
        ),
    )


def _start_run(plan: Plan, run: RunState, command: StartRun, now: int) -> tuple[Event, ...]:
    if run.phase != Phase.NEW:
        return ()
    return (
        RunStarted(
            flow=command.flow,
            parameters=command.parameters,
            durability=command.durability,
            origin=command.origin,
            labels=command.labels,
            entry=command.entry,
            why=command.why,
        ),
    )


def _claim(plan: Plan, run: RunState, command: ClaimRun, now: int) -> tuple[Event, ...]:
    if run.phase in (Phase.NEW, Phase.FINISHED):
        return ()
    return (RunClaimed(owner=command.owner, environment=command.environment, flow=command.flow),)


def _release(plan: Plan, run: RunState, command: ReleaseRun, now: int) -> tuple[Event, ...]:
    if run.phase != Phase.CLAIMED:
        return ()
    return (RunReleased(claim=run.claim, reason=command.reason),)


def _finish(plan: Plan, run: RunState, command: FinishRun, now: int) -> tuple[Event, ...]:
    if run.phase != Phase.CLAIMED or run.open:
        return ()
    failed = any(run.ends(slot)[0] for slot in plan.judged)
    outcome: Literal["success", "failed"] = "failed" if failed else "success"
    return (RunFinished(claim=run.claim, outcome=outcome, message=command.message if failed else ""),)


_DECIDERS: Final[dict[type, Callable[[Plan, RunState, Any, int], tuple[Event, ...]]]] = {
    StartTask: _start,
    SucceedTask: _succeed,
    FailTask: _fail,
    SkipTask: _skip,
    BlockTask: _block,
    MapTask: _map,
    ReuseTask: _reuse,
    AbandonTask: _abandon,
    StartRun: _start_run,
    ClaimRun: _claim,
    ReleaseRun: _release,
    FinishRun: _finish,
}
