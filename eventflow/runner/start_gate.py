"""The gate that starts pass: a recorded start means that the body begins next.

Three deaths of the process in a row during an attempt end its task as `Crashed`, so an attempt that never had a thread
must not be recorded as started.  A plain function is started once a thread was claimed for it.  An async body needs no
thread, yet one that does not await keeps those after it from beginning.  So the tasks whose process has died before are
started one at a time, each once the queue is empty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from eventflow.machine import Plan, ReuseTask, RunState, StartTask
from eventflow.ports import Executor
from eventflow.runner.inbox import Inbox

__all__ = ["StartGate"]


class StartGate:
    """Starts of one run that are due and wait until their body can begin."""

    def __init__(self, plan: Plan, executor: Executor, needs_thread: list[bool], inbox: Inbox) -> None:
        """`needs_thread` says it of the body of each node; `inbox` learns when one is free."""
        self._plan = plan
        self._executor = executor
        self._needs_thread = needs_thread
        self._uses_threads = True in needs_thread
        self._inbox = inbox
        if self._uses_threads:
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
        if not self._uses_threads and not run.crashes:
            return commands
        admitted: list[StartTask | ReuseTask] = []
        plain: list[StartTask] = []
        for command in commands:
            slot = command.slot
            if type(command) is not StartTask:
                admitted.append(command)
            elif self._needs_thread[slot if run.parent[slot] < 0 else run.node(slot)]:
                plain.append(command)
            elif slot in run.crashes:
                self._suspects.append(command)
            else:
                admitted.append(command)
        if plain:
            free = 0 if self._for_thread else self._claim(len(plain))
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
        return [self._suspects.popleft()] if self._suspects else []

    def give_back(self, run: RunState, command: StartTask) -> None:
        """Give back the thread of a start that did not apply."""
        if self._needs_thread[run.node(command.slot)]:
            self._executor.give_up(1)

    def _claim(self, wanted: int) -> int:
        return self._executor.claim(wanted, self._inbox.request_round)
