"""Reading a run back from its log, for the cases of parity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eventflow import Flow, MemoryLog, RunStates, State, open_run, replay
from eventflow.events import kind_of

T = TypeVar("T")

RUN = "r"
"""The id of the runs that are read back."""


def flow_of(build: Callable[[], Any]) -> Flow[..., Any]:
    """A flow of the tasks that are called."""
    with Flow("f") as found:
        build()
    return found


async def kinds(log: MemoryLog, run: str = RUN) -> list[str]:
    """The kinds of a run's events, in order."""
    return [kind_of(record.event) async for record in log.read(stream=f"run/{run}")]


async def events(log: MemoryLog, kind: type[T], run: str = RUN) -> list[T]:
    """The events of one kind in a run, in order."""
    return [record.event async for record in log.read(stream=f"run/{run}") if isinstance(record.event, kind)]


async def history(log: MemoryLog, task: str, run: str = RUN) -> list[State]:
    """A task's state after each event of its run, without repetitions."""
    view = await open_run(log, run)
    found: list[State] = []
    async for record in log.read(stream=view.stream):
        fold = await replay(log, view, stream=view.stream, until=record.position)
        state = RunStates(view, fold.state, peek=log.peek)[task]
        if state not in found[-1:]:
            found.append(state)
    return found


def opened(state: Any) -> dict[str, Any]:
    """The values among a state's cached inputs."""
    return {name: result.deserialize().value for name, result in state.cached_inputs.items()}
