"""Cases 37 to 42 of PIN-4's lineage, what a task is given, in our words."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventflow import (
    Flow,
    MemoryLog,
    ParametersDiffer,
    RunStates,
    TaskError,
    context,
    flow,
    open_run,
    replay,
    task,
)
from eventflow.events import RunStarted, TaskBlocked, TaskStarted, TaskSucceeded
from eventflow.result import Inline, Stored
from eventflow.serializers import Serializer
from eventflow.states import Retrying, Success, TriggerFailed
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.parity.looking import RUN, events, flow_of, history, opened

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@task(version="1")
async def add(x: int, y: int = 0) -> int:
    """Well."""
    ran.append((x, y))
    return x + y


@task(version="1")
async def fail() -> int:
    """Not well."""
    raise ValueError("no")


@task(version="1", retries=1, retry_delay=3600)
async def later(found: Any) -> str:
    """Well at the second attempt."""
    ran.append((context.attempt, found))
    if context.attempt == 1:
        raise ConnectionError("try later")
    return "done"


async def stop_while_retrying(calls: Flow[..., Any], log: MemoryLog, world: VirtualWorld, *args: Any) -> None:
    """Run a flow that ends with `later`, and let go of it after the first attempt."""
    with anyio.move_on_after(60):
        await calls.options(log=log, world=world, run_id=RUN).run(*args)
    assert isinstance((await history(log, "later"))[-1], Retrying)


async def test_case_37_only_arguments_are_inputs() -> None:
    """37. Given a task with an argument and one that it only comes after, then only the argument becomes an input."""

    def build() -> None:
        first, second = add.named("first")(1), add.named("second")(2)
        add.named("both").after(first)(second, y=5)

    log = MemoryLog()
    state = await flow_of(build).options(log=log, run_id=RUN).run()
    assert ran[-1] == (2, 5)
    assert opened(state.result["both"]) == {"x": 2}
    made = {r.event.task: r.version async for r in log.read() if isinstance(r.event, TaskSucceeded)}
    inputs = {event.task: event.inputs for event in await events(log, TaskStarted)}
    assert inputs == {(0,): (), (1,): (), (2,): (made[1,],)}


class Counting:
    """A serializer that counts what it opens."""

    def __init__(self) -> None:
        self.opened = 0

    def serialize(self, value: Any) -> Inline:
        """As ever."""
        return Serializer().serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Count one."""
        self.opened += 1
        return Serializer().deserialize(payload)


@simulated
async def test_case_39_a_kept_input_is_read_when_inputs_are_gathered(world: VirtualWorld) -> None:
    """39. Given a retry whose input lies in the log, when resumed, then it is read for the attempt and not before."""
    keeper = Counting()

    @task(version="1", serializer=keeper)
    async def make() -> list[int]:
        ran.append("make")
        return list(range(2000))

    calls = flow_of(lambda: later(make()))

    log = MemoryLog()
    await stop_while_retrying(calls, log, world)
    (made,) = await events(log, TaskSucceeded)
    assert isinstance(made.result, Stored)
    keeper.opened = 0
    view = await open_run(log, RUN)
    fold = await replay(log, view, stream=view.stream)
    assert len(opened(RunStates(view, fold.state, peek=log.peek)["later"])["found"]) == 2000
    with anyio.move_on_after(60):
        await calls.options(log=log, world=world, run_id=RUN).run()
    assert keeper.opened == 0
    state = await calls.options(log=log, world=world, run_id=RUN).run()
    assert state.result["later"].result == "done"
    assert keeper.opened == 1
    assert ran == ["make", (1, list(range(2000))), (2, list(range(2000)))]


async def test_case_40_a_failed_upstream() -> None:
    """40. Given a failed upstream, then what needs its value does not run, and has its error for a reason.

    Upstream's case is about `all_finished`, where the input is the exception: there are no such triggers yet, and
    every task has `all_successful`.
    """

    @flow
    def broken() -> int:
        return add(add.named("mid")(fail()))

    log = MemoryLog()
    options = broken.options(log=log, run_id=RUN)
    state = await options.run()
    assert [type(state.result[name]) for name in ("mid", "add")] == [TriggerFailed, TriggerFailed]
    assert ran == []
    blocked = await events(log, TaskBlocked)
    assert [(event.task, event.trigger) for event in blocked] == [
        ((1,), "all_successful"),
        ((2,), "all_successful"),
    ]
    assert [event.task for event in await events(log, TaskStarted)] == [(0,)]
    with pytest.raises(TaskError, match="task 'fail' failed: ValueError: no"):
        await options.value()


@simulated
async def test_case_42_a_retry_has_the_parameters_of_its_run(world: VirtualWorld) -> None:
    """42. Given a retry of a task that takes a parameter, when resumed without it, then the recorded value is used."""

    @flow
    def daily(day: str, count: int = 3) -> str:
        return later([day, count])

    log = MemoryLog()
    await stop_while_retrying(daily, log, world, "monday", 7)
    with pytest.raises(ParametersDiffer, match="day"):
        await daily.options(log=log, world=world, run_id=RUN).run("tuesday")
    resume: Any = daily.options(log=log, world=world, run_id=RUN)
    state = await resume.run()
    assert type(state.result["later"]) is Success
    assert ran == [(1, ["monday", 7]), (2, ["monday", 7])]
    assert state.result["day"].result == "monday"
    assert len(await events(log, RunStarted)) == 1
