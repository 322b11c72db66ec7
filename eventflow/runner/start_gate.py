"""The gate that starts pass: a recorded start means that the body begins next.

Three deaths of the process in a row during an attempt end its task as `Crashed`, so an attempt that never had a thread
must not be recorded as started.  A plain function is started once a thread was claimed for it.  An async body needs no
thread, yet one that does not await keeps those after it from beginning.  So the tasks whose process has died before are
started one at a time, each once the queue is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from eventflow.machine import ReuseTask, RunState, StartTask
from eventflow.ports import Executor
from eventflow.runner.inbox import Inbox
from eventflow.runner.live_values import LiveValues

__all__ = ["StartGate"]


class StartGate:
    """Starts of one run that are due and wait until their body can begin."""

    def __init__(self, executor: Executor, values: LiveValues, inbox: Inbox) -> None:
        """`values` has the bodies, some of which may need threads; `inbox` learns when a thread is free."""
        self._executor = executor
        self._values = values
        self._inbox = inbox
        self._needs_threads = values.needs_threads
        if self._needs_threads:
            self._claim(0)  # an executor that cannot be used raises here, before anything is appended
        self._for_thread: deque[StartTask] = deque()
        self._suspects: deque[StartTask] = deque()
        """Tasks whose process has died before, which wait for their turn."""

    @property
    def has_suspects(self) -> bool:
        """Whether starts wait until the queue of bodies is empty."""
        return bool(self._suspects)

    def clear(self) -> None:
        """Forget the starts that wait: the run is folded again, and they are due again."""
        self._for_thread.clear()
        self._suspects.clear()

    def admit(
        self, run: RunState, commands: Iterable[StartTask | ReuseTask]
    ) -> Iterable[StartTask | ReuseTask]:
        """Return the commands that may be decided on now; the others wait here."""
        if not self._needs_threads and not run.crashes:
            return commands
        admitted: list[StartTask | ReuseTask] = []
        plain: list[StartTask] = []
        for command in commands:
            slot = command.slot
            if type(command) is not StartTask:
                admitted.append(command)
            elif not self._values.body(run.node(slot)).is_async:
                plain.append(command)
            elif slot in run.crashes:
                self._suspects.append(command)
            else:
                admitted.append(command)
        if plain:
            free = 0
            if not self._for_thread:  # those that wait come first
                free = self._claim(len(plain))
            admitted += plain[:free]
            self._for_thread.extend(plain[free:])
        return admitted

    def take_freed(self, room: int) -> list[StartTask]:
        """Take up to `room` starts for which there are threads now."""
        waiting = self._for_thread
        if not waiting:
            return []
        free = self._claim(len(waiting))
        if free > room:
            self._executor.give_up(free - room)
        return [waiting.popleft() for _ in range(min(free, room))]

    def take_suspect(self) -> list[StartTask]:
        """Take the next of those that begin one at a time."""
        if not self._suspects:
            return []
        return [self._suspects.popleft()]

    def give_back(self, run: RunState, command: StartTask) -> None:
        """Give back the thread of a start that did not apply."""
        if not self._values.body(run.node(command.slot)).is_async:
            self._executor.give_up(1)

    def _claim(self, wanted: int) -> int:
        return self._executor.claim(wanted, self._inbox.request_round)
