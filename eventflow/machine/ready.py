"""What a run owes next.

Reads only the queue of due tasks and the heap of timers, never the task list: O(what is owed).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

import msgspec

from eventflow.graph import Ref
from eventflow.machine.plan import Plan
from eventflow.machine.rules import Verdict, judge
from eventflow.machine.state import FAILED, Phase, RunState, Status

__all__ = ["Due", "ready"]

_PENDING: Final = int(Status.PENDING)
_RETRYING: Final = int(Status.RETRYING)


class Due(msgspec.Struct):
    """What is owed now, as slots, and when to look again."""

    start: list[int]
    map: list[int]
    skip: list[int]
    block: list[int]
    wake_at: int | None = None
    """The earliest retry, microseconds UTC; None when there is none."""
    finished: bool = False
    """Nothing is open any more: the run may end."""
    passed: int = 0
    """How much of the queue was looked at since the run began, to be given to the next call."""

    def __bool__(self) -> bool:
        return bool(self.start or self.map or self.skip or self.block)


def ready(plan: Plan, run: RunState, now: int | None, limit: int, passed: int = 0) -> Due:
    """Tell what is owed at `now`, at most `limit` starts; changes nothing.

    What is skipped or blocked here makes its consumers due in turn: ask again after folding it. A caller who keeps
    what is not started yet gives back the `passed` of the last answer, so that nothing is told twice; one who times
    the retries asks with None for `now`.
    """
    due = Due([], [], [], [])
    if run.phase != Phase.CLAIMED:
        return due
    if run.open == 0:
        due.finished = True
        return due
    status, failed, skipped = run.status, run.failed, run.skipped
    start, room = due.start, limit
    queue = run.due
    due.passed = run.due_gone + len(queue)
    for i in range(max(run.due_head, passed - run.due_gone), len(queue)):
        slot = queue[i]
        if status[slot] != _PENDING:
            continue
        if not room:
            due.passed = run.due_gone + i
            break
        if failed[slot] or skipped[slot] or plan.mapped:
            if _sort(plan, run, slot, due):
                start.append(slot)
                room -= 1
        else:
            start.append(slot)
            room -= 1
    if run.timers and now is not None:
        _timers(run, now, room, due)
    return due


def _sort(plan: Plan, run: RunState, slot: int, due: Due) -> bool:
    """Put a task where its upstreams send it; true when it is to be started."""
    parent_of_map = slot in plan.mapped
    match judge(run.failed[slot], run.skipped[slot]):
        case Verdict.SKIP:
            due.skip.append(slot)
        case Verdict.BLOCK if not parent_of_map or _barren(plan, run, slot):
            due.block.append(slot)
        case _ if parent_of_map:
            due.map.append(slot)
        case _:
            return True
    return False


def _barren(plan: Plan, run: RunState, slot: int) -> bool:
    """Whether what a task is mapped over failed, so that it can have no children to answer for it."""
    over = (item.arg for item in plan.tasks[slot].inputs if item.each)
    return any(isinstance(arg, Ref) and run.status[arg.node] in FAILED for arg in over)


def _timers(run: RunState, now: int, room: int, due: Due) -> None:
    """Add the retries whose moment has come, earliest first, visiting no more of the heap than that.

    When there is no room left nobody need wake up: whoever makes room asks again.
    """
    heap = run.timers
    nearest = [(heap[0], 0)]
    while nearest and room:
        (at, slot), i = heappop(nearest)
        if at > now:
            due.wake_at = at
            return
        if run.retry_at.get(slot) == at and run.status[slot] == _RETRYING:
            due.start.append(slot)
            room -= 1
        for below in (2 * i + 1, 2 * i + 2):
            if below < len(heap):
                heappush(nearest, (heap[below], below))
