"""Async bodies: run one inside the task of its worker, and end it by its timeout or because the run stops.

A body is cancelled as `asyncio.timeout` does it: its task is cancelled once, so the call that it awaits raises
`CancelledError` once, and its `finally: await …` and `async with` exits run to their end.  They have `CLEANUP_S`.  A
body that runs for longer, for example because it ignores the cancellation, is left behind: its attempt ends without it,
its worker no longer belongs to a run, and its outcome is ignored.

anyio's own cancellation would cancel each `await` of the cleanup again.  So no scope of the engine is around a body; its
own scopes, task groups and timeouts work as in any task.  A scope with `shield=True` does not keep a timeout out,
`asyncio.shield` does.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final

import msgspec

from eventflow.graph import TaskDef
from eventflow.ports import Body
from eventflow.runner.task_context import TaskContext
from eventflow.views.run import RunFacts

__all__ = ["CLEANUP_S", "Caller", "RunningAttempt", "TimeLimit", "run_in_context", "undo_cancellations"]

CLEANUP_S: Final = 5.0
"""Seconds that a body has for its cleanup, from the moment at which it is cancelled."""


class RunningAttempt(msgspec.Struct, gc=False):
    """One attempt under way."""

    slot: int
    body: Body
    task: TaskDef
    context: TaskContext
    facts: RunFacts
    key: str | None
    """The cache key that a success is recorded under."""
    queued_us: int
    began_us: int
    ended_us: int
    timed_out: bool = False
    """Its timeout has cancelled the body."""
    interrupted: bool = False
    """The body was cancelled because the run stops."""
    left: bool = False
    """The body was left behind."""


class Caller:
    """The task that awaits the run, to distinguish its cancellation from one that a body caused."""

    __slots__ = ("_cancellations", "_task")

    def __init__(self) -> None:
        """Remember the running task, and how often it had been cancelled before."""
        task = asyncio.current_task()
        assert task is not None, "a run is awaited in a task"
        self._task = task
        self._cancellations = task.cancelling()

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller is being cancelled, as all tasks are when their loop ends."""
        return self._task.cancelling() > self._cancellations


@types.coroutine
def run_in_context(context: Context, body: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a body in a context of its own: bodies that share a worker do not see each other's variables."""
    send, throw = body.send, body.throw
    try:
        waits_for = context.run(send, None)
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001 - the body's to handle, cancellation included
                waits_for = context.run(throw, error)
            else:
                waits_for = context.run(send, answer)
    except StopIteration as end:
        return end.value


async def undo_cancellations(worker: asyncio.Task[Any], cancellations: int, caller: Caller) -> None:
    """Undo the cancellations of a worker that came from its body or its timeout, down to so many.

    A worker runs many bodies: a cancellation that one of them asked for must hit neither the engine nor the next body.
    A cancellation of the run meanwhile is passed on.
    """
    while worker.cancelling() > cancellations:
        try:
            await asyncio.sleep(0)  # a cancellation that was asked for and not delivered yet arrives here
        except asyncio.CancelledError:
            if caller.is_cancelled:
                raise
        worker.uncancel()


class TimeLimit:
    """The timeout of one attempt: cancels the body when it is over, and leaves it behind `CLEANUP_S` later."""

    __slots__ = ("_attempt", "_handle", "_leave", "_loop", "_worker")

    def __init__(
        self,
        attempt: RunningAttempt,
        worker: asyncio.Task[Any],
        leave: Callable[[RunningAttempt, asyncio.Task[Any]], None],
    ) -> None:
        """Start the clock; `leave` is called for a body that is to be left behind."""
        self._attempt = attempt
        self._worker = worker
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(attempt.task.policy.timeout_us / 1e6, self._expire)

    def _expire(self) -> None:
        if self._attempt.interrupted:
            return
        self._attempt.timed_out = True
        self._worker.cancel()
        self._handle = self._loop.call_later(CLEANUP_S, self._abandon)

    def _abandon(self) -> None:
        if not self._attempt.left:
            self._leave(self._attempt, self._worker)

    def stop(self) -> None:
        """Stop the clock: the body has ended."""
        self._handle.cancel()
