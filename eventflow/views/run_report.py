"""Joins the states of a run's tasks with their timings: one row for each task, as a screen shows a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from eventflow.machine import FAILED, FINISHED, Phase
from eventflow.states import Failed
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_states import STATES, RunStates
from eventflow.views.timeline import TaskLine, TimelineState

__all__ = ["MapReport", "RunReport", "TaskReport", "run_report"]

MapOutcome: TypeAlias = Literal["Pending", "Running", "Failed", "Success"]

_STATUSES: Final = {
    Phase.NEW: "started",
    Phase.STARTED: "started",
    Phase.CLAIMED: "running",
    Phase.RELEASED: "released",
}
"""The status of a run that has not finished; a finished one has its outcome."""


class MapReport(msgspec.Struct, frozen=True):
    """The children of a mapped task, all together."""

    outcome: MapOutcome
    """`Running` until the last child has finished, or `Pending` in a stopped run; then `Failed` if any child failed, else
    `Success`."""
    states: Mapping[str, int]
    """Name of a state class → the number of children in that state."""
    failures: Mapping[str, str]
    """Name of each failed child → its message."""


class TaskReport(msgspec.Struct, frozen=True):
    """One task node: its state and the time of its last attempt."""

    name: str
    state: str
    """The name of its class in `eventflow.states`; `Mapped` as soon as a mapped task has its children."""
    message: str
    """The failure, of a task that failed; that its attempt was interrupted, in a stopped run; otherwise empty."""
    attempt: int
    """The number of the last attempt; 0 for a task that has not run."""
    elapsed_us: int | None
    """The duration of the last attempt in microseconds; None before it has ended."""
    children: MapReport | None = None
    """Of a mapped task that has its children."""


class RunReport(msgspec.Struct, frozen=True):
    """One run after one of its events."""

    run: str
    flow: str
    """The flow's name."""
    status: str
    """In one of the words of `eventflow.runs.find.status_of`."""
    message: str
    version: int
    """The version of the last event that is shown."""
    head: int
    """The version of the run's last event when it was read."""
    tasks: tuple[TaskReport, ...]
    """In the order of the flow's nodes."""


def run_report(
    view: RunView, facts: RunFacts, timeline: TimelineState, *, is_stopped: bool = False
) -> RunReport:
    """Join the facts of a run, as `view` has folded them, with its timeline; both folded up to the same event.

    No value is opened, and of the children of mapped tasks only the states of those that failed are built. The events
    do not contain whether the owner lives: `is_stopped` says that it has ended without releasing the run. See
    `eventflow.runs.report.read_report`, which asks.

    ```python
    from eventflow import MemoryLog, Timeline, flow, open_run, replay, run_report, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    view = await open_run(log, "a")
    facts = (await replay(log, view, stream=view.stream)).state
    timeline = (await replay(log, Timeline(), stream=view.stream)).state
    report = run_report(view, facts, timeline)
    print(report.flow, report.status)
    print([(row.name, row.state, row.attempt) for row in report.tasks])
    print(report.tasks[0].elapsed_us >= 0)
    ```

    ```text
    doubled success
    [('double', 'Success', 1)]
    True
    ```
    """
    run_states, run = RunStates(view, facts, is_stopped=is_stopped), facts.run
    tasks = [
        _task_report(run_states, node, task.name, timeline.line(node))
        for node, task in view.plan.tasks.items()
    ]
    return RunReport(
        run=view.run_id,
        flow=view.plan.graph.name,
        status="stopped" if is_stopped else _STATUSES.get(run.phase, run.outcome),
        message=run_states.state.message,
        version=run.version,
        head=run.version,
        tasks=tuple(tasks),
    )


def _task_report(run_states: RunStates, node: int, name: str, line: TaskLine | None) -> TaskReport:
    kind, message = "Mapped", ""
    children = _map_report(run_states, node, name)
    if children is None:  # the state of a map would build the states of all its children
        state = run_states.at(node)  # by slot, since a log from elsewhere may contain any names
        kind = type(state).__name__
        if isinstance(state, Failed):
            message = state.message
    attempt, elapsed_us = 0, None
    if line is not None and line.attempts:
        last = line.attempts[-1]
        attempt = last.attempt
        if last.ended_us is not None:
            elapsed_us = last.ended_us - last.started_us
        elif run_states.is_stopped and kind == "Pending":
            message = f"attempt {attempt} was interrupted"
    return TaskReport(name, kind, message, attempt, elapsed_us, children)


def _map_report(run_states: RunStates, node: int, name: str) -> MapReport | None:
    statuses = run_states.statuses_below(node)
    if statuses is None:
        return None
    counts = Counter(statuses)
    failed: list[int] = []
    if not FAILED.isdisjoint(counts):
        failed = [nth for nth, status in enumerate(statuses) if status in FAILED]
    outcome: MapOutcome = "Success"
    if not FINISHED.issuperset(counts):
        outcome = "Pending" if run_states.is_stopped else "Running"
    elif failed:
        outcome = "Failed"
    return MapReport(
        outcome=outcome,
        states={STATES[status].__name__: count for status, count in counts.items()},
        failures={f"{name}[{nth}]": run_states[(node, nth)].message for nth in failed},
    )
