"""Runs one attempt of one task: opens its inputs, calls the body, keeps what it returned.

Whatever happens in there becomes one command for `decide`; nothing a body does ends the run.  The one
exception is an interruption from outside, which passes through.
"""

from __future__ import annotations

import asyncio
import math
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

import anyio
import msgspec

from eventflow.context import Skip as SkipSignal
from eventflow.context import TaskContext, current
from eventflow.graph import Policy
from eventflow.machine import Command, Fail, Skip, Succeed
from eventflow.ports import Body, Outcome, Raised, ThreadExecutor, Value, World
from eventflow.result import Inline, KeyUnavailable, ResultSerializer
from eventflow.runfacts import RunFacts
from eventflow.runner.failures import failure_of, text_of
from eventflow.runner.values import Values, to_store
from eventflow.runview import RunView
from eventflow.serializers import Serializer
from eventflow.serializers.canonical import content_of, quick_content

__all__ = ["TaskRunner"]

_NEVER: Final = math.inf
_DELAY_MAX_US: Final = 100 * 366 * 24 * 3600 * 1_000_000
"""A hundred years: no delay is longer, whatever a callable says."""
JITTER: Final = 0.25
"""How far an exponential delay is varied, as a part of it: retries of many do not meet again."""
Reason: TypeAlias = Literal["raised", "timed_out", "unserializable", "input"]


