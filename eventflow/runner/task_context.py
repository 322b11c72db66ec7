"""The context of a task's body: the facts of its run, and the exception that skips its task.

A body is plain code: it takes values and returns one.  Anything else that it can ask or do is here.

    from eventflow import context

    @task
    async def charge(order: Order) -> Receipt:
        context.logger.info("attempt %d", context.attempt)
        return await bank.charge(order, key=context.idempotency_key)
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

__all__ = ["NoContext", "Skip", "TaskContext", "context", "current"]


class Skip(Exception):
    """Raise in a body to end its task as skipped: it had nothing to do, which is a success.

    All its downstream tasks are skipped, too.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class NoContext(LookupError, AttributeError):
    """The context was asked for something outside a task's body."""


class TaskContext:
    """The facts about one attempt of one task."""

    def __init__(self, run: str, task: str, attempt: int, started_us: int) -> None:
        self.run = run
        """The run's id."""
        self.task = task
        """The task's name, e.g. `enrich[3]`."""
        self.attempt = attempt
        """1 for the first attempt; every start counts, also after a crash."""
        self._started_us = started_us
        self.outer: TaskContext | None = current.get(None)
        """That of the body which called the run, if one did."""

    @property
    def idempotency_key(self) -> str:
        """Stable over attempts, resumes and processes: run and task, with its index.

        Hand it to the outside system that must not act twice.
        """
        return f"{self.run}/{self.task}"

    @property
    def date(self) -> datetime:
        """When the run started, UTC: the same in every attempt and after a crash."""
        return datetime.fromtimestamp(self._started_us / 1e6, UTC)

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the task's node; each record has `run`, `task` and `attempt`.

        The children of a mapped task share one: `logging` keeps every logger for ever.
        """
        extra = {"run": self.run, "task": self.task, "attempt": self.attempt}
        node = self.task.partition("[")[0]
        return logging.LoggerAdapter(logging.getLogger(f"eventflow.task.{node}"), extra)


current: Final[ContextVar[TaskContext]] = ContextVar("eventflow-task")
"""Set by the runner around each body."""


class _Context:
    """A proxy of the `TaskContext` of the running body."""

    def __getattr__(self, name: str) -> Any:
        try:
            running = current.get()
        except LookupError:
            raise NoContext(f"context.{name}: there is no context outside a task's body") from None
        return getattr(running, name)

    def __repr__(self) -> str:
        running = current.get(None)
        return f"<context of {running.idempotency_key}>" if running else "<context outside a task>"


context: Final[TaskContext] = _Context()  # type: ignore[assignment]  # it is a proxy of one
"""The running task's context: `run`, `task`, `attempt`, `idempotency_key`, `date`, `logger`.

Outside a body each attribute raises `NoContext`.
"""
