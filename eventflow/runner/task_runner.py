"""Runs one attempt of one task: opens its inputs, calls the body, keeps what it returned.

Whatever happens in there becomes one command for `decide`; nothing a body does ends the run.  The one
exception is an interruption from outside, which passes through.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from eventflow.fingerprints.content import content_of, quick_content
from eventflow.machine import Command, FailTask, SkipTask, SucceedTask
from eventflow.ports import Outcome, Raised, ThreadExecutor, Value, World
from eventflow.result import Inline, KeyUnavailable, ResultSerializer
from eventflow.runner.body import CLEANUP_S, Attempt, Limit, takes_back, within
from eventflow.runner.failures import failure_of, forget_frames, skip_reason, text_of
from eventflow.runner.live_values import LiveValues, to_store
from eventflow.runner.task_context import Skip, TaskContext, current
from eventflow.runner.workers import Worker, Workers
from eventflow.serializers import Serializer, refuse_once
from eventflow.views.run import RunFacts, RunView

__all__ = ["TaskRunner"]

_DELAY_MAX_US: Final = 100 * 366 * 24 * 3600 * 1_000_000
"""A hundred years: no delay is longer, whatever a callable says."""
JITTER: Final = 0.25
"""How far an exponential delay is varied, as a part of it: retries of many do not meet again."""
_PASSES_THROUGH: Final = (KeyboardInterrupt, GeneratorExit)
"""What a user's code may raise that is never its failure."""
Reason: TypeAlias = Literal["raised", "timed_out", "unserializable", "input"]


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
        given = text_of(payload, repr)[:80]
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
    except _PASSES_THROUGH:
        raise
    except BaseException:  # noqa: BLE001 - it has none, or does not open: its consumers will say so
        return None