@types.coroutine
def _within(context: Context, body: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
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


async def _takes_back(worker: asyncio.Task[Any], asked: int) -> bool:
    """Undo a cancellation of the worker that came from its body; false when it comes from outside.

    A worker runs many bodies: what one of them asks for must not hit the engine, or the next.
    """
    if anyio.current_effective_deadline() == -math.inf:
        return False
    while worker.cancelling() > asked:
        try:
            await asyncio.sleep(0)  # what was asked for arrives here
        except asyncio.CancelledError:
            if anyio.current_effective_deadline() == -math.inf:
                raise  # meanwhile the run is interrupted, which would be asked for again and again
        worker.uncancel()
    return True


def _forgotten_await(value: Any) -> TypeError | None:
    """The error for a body that returned a coroutine, which is a call that nobody made; None for a value."""
    if not isinstance(value, types.CoroutineType):
        return None
    value.close()
    return TypeError(
        "the task returned a coroutine, so it has not run yet: write it as `async def` and await"
    )


def _check(payload: object) -> None:
    """Refuse a payload that cannot be encoded; a user's serializer may give anything."""
    if (
        type(payload) is not Inline
        or type(payload.codec) is not str
        or type(payload.data) is not bytes
        or type(payload.digest) is not bytes
    ):
        given = text_of(repr(payload))[:80]
        raise TypeError(f"the task's serializer gave {given}, not an Inline of str and bytes")


def _content(value: object, payload: Inline, serializer: ResultSerializer) -> bytes | None:
    """What a value is, to be recorded: empty where its digest says it, None where nothing can.

    Only of the engine's own serializer is it known what its bytes say; of any other, what consumers will be given.
    """
    is_own = type(serializer) is Serializer
    quick = quick_content(payload) if is_own else None
    if quick == payload.digest:
        return b""
    try:
        return quick or content_of(value if is_own else serializer.deserialize(payload))
    except Exception:  # noqa: BLE001 - it has none, or does not open: its consumers will say so
        return None


class _Attempt(msgspec.Struct, gc=False):
    """One attempt under way."""

    slot: int
    body: Body
    policy: Policy
    here: TaskContext
    facts: RunFacts
    queued_us: int
    began_us: int
    ended_us: int = 0


class TaskRunner:
    """Attempts tasks of one run and hands each outcome to `report`."""

    ERRORS_MAX: Final = 256

    def __init__(
        self,
        view: RunView,
        values: Values,
        world: World,
        threads: ThreadExecutor,
        report: Callable[[Command, Value | None], None],
        wake: Callable[[], None],
        is_interrupted: Callable[[], bool],
        keys: dict[int, str],
    ) -> None:
        """Report to `report`; call `wake` after a report that does not come out of `attempt`.

        `keys` are those under which successes are found again, by slot.

        `is_interrupted` tells a cancellation of the run from one that a body brought upon its worker.
        """
        self._view = view
        self._plan = view.plan
        self._values = values
        self._monotonic = world.monotonic
        self._random = world.random
        self._threads = threads
        self._report = report
        self._wake = wake
        self._is_interrupted = is_interrupted
        self._keys = keys
        self._policies = [task.policy for task in view.plan.graph.tasks]
        self.errors: dict[int, BaseException] = {}
        """The live exceptions of failed tasks, by slot; at most `ERRORS_MAX`, for they hold frames."""
        self.trouble: Exception | None = None
        """What keeps the run, not a task of it, from going on."""

    async def attempt(self, facts: RunFacts, slot: int, queued_us: int, worker: asyncio.Task[Any]) -> int:
        """Run the attempt that was started for a slot; a plain function goes on in its thread.

        `worker` is the task it is awaited in. Gives the moment it came back, by the world's monotonic clock.
        Cancelled, it cancels the body and
        reports nothing.
        """
        run, plan = facts.run, self._plan
        node = slot if run.parent[slot] < 0 else run.node(slot)
        name = plan.nodes[slot].name if node == slot else run.name(plan, slot)
        here = TaskContext(self._view.run_id, name, run.attempt[slot], facts.started_us)
        body, policy = self._values.body(node), self._policies[plan.nodes[node].task]  # type: ignore[union-attr]
        began = self._monotonic()
        now = _Attempt(slot, body, policy, here, facts, queued_us, began)
        try:
            arguments = await self._values.arguments(facts, slot)
        except KeyUnavailable as error:
            self._stop(error)
            return began
        except Exception as error:  # noqa: BLE001 - opening runs what users wrote: serializers, `__getitem__`
            self._fail(now, error, "input")
            return began
        if body.is_async:
            await self._call(now, arguments, worker)
        else:
            self._submit(now, arguments)
        return now.ended_us

    async def _call(self, now: _Attempt, arguments: dict[str, Any], worker: asyncio.Task[Any]) -> None:
        limit_us = now.policy.timeout_us
        context = copy_context()
        context.run(current.set, now.here)
        error: BaseException | None = None
        value: Any = None
        asked = worker.cancelling()
        with anyio.CancelScope(
            deadline=anyio.current_time() + limit_us / 1e6 if limit_us else _NEVER
        ) as scope:
            try:
                value = await _within(context, now.body.call(**arguments))
            except anyio.get_cancelled_exc_class() as cancelled:
                outside = anyio.current_effective_deadline() == -math.inf or self._is_interrupted()
                if scope.cancel_called or outside:
                    raise
                error = cancelled  # raised by the body itself, though nobody cancelled it
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as raised:  # noqa: BLE001 - all else a body raises is its failure, `sys.exit` too
                error = raised
        if worker.cancelling() > asked and not self._is_interrupted() and await _takes_back(worker, asked):
            error = error or asyncio.CancelledError("the body cancelled the task it runs in")
        now.ended_us = self._monotonic()
        if scope.cancelled_caught:
            error = TimeoutError(f"the attempt took longer than its timeout of {limit_us / 1e6:g} s")
            self._fail(now, error, "timed_out")
        elif error is not None:
            self._raised(now, error)
        else:
            self._returned(now, value)

    def _submit(self, now: _Attempt, arguments: dict[str, Any]) -> None:
        monotonic, body, here = self._monotonic, now.body, now.here

        def call() -> Any:
            current.set(here)
            now.began_us = monotonic()
            try:
                return body.call(**arguments)
            finally:
                now.ended_us = monotonic()

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Raised):
                self._raised(now, outcome.error)
            else:
                self._returned(now, outcome.value)
            self._wake()

        now.ended_us = now.began_us
        self._threads.submit(call, done)

    def _returned(self, now: _Attempt, value: Any) -> None:
        slot, run = now.slot, now.facts.run
        try:
            serializer = self._view.serializer_of(slot, run)
            payload = serializer.serialize(value)
            if type(serializer) is not Serializer:
                _check(payload)
            stored, bytes_beside = to_store(payload)
        except KeyUnavailable as error:
            self._stop(error)
            return
        except Exception as error:  # noqa: BLE001 - the serializer may be the user's own
            self._fail(now, _forgotten_await(value) or error, "unserializable")
            return
        content = None
        if self._plan.counted and run.node(slot) in self._plan.counted:
            content = _content(value, payload, serializer)
        self._values.put(run, slot, value, payload, share=now.policy.share)
        began, ended = now.began_us, now.ended_us
        now.ended_us = self._monotonic()
        spans = (began - now.queued_us, ended - began, now.ended_us - ended)
        key = self._keys.pop(slot, None) if self._keys else None
        self._report(Succeed(slot, now.here.attempt, stored, *spans, content, key), bytes_beside)

    def _stop(self, error: Exception) -> None:
        """End the run's execution, not the task: what is missing can be put back, and the run then goes on."""
        self.trouble = self.trouble or error
        self._wake()

    def _raised(self, now: _Attempt, error: BaseException) -> None:
        if isinstance(error, SkipSignal):
            reason = text_of(getattr(error, "reason", "") or "its body said so")
            self._report(Skip(now.slot, reason, now.here.attempt), None)
        else:
            self._fail(now, error, "raised")

    def _fail(self, now: _Attempt, error: BaseException, reason: Reason) -> None:
        delay_us = 0
        try:
            delay_us = self._delay_us(now)
        except Exception as broken:  # noqa: BLE001 - the user's callable
            broken.__context__ = error
            error, reason = broken, "input"
        if len(self.errors) < self.ERRORS_MAX:
            self.errors[now.slot] = error
        body_us = max(0, now.ended_us - now.began_us)
        command = Fail(now.slot, now.here.attempt, failure_of(error), reason, delay_us, body_us)
        self._report(command, None)

    def _delay_us(self, now: _Attempt) -> int:
        """How long to wait before the next attempt, if there is to be one; chance is thrown here, once."""
        policy = now.policy
        failures = now.facts.run.failures.get(now.slot, 0) + 1
        if failures > policy.retries:
            return 0
        if policy.backoff == "callable":
            assert now.body.delay is not None, "a callable backoff has its callable in the bindings"
            said: float | timedelta = now.body.delay(failures)
            seconds = said.total_seconds() if isinstance(said, timedelta) else said
            return min(max(0, round(seconds * 1e6)), _DELAY_MAX_US)
        if policy.backoff == "exponential":
            limit_us = policy.backoff_max_us or _DELAY_MAX_US
            delay_us = min(policy.retry_delay_us << min(failures - 1, 62), limit_us)
            low, high = delay_us * (1 - JITTER), min(delay_us * (1 + JITTER), limit_us)
            return round(low + (high - low) * self._random())
        return policy.retry_delay_us
