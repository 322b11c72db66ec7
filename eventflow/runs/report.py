"""Read the report of a run from a log: the states and timings of its tasks after any of its events."""

from __future__ import annotations

from eventflow.events import run_stream
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, RunReport, Timeline, begin, run_report, view_of

__all__ = ["VersionNotFound", "read_report"]


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
        print(version, report.state, [(task.name, task.state) for task in report.tasks])
    ```

    ```text
    3 Running [('hello', 'Running')]
    5 Success [('hello', 'Success')]
    ```

    The flow's code is not needed, and no value is opened. Each record of the run is read once; the snapshot that the
    runner kept is used if it is not newer than `version`. Raises `RunNotFound`, `VersionNotFound`, and `LogDamaged`.
    """
    stream = run_stream(run_id)
    head = await log.head(stream)
    shown = head if version is None else version
    if head and not 1 <= shown <= head:
        raise VersionNotFound(f"run {run_id!r} has events 1 to {head}, and none with the number {version}")
    timeline = Fold.start(Timeline())
    view, facts = None, None
    async for record in log.read(stream=stream):
        if view is None or facts is None:
            view = await view_of(log, record)
            facts = await begin(log, view)
            if facts.state.run.version > shown:
                facts = Fold.start(view)
        timeline.push(record)
        if record.position > facts.position:
            facts.push(record)
        if record.version == shown:
            return run_report(view, facts.state, timeline.state)
    raise RunNotFound(f"there is no run {run_id!r} in this log")
