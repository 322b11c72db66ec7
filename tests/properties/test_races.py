"""Two runners on one run, with nothing but the log's versions between them, never contradict each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from hypothesis import given
from hypothesis import strategies as st

from eventflow import MemoryLog, RunStates, State, open_run, replay
from eventflow.events import RunClaimed
from eventflow.testing.virtual import VirtualWorld, simulate
from tests.properties.flows import (
    Journal,
    Sketch,
    Step,
    expected,
    outcomes_of,
    run_sketch,
    seen,
    sketches,
    succeeded_in,
)


class OpenHouse(MemoryLog):
    """A log whose holds keep nobody out: whoever asks is told that nobody else runs the run."""

    @asynccontextmanager
    async def hold(self, run: str) -> AsyncIterator[bool]:
        """Always granted."""
        yield True


@given(
    sketches(), st.lists(st.sampled_from([0, 0, 1, 2, 4, 9, 31]), min_size=1, max_size=2), st.integers(0, 99)
)
def test_racing_runners_never_contradict(sketch: Sketch, delays_ms: list[int], seed: int) -> None:
    """Every runner gives the expected State, the log folds, and no task succeeds twice in it."""

    async def main(world: VirtualWorld) -> None:
        log = OpenHouse()
        states: list[State] = []
        journal = Journal()  # of the outer world: a flaky body gets better, whoever runs it

        async def runner(delay_ms: int) -> None:
            await anyio.sleep(delay_ms / 1000)
            states.append(await run_sketch(sketch, journal, log, world))

        async with anyio.create_task_group() as tasks:
            for delay_ms in [0, *delays_ms]:
                tasks.start_soon(runner, delay_ms)
        assert len(states) == 1 + len(delays_ms)
        for state in states:
            assert seen(sketch, state) == expected(sketch)
        await succeeded_in(log)
        view = await open_run(log, "r")
        fold = await replay(log, view, stream=view.stream)  # raises IllegalEvent on a contradiction
        assert outcomes_of(sketch, RunStates(view, fold.state, peek=log.peek)) == outcomes_of(
            sketch, states[0].result
        )

    simulate(main, seed=seed)


def test_the_race_is_a_race() -> None:
    """A runner that comes while another works takes the run from it: the property above is about something."""
    sketch = Sketch((Step((), delay_ms=30), Step((), delay_ms=5)))

    async def main(world: VirtualWorld) -> int:
        log = OpenHouse()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_sketch, sketch, Journal(), log, world)
            await anyio.sleep(0.01)
            await run_sketch(sketch, Journal(), log, world)
        return sum([isinstance(record.event, RunClaimed) async for record in log.read(stream="run/r")])

    assert simulate(main) > 1
