"""What is due and may not start yet: retries before their moment, and bodies that could not begin at once.

**Retries** wait by elapsed time.  The log says when a retry is to be, in UTC, for people and for other processes; a
process that has seen the failure waits for the delay by its monotonic clock, so that setting the machine's clock
moves nothing.  After a resume only the log is there: then it is what is left by the clock, and at most the whole delay.

**A recorded start means that the body begins next.**  Three deaths of the process in a row during an attempt end its
task as `Crashed`, so an attempt that never had a thread must not have been recorded.  A plain function is started
when a thread was claimed for it.  An async body needs no thread, yet one that does not await keeps those after it
from beginning; so those whose process has died before are started one at a time, each once the queue is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from eventflow.machine import Plan, ReuseTask, RunState, StartTask
from eventflow.ports import ThreadExecutor
from eventflow.views.run import RunFacts

__all__ = ["Waiting"]


class Waiting:
    """Tasks of one run that wait, for a moment or for a free thread."""

    def __init__(
        self, plan: Plan, threads: ThreadExecutor, is_plain: list[bool], on_free: Callable[[], object]
    ) -> None:
        """`is_plain` says of each node whether its body needs a thread; `on_free` is called when one is free."""
        self._plan = plan
        self._threads = threads
        self._is_plain = is_plain
        self._needs_threads = True in is_plain
        self._on_free = on_free
        self._for_thread: deque[StartTask] = deque()
        self._one_by_one: deque[StartTask] = deque()
        self._timers: list[tuple[int, int, int]] = []
        """Heap of (moment by the monotonic clock, slot, attempt that failed)."""
        self.passed = 0
        """How much of the run's queue was taken up, see `ready`."""

    @property
    def wake_at(self) -> int | None:
        """When the next retry is due, by the monotonic clock; None when there is none."""
        return self._timers[0][0] if self._timers else None

    @property
    def has_suspects(self) -> bool:
        """Whether bodies wait for those before them to begin."""
        return bool(self._one_by_one)

    def recount(self, facts: RunFacts, now: int, monotonic: int) -> None:
        """Go on from facts that were folded from the log, at `now` UTC; timers that run already are kept."""
        run = facts.run
        known = {(slot, attempt): at for at, slot, attempt in self._timers}
        self._for_thread.clear()
        self._one_by_one.clear()
        self._timers = []
        self.passed = 0
        for slot, retry_at in run.retry_at.items():
            left = min(max(0, retry_at - now), facts.retrying[slot].delay_us)
            at = known.get((slot, run.attempt[slot]), monotonic + left)
            heappush(self._timers, (at, slot, run.attempt[slot]))

    def failed(self, run: RunState, slot: int, at: int) -> None:
        """A retry of the task in a slot is due at a moment of the monotonic clock."""
        heappush(self._timers, (at, slot, run.attempt[slot]))

    def retries(self, run: RunState, monotonic: int, room: int) -> list[int]:
        """Take up to `room` slots whose retries are due."""
        timers = self._timers
        due: list[int] = []
        while timers and timers[0][0] <= monotonic and len(due) < room:
            _, slot, attempt = heappop(timers)
            if slot in run.retry_at and run.attempt[slot] == attempt:
                due.append(slot)
        return due

    def admit(self, run: RunState, asked: Iterable[StartTask | ReuseTask]) -> list[StartTask | ReuseTask]:
        """Those commands that may be decided on now; the others wait here."""
        if not self._needs_threads and not run.crashes:
            return list(asked)
        admitted: list[StartTask | ReuseTask] = []
        plain: list[StartTask] = []
        for command in asked:
            slot = command.slot
            if type(command) is not StartTask:
                admitted.append(command)
            elif self._is_plain[slot if run.parent[slot] < 0 else run.node(slot)]:
                plain.append(command)
            elif slot in run.crashes:
                self._one_by_one.append(command)
            else:
                admitted.append(command)
        if plain:
            free = 0 if self._for_thread else self._threads.claim(len(plain), self._on_free)
            admitted += plain[:free]
            self._for_thread.extend(plain[free:])
        return admitted

    def freed(self, room: int) -> list[StartTask]:
        """Take up to `room` starts for which there are threads now."""
        waiting = self._for_thread
        if not waiting:
            return []
        free = self._threads.claim(len(waiting), self._on_free)
        if free > room:
            self._threads.give_up(free - room)
        return [waiting.popleft() for _ in range(min(free, room))]

    def suspect(self) -> list[StartTask]:
        """Take the next one of those that begin one at a time."""
        return [self._one_by_one.popleft()] if self._one_by_one else []

    def is_plain(self, run: RunState, slot: int) -> bool:
        """Whether the body of the task in a slot needs a thread."""
        return self._is_plain[run.node(slot)]
