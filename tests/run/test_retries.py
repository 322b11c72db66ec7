"""Retries: how often, when, and that chance is thrown once and written down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import anyio
import pytest

from eventflow import Flow, MemoryLog, RunStates, context, exponential, open_run, replay, task
from eventflow.events import TaskAbandoned, TaskFailed, TaskStarted
from eventflow.states import Crashed, Failed, Retrying, Success, TimedOut
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import EPOCH_US, VirtualWorld, simulate, simulated


class Boom(Exception):
    """What the bodies raise."""


def flow_with(failures: int, **options: Any) -> tuple[Flow[..., Any], list[tuple[int, float]]]:
    """A flow of one task that fails so many times; gives when (virtual seconds) each attempt began."""
    begun: list[tuple[int, float]] = []

    @task(version="1", **options)
    async def flaky() -> int:
        begun.append((context.attempt, anyio.current_time()))
        if len(begun) <= failures:
            raise Boom(f"failure {len(begun)}")
        return len(begun)

    with Flow("flaky") as flow:
        flaky()
    return flow, begun


async def failed_events(log: MemoryLog) -> list[TaskFailed]:
    """The failures in the log of run `r`."""
    return [record.event async for record in log.read(stream="run/r") if isinstance(record.event, TaskFailed)]


def run(flow: Flow[..., Any], log: MemoryLog, seed: int = 0) -> Any:
    """The final state of the one task."""

    async def main(world: VirtualWorld) -> Any:
        return (await flow.options(log=log, world=world, run_id="r").run()).result["flaky"]

    return simulate(main, seed=seed)


@pytest.mark.parametrize(("failures", "kind", "attempts"), [(0, Success, 1), (2, Success, 3), (3, Failed, 3)])
def test_the_count(failures: int, kind: type, attempts: int) -> None:
    """`retries=2` means at most three attempts; the last failure is the one that stands."""
    flow, begun = flow_with(failures, retries=2)
    state = run(flow, MemoryLog())
    assert type(state) is kind
    assert [attempt for attempt, _ in begun] == list(range(1, attempts + 1))
    if kind is Failed:
        assert state.failure.message == "failure 3"


def test_a_fixed_delay() -> None:
    """Each retry comes exactly its delay after the failure; no failure after the last retry has a moment."""
    flow, begun = flow_with(9, retries=2, retry_delay=timedelta(minutes=10))
    log = MemoryLog()
    run(flow, log)
    assert begun == [(1, 0.0), (2, 600.0), (3, 1200.0)]

    async def main(world: VirtualWorld) -> None:
        moments = [event.retry_at for event in await failed_events(log)]
        assert moments == [EPOCH_US + 600_000_000, EPOCH_US + 1_200_000_000, None]

    simulate(main)


def test_a_callable_delay_is_asked_for_each_retry_only() -> None:
    """It is given 1, 2, 3 …, and is not asked when there is no retry left."""
    asked: list[int] = []

    def delay(failures: int) -> float:
        asked.append(failures)
        return [1.0, 5.0, 30.0][failures - 1]

    flow, begun = flow_with(9, retries=3, retry_delay=delay)
    state = run(flow, MemoryLog())
    assert asked == [1, 2, 3]
    assert begun == [(1, 0.0), (2, 1.0), (3, 6.0), (4, 36.0)]
    assert state.failure.message == "failure 4"


@pytest.mark.parametrize("delay", [lambda _: "soon", lambda _: float("nan"), lambda _: 1 / 0])
def test_a_broken_callable_delay_is_the_tasks_failure(delay: Any) -> None:
    """What it raises, or that it gave no number, ends the task; the body's own failure is its cause."""
    flow, begun = flow_with(9, retries=3, retry_delay=delay)
    state = run(flow, MemoryLog())
    assert type(state) is Failed
    assert state.failure.cause.message == "failure 1"
    assert len(begun) == 1


def test_a_delay_is_never_too_long_to_write_down() -> None:
    """A callable that says a quintillion years waits for a hundred."""
    flow, begun = flow_with(1, retries=1, retry_delay=lambda _: 1e30)
    assert type(run(flow, MemoryLog())) is Success
    assert begun[1][1] == 100 * 366 * 24 * 3600


def test_exponential_delays_have_jitter_that_is_recorded_once() -> None:
    """Delays are 2, 4, 8, 8 (the limit), varied by up to a quarter and never above the limit.

    Another seed gives others; a resume uses those in the log.
    """
    found: list[list[float]] = []
    for seed in (1, 2):
        flow, begun = flow_with(9, retries=4, retry_delay=exponential(2, limit=8))
        run(flow, MemoryLog(), seed)
        gaps = [later[1] - earlier[1] for earlier, later in pairwise(begun)]
        bounds = [(1.5, 2.5), (3, 5), (6, 8), (6, 8)]
        assert all(low <= gap <= high for gap, (low, high) in zip(gaps, bounds, strict=True)), gaps
        found.append(gaps)
    assert found[0] != found[1]

    flow, begun = flow_with(1, retries=4, retry_delay=exponential(1000))
    log = MemoryLog()

    async def main(world: VirtualWorld) -> None:
        with pytest.raises(Crash):  # at the append after the failure: the retry's start
            await flow.options(log=CrashingLog(log, crash_at=3), world=world, run_id="r").run()
        (failure,) = await failed_events(log)
        assert failure.retry_at is not None
        other = VirtualWorld(seed=99)
        await flow.options(log=log, world=other, run_id="r").run()
        assert EPOCH_US + round(begun[1][1] * 1e6) == failure.retry_at

    simulate(main)


