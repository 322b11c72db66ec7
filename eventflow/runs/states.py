"""Read the states of a run's tasks from a log, now or after any of its events."""

from __future__ import annotations

from eventflow.ports import EventLog
from eventflow.projections import RunStates
from eventflow.runs.moment import read_moment

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
    moment = await read_moment(log, run_id, version=version)
    return RunStates(moment.view, moment.facts, peek=log.peek, is_stopped=moment.is_stopped)
