"""Runs plain functions in a few persistent threads, and hands their outcomes back in batches.

A hop to a fresh worker thread and back costs about 100 µs; a *lane* costs a fifth of that under load: a
finished body's outcome is put on a list, and the event loop is woken only when no wake-up is under way.
Async bodies need none of this, the runner calls them in its own loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeAlias

from eventflow.ports import Outcome, Raised, Returned, World

__all__ = ["Lanes"]

Done: TypeAlias = Callable[[Outcome], None]
Job: TypeAlias = tuple[Context, Callable[[], Any], Done]


class Lanes:
    """A `ThreadExecutor` of at most `limit` threads, made as they are needed, kept until `close`.

    The threads are daemons: a body that never ends does not keep the process from ending. Use it in one
    event loop only.
    """

    def __init__(self, world: World, limit: int = 32) -> None:
        """Make an executor for the running event loop; `limit` bodies run at once, the rest wait."""
        self._loop = asyncio.get_running_loop()
        self._world = world
        self._limit = limit
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lanes = 0
        self._unfinished = 0
        self._outside: Any = None
        self._lock = Lock()
        self._finished: deque[tuple[Done, Outcome]] = deque()
        self._waking = False
        self._closed = False
        self.wake_ups = 0
        """How often the event loop was woken: at most once for each outcome, far less under load."""

    @property
    def unfinished(self) -> int:
        """Bodies submitted and not yet handed back."""
        return self._unfinished

    def submit(self, call: Callable[[], Any], done: Callable[[Outcome], None]) -> None:
        """Run `call` in a lane, in a copy of the caller's context variables, then `done` on the loop."""
        if self._closed:
            raise RuntimeError("the executor is closed")
        if self._lanes < self._limit and self._lanes <= self._unfinished:
            Thread(target=self._work, name=f"eventflow-lane-{self._lanes + 1}", daemon=True).start()
            self._lanes += 1
        if not self._unfinished:
            self._outside = self._world.outside()
            self._outside.__enter__()
        self._unfinished += 1
        self._jobs.put((copy_context(), call, done))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            context, call, done = job
            outcome: Outcome
            try:
                outcome = Returned(context.run(call))
            except BaseException as error:  # noqa: BLE001 - every way to end is an outcome
                outcome = Raised(error)
            del job, context, call  # an idle lane keeps nothing alive
            self._give_back(done, outcome)
            del done, outcome

    def _give_back(self, done: Done, outcome: Outcome) -> None:
        with self._lock:
            self._finished.append((done, outcome))
            if self._waking:
                return
            self._waking = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is gone, and with it everyone who waited
            self._closed = True

    def _wake(self) -> None:
        self.wake_ups += 1
        with self._lock:
            self._waking = False
            batch, self._finished = self._finished, deque()
        if self._closed:
            return  # nobody waits for them any more
        self._count_down(len(batch))
        for done, outcome in batch:
            done(outcome)

    def drop_queued(self) -> None:
        """Forget the calls that no lane has begun; nobody is told of them."""
        try:
            while self._unfinished:
                self._jobs.get_nowait()
                self._count_down(1)
        except Empty:
            pass

    def _count_down(self, count: int) -> None:
        self._unfinished -= count
        if not self._unfinished:
            self._outside.__exit__(None, None, None)

    def close(self) -> None:
        """Let idle lanes end; what is queued is dropped, running bodies are handed to nobody."""
        if self._closed:
            return
        self.drop_queued()
        self._closed = True
        for _ in range(self._lanes):
            self._jobs.put(None)
        if self._unfinished:
            self._outside.__exit__(None, None, None)
            self._unfinished = 0