class TaskRunner:
    """Attempts tasks of one run and hands each outcome to `report`."""

    ERRORS_MAX: Final = 256

    def __init__(
        self,
        view: RunView,
        values: LiveValues,
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
        self._serializer_of = values.serializers.serializer_of
        self._policies = [task.policy for task in view.plan.graph.tasks]
        self._under_way: dict[Worker, Attempt] = {}
        """The async bodies that have begun and have not ended."""
        self._latest: BaseException | None = None
        """The last failure, the only one that keeps its frames."""
        self.workers: Workers
        """Where async bodies run; whoever drives the run sets it."""
        self.errors: dict[int, BaseException] = {}
        """The live exceptions of failed tasks, by slot; at most `ERRORS_MAX`, all but the last one without frames."""

    async def attempt(self, facts: RunFacts, slot: int, queued_us: int, worker: Worker) -> int | None:
        """Run the attempt that was started for a slot; a plain function goes on in its thread.

        `worker` is the task it is awaited in. Gives the moment it came back, by the world's monotonic clock, or None
        when it was left behind and the worker with it. Cancelled, it reports nothing, unless the body timed out.
        """
        run, plan = facts.run, self._plan
        node = slot if run.parent[slot] < 0 else run.node(slot)
        name = plan.nodes[slot].name if node == slot else run.name(plan, slot)
        here = TaskContext(self._view.run_id, name, run.attempt[slot], facts.started_us)
        body, policy = self._values.body(node), self._policies[plan.nodes[node].task]  # type: ignore[union-attr]
        began = self._monotonic()
        now = Attempt(slot, body, policy, here, facts, queued_us, began)
        try:
            arguments = await self._values.arguments(facts, slot)
        except (*_PASSES_THROUGH, asyncio.CancelledError):
            raise
        except KeyUnavailable as error:  # it can be put back, and the run then goes on
            self.workers.fail(error)
            return began
        except BaseException as error:  # noqa: BLE001 - opening runs what users wrote: serializers, `__getitem__`
            if not body.is_async:
                self._threads.give_up(1)
            self._fail(now, error, "input")
            return began
        if body.is_async:
            await self._call(now, arguments, worker)
            return None if now.left else now.ended_us
        self._submit(now, arguments)
        return now.ended_us

    async def _call(self, now: Attempt, arguments: dict[str, Any], worker: Worker) -> None:
        context = copy_context()
        context.run(current.set, now.here)
        error: BaseException | None = None
        value: Any = None
        asked = worker.cancelling()
        limit = Limit(now, worker, self._leave) if now.policy.timeout_us else None
        self._under_way[worker] = now
        try:
            value = await within(context, now.body.call(**arguments))
        except _PASSES_THROUGH:
            raise
        except BaseException as raised:  # noqa: BLE001 - all else a body raises is its failure, `sys.exit` too
            error = raised
        finally:
            del self._under_way[worker]
            if limit is not None:
                limit.stop()
        if now.left:
            return
        if worker.cancelling() > asked or now.interrupted:
            await self._sort_out(now, worker, asked)
            if error is None and not now.timed_out:
                error = asyncio.CancelledError("the body cancelled the task it runs in")
        now.ended_us = self._monotonic()
        if now.timed_out:
            self._fail(now, _too_long(now, error), "timed_out")
        elif error is not None:
            self._raised(now, error)
        else:
            self._returned(now, value)

    async def _sort_out(self, now: Attempt, worker: Worker, asked: int) -> None:
        """After a body whose worker was cancelled: undo that, or pass it on when the run was meant.

        What a body returns or raises after it was interrupted is no outcome: it was not let finish.
        """
        if now.interrupted or (not now.timed_out and self._is_interrupted()):
            raise asyncio.CancelledError
        if now.timed_out:
            worker.uncancel()
        await takes_back(worker, asked, self._is_interrupted)

    def cancels(self, worker: Worker) -> bool:
        """Whether a worker of a run that stops is to be cancelled; one whose body has timed out was already."""
        now = self._under_way.get(worker)
        if now is None:
            return True
        now.interrupted = not now.timed_out
        return now.interrupted

    def leave(self, workers: list[Worker]) -> list[str]:
        """Leave the bodies of these workers behind; gives the names of their tasks."""
        names = []
        for worker in workers:
            now = self._under_way.get(worker)
            if now is not None:
                now.left = True
                names.append(now.here.task)
        return names

    def _leave(self, now: Attempt, worker: Worker) -> None:
        """Go on without a body that has not ended in time after its timeout."""
        now.left = True
        self.workers.leave(worker)
        now.ended_us = self._monotonic()
        self._fail(now, _too_long(now, None), "timed_out")
        self._wake()

    def _submit(self, now: Attempt, arguments: dict[str, Any]) -> None:
        monotonic, body, here = self._monotonic, now.body, now.here

        def call() -> Any:
            current.set(here)
            now.began_us = monotonic()
            try:
                return body.call(**arguments)
            finally:
                now.ended_us = monotonic()

        def done(outcome: Outcome) -> None:
            try:
                if isinstance(outcome, Raised):
                    self._raised(now, outcome.error)
                else:
                    self._returned(now, outcome.value)
            except BaseException as error:  # noqa: BLE001 - the run must not wait for this outcome for ever
                self.workers.fail(error)
            self._wake()

        now.ended_us = now.began_us
        self._threads.submit(call, done)

    def _returned(self, now: Attempt, value: Any) -> None:
        slot, run = now.slot, now.facts.run
        try:
            serializer = self._serializer_of(slot, run)
            if type(serializer) is Serializer:
                payload = serializer.serialize(value)
            else:
                refuse_once(value)
                payload = serializer.serialize(value)
                _check(payload)
            stored, bytes_beside = to_store(payload)
        except _PASSES_THROUGH:
            raise
        except KeyUnavailable as error:
            self.workers.fail(error)
            return
        except BaseException as error:  # noqa: BLE001 - the serializer may be the user's own
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
        self._report(SucceedTask(slot, now.here.attempt, stored, *spans, content, key), bytes_beside)

    def _raised(self, now: Attempt, error: BaseException) -> None:
        if issubclass(type(error), Skip):  # `isinstance` would ask the error for its class, too
            reason = skip_reason(error)
            forget_frames(error)
            self._report(SkipTask(now.slot, reason, now.here.attempt), None)
        else:
            self._fail(now, error, "raised")

    def _fail(self, now: Attempt, error: BaseException, reason: Reason) -> None:
        delay_us = 0
        try:
            delay_us = self._delay_us(now)
        except _PASSES_THROUGH:
            raise
        except BaseException as broken:  # noqa: BLE001 - the user's callable
            broken.__context__ = error
            error, reason = broken, "input"
        body_us = max(0, now.ended_us - now.began_us)
        failure = failure_of(error)
        self._keep(now.slot, error)
        self._report(FailTask(now.slot, now.here.attempt, failure, reason, delay_us, body_us), None)

    def _keep(self, slot: int, error: BaseException) -> None:
        """Keep a live exception; the one before it lets go of its frames, which hold all that its body had."""
        if self._latest is not None and self._latest is not error:
            forget_frames(self._latest)
        self._latest = error
        if slot in self.errors or len(self.errors) < self.ERRORS_MAX:
            self.errors[slot] = error

    def _delay_us(self, now: Attempt) -> int:
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


def _too_long(now: Attempt, raised: BaseException | None) -> TimeoutError:
    """The error of an attempt whose timeout is over, `raised` being what its body raised after it was cancelled."""
    text = f"the attempt took longer than its timeout of {now.policy.timeout_us / 1e6:g} s"
    if now.left:
        text += f"; its body did not end within {CLEANUP_S:g} s of being cancelled, and was left behind"
    elif raised is None:
        text += "; its body returned all the same after it was cancelled, which does not count"
    error = TimeoutError(text)
    if raised is not None and not issubclass(type(raised), asyncio.CancelledError):
        error.__cause__ = raised
    return error
