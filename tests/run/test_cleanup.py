"""Bodies that are ended: by their timeout or an interruption, with time to clean up, and left behind after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Self

import anyio
import pytest

from eventflow import Flow, MemoryLog, flow, task
from eventflow.events import TaskFailed, TaskSucceeded, kind_of
from eventflow.runner.body import CLEANUP_S
from eventflow.states import Success, TimedOut
from eventflow.testing.virtual import VirtualWorld, simulated


async def kinds_of(log: MemoryLog) -> list[str]:
    """The kinds of run `r`'s events."""
    return [kind_of(record.event) async for record in log.read(stream="run/r")]


@simulated
async def test_cleanup_may_await_after_a_timeout(world: VirtualWorld) -> None:
    """`finally: await …` and the exits of `async with` run to their end; the state is TimedOut all the same."""
    seen: list[str] = []

    class Session:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            await anyio.sleep(1)
            seen.append("closed")

    @task(timeout=5)
    async def slow() -> int:
        async with Session():
            try:
                await anyio.sleep(100)
            finally:
                await asyncio.sleep(0.5)
                async with asyncio.timeout(10):
                    await anyio.sleep(0.5)
                with anyio.move_on_after(0.5) as scope:
                    await anyio.sleep(3)
                seen.append(f"cut off: {scope.cancelled_caught}")
        return 1

    @flow
    def slowly() -> int:
        return slow()

    state = await slowly.options(log=MemoryLog(), world=world).run()
    assert type(state.result["slow"]) is TimedOut
    assert seen == ["cut off: True", "closed"]
    assert world.monotonic() == 7_500_000


@simulated
async def test_cleanup_may_await_after_an_interruption(world: VirtualWorld) -> None:
    """Cancelling the caller, by a scope that cancels again and again, cancels each body once."""
    seen: list[str] = []

    @task(version="1")
    async def slow(number: int) -> int:
        try:
            await anyio.sleep(100)
        finally:
            await asyncio.sleep(number)
            seen.append(f"closed {number}")
        return 1

    with Flow("slow") as slowly:
        slow.map([1, 2])

    log = MemoryLog()
    with anyio.move_on_after(10) as scope:
        await slowly.options(log=log, world=world, run_id="r").run()
    assert scope.cancelled_caught
    assert seen == ["closed 1", "closed 2"]
    assert (await kinds_of(log))[-3:] == ["task_abandoned", "task_abandoned", "run_released"]
    assert world.monotonic() == 12_000_000


@pytest.mark.parametrize("returns_after", [1, 1000])
@simulated
async def test_a_swallowed_timeout_is_no_success(returns_after: int, world: VirtualWorld) -> None:
    """A body that ignores its cancellation has timed out; after the bound it is left behind, and the state says so."""
    late: list[str] = []

    @task(timeout=5)
    async def stubborn() -> int:
        with pytest.raises(asyncio.CancelledError):
            await anyio.sleep(100)
        await anyio.sleep(returns_after)
        late.append("returned")
        return 1

    @task
    async def after() -> int:
        await anyio.sleep(2000)
        return 2

    with Flow("stubborn") as stubbornly:
        stubborn()
        after()

    log = MemoryLog()
    state = await stubbornly.options(log=log, world=world, run_id="r").run()
    found = state.result["stubborn"]
    assert type(found) is TimedOut
    said = "does not count" if returns_after < CLEANUP_S else f"within {CLEANUP_S:g} s"
    assert said in found.failure.message
    assert type(state.result["after"]) is Success
    assert late == ["returned"], "it has ended, and nothing came of it"
    moments = [
        record.at - world.now() + world.monotonic()
        async for record in log.read(stream="run/r")
        if isinstance(record.event, TaskFailed)
    ]
    assert moments == [(5 + min(returns_after, CLEANUP_S)) * 1_000_000]


@simulated
async def test_a_body_left_behind_outlives_its_run(world: VirtualWorld) -> None:
    """The run ends without it, the retry succeeds meanwhile, and what the body raises in the end harms nobody."""
    began: Counter[str] = Counter()
    ended: list[str] = []

    @task(timeout=5, retries=1)
    async def stubborn() -> int:
        began["stubborn"] += 1
        if began["stubborn"] == 2:
            return 2
        try:
            await anyio.sleep(100)
        except asyncio.CancelledError:
            await anyio.sleep(100)
        ended.append("raised")
        raise ValueError("too late")

    @flow
    def stubbornly() -> int:
        return stubborn()

    log = MemoryLog()
    assert await stubbornly.options(log=log, world=world, run_id="r").value() == 2
    assert world.monotonic() == 10_000_000
    before = await kinds_of(log)
    await anyio.sleep(200)
    assert ended == ["raised"]
    assert await kinds_of(log) == before


