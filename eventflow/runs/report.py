"""Read the report of a run from a log: the states and timings of its tasks after any of its events, and the events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from eventflow.events import run_stream
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, RunReport, Timeline, run_report, view_of
from eventflow.runs.moment import read_moment
from eventflow.views.event_report import EventReport, event_report
from eventflow.views.run import RunView

__all__ = ["read_events", "read_report"]


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
    timeline = Fold.start(Timeline())
    moment = await read_moment(log, run_id, version=version, timeline=timeline)
    report = run_report(moment.view, moment.facts, timeline.state, is_stopped=moment.is_stopped)
    return replace(report, head=moment.head)


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
