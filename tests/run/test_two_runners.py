"""Two calls of one run: one works, the other follows, and takes over if the first dies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from eventflow import Flow, MemoryLog, RunNotFinished, State, flow, task
from eventflow.events import RunClaimed
from eventflow.states import Running
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated


def chain(ran: Counter[str]) -> Flow[..., Any]:
    """Three tasks in a row, five seconds each."""

    @task(version="1")
    async def link(number: int) -> int:
        ran[f"after {number}"] += 1
        await anyio.sleep(5)
        return number + 1

    with Flow("chain") as flow:
        link(link(link(0)))
    return flow


async def claims(log: MemoryLog) -> int:
    """How often run `r` was claimed."""
    return sum([isinstance(record.event, RunClaimed) async for record in log.read(stream="run/r")])


@simulated
async def test_the_second_follows_the_first(world: VirtualWorld) -> None:
    """Both get the same State, every body runs once, and the run is claimed once."""
    ran: Counter[str] = Counter()
    states: list[State] = []

    log = MemoryLog()

    async def runner(handle: MemoryLog) -> None:
        states.append(await chain(ran).options(log=handle, world=world, run_id="r").run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner, log)
        await anyio.sleep(1)
        tasks.start_soon(runner, log.reopen())
    assert dict(states[0].result.items()) == dict(states[1].result.items())
    assert states[1].result["link-3"].result == 3
    assert set(ran.values()) == {1}
    assert await claims(log) == 1
    assert world.monotonic() == 15_000_000


@simulated
async def test_wait_false_tells_what_is_known(world: VirtualWorld) -> None:
    """Of a run that is live elsewhere it gives the State as it is, at once; and there is no value yet."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    async with anyio.create_task_group() as tasks:

        async def runner() -> None:
            await chain(ran).options(log=log, world=world, run_id="r").run()

        tasks.start_soon(runner)
        await anyio.sleep(7)
        looking = chain(ran).options(log=log, world=world, run_id="r", wait=False)
        state = await looking.run()
        assert world.monotonic() == 7_000_000
        assert type(state) is Running
        assert state.result["link"].is_successful()
        assert state.result["link-2"].is_running()
        assert state.result["link-3"].is_pending()


@simulated
async def test_wait_false_has_no_value_of_an_unfinished_run(world: VirtualWorld) -> None:
    """`.value()` of a run that is not over says so."""

    @task(version="1")
    async def slow() -> int:
        await anyio.sleep(9)
        return 1

    @flow
    def slowly() -> int:
        return slow()

    log = MemoryLog()
    async with anyio.create_task_group() as tasks:

        async def runner() -> None:
            await slowly.options(log=log, world=world, run_id="r").run()

        tasks.start_soon(runner)
        await anyio.sleep(1)
        with pytest.raises(RunNotFinished):
            await slowly.options(log=log, world=world, run_id="r", wait=False).value()


@pytest.mark.parametrize("crash_at", [2, 3])
@simulated
async def test_the_second_takes_over_when_the_first_dies(crash_at: int, world: VirtualWorld) -> None:
    """The follower claims the run within a second of the owner's death, and repeats nothing finished."""
    ran: Counter[str] = Counter()

    log = MemoryLog()

    async def doomed() -> None:
        dying = CrashingLog(log.reopen(), crash_at=crash_at)
        with pytest.raises(Crash):
            await chain(ran).options(log=dying, world=world, run_id="r").run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(doomed)
        await anyio.sleep(1)
        state = await chain(ran).options(log=log, world=world, run_id="r").run()
    assert state.is_successful()
    assert await claims(log) == 2
    again = crash_at - 2  # the body whose success met the crash
    assert ran == Counter({f"after {n}": 2 if n == again else 1 for n in range(3)})
    assert world.monotonic() <= 21_000_000


@simulated
async def test_an_overtaken_runner_appends_nothing_more(world: VirtualWorld) -> None:
    """A runner that stalled while another claimed its run cancels its bodies, and gives the other's State."""
    ran: Counter[str] = Counter()

    class Stalled(MemoryLog):
        """Its first hold keeps nobody out, as that of a process that was taken for dead."""

        holds = 0

        def hold(self, run: str) -> Any:
            """Granted beside the real ones at first."""
            self.holds += 1
            return MemoryLog().hold(run) if self.holds == 1 else super().hold(run)

    log = MemoryLog()
    stalled = Stalled()
    stalled._store = log._store
    states: list[State] = []

    async def overtaken() -> None:
        states.append(await chain(ran).options(log=stalled, world=world, run_id="r").run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(overtaken)
        await anyio.sleep(1)
        states.append(await chain(ran).options(log=log, world=world, run_id="r").run())
    assert dict(states[0].result.items()) == dict(states[1].result.items())
    assert all(state.is_successful() for state in states)
    assert await claims(log) == 2
    assert ran == Counter({"after 0": 2, "after 1": 1, "after 2": 1})
