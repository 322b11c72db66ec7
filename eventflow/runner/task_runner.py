"""Runs one attempt of one task: opens its inputs, calls the body, serializes its result.

Every attempt ends in one report.  The report of an async body is returned; that of a body in a thread is posted to the
inbox when it arrives, and so is that of a body which is left behind after its timeout.  Nothing that a body does ends
the run: even an exception like `SystemExit` is the failure of its task.  Only an interruption of the run passes through.
"""

from __future__ import annotations

import asyncio
import types
from contextvars import copy_context
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from eventflow.codecs.digests import digest_of
from eventflow.events import Failure
from eventflow.fingerprints.content import content_of, quick_content
from eventflow.machine.commands import AbandonTask, FailTask, SkipTask, StartTask, SucceedTask
from eventflow.ports import BodyCancelled, BodyLost, BodyRaised, BodyReturned, BodySkipped, Outcome, World
from eventflow.result import (
    Inline,
    KeyUnavailable,
    ResultSerializer,
    SerializationError,
    UnknownEncoding,
)
from eventflow.runner.body import (
    CLEANUP_S,
    Caller,
    RunningAttempt,
    TimeLimit,
    run_in_context,
    undo_cancellations,
)
from eventflow.runner.executor_calls import ExecutorCalls, ExecutorFailed
from eventflow.runner.failures import LiveErrors, failure_of, forget_frames, skip_reason, text_of
from eventflow.runner.inbox import Inbox, Report
from eventflow.runner.live_values import LiveValues
from eventflow.runner.stored_values import to_store
from eventflow.runner.task_context import Skip, TaskContext, current
from eventflow.runner.workers import Worker, Workers
from eventflow.serializers import Serializer, refuse_once
from eventflow.states import TaskError
from eventflow.views.run import RunFacts, RunView

__all__ = ["TaskRunner"]

_DELAY_MAX_US: Final = 100 * 366 * 24 * 3600 * 1_000_000
"""A hundred years: no delay is longer, whatever a callable says."""
JITTER: Final = 0.25
"""How far an exponential delay is varied, as a part of it: retries of many do not meet again."""
_PASSES_THROUGH: Final = (KeyboardInterrupt, GeneratorExit)
"""Exceptions of a user's code that are never its failure."""
Reason: TypeAlias = Literal["raised", "timed_out", "unserializable", "input"]


def _forgotten_await(value: Any) -> TypeError | None:
    """Return the error for a body that returned a coroutine instead of awaiting it; None for a value."""
    if not isinstance(value, types.CoroutineType):
        return None
    value.close()
    return TypeError(
        "the task returned a coroutine, so it has not run yet: write it as `async def` and await"
    )


def _check(payload: object, source: str) -> None:
    """Refuse a payload that cannot be stored under its digest; `source`, which made it, may return anything."""
    if (
        type(payload) is not Inline
        or type(payload.codec) is not str
        or type(payload.data) is not bytes
        or type(payload.digest) is not bytes
    ):
        text = text_of(payload, repr)[:80]
        raise TypeError(f"{source} returned {text}, not an Inline of str and bytes")
    if payload.digest != digest_of(payload.data):
        raise ValueError(f"{source} returned a payload whose digest is not the digest_of its data")


def _content(value: object, payload: Inline, serializer: ResultSerializer) -> bytes | None:
    """Return the content digest of a value, to be recorded: empty where its payload's digest is it, None if it has none.

    Only the bytes of the engine's own serializer are known to determine the value. With any other serializer the digest
    is that of the value that downstream tasks will be given.
    """
    try:
        if type(serializer) is not Serializer:
            return content_of(serializer.deserialize(payload))
        quick = quick_content(payload)
        if quick == payload.digest:
            return b""
        return quick or content_of(value)
    except _PASSES_THROUGH:
        raise
    except BaseException:  # noqa: BLE001 - it has none, or does not open: downstream tasks will report it
        return None


