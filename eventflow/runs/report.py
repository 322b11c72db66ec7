"""Read the report of a run from a log: the states and timings of its tasks after any of its events, and the events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from eventflow.events import run_stream
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, RunReport, Timeline, latest_fold, run_report, view_of
from eventflow.views.event_report import EventReport, event_report
from eventflow.views.run import RunFacts, RunView

__all__ = ["VersionNotFound", "read_events", "read_report"]


class VersionNotFound(LookupError):
    """A run has no event with the given number."""


async def read_report(log: EventLog, run_id: str, *, version: int | None = None) -> RunReport:
    """Read the report of a run, now or as of its event number `version`.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.runs.report import read_report

    @task
    async def hello() -> str:
        return "hello"

    @flow
    def greet() -> str:
        return hello()

    log = MemoryLog()
    await greet.options(log=log, run_id="first").run()
    for version in (3, 5):
        report = await read_report(log, "first", version=version)
        print(version, report.status, [(task.name, task.state) for task in report.tasks])
    ```

    ```text
    3 running [('hello', 'Running')]
    5 success [('hello', 'Success')]
    ```

    The flow's code is not needed, and no value is opened. Each record of the run is read once; the snapshot that the
    runner kept is used if it is not newer than `version`. The report of now says `stopped` for a run whose owner has
    ended without releasing it. Raises `RunNotFound`, `VersionNotFound`, and `LogDamaged`.
    """
    stream = run_stream(run_id)
    head = await log.head(stream)
    shown = head if version is None else version
    if head and not 1 <= shown <= head:
        raise VersionNotFound(f"run {run_id!r} has events 1 to {head}, and none with the number {version}")
    timeline = Fold.start(Timeline())
    view, run_fold = None, None
    async for record in log.read(stream=stream):
        if view is None or run_fold is None:
            view = await view_of(log, record)
            run_fold = await _start(log, view, shown)
        timeline.push(record)
        if record.position > run_fold.position:
            run_fold.push(record)
        if record.version == shown:
            report = replace(run_report(view, run_fold.state, timeline.state), head=head)
            return await _with_liveness(log, report)
    raise RunNotFound(f"there is no run {run_id!r} in this log")


async def _start(log: EventLog, view: RunView, version: int) -> Fold[RunFacts]:
    """Return the log's snapshot of a run, or the fold of no records if there is none up to this version."""
    snapshot = await latest_fold(log, view)
    return snapshot if snapshot.state.run.version <= version else Fold.start(view)


async def _with_liveness(log: EventLog, report: RunReport) -> RunReport:
    """Return the report as it is, or as that of a stopped run if it is of now and no process owns the run."""
    if report.status != "running" or report.version != report.head or await log.is_live(report.run):
        return report
    if (
        await log.head(run_stream(report.run)) != report.head
    ):  # the run went on, and has perhaps finished since
        return report
    return replace(report, status="stopped", message="its owner has ended without releasing it")


async def read_events(log: EventLog, run_id: str) -> AsyncIterator[EventReport]:
    """Yield a report of each event of a run, in order. Raises `RunNotFound`, and `LogDamaged`.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.runs.report import read_events

    @task
    async def hello() -> str:
        return "hello"

    @flow
    def greet() -> str:
        return hello()

    log = MemoryLog()
    await greet.options(log=log, run_id="first").run()
    print([event.kind async for event in read_events(log, "first")])
    ```

    ```text
    ['run_started', 'run_claimed', 'task_started', 'task_succeeded', 'run_finished']
    ```
    """
    view: RunView | None = None
    async for record in log.read(stream=run_stream(run_id)):
        if view is None:
            view = await view_of(log, record)
        yield event_report(view.plan.graph, record)
    if view is None:
        raise RunNotFound(f"there is no run {run_id!r} in this log")