def test_a_retrying_state_says_when() -> None:
    """Between two attempts the State is Retrying, with moment, count and the failure's message."""
    flow, _ = flow_with(1, retries=1, retry_delay=60)
    log = MemoryLog()
    run(flow, log)

    async def main(world: VirtualWorld) -> None:
        view = await open_run(log, "r")
        async for record in log.read(stream="run/r"):
            if isinstance(record.event, TaskFailed):
                break
        fold = await replay(log, view, stream=view.stream, until=record.position)
        state = RunStates(view, fold.state)["flaky"]
        assert type(state) is Retrying
        assert state.start_time == datetime.fromtimestamp(EPOCH_US / 1e6 + 60, UTC)
        assert state.run_count == 1
        assert "failure 1" in state.message

    simulate(main)


@simulated
async def test_a_timeout_is_retried(world: VirtualWorld) -> None:
    """A timed out attempt counts as a failure: the next one has its whole time again."""
    begun: list[float] = []

    @task(retries=2, retry_delay=10, timeout=5)
    async def slow() -> int:
        begun.append(anyio.current_time())
        await anyio.sleep([100, 100, 4][len(begun) - 1])
        return 1

    @task(timeout=1)
    async def hopeless() -> None:
        await anyio.sleep(100)

    with Flow("slow") as flow:
        slow()
        hopeless()

    state = await flow.options(log=MemoryLog(), world=world).run()
    assert type(state.result["slow"]) is Success
    assert begun == [0.0, 15.0, 30.0]
    assert type(state.result["hopeless"]) is TimedOut


@simulated
async def test_a_crash_uses_up_no_retry(world: VirtualWorld) -> None:
    """An attempt that died with its process is no failure: all retries are still there, attempts go on."""
    flow, begun = flow_with(2, retries=1)

    log = MemoryLog()
    with pytest.raises(Crash):
        await flow.options(log=CrashingLog(log, crash_at=2), world=world, run_id="r").run()
    state = await flow.options(log=log, world=world, run_id="r").run()
    assert state.is_successful()
    assert [attempt for attempt, _ in begun] == [1, 2, 3]


@simulated
async def test_three_deaths_in_a_row_are_one_too_many(world: VirtualWorld) -> None:
    """The third time that a process dies in a task, the next one gives it up as Crashed, without a retry."""
    flow, begun = flow_with(0, retries=5)

    log = MemoryLog()
    for _ in range(3):
        with pytest.raises(Crash):
            await flow.options(log=CrashingLog(log, crash_at=2), world=world, run_id="r").run()
    state = await flow.options(log=log, world=world, run_id="r").run()
    assert type(state.result["flaky"]) is Crashed
    assert len(begun) == 3
    kinds = [type(record.event) async for record in log.read(stream="run/r")]
    assert kinds.count(TaskStarted) == 3
    assert kinds.count(TaskAbandoned) == 2


class ShiftedWorld(VirtualWorld):
    """A world whose clock somebody sets, while time goes on as ever."""

    shift_us = 0

    def now(self) -> int:
        """What the clock shows."""
        return super().now() + self.shift_us


@pytest.mark.parametrize("hours", [-1, 1])
@simulated
async def test_a_clock_that_is_set_moves_no_retry(hours: int, world: VirtualWorld) -> None:
    """A retry waits for its delay, not for the clock to show a moment: an hour more or less changes nothing."""
    flow, begun = flow_with(3, retries=3, retry_delay=60)
    log = MemoryLog()

    shifted = ShiftedWorld()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flow.options(log=log, world=shifted, run_id="r").run)
        await anyio.sleep(90)
        shifted.shift_us = hours * 3_600_000_000
    assert [at for _, at in begun] == [0.0, 60.0, 120.0, 180.0]


@pytest.mark.parametrize(("hours", "waits"), [(-1, 60.0), (0, 50.0), (1, 0.0)])
@simulated
async def test_a_resumed_retry_waits_at_most_its_whole_delay(
    hours: int, waits: float, world: VirtualWorld
) -> None:
    """After a resume only the clock says what is left; one that was set back cannot make it more than the delay."""
    flow, begun = flow_with(1, retries=1, retry_delay=60)
    log = MemoryLog()

    with anyio.move_on_after(10):
        await flow.options(log=log, world=world, run_id="r").run()
    shifted = ShiftedWorld()
    shifted.shift_us = hours * 3_600_000_000
    await flow.options(log=log, world=shifted, run_id="r").run()
    assert [at for _, at in begun] == [0.0, 10.0 + waits]
