"""Runs one attempt of one task: opens its inputs, calls the body, keeps what it returned.

Whatever happens in there becomes one command for `decide`; nothing a body does ends the run.  The one
exception is an interruption from outside, which passes through.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Final

import anyio

from eventflow.context import Skip as SkipSignal
from eventflow.context import TaskContext, current
from eventflow.graph import Policy
from eventflow.machine import Command, Fail, Skip, Succeed
from eventflow.ports import Body, Outcome, Raised, ThreadExecutor, Value, World
from eventflow.result import ResultError, SerializationError
from eventflow.runner.failures import failure_of
from eventflow.runner.values import Values, to_store
from eventflow.runview import RunFacts, RunView

__all__ = ["TaskRunner"]

_NEVER: Final = math.inf


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


class TaskRunner:
    """Attempts tasks of one run and hands each outcome to `report`."""

    def __init__(
        self,
        view: RunView,
        values: Values,
        world: World,
        threads: ThreadExecutor,
        report: Callable[[Command, Value | None], None],
    ) -> None:
        self._view = view
        self._plan = view.plan
        self._values = values
        self._world = world
        self._threads = threads
        self._report = report
        self.errors: dict[int, BaseException] = {}
        """The live exceptions of failed tasks, by slot; at most `ERRORS_MAX`, for they hold frames."""

    ERRORS_MAX: Final = 256

    async def attempt(self, facts: RunFacts, slot: int, queued_us: int) -> None:
        """Run the attempt that was started for a slot; a plain function goes on in its thread.

        Cancelled, it cancels the body and reports nothing.
        """
        run = facts.run
        node = slot if run.parent[slot] < 0 else run.node(slot)
        body = self._values.body(node)
        number = run.attempt[slot]
        try:
            arguments = await self._values.arguments(facts, slot)
        except (ResultError, LookupError, TypeError, ValueError) as error:
            self._fail(slot, node, number, error, "input", 0)
            return
        here = TaskContext(self._view.run_id, run.name(self._plan, slot), number, facts.started_us)
        began = self._world.monotonic()
        if body.is_async:
            await self._call(facts, body, slot, node, arguments, here, queued_us, began)
        else:
            self._submit(facts, body, slot, node, arguments, here, queued_us)

    async def _call(
        self,
        facts: RunFacts,
        body: Body,
        slot: int,
        node: int,
        arguments: dict[str, Any],
        here: TaskContext,
        queued_us: int,
        began: int,
    ) -> None:
        limit_us = self._policy(node).timeout_us
        deadline = anyio.current_time() + limit_us / 1e6 if limit_us else _NEVER
        context = copy_context()
        context.run(current.set, here)
        error: BaseException | None = None
        value: Any = None
        with anyio.CancelScope(deadline=deadline) as scope:
            try:
                value = await _within(context, body.call(**arguments))
            except anyio.get_cancelled_exc_class() as cancelled:
                if scope.cancel_called or anyio.current_effective_deadline() == -math.inf:
                    raise
                error = cancelled  # raised by the body itself, though nobody cancelled it
            except Exception as raised:  # noqa: BLE001 - all that a body raises is its failure
                error = raised
        ended = self._world.monotonic()
        if scope.cancelled_caught:
            error = TimeoutError(f"the attempt took longer than its timeout of {limit_us / 1e6:g} s")
            self._fail(slot, node, here.attempt, error, "timed_out", ended - began)
        elif error is not None:
            self._raised(slot, node, here.attempt, error, ended - began)
        else:
            self._returned(facts, slot, node, here.attempt, value, (began - queued_us, ended - began))

    def _submit(
        self,
        facts: RunFacts,
        body: Body,
        slot: int,
        node: int,
        arguments: dict[str, Any],
        here: TaskContext,
        queued_us: int,
    ) -> None:
        monotonic = self._world.monotonic
        times = [queued_us, queued_us]

        def call() -> Any:
            current.set(here)
            times[0] = monotonic()
            try:
                return body.call(**arguments)
            finally:
                times[1] = monotonic()

        def done(outcome: Outcome) -> None:
            began, ended = times
            if isinstance(outcome, Raised):
                self._raised(slot, node, here.attempt, outcome.error, ended - began)
            else:
                spans = (began - queued_us, ended - began)
                self._returned(facts, slot, node, here.attempt, outcome.value, spans)

        self._threads.submit(call, done)

    def _returned(
        self,
        facts: RunFacts,
        slot: int,
        node: int,
        attempt: int,
        value: Any,
        spans: tuple[int, int],
    ) -> None:
        ended = self._world.monotonic()
        try:
            payload = self._view.serializer_of(slot, facts.run).serialize(value)
        except SerializationError as error:
            self._fail(slot, node, attempt, error, "unserializable", spans[1])
            return
        stored, bytes_beside = to_store(payload)
        self._values.put(facts.run, slot, value, payload, share=self._policy(node).share)
        encode_us = self._world.monotonic() - ended
        self._report(Succeed(slot, attempt, stored, spans[0], spans[1], encode_us), bytes_beside)

    def _raised(self, slot: int, node: int, attempt: int, error: BaseException, body_us: int) -> None:
        if isinstance(error, SkipSignal):
            self._report(Skip(slot, error.reason or "its body said so", attempt), None)
        else:
            self._fail(slot, node, attempt, error, "raised", body_us)

    def _fail(
        self, slot: int, node: int, attempt: int, error: BaseException, reason: Any, body_us: int
    ) -> None:
        delay_us = 0
        try:
            delay_us = self._delay_us(node, attempt)
        except Exception as broken:  # noqa: BLE001 - the user's callable
            broken.__context__ = error
            error, reason = broken, "input"
        if len(self.errors) < self.ERRORS_MAX:
            self.errors[slot] = error
        self._report(Fail(slot, attempt, failure_of(error), reason, delay_us, body_us), None)

    def _delay_us(self, node: int, attempt: int) -> int:
        """How long to wait before the attempt after this one; chance is thrown here, once."""
        policy = self._policy(node)
        if not policy.retries:
            return 0
        if policy.backoff == "callable":
            delay = self._values.body(node).delay
            assert delay is not None, "a callable backoff has its callable in the bindings"
            return max(0, round(delay(attempt) * 1e6))
        if policy.backoff == "exponential":
            grown: int = policy.retry_delay_us << min(attempt - 1, 62)
            ceiling = min(grown, policy.backoff_max_us) if policy.backoff_max_us else grown
            return round(ceiling * self._world.random())  # full jitter: retries of many do not meet again
        return policy.retry_delay_us

    def _policy(self, node: int) -> Policy:
        return self._plan.graph.task_of(node).policy
