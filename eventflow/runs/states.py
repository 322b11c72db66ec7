"""Read the states of a run's tasks from a log, now or after any of its events."""

from __future__ import annotations

from eventflow.events import run_stream
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, RunStates, view_of
from eventflow.runs.report import VersionNotFound
from eventflow.views.run import RunFacts, RunView

__all__ = ["read_states"]


async def read_states(log: EventLog, run_id: str, *, version: int | None = None) -> RunStates:
    """Read the states of a run's tasks, now or as of its event number `version`.

    The flow's code is not needed, so `.result` opens plain data only. Raises `RunNotFound`, `VersionNotFound`, and
    `LogDamaged`.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.runs.states import read_states

    @task
    def inverse(number: int) -> float:
        return 1 / number

    @flow
    def inverses(numbers: list[int]) -> list[float]:
        return inverse.map(numbers)

    log = MemoryLog()
    await inverses.options(log=log, run_id="a").run(numbers=[4, 0])
    run_states = await read_states(log, "a")
    print(run_states["inverse[0]"].result)
    print(run_states["inverse[1]"].failure.traceback.splitlines()[1].strip())
    print(type((await read_states(log, "a", version=2))["inverse"]).__name__)
    ```

    ```text
    0.25
    return 1 / number
    Pending
    ```
    """
    view: RunView | None = None
    run_fold: Fold[RunFacts] | None = None
    async for record in log.read(stream=run_stream(run_id)):
        if view is None or run_fold is None:
            view = await view_of(log, record)
            run_fold = Fold.start(view)
        run_fold.push(record)
        if record.version == version:
            break
    if view is None or run_fold is None:
        raise RunNotFound(f"there is no run {run_id!r} in this log")
    run_states = RunStates(view, run_fold.state, peek=log.peek)
    if version not in (None, run_states.version):
        raise VersionNotFound(
            f"run {run_id!r} has events 1 to {run_states.version}, and none with the number {version}"
        )
    return run_states
