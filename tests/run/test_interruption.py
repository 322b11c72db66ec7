"""Cancelled, or broken by its log: a runner leaves its run so that the next call goes on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventflow import Flow, MemoryLog, task
from eventflow.events import Record, RunReleased, TaskAbandoned, TaskSucceeded, kind_of
from eventflow.logs.sqlite import SQLiteLog
from eventflow.ports import Durability, Write
from eventflow.testing.virtual import VirtualWorld, simulated


def two_steps(ran: Counter[str], cancelled: list[str]) -> Flow[..., Any]:
    """A quick task (with a large result), and one that takes a minute after it."""

    @task(version="1")
    async def quick() -> str:
        ran["quick"] += 1
        return "q" * 2000

    @task(version="1")
    async def slow(text: str) -> int:
        ran["slow"] += 1
        try:
            await anyio.sleep(60)
        except BaseException:
            cancelled.append("slow")
            raise
        return len(text)

    with Flow("steps") as flow:
        slow(quick())
    return flow


async def kinds(log: MemoryLog) -> list[type]:
    """The kinds of run `r`'s events."""
    return [type(record.event) async for record in log.read(stream="run/r")]


@simulated
async def test_cancelling_the_caller_is_an_interruption(world: VirtualWorld) -> None:
    """Bodies are cancelled, the log says so and lets go of the run; the next call repeats nothing finished."""
    ran: Counter[str] = Counter()
    cancelled: list[str] = []

    log = MemoryLog()
    flow = two_steps(ran, cancelled)
    with anyio.move_on_after(10) as scope:
        await flow.options(log=log, world=world, run_id="r").run()
    assert scope.cancelled_caught
    assert cancelled == ["slow"]
    assert (await kinds(log))[-2:] == [TaskAbandoned, RunReleased]
    assert world.monotonic() == 10_000_000
    state = await two_steps(ran, cancelled).options(log=log, world=world, run_id="r").run()
    assert state.result["slow"].result == 2000
    assert ran == Counter({"quick": 1, "slow": 2})


@pytest.mark.parametrize("durability", ["full", "pipelined"])
@simulated
async def test_letting_go_takes_no_virtual_time(
    durability: Durability, tmp_path: Path, world: VirtualWorld
) -> None:
    """A slow disk is waited for while the clock stands still: an interruption is recorded when it happened."""
    began = world.now()
    flow = two_steps(Counter(), [])
    async with SQLiteLog(tmp_path / "log.db") as log:
        with anyio.move_on_after(10) as scope:
            await flow.options(log=log, world=world, run_id="r", durability=durability).run()
    assert scope.cancelled_caught
    assert world.now() - began == 10_000_000


@simulated
async def test_interruptions_are_no_crashes(world: VirtualWorld) -> None:
    """However often a run is interrupted in the same task, the task is never given up."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    for _ in range(5):
        with anyio.move_on_after(10):
            await two_steps(ran, []).options(log=log, world=world, run_id="r").run()
    state = await two_steps(ran, []).options(log=log, world=world, run_id="r").run()
    assert state.is_successful()


class Gate(MemoryLog):
    """A log whose second append never comes to anything; cancelled there, nothing is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.appends = 0
        self.reached = anyio.Event()

    async def append(self, *writes: Write, **options: Any) -> Any:
        """Append, or wait for ever."""
        self.appends += 1
        if self.appends == 2:
            self.reached.set()
            await anyio.sleep_forever()
        return await super().append(*writes, **options)


@simulated
async def test_a_result_that_was_being_appended_is_not_lost(world: VirtualWorld) -> None:
    """Interrupted in the append of a success, the runner stores it on leaving, with the bytes beside it."""
    ran: Counter[str] = Counter()

    log = Gate()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await two_steps(ran, []).options(log=log, world=world, run_id="r").run()

        tasks.start_soon(run)
        await log.reached.wait()
        tasks.cancel_scope.cancel()
    events = [record.event async for record in log.read(stream="run/r")]
    (success,) = [event for event in events if isinstance(event, TaskSucceeded)]
    assert log.peek(success.result.digest) is not None, "an address without its bytes"
    state = await two_steps(ran, []).options(log=log, world=world, run_id="r").run()
    assert state.result["slow"].result == 2000
    assert ran == Counter({"quick": 1, "slow": 1})


