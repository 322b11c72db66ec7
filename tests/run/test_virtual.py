"""The virtual clock: hours in no time, one seed one history, and no jump while a thread works."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anyio
import pytest

from eventflow.ports import BodyReturned, Outcome
from eventflow.testing import VirtualWorld, simulate, simulated

HOUR = 3600.0


def test_hours_pass_in_no_time() -> None:
    """Sleeping costs virtual time only, through asyncio and through anyio."""

    async def main(world: VirtualWorld) -> int:
        before = world.now()
        await asyncio.sleep(HOUR)
        await anyio.sleep(HOUR)
        return world.now() - before

    began = time.monotonic()
    assert simulate(main) == 2 * 3600 * 1_000_000
    assert time.monotonic() - began < 60


def test_simulated_refuses_a_test_that_it_cannot_run() -> None:
    """A plain function, and a test without `world`, are refused when they are decorated."""

    def plain(world: VirtualWorld) -> None:
        """No coroutine."""

    async def without() -> None:
        """No world."""

    function: Any = plain
    with pytest.raises(TypeError, match=r"@simulated: .*plain is not an `async def` function"):
        simulated(function)
    with pytest.raises(TypeError, match=r"@simulated: .*without has no parameter `world`: add it"):
        simulated(without)


def test_timers_fire_in_their_order() -> None:
    """Whoever sleeps less wakes first, whatever the order of starting."""

    async def main(world: VirtualWorld) -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await anyio.sleep(seconds)
            woken.append(seconds)

        async with anyio.create_task_group() as tasks:
            for seconds in (30, 10, 20):
                tasks.start_soon(sleeper, seconds)
        return woken

    assert simulate(main) == [10, 20, 30]


def test_a_deadline_is_virtual_too() -> None:
    """A scope's deadline cuts off what would take longer."""

    async def main(world: VirtualWorld) -> int:
        before = world.now()
        with anyio.move_on_after(5):
            await anyio.sleep(HOUR)
        return world.now() - before

    assert simulate(main) == 5_000_000


def test_one_seed_gives_one_history() -> None:
    """Ids and chance repeat with the seed, and differ with another one."""

    async def main(world: VirtualWorld) -> tuple[str, float]:
        return world.new_id(), world.random()

    assert simulate(main, seed=7) == simulate(main, seed=7)
    assert simulate(main, seed=7) != simulate(main, seed=8)


def test_the_clock_stands_still_while_a_thread_works() -> None:
    """A timeout never fires because a thread was slow in real time."""

    async def main(world: VirtualWorld) -> tuple[bool, int]:
        lanes = world.executor()
        done = anyio.Event()
        outcomes: list[Outcome] = []

        def hand_back(outcome: Outcome) -> None:
            outcomes.append(outcome)
            done.set()

        before = world.now()
        lanes.submit(lambda: sum(range(200_000)), hand_back)
        with anyio.move_on_after(0.001) as scope:
            await done.wait()
        lanes.close()
        assert isinstance(outcomes[0], BodyReturned)
        return scope.cancelled_caught, world.now() - before

    assert simulate(main) == (False, 0)


async def test_a_virtual_world_needs_its_loop() -> None:
    """On a real loop it is refused, with the way out."""
    with pytest.raises(TypeError, match="simulate"):
        VirtualWorld()
