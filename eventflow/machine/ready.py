"""Find the tasks of a run that are due.

Only the queue of due tasks and the heap of timers are read, never the list of all tasks, so the work is O(due).
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

import msgspec

from eventflow.machine.plan import Plan
from eventflow.machine.state import Phase, RunState, Status
from eventflow.machine.triggers import Verdict, failed_map_input, judge

__all__ = ["Due", "ready"]

_PENDING: Final = int(Status.PENDING)
_RETRYING: Final = int(Status.RETRYING)
_CLAIMED: Final = Phase.CLAIMED


class Due(msgspec.Struct, gc=False):
    """The slots that are due, by what must be done with them, and when to ask again."""

    start: list[int]
    map: list[int]
    skip: list[int]
    block: list[int]
    wake_at: int | None = None
    """Moment of the earliest retry, microseconds UTC; None if there is none."""
    finished: bool = False
    """All tasks have finished, so the run may end."""
    cursor: int = 0
    """How far the queue was read, counted from the begin of the run; the next call starts there."""

    def __bool__(self) -> bool:
        return bool(self.start or self.map or self.skip or self.block)


def ready(plan: Plan, run: RunState, now: int | None, limit: int, cursor: int = 0) -> Due:
    """Return the tasks that are due at `now`, with at most `limit` to start. Changes nothing.

    If a task is skipped or blocked, tasks downstream become due in turn, so ask again after folding those events. A
    caller that keeps tasks to start later passes the `cursor` of its last answer, so that no task is returned twice. A
    caller that times the retries itself passes None for `now`.
    """
    due = Due([], [], [], [])
    if run.phase is not _CLAIMED:
        return due
    if run.open == 0:
        due.finished = True
        return due
    room = _read_queue(plan, run, limit, cursor, due)
    if run.timers and now is not None:
        _read_timers(run, now, room, due)
    return due


def _read_queue(plan: Plan, run: RunState, limit: int, cursor: int, due: Due) -> int:
    """Add the tasks of the queue from the cursor on; returns how many more may start."""
    status, failed, skipped = run.status, run.failed, run.skipped
    queue, start, room = run.due, due.start, limit
    due.cursor = run.due_gone + len(queue)
    for i in range(max(run.due_head, cursor - run.due_gone), len(queue)):
        slot = queue[i]
        if status[slot] != _PENDING:
            continue
        if not room:
            due.cursor = run.due_gone + i
            break
        has_plain_upstreams = not (failed[slot] or skipped[slot] or plan.mapped)
        if has_plain_upstreams or _may_start(plan, run, slot, due):
            start.append(slot)
            room -= 1
    return room


def _may_start(plan: Plan, run: RunState, slot: int, due: Due) -> bool:
    """Return whether a task may start; if not, add it where its upstreams send it."""
    verdict = judge(run.failed[slot], run.skipped[slot])
    is_mapped = slot in plan.mapped
    if verdict is Verdict.SKIP:
        due.skip.append(slot)
    elif is_mapped and failed_map_input(plan, run, slot) is None:
        due.map.append(slot)  # also if another upstream failed: that blocks each child
    elif verdict is Verdict.BLOCK:
        due.block.append(slot)
    else:
        return True
    return False


def _read_timers(run: RunState, now: int, room: int, due: Due) -> None:
    """Add the retries whose moment has come, earliest first; reads no more of the heap than that.

    If the limit is reached, no wake-up is scheduled: the next finished task asks again.
    """
    heap = run.timers
    earliest = [(heap[0], 0)]
    while earliest and room:
        (at, slot), i = heappop(earliest)
        if at > now:
            due.wake_at = at
            return
        if run.retry_at.get(slot) == at and run.status[slot] == _RETRYING:
            due.start.append(slot)
            room -= 1
        for child in (2 * i + 1, 2 * i + 2):
            if child < len(heap):
                heappush(earliest, (heap[child], child))
