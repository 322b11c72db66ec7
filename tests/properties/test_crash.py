"""Kill it anywhere, run it again: the end is the same, and finished work is never done twice."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import MemoryLog, RunStates, open_run, replay
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulate
from tests.properties.flows import (
    Journal,
    Sketch,
    expected,
    outcomes_of,
    run_sketch,
    seen,
    sketches,
    succeeded_in,
)


@given(sketches(), st.integers(0, 99))
def test_a_run_comes_to_what_the_interpreter_says(sketch: Sketch, seed: int) -> None:
    """Whatever the flow and the interleaving: statuses, values and the run's outcome are as worked out."""

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        journal = Journal()
        state = await run_sketch(sketch, journal, log, world)
        assert seen(sketch, state) == expected(sketch)
        view = await open_run(log, "r")
        fold = await replay(log, view, stream=view.stream)
        assert outcomes_of(sketch, RunStates(view, fold.state, peek=log.peek)) == outcomes_of(
            sketch, state.result
        )
        again = Journal()
        assert seen(sketch, await run_sketch(sketch, again, log, world)) == expected(sketch)
        assert not again.started

    simulate(main, seed=seed)


async def _die_and_resume(
    sketch: Sketch, world: VirtualWorld, crash_at: int, when: Literal["before", "after"]
) -> bool:
    """One death and one resumption; gives whether the run died at all."""
    inside = MemoryLog()
    journal = Journal()
    try:
        await run_sketch(sketch, journal, CrashingLog(inside, crash_at=crash_at, when=when), world)
    except Crash:
        pass
    else:
        return False
    finished, starts = await succeeded_in(inside)
    assert sum(journal.started.values()) <= starts, "a body ran whose start is not in the log"
    names = [f"s{number}" for number in range(len(sketch.steps))]
    later = Journal(journal.started.copy())
    state = await run_sketch(sketch, later, inside, world)
    assert seen(sketch, state) == expected(sketch)
    for node, *path in finished:  # node 0 is the parameter
        name = names[node - 1] + "".join(f"[{index}]" for index in path)
        assert later.started[name] == journal.started[name], f"{name} had succeeded and ran again"
    await succeeded_in(inside)
    return True


@pytest.mark.parametrize("when", ["before", "after"])
@given(sketches(max_steps=5), st.integers(0, 99))
def test_a_crash_at_any_append_changes_nothing(
    when: Literal["before", "after"], sketch: Sketch, seed: int
) -> None:
    """A death at every append, before it is stored or before it is acknowledged: resumed, the end is equal."""

    async def main(world: VirtualWorld) -> None:
        crash_at = 1
        while await _die_and_resume(sketch, world, crash_at, when):
            crash_at += 1

    simulate(main, seed=seed)


@given(sketches(max_steps=5), st.lists(st.integers(1, 4), min_size=1, max_size=2))
def test_crash_upon_crash(sketch: Sketch, deaths: list[int]) -> None:
    """A resumed run may die as well, and its successor too."""

    async def main(world: VirtualWorld) -> None:
        log, journal = MemoryLog(), Journal()
        for crash_at in deaths:
            try:
                await run_sketch(sketch, journal, CrashingLog(log, crash_at=crash_at, when="after"), world)
            except Crash:
                continue
        assert seen(sketch, await run_sketch(sketch, journal, log, world)) == expected(sketch)
        await succeeded_in(log)

    simulate(main)
