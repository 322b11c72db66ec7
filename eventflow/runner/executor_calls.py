"""Calls of bodies as an executor takes them: live in this process, by reference and as bytes anywhere else.

An executor in this process is given a function that closes over the body and its live arguments.  Any other is given a
`RemoteCall`: the task's entry, its arguments as payloads, and the facts of the task context.  Both answer with an
`Outcome`; that of a remote call holds a payload in place of a value and a `Failure` in place of an exception.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from eventflow.fingerprints.content import full_name
from eventflow.graph import TaskDef
from eventflow.ports import Bindings, EventLog, Executor, Outcome, RemoteCall
from eventflow.runner.body import RunningAttempt
from eventflow.runner.failures import one_line
from eventflow.runner.task_context import current
from eventflow.serializers import Serializer

__all__ = ["ExecutorCalls", "ExecutorFailed", "check_importable"]


class ExecutorFailed(RuntimeError):
    """The executor did not take a call, or did not answer it with an outcome. Its message names the executor."""


def check_importable(executor: Executor, tasks: Iterable[TaskDef], bindings: Bindings) -> None:
    """Raise `TypeError` for a plain function that has to run in another process, which cannot import it."""
    if executor.in_process:
        return
    for task in tasks:
        body = bindings[task.name]
        if not body.is_async and not _is_importable(body.call):
            raise TypeError(
                f"task {task.name!r}: the executor {full_name(type(executor))} runs it in another process, which cannot "
                f"import {task.entry!r}: define the function at the top level of a module, under its own name"
            )


def _is_importable(function: Callable[..., Any]) -> bool:
    """Whether the name of a function leads to it or to its task; a name in `<locals>` leads nowhere."""
    named: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        named = getattr(named, part, None)
    return named is function or getattr(named, "fn", None) is function


class ExecutorCalls:
    """Submits the plain functions of one run to its executor."""

    def __init__(self, executor: Executor, log: EventLog, monotonic: Callable[[], int]) -> None:
        """Pickles among the arguments that are sent are signed with the keys of `log`."""
        self._executor = executor
        self._log = log
        self._monotonic = monotonic

    @property
    def in_process(self) -> bool:
        """Whether outcomes hold live values."""
        return self._executor.in_process

    @property
    def executor_name(self) -> str:
        """Module and name of the executor's class, for messages."""
        return full_name(type(self._executor))

    def submit(
        self, attempt: RunningAttempt, arguments: Mapping[str, Any], done: Callable[[Outcome], None]
    ) -> None:
        """Submit a body; `done` is called once, on the event loop.

        Raises the serializer's `SerializationError` if an argument has to be sent and cannot, and `ExecutorFailed` if the
        executor raises. Then `done` is not called.
        """
        call: Callable[[], Any] | RemoteCall
        if self._executor.in_process:
            call = self._live_call(attempt, arguments)
        else:
            call, done = self._remote_call(attempt, arguments), self._timed(attempt, done)
        try:
            self._executor.submit(call, done)
        except Exception as error:
            message = f"the executor {self.executor_name} did not take the call: {one_line(error)}"
            raise ExecutorFailed(message) from error

    def give_up_lane(self) -> None:
        """Give back the lane of a body that will not be submitted."""
        self._executor.give_up(1)

    def _live_call(self, attempt: RunningAttempt, arguments: Mapping[str, Any]) -> Callable[[], Any]:
        monotonic, body, context = self._monotonic, attempt.body, attempt.context

        def call() -> Any:
            current.set(context)
            attempt.began_us = monotonic()
            try:
                return body.call(**arguments)
            finally:
                attempt.ended_us = monotonic()

        return call

    def _remote_call(self, attempt: RunningAttempt, arguments: Mapping[str, Any]) -> RemoteCall:
        context, serializer = attempt.context, Serializer(keyring=self._log.keyring)
        return RemoteCall(
            entry=attempt.task.entry,
            arguments={name: serializer.serialize(value) for name, value in arguments.items()},
            run=context.run,
            task=context.task,
            attempt=context.attempt,
            started_us=attempt.facts.started_us,
        )

    def _timed(self, attempt: RunningAttempt, done: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
        """Note when a remote call ended, by the clock of this process."""

        def answer(outcome: Outcome) -> None:
            attempt.ended_us = self._monotonic()
            done(outcome)

        return answer
