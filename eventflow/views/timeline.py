"""When each task of a run started and ended, attempt by attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from eventflow.events import (
    Address,
    Record,
    RunFinished,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
)

__all__ = ["Attempt", "TaskLine", "Timeline", "TimelineState"]


class Attempt(msgspec.Struct, array_like=True):
    """One bar of a timeline; moments in microseconds UTC, by the clock of the run's owner."""

    attempt: int
    """0 for a task that ended without running."""
    started_us: int
    ended_us: int | None = None
    """None while it runs."""
    outcome: str = "running"
    """`running`, `succeeded`, `failed`, `retrying` (failed, another attempt follows), `abandoned`,
    `reused`, `skipped` or `blocked`."""


class TaskLine(msgspec.Struct, array_like=True):
    """All attempts of one task, oldest first."""

    task: Address
    attempts: list[Attempt] = []
    width: int | None = None
    """Number of its children, once a mapped task has them."""


class TimelineState(msgspec.Struct):
    """The attempts of one run's tasks, and the moments of the run's start and end."""

    started_us: int | None = None
    ended_us: int | None = None
    tasks: dict[str, TaskLine] = {}
    """By address as text (`4`, or `4.0.2` for a child), in the order of their first event."""

    def line(self, *address: int) -> TaskLine | None:
        """Return the line of the task at an address; None before its first event."""
        return self.tasks.get(_text(address))


class Timeline:
    """When each task of one run ran, waited and ended; to be folded over that run's stream.

    ```python
    from eventflow import MemoryLog, Timeline, flow, replay, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    fold = await replay(log, Timeline(), stream="run/a")
    for line in fold.state.tasks.values():
        print(line.task, [(attempt.attempt, attempt.outcome) for attempt in line.attempts])

    timeline = Timeline().initial()
    async for record in log.read(stream="run/a"):
        timeline = Timeline().apply(timeline, record)
    print(timeline == fold.state)
    ```

    ```text
    (1,) [(1, 'succeeded')]
    True
    ```
    """

    name = "timeline"
    version = 1

    def initial(self) -> TimelineState:
        """Return a timeline without tasks."""
        return TimelineState()

    def apply(self, state: TimelineState, record: Record) -> TimelineState:
        """Fold one record, by the kind of its event; other kinds change nothing."""
        event = record.event
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            address = event.task  # type: ignore[union-attr]  # every kind in the table has one
            text = _text(address)
            line = state.tasks.get(text)
            if line is None:
                line = state.tasks[text] = TaskLine(address)
            handler(line, record.at, event)
        elif isinstance(event, RunStarted):
            state.started_us = record.at
        elif isinstance(event, RunFinished):
            state.ended_us = record.at
        return state


def _text(address: Address) -> str:
    return ".".join(map(str, address))


def _started(line: TaskLine, at: int, event: TaskStarted) -> None:
    line.attempts.append(Attempt(event.attempt, at))


def _mapped(line: TaskLine, _at: int, event: TaskMapped) -> None:
    line.width = event.width


def _ended(outcome: str) -> Callable[[TaskLine, int, Any], None]:
    def end(line: TaskLine, at: int, event: Any) -> None:
        if not line.attempts or line.attempts[-1].ended_us is not None:
            line.attempts.append(Attempt(0, at))
        last = line.attempts[-1]
        last.ended_us = at
        will_retry = isinstance(event, TaskFailed) and event.retry_at is not None
        last.outcome = "retrying" if will_retry else outcome

    return end


_HANDLERS: Final[Mapping[type, Callable[[TaskLine, int, Any], None]]] = {
    TaskStarted: _started,
    TaskSucceeded: _ended("succeeded"),
    TaskFailed: _ended("failed"),
    TaskAbandoned: _ended("abandoned"),
    TaskReused: _ended("reused"),
    TaskSkipped: _ended("skipped"),
    TaskBlocked: _ended("blocked"),
    TaskMapped: _mapped,
}