class TaskRunner:
    """Runs attempts of tasks of one run."""

    def __init__(
        self,
        view: RunView,
        values: LiveValues,
        world: World,
        calls: ExecutorCalls,
        workers: Workers,
        inbox: Inbox,
        caller: Caller,
        errors: LiveErrors,
    ) -> None:
        """Reports that arrive later are posted to `inbox`; live exceptions of failed tasks are kept in `errors`."""
        self._view = view
        self._values = values
        self._world = world
        self._monotonic = world.monotonic
        self._calls = calls
        self._workers = workers
        self._inbox = inbox
        self._caller = caller
        self._errors = errors

    def begin(self, facts: RunFacts, start: StartTask, queued_us: int) -> RunningAttempt:
        """Begin the attempt of a task whose start is stored."""
        run, plan, slot = facts.run, self._view.plan, start.slot
        node = slot if run.parent[slot] < 0 else run.node(slot)
        name = plan.nodes[slot].name if node == slot else run.name(plan, slot)
        context = TaskContext(self._view.run_id, name, run.attempt[slot], facts.started_us)
        body, task = self._values.body(node), plan.graph.tasks[plan.tasks[node].task]
        began_us = self._monotonic()
        return RunningAttempt(slot, body, task, context, facts, start.key, queued_us, began_us, began_us)

    async def run(self, attempt: RunningAttempt, worker: Worker) -> Report | None:
        """Open the inputs and run the body in `worker`, the task of the event loop that this is awaited in.

        Returns the report, or None if it is posted to the inbox later: for a plain function, which runs in a thread,
        and for a body that was left behind (`attempt.left`). Cancelled, it cancels the body and reports nothing, unless
        the body timed out.
        """
        body = attempt.body
        try:
            arguments = await self._values.arguments(attempt.facts, attempt.slot)
        except (*_PASSES_THROUGH, asyncio.CancelledError):
            raise
        except (KeyUnavailable, UnknownEncoding) as error:  # elsewhere it opens, and the run then continues
            self._inbox.fail(error)
            return None
        except BaseException as error:  # noqa: BLE001 - opening runs code of users: serializers, `__getitem__`
            if not body.is_async:
                self._calls.give_up_lane()
            return self._failed(attempt, error, "input")
        if body.is_async:
            return await self._call(attempt, arguments, worker)
        return self._submit(attempt, arguments)

    # -- async bodies -----------------------------------------------------------------------------

    async def _call(
        self, attempt: RunningAttempt, arguments: dict[str, Any], worker: Worker
    ) -> Report | None:
        context = copy_context()
        context.run(current.set, attempt.context)
        error: BaseException | None = None
        value: Any = None
        cancellations = worker.cancelling()
        limit = TimeLimit(attempt, worker, self._leave) if attempt.task.policy.timeout_us else None
        try:
            body = run_in_context(context, attempt.body.call(**arguments))
            value = await self._workers.run(worker, attempt, body)
        except _PASSES_THROUGH:
            raise
        except BaseException as raised:  # noqa: BLE001 - anything else that a body raises is its failure
            error = raised
        finally:
            if limit is not None:
                limit.stop()
        if attempt.left:
            return None
        if worker.cancelling() > cancellations or attempt.interrupted:
            await self._after_cancellation(attempt, worker, cancellations)
            if error is None and not attempt.timed_out:
                error = asyncio.CancelledError("the body cancelled the task it runs in")
        attempt.ended_us = self._monotonic()
        if attempt.timed_out:
            return self._failed(attempt, _too_long(attempt, error), "timed_out")
        if error is not None:
            return self._raised(attempt, error)
        return self._returned(attempt, value)

    async def _after_cancellation(self, attempt: RunningAttempt, worker: Worker, cancellations: int) -> None:
        """Undo the cancellation of a body's worker, or pass it on if the run was meant.

        A value or exception of a body that was interrupted is no outcome: the body was not allowed to finish.
        """
        if attempt.interrupted or (not attempt.timed_out and self._caller.is_cancelled):
            raise asyncio.CancelledError
        if attempt.timed_out:
            worker.uncancel()
        await undo_cancellations(worker, cancellations, self._caller)

    def _leave(self, attempt: RunningAttempt, worker: Worker) -> None:
        """Continue without a body that has not ended in time after its timeout."""
        self._workers.leave(worker)
        attempt.ended_us = self._monotonic()
        self._inbox.post(self._failed(attempt, _too_long(attempt, None), "timed_out"))

    # -- plain functions --------------------------------------------------------------------------

    def _submit(self, attempt: RunningAttempt, arguments: dict[str, Any]) -> Report | None:
        """Submit a body to the executor; returns a report only if that failed."""

        def done(outcome: Outcome) -> None:
            try:
                report = self._answered(attempt, outcome)
            except BaseException as error:  # noqa: BLE001 - the run must not wait for this report for ever
                self._inbox.fail(error)
            else:
                if report is not None:
                    self._inbox.post(report)

        try:
            self._calls.submit(attempt, arguments, done)
        except SerializationError as error:
            self._calls.give_up_lane()
            return self._failed(attempt, error, "input")
        except ExecutorFailed as error:
            self._calls.give_up_lane()
            return self._failed(attempt, error, "raised")
        return None

    def _answered(self, attempt: RunningAttempt, outcome: object) -> Report | None:
        """Report the outcome of a body that an executor ran; executors are also written by others."""
        report: Report | None
        match outcome:
            case BodyReturned(value=value) if self._calls.in_process:
                report = self._returned(attempt, value)
            case BodyReturned(value=payload):
                report = self._returned_payload(attempt, payload)
            case BodyRaised(error=Failure() as failure):
                error = TaskError(attempt.context.task, failure)
                report = self._failed(attempt, error, "raised", failure)
            case BodyRaised(error=BaseException() as error):
                report = self._raised(attempt, error)
            case BodySkipped():
                report = self._skipped(attempt, outcome)
            case BodyCancelled() if self._workers.stopping:
                report = Report(AbandonTask(attempt.slot, attempt.context.attempt, "interrupted"))
            case BodyLost() | BodyCancelled():
                report = Report(AbandonTask(attempt.slot, attempt.context.attempt, "worker_lost"))
            case _:
                answer = text_of(outcome, repr)[:80]
                message = f"the executor {self._calls.executor_name} answered {answer}, which is no outcome"
                report = self._failed(attempt, ExecutorFailed(message), "raised")
        return report

    # -- reports ----------------------------------------------------------------------------------

    def _returned(self, attempt: RunningAttempt, value: Any) -> Report | None:
        """Report a result; None when it cannot be signed now, which ends the run and not the task."""
        slot, run = attempt.slot, attempt.facts.run
        try:
            serializer = self._values.serializers.serializer_of(slot, run)
            if type(serializer) is Serializer:
                payload = serializer.serialize(value)
            else:
                refuse_once(value)
                payload = serializer.serialize(value)
                _check(payload, "the task's serializer")
        except _PASSES_THROUGH:
            raise
        except KeyUnavailable as error:
            self._inbox.fail(error)
            return None
        except BaseException as error:  # noqa: BLE001 - the serializer may be the user's own
            return self._failed(attempt, _forgotten_await(value) or error, "unserializable")
        return self._succeeded(attempt, value, payload, serializer)

    def _returned_payload(self, attempt: RunningAttempt, payload: Inline) -> Report | None:
        """Report a result that another process has serialized."""
        serializer = self._values.serializers.serializer_of(attempt.slot, attempt.facts.run)
        try:
            _check(payload, f"the executor {self._calls.executor_name}")
            value = serializer.deserialize(payload)
        except _PASSES_THROUGH:
            raise
        except KeyUnavailable as error:
            self._inbox.fail(error)
            return None
        except BaseException as error:  # noqa: BLE001 - the serializer may be the user's own
            return self._failed(attempt, error, "unserializable")
        return self._succeeded(attempt, value, payload, serializer)

    def _succeeded(
        self, attempt: RunningAttempt, value: Any, payload: Inline, serializer: ResultSerializer
    ) -> Report:
        """Keep a value for downstream tasks and report the success."""
        slot, run = attempt.slot, attempt.facts.run
        stored, stored_value = to_store(payload)
        content, counted = None, self._view.plan.counted
        if counted and run.node(slot) in counted:
            content = _content(value, payload, serializer)
        self._values.put(run, slot, value, payload, share=attempt.task.policy.share)
        began, ended = attempt.began_us, attempt.ended_us
        attempt.ended_us = self._monotonic()
        spans = (began - attempt.queued_us, ended - began, attempt.ended_us - ended)
        number = attempt.context.attempt
        return Report(SucceedTask(slot, number, stored, *spans, content, attempt.key), stored_value)

    def _raised(self, attempt: RunningAttempt, error: BaseException) -> Report:
        if issubclass(type(error), Skip):  # `isinstance` would ask the error for its class, too
            report = self._skipped(attempt, error)
            forget_frames(error)
            return report
        return self._failed(attempt, error, "raised")

    def _skipped(self, attempt: RunningAttempt, skip: BaseException | BodySkipped) -> Report:
        return Report(SkipTask(attempt.slot, skip_reason(skip), attempt.context.attempt))

    def _failed(
        self, attempt: RunningAttempt, error: BaseException, reason: Reason, failure: Failure | None = None
    ) -> Report:
        """Report a failure; `failure` describes the error if another process has described it already."""
        delay_us = 0
        try:
            delay_us = self._delay_us(attempt)
        except _PASSES_THROUGH:
            raise
        except BaseException as broken:  # noqa: BLE001 - the user's callable
            broken.__context__ = error
            error, reason, failure = broken, "input", None
        body_us = max(0, attempt.ended_us - attempt.began_us)
        if failure is None:
            failure = failure_of(error)
            self._errors.keep(attempt.slot, error)
        number = attempt.context.attempt
        return Report(FailTask(attempt.slot, number, failure, reason, delay_us, body_us))

    def _delay_us(self, attempt: RunningAttempt) -> int:
        """Return the delay before the next attempt, if there is to be one; chance is drawn here, once."""
        policy = attempt.task.policy
        failures = attempt.facts.run.failures.get(attempt.slot, 0) + 1
        if failures > policy.retries:
            return 0
        if policy.backoff == "callable":
            assert attempt.body.delay is not None, "a callable backoff has its callable in the bindings"
            delay: float | timedelta = attempt.body.delay(failures)
            if isinstance(delay, timedelta):
                delay = delay.total_seconds()
            return min(max(0, round(delay * 1e6)), _DELAY_MAX_US)
        if policy.backoff == "exponential":
            limit_us = policy.backoff_max_us or _DELAY_MAX_US
            delay_us = min(policy.retry_delay_us << min(failures - 1, 62), limit_us)
            low, high = delay_us * (1 - JITTER), min(delay_us * (1 + JITTER), limit_us)
            return round(low + (high - low) * self._world.random())
        return policy.retry_delay_us


def _too_long(attempt: RunningAttempt, raised: BaseException | None) -> TimeoutError:
    """Return the error of an attempt that timed out; `raised` is the exception of its body after the cancellation."""
    text = f"the attempt took longer than its timeout of {attempt.task.policy.timeout_us / 1e6:g} s"
    if attempt.left:
        text += f"; its body did not end within {CLEANUP_S:g} s of being cancelled, and was left behind"
    elif raised is None:
        text += "; its body returned all the same after it was cancelled, which does not count"
    error = TimeoutError(text)
    if raised is not None and not issubclass(type(raised), asyncio.CancelledError):
        error.__cause__ = raised
    return error
