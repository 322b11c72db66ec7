"""Timers of retries, by elapsed time.

The log records when a retry is due, in UTC, for people and for other processes.  The process that saw the failure waits
for the delay by its monotonic clock, so setting the machine's clock moves nothing.  After a resume only the log is
left: then the retry waits for the rest of the delay by the clock, and at most for the whole delay.
"""

from __future__ import annotations

from heapq import heappop, heappush

from eventflow.machine import RunState
from eventflow.ports import World
from eventflow.views.run import RunFacts

__all__ = ["RetryTimers"]


class RetryTimers:
    """The retries of one run that are not due yet."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._timers: list[tuple[int, int, int]] = []
        """Heap of (moment by the monotonic clock, slot, attempt that failed)."""

    @property
    def wake_at(self) -> int | None:
        """When the next retry is due, by the monotonic clock; None when there is none."""
        if not self._timers:
            return None
        return self._timers[0][0]

    def restore(self, facts: RunFacts) -> None:
        """Continue from facts that were folded from the log; timers that run already are kept."""
        run, known = facts.run, {(slot, attempt): at for at, slot, attempt in self._timers}
        self._timers = []
        if not run.retry_at:
            return
        now, monotonic = self._world.now(), self._world.monotonic()
        for slot, retry_at in run.retry_at.items():
            left = min(max(0, retry_at - now), facts.retrying[slot].delay_us)
            at = known.get((slot, run.attempt[slot]), monotonic + left)
            heappush(self._timers, (at, slot, run.attempt[slot]))

    def add(self, run: RunState, slot: int, delay_us: int) -> None:
        """Start the timer of a task that has just failed."""
        heappush(self._timers, (self._world.monotonic() + delay_us, slot, run.attempt[slot]))

    def due(self, run: RunState, room: int) -> list[int]:
        """Take up to `room` slots whose retries are due."""
        timers = self._timers
        slots: list[int] = []
        if not timers:
            return slots
        monotonic = self._world.monotonic()
        while timers and timers[0][0] <= monotonic and len(slots) < room:
            _, slot, attempt = heappop(timers)
            if slot in run.retry_at and run.attempt[slot] == attempt:
                slots.append(slot)
        return slots