class Failing(MemoryLog):
    """A log whose disk is full at a chosen append."""

    def __init__(self, fails_at: int) -> None:
        super().__init__()
        self.appends = 0
        self.fails_at = fails_at

    async def append(self, *writes: Write, **options: Any) -> Any:
        """Append, or raise OSError."""
        self.appends += 1
        if self.appends == self.fails_at:
            raise OSError("disk full")
        return await super().append(*writes, **options)


@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
@simulated
async def test_an_error_of_the_log_surfaces(fails_at: int, world: VirtualWorld) -> None:
    """It is raised as it is, bodies are cancelled, nothing hangs; with the disk free again the run goes on."""
    ran: Counter[str] = Counter()
    cancelled: list[str] = []

    @task(version="1")
    async def tick(seconds: int) -> int:
        ran[str(seconds)] += 1
        try:
            await anyio.sleep(seconds)
        except BaseException:
            cancelled.append(str(seconds))
            raise
        return seconds

    with Flow("ticks") as ticks:
        for seconds in (1, 2, 3):
            tick(seconds)

    log = Failing(fails_at)
    with pytest.raises(OSError, match="disk full"):
        await ticks.options(log=log, world=world, run_id="r").run()
    under_way = [str(seconds) for seconds in (1, 2, 3) if seconds >= fails_at > 1]
    assert sorted(cancelled) == under_way
    state = await ticks.options(log=log, world=world, run_id="r").run()
    assert state.is_successful()


@simulated
async def test_bodies_in_threads_are_waited_for(world: VirtualWorld) -> None:
    """A plain body cannot be stopped: an interrupted runner waits for it, and keeps what it returned."""
    entered, leave = threading.Event(), threading.Event()
    ran: list[int] = []

    @task(version="1")
    def stubborn() -> int:
        ran.append(1)
        entered.set()
        assert leave.wait(20)
        return 7

    with Flow("stubborn") as flow:
        stubborn()

    log = MemoryLog()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await flow.options(log=log, world=world, run_id="r").run()

        tasks.start_soon(run)
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
        leave.set()
    assert TaskSucceeded in await kinds(log)
    state = await flow.options(log=log, world=world, run_id="r").run()
    assert state.result["stubborn"].result == 7
    assert len(ran) == 1


def test_a_loop_that_ends_fails_nobody() -> None:
    """All tasks of a loop are cancelled at its end, the engine's too; no body is said to have done that."""

    class SlowLog(MemoryLog):
        """So that there is nearly always an append under way."""

        async def append(self, *writes: Write, **options: Any) -> Sequence[Record]:
            loop, cancelled = asyncio.get_running_loop(), False
            loop.call_later(0.002, (committed := loop.create_future()).set_result, None)
            while not committed.done():
                try:
                    await asyncio.shield(committed)
                except asyncio.CancelledError:
                    cancelled = True
            records = await super().append(*writes, **options)
            if cancelled:
                raise asyncio.CancelledError
            return records

    log = SlowLog()

    @task
    async def sleeper(number: int) -> int:
        await anyio.sleep(number * 0.002)
        return number

    with Flow("sleepers") as flow:
        sleeper.map([*range(20), 30_000])  # the last one sleeps until the loop ends

    async def main(moment: float) -> None:
        running = asyncio.ensure_future(flow.options(log=log, run_id=f"r{moment}").run())
        while not await log.head(f"run/r{moment}"):  # noqa: ASYNC110 - until it is claimed
            await asyncio.sleep(0.001)
        await asyncio.sleep(moment)
        assert not running.done()

    moments = [number / 1_000 for number in range(16)]
    for moment in moments:
        asyncio.run(main(moment))

    async def look() -> None:
        kinds = Counter([kind_of(record.event) async for record in log.read()])
        assert kinds["task_failed"] == 0
        assert kinds["run_released"] == len(moments)

    asyncio.run(look())
