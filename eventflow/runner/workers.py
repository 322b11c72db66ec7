"""The tasks of the event loop in which a run's async bodies run, several bodies one after another in each.

Workers grow by one, and only while there is more in the queue: a successor runs once all workers before it are
suspended.  Bodies that never suspend cost one task of the loop for all of them, others one each.

Workers are plain tasks of asyncio, and each is cancelled once at most: the cleanup of a body is not cancelled again.  A
worker whose body does not end is *left behind*: it no longer belongs to a run, and ends whenever its body does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeAlias

from eventflow.machine import StartTask
from eventflow.runner.body import RunningAttempt
from eventflow.runner.inbox import Inbox

__all__ = ["Work", "Worker", "Workers"]

Worker: TypeAlias = "asyncio.Task[None]"
Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

_left_behind: Final[set[Worker]] = set()
"""Workers left behind; the loop itself would not keep them alive."""


class Workers:
    """The workers of one run while it is owned, and the queue of tasks that they run."""

    def __init__(self, run_id: str, inbox: Inbox) -> None:
        self.run_id = run_id
        self._inbox = inbox
        self._workers: set[Worker] = set()
        self._attempts: dict[Worker, RunningAttempt] = {}
        """The async bodies that have begun and have not ended."""
        self.queue: deque[StartTask] = deque()
        """Starts that are recorded and whose bodies are to begin."""
        self.queued_us = 0
        """When the last of them were queued, by the monotonic clock."""
        self.has_successor = False
        """Whether a worker was made that has not begun: one at a time is enough."""
        self.stopping = False
        """Whether no more bodies are to begin."""

    def start(self, starts: Iterable[StartTask], now_us: int) -> None:
        """Queue tasks whose start is stored; bodies begin in this order."""
        self.queue.extend(starts)
        self.queued_us = now_us

    async def run(self, worker: Worker, attempt: RunningAttempt, body: Awaitable[Any]) -> Any:
        """Await the async body of an attempt in `worker`; until it ends, `stop` and `leave` know the attempt."""
        self._attempts[worker] = attempt
        try:
            return await body
        finally:
            del self._attempts[worker]

    def grow(self, work: Work) -> None:
        """Make a worker if there is something to do and none is about to begin."""
        if self.queue and not self.has_successor:
            self.spawn(work)

    def spawn(self, work: Work) -> None:
        """Make a worker; it begins once those before it are suspended."""
        self.has_successor = True
        worker = asyncio.get_running_loop().create_task(work())
        self._workers.add(worker)
        worker.add_done_callback(self._ended)

    def _ended(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if worker in _left_behind:
            _left_behind.discard(worker)
            if not worker.cancelled():
                worker.exception()  # retrieved, so that asyncio does not log it: the outcome is ignored
        elif not worker.cancelled():
            error = worker.exception()
            if error is not None:
                self._inbox.fail(error)
        elif not self.stopping:
            self._inbox.fail(
                RuntimeError(
                    f"a worker of run {self.run_id!r} was cancelled by code that is not the engine's"
                )
            )

    def leave(self, worker: Worker) -> None:
        """Leave behind a worker whose body does not end."""
        self._workers.discard(worker)
        _left_behind.add(worker)
        attempt = self._attempts.get(worker)
        if attempt is not None:
            attempt.left = True

    async def end(self) -> None:
        """Wait for workers that have nothing left to do."""
        running = [worker for worker in self._workers if not worker.done()]
        if running:
            await asyncio.wait(running)

    async def stop(self, seconds: float) -> list[str]:
        """Cancel all bodies, wait for them for so many seconds, and leave the rest behind.

        `stopping` is set already. Returns the names of the tasks whose bodies were left behind. A body that its timeout has cancelled already is
        not cancelled again. Cancelled, it stops waiting and leaves behind all that have not ended.
        """
        workers = tuple(self._workers)
        for worker in workers:
            attempt = self._attempts.get(worker)
            if attempt is not None:
                attempt.interrupted = not attempt.timed_out
            if attempt is None or attempt.interrupted:
                worker.cancel()
        late: list[Worker] = []
        try:
            if workers:
                await asyncio.wait(workers, timeout=seconds)
        finally:
            late += [worker for worker in workers if not worker.done()]
            for worker in late:
                self.leave(worker)
        return [self._attempts[worker].context.task for worker in late if worker in self._attempts]
