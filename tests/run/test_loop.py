"""The loop's shape: how much is in flight, how few appends and spawns it takes, and what stays in memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any, ClassVar

import anyio
import pytest

from eventflow import Flow, MemoryLog, flow, task
from eventflow.executors.threads import Lanes
from eventflow.runner.body import Caller
from eventflow.runner.flow_runner import FlowRunner
from eventflow.runner.live_values import LiveValues
from eventflow.runner.request import Request, checked_run_options
from eventflow.runner.round import Round
from eventflow.runner.run_loop import RunLoop
from eventflow.runner.run_writer import RunWriter
from eventflow.runner.scheduler import IN_FLIGHT_MAX, Scheduler
from eventflow.runner.task_runner import TaskRunner
from eventflow.runner.workers import Work, Workers
from eventflow.testing.crash_log import CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulate, simulated
from eventflow.views.run import RunView
from eventflow.views.run_serializers import RunSerializers


@task
async def instant(number: int) -> int:
    """Never suspends."""
    return number + 1


@task
async def total(numbers: list[int]) -> int:
    """The sum."""
    return sum(numbers)


@flow
def wide(count: int) -> int:
    """A fan-out and its sum."""
    return total(instant.map(numbers(count)))


@task
async def numbers(count: int) -> list[int]:
    """So many numbers."""
    return list(range(count))


def chain_of(length: int) -> Flow[..., Any]:
    """So many tasks in a row."""
    with Flow("chain") as made:
        node = instant(0)
        for _ in range(length - 1):
            node = instant(node)
    return made


async def live_values_after(made: Flow[..., Any], log: Any, world: VirtualWorld) -> LiveValues:
    """Run a flow to its end, and return the live values of its runner."""
    view = RunView("r", made.plan)
    serializers = RunSerializers(made.plan, made.built.bindings, made.built.serializers, log.keyring)
    request = Request(options=checked_run_options(made.name, {}), entry="here", parameters={})
    caller = Caller()
    runner = FlowRunner(view, serializers, made.built.bindings, log, world, world.executor(), request)
    writer = RunWriter(view, log, world, request, view.initial(), caller)
    loop = runner._loop(writer, caller)
    await loop.run(request)
    return loop._values


@simulated
async def test_a_deep_chain(world: VirtualWorld) -> None:
    """3,000 tasks in a row: no recursion in the way, and one append each."""
    log = CrashingLog(MemoryLog())
    state = await chain_of(3000).options(log=log, world=world).run()
    assert state.result["instant-3000"].result == 3000
    assert log.appends <= 3001


@simulated
async def test_a_fan_out_takes_few_appends(world: VirtualWorld) -> None:
    """A thousand instant tasks side by side share their commits."""
    log = CrashingLog(MemoryLog())
    assert await wide.options(log=log, world=world).value(1000) == 500_500
    assert log.appends <= 8


@simulated
async def test_no_more_than_so_many_bodies_at_once(world: VirtualWorld) -> None:
    """Of 5,000 sleeping bodies never more than the limit are started and not finished; all get their turn."""
    running, most = 0, 0

    @task
    async def nap(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1 + number % 7)
        running -= 1
        return number

    @flow
    def naps() -> int:
        return total(nap.map(numbers(5000)))

    assert await naps.options(log=MemoryLog(), world=world).value() == sum(range(5000))
    assert most == IN_FLIGHT_MAX


@simulated
async def test_retries_whose_moment_comes_while_all_is_full(world: VirtualWorld) -> None:
    """With no room left a retry waits for room, without keeping the clock from going on."""
    failed: list[int] = []
    asleep = 0

    @task(retries=1, retry_delay=5)
    async def early(number: int) -> int:
        if len(failed) < 10:
            failed.append(number)
            raise ValueError
        return number

    @task
    async def nap(number: int) -> int:
        nonlocal asleep
        asleep += 1
        await anyio.sleep(100)
        return number

    with Flow("full") as full:
        for number in range(10):
            early(number)
        nap.map(list(range(IN_FLIGHT_MAX + 10)))

    state = await full.options(log=MemoryLog(), world=world).run()
    assert state.is_successful()
    assert world.monotonic() == 200_000_000


@pytest.mark.parametrize("count", [100, 2000])
def test_instant_bodies_share_few_workers(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies that never suspend need no task of their own: a handful of spawns for any number of them."""
    spawns = 0
    spawn = Workers.spawn

    def counted(self: Workers, work: Work) -> None:
        nonlocal spawns
        spawns += 1
        spawn(self, work)

    monkeypatch.setattr(Workers, "spawn", counted)

    async def main(world: VirtualWorld) -> None:
        await wide.options(log=MemoryLog(), world=world).run(count)

    simulate(main)
    assert spawns <= 3 + count // IN_FLIGHT_MAX * 3


class Heavy:
    """A value that can be watched while it lives."""

    alive: ClassVar[weakref.WeakSet[Heavy]] = weakref.WeakSet()

    def __init__(self, size: int) -> None:
        self.data = "x" * size
        Heavy.alive.add(self)

    def __reduce__(self) -> Any:
        return Heavy, (len(self.data),)


@pytest.mark.slow
@simulated
async def test_values_are_dropped_after_their_last_consumer(world: VirtualWorld) -> None:
    """In a chain of large values only two are ever alive, and at the end none is kept."""
    most = 0

    @task
    async def make(before: Any) -> Any:
        nonlocal most
        gc.collect()
        most = max(most, len(Heavy.alive))
        return Heavy(10_000)

    with Flow("heavy") as heavy:
        node = make(0)
        for _ in range(20):
            node = make(node)

    values = await live_values_after(heavy, MemoryLog(), world)
    assert values.live == 0
    assert most <= 3
    gc.collect()
    assert len(Heavy.alive) == 0


@simulated
async def test_values_of_a_map_are_dropped_together(world: VirtualWorld) -> None:
    """A mapped task's values go when the last reader of all has finished, a failed reader included."""

    @task
    async def large(number: int) -> str:
        return str(number) * 5000

    @task
    async def fails(texts: list[str]) -> int:
        raise ValueError(len(texts))

    @task
    async def each(text: str) -> int:
        return len(text)

    with Flow("maps") as maps:
        texts = large.map([1, 2, 3])
        each.map(each.map(texts))
        fails(texts)

    values = await live_values_after(maps, MemoryLog(), world)
    assert values.live == 0


async def test_a_finished_run_leaves_nothing_to_the_garbage_collector() -> None:
    """Its parts refer to each other while it runs; afterwards they go by themselves."""

    @task
    async def one(number: int) -> int:
        return number

    with Flow("ones") as flow:
        one(one(1))
        one.map([1, 2])
    log = MemoryLog()
    await flow.options(log=log).run()
    parts = (
        FlowRunner,
        RunLoop,
        RunWriter,
        Round,
        Scheduler,
        TaskRunner,
        LiveValues,
        Workers,
        Lanes,
        Request,
    )
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(found, parts) for found in gc.get_objects())
        for _ in range(5):
            await flow.options(log=log).run()
        after = sum(isinstance(found, parts) for found in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before
