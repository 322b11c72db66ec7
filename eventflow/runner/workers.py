"""The tasks of the event loop in which a run's async bodies run, several bodies one after another in each.

They are plain tasks of asyncio, and each is cancelled once at most: what a body awaits in its cleanup is not cancelled
again.  A worker whose body does not end is *left behind*: it belongs to no run any more, and ends whenever its body does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

__all__ = ["Worker", "Workers"]

Worker: TypeAlias = "asyncio.Task[None]"

_left: Final[set[Worker]] = set()
"""Workers left behind; the loop itself would not keep them alive."""


class Workers:
    """The workers of one run, while it is owned."""

    def __init__(
        self, run_id: str, work: Callable[[], Coroutine[Any, Any, None]], wake: Callable[[], None]
    ) -> None:
        """Workers of that run do `work`; `wake` is called when one has failed."""
        self._run_id = run_id
        self._work = work
        self._wake = wake
        self._tasks: set[Worker] = set()
        self.successor = False
        """Whether a worker was made that has not begun: one at a time is enough."""
        self.stopping = False
        """Whether no more is to be begun."""
        self.failure: BaseException | None = None
        """What ended a worker; the run cannot go on after it."""

    def spawn(self) -> None:
        """Make a worker, which begins once those before it are suspended."""
        self.successor = True
        worker = asyncio.get_running_loop().create_task(self._work())
        self._tasks.add(worker)
        worker.add_done_callback(self._ended)

    def fail(self, error: BaseException) -> None:
        """End the run with an error that is no body's."""
        if self.failure is None:
            self.failure = error
        self._wake()

    def _ended(self, worker: Worker) -> None:
        self._tasks.discard(worker)
        if worker in _left:
            _left.discard(worker)
            if not worker.cancelled():
                worker.exception()  # seen, and of no interest
        elif not worker.cancelled():
            error = worker.exception()
            if error is not None:
                self.fail(error)
        elif not self.stopping:
            self.fail(
                RuntimeError(
                    f"a worker of run {self._run_id!r} was cancelled by code that is not the engine's"
                )
            )

    def leave(self, worker: Worker) -> None:
        """Let a worker go whose body does not end."""
        self._tasks.discard(worker)
        _left.add(worker)

    async def end(self) -> None:
        """Wait for workers that have nothing left to do."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def stop(self, cancel: Callable[[Worker], bool], seconds: float) -> list[Worker]:
        """Cancel the workers for which `cancel` says so, wait for all of them, and leave the rest behind.

        Gives those that were left behind. Cancelled, it waits no longer.
        """
        self.stopping = True
        tasks = tuple(self._tasks)
        for worker in tasks:
            if cancel(worker):
                worker.cancel()
        late: list[Worker] = []
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=seconds)
        finally:
            late += [worker for worker in tasks if not worker.done()]
            for worker in late:
                self.leave(worker)
        return late