@simulated
async def test_an_interruption_leaves_behind_what_does_not_end(
    caplog: pytest.LogCaptureFixture, world: VirtualWorld
) -> None:
    """The caller gets its cancellation after the bound, the run can be resumed, a warning names the task."""
    began: Counter[str] = Counter()

    @task(version="1")
    async def stubborn() -> int:
        began["stubborn"] += 1
        if began["stubborn"] == 1:
            try:
                await anyio.sleep(1000)
            except asyncio.CancelledError:
                await anyio.sleep(1000)
        return began["stubborn"]

    @flow
    def stubbornly() -> int:
        return stubborn()

    log = MemoryLog()
    with anyio.move_on_after(10):
        await stubbornly.options(log=log, world=world, run_id="r").run()
    assert world.monotonic() == (10 + CLEANUP_S) * 1_000_000
    assert any("left behind: stubborn" in record.getMessage() for record in caplog.records)
    assert await stubbornly.options(log=log, world=world, run_id="r").value() == 2
    await anyio.sleep(2000)
    assert (await kinds_of(log)).count("task_succeeded") == 1


@simulated
async def test_what_an_interrupted_body_returns_is_no_result(world: VirtualWorld) -> None:
    """A body that catches the cancellation and returns half a result has not finished: it runs again."""
    began: Counter[str] = Counter()

    @task(version="1")
    async def partial() -> list[int]:
        began["partial"] += 1
        found = []
        try:
            for number in range(3):
                await anyio.sleep(4)
                found.append(number)
        except asyncio.CancelledError:
            pass
        return found

    @flow
    def partially() -> list[int]:
        return partial()

    log = MemoryLog()
    with anyio.move_on_after(10):
        await partially.options(log=log, world=world, run_id="r").run()
    assert await partially.options(log=log, world=world, run_id="r").value() == [0, 1, 2]
    assert began == {"partial": 2}


@simulated
async def test_an_error_in_the_cleanup_is_told_with_the_timeout(world: VirtualWorld) -> None:
    """The attempt has timed out; what its cleanup raised is the cause."""

    @task(timeout=5)
    async def slow() -> None:
        try:
            await anyio.sleep(100)
        finally:
            raise ValueError("the cleanup")

    with Flow("slow") as slowly:
        slow()

    found = (await slowly.options(log=MemoryLog(), world=world).run()).result["slow"]
    assert type(found) is TimedOut
    assert found.failure.cause.message == "the cleanup"


@pytest.mark.parametrize("kind", ["asyncio", "anyio", "timeout", "fail_after", "group fails"])
@simulated
async def test_a_body_may_use_scopes_and_groups(kind: str, world: VirtualWorld) -> None:
    """Task groups, scopes and timeouts of asyncio and anyio work in a body, also when it is timed out in them."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep(100)
        finally:
            await asyncio.sleep(0.1)
            ended.append("child")

    async def fails() -> None:
        await anyio.sleep(1)
        raise ValueError("in the group")

    async def use() -> None:
        match kind:
            case "asyncio":
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(child())
            case "anyio" | "group fails":
                async with anyio.create_task_group() as group:
                    group.start_soon(fails if kind == "group fails" else pause)
            case "timeout":
                async with asyncio.timeout(2):
                    await child()
            case _:
                with anyio.fail_after(2):
                    await anyio.sleep(100)

    async def pause() -> None:
        try:
            await anyio.sleep(100)
        finally:
            ended.append("child")

    @task(timeout=5)
    async def body() -> str:
        try:
            await use()
        except (TimeoutError, ExceptionGroup) as error:
            return type(error).__name__
        return "nothing"

    @task
    async def later(_: Any) -> str:
        await anyio.sleep(1)
        return "well"

    with Flow("scoped") as scoped:
        body()
        later(None)

    state = await scoped.options(log=MemoryLog(), world=world).run()
    found = state.result["body"]
    if kind in ("asyncio", "anyio"):
        assert type(found) is TimedOut
        assert ended == ["child"]
    else:
        assert found.result == ("ExceptionGroup" if kind == "group fails" else "TimeoutError")
    assert state.result["later"].result == "well"


@simulated
async def test_a_body_that_finishes_as_the_caller_is_cancelled_is_kept(world: VirtualWorld) -> None:
    """What had ended before its cancellation could reach it is a success, in the log when the caller returns."""
    log, free = MemoryLog(), asyncio.Event()

    @task(version="1")
    async def quick() -> int:
        await free.wait()
        return 7

    @flow
    def quickly() -> int:
        return quick()

    running = asyncio.create_task(quickly.options(log=log, world=world, run_id="r").run())
    await anyio.sleep(1)
    free.set()
    await asyncio.sleep(0)  # the body has gone on
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    events = [record.event async for record in log.read(stream="run/r")]
    assert sum(isinstance(event, TaskSucceeded) for event in events) == 1
