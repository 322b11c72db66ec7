"""Bodies: how they may end, what they see of the run, what they are given, and how their results are kept."""

from __future__ import annotations

import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from eventflow import (
    Flow,
    MemoryLog,
    context,
    flow,
    task,
)
from eventflow.events import TaskSucceeded
from eventflow.result import Stored
from eventflow.states import Failed, TimedOut
from eventflow.testing.virtual import EPOCH_US, VirtualWorld, simulate, simulated
from tests.run.pipeline import nightly, one


class Boom(Exception):
    """What the tests' bodies raise."""


@pytest.mark.parametrize("error", [anyio.get_cancelled_exc_class, lambda: SystemExit, lambda: StopIteration])
@simulated
async def test_whatever_a_body_raises_is_its_failure(error: Any, world: VirtualWorld) -> None:
    """A CancelledError that nobody asked for, `sys.exit` and StopIteration fail the task, not the run."""
    kind = error()

    @task
    async def rude() -> int:
        raise kind("rude")

    with Flow("manners") as manners:
        rude()
        kept = one("a")
    state = await manners.options(log=MemoryLog(), world=world).run()
    assert type(state.result["rude"]) is Failed
    assert state.result[kept].is_successful()


@simulated
async def test_a_plain_body_may_exit_too(world: VirtualWorld) -> None:
    """`sys.exit` in a plain function is that task's failure as well."""

    @task
    def leave() -> int:
        sys.exit(3)

    with Flow("leaving") as leaving:
        leave()

    state = await leaving.options(log=MemoryLog(), world=world).run()
    assert state.result["leave"].failure.type == "SystemExit"


@simulated
async def test_timeout_of_an_async_body(world: VirtualWorld) -> None:
    """A body that takes too long is cancelled and TimedOut, after exactly its timeout."""
    seen: list[str] = []

    @task(timeout=5)
    async def slow() -> int:
        try:
            await anyio.sleep(100)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        return 1

    with Flow("slow") as slowly:
        slow()

    state = await slowly.options(log=MemoryLog(), world=world).run()
    assert type(state.result["slow"]) is TimedOut
    assert "timeout of 5 s" in state.result["slow"].failure.message
    assert world.monotonic() == 5_000_000
    assert seen == ["CancelledError"]


@simulated
async def test_plain_functions_run_side_by_side(world: VirtualWorld) -> None:
    """Three plain bodies meet at a barrier, which only threads at the same time can; context and all."""
    barrier = threading.Barrier(3, timeout=20)

    @task
    def meet(number: int) -> tuple[str, int]:
        barrier.wait()
        assert threading.current_thread() is not threading.main_thread()
        return context.task, number

    @flow
    def party() -> Any:
        return meet.map([1, 2, 3])

    found = await party.options(log=MemoryLog(), world=world).value()
    assert found == [("meet[0]", 1), ("meet[1]", 2), ("meet[2]", 3)]


@simulated
async def test_bodies_do_not_see_each_others_context_variables(world: VirtualWorld) -> None:
    """A variable that one body sets, before or after it was suspended, no other body sees."""
    mark: ContextVar[str] = ContextVar("mark", default="clean")

    @task
    async def stain(sleep: int) -> str:
        found = mark.get()
        mark.set("dirty")
        await anyio.sleep(sleep)
        assert mark.get() == "dirty"
        return found

    @task
    def stain_too(_: Any) -> str:
        found = mark.get()
        mark.set("dirty")
        return found

    @flow
    def clean() -> Any:
        first = stain.map([0, 0, 1, 2, 0])
        return stain_too.map(first), stain.named("later").map([0, 1])

    mark.set("mine")
    found = await clean.options(log=MemoryLog(), world=world).value()
    assert found == (["mine"] * 5, ["mine"] * 2)
    assert mark.get() == "mine"


def test_what_a_body_sees_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """run, task, attempt, date, logger; and an idempotency key that stays over attempts."""
    keys: list[tuple[int, str]] = []

    @task(retries=1, retry_delay=3600)
    async def look(_: int) -> tuple[str, str, datetime]:
        keys.append((context.attempt, context.idempotency_key))
        context.logger.warning("attempt %d", context.attempt)
        if context.attempt == 1:
            raise Boom("again")
        return context.run, context.task, context.date

    @flow
    def looking() -> Any:
        return look.map([1])

    async def main(world: VirtualWorld) -> None:
        await anyio.sleep(10)
        found = await looking.options(log=MemoryLog(), world=world, run_id="mine").value()
        started = datetime.fromtimestamp(EPOCH_US / 1e6 + 10, UTC)
        assert found == [("mine", "look[0]", started)]
        assert keys == [(1, "mine/look[0]"), (2, "mine/look[0]")]

    with caplog.at_level(logging.WARNING, "eventflow.task"):
        simulate(main)
    assert [(record.message, record.task, record.attempt) for record in caplog.records] == [
        ("attempt 1", "look[0]", 1),
        ("attempt 2", "look[0]", 2),
    ]
    with pytest.raises(AttributeError, match="outside a task's body"):
        context.run  # noqa: B018 - the access is the test


@simulated
async def test_children_of_a_map_share_a_logger(world: VirtualWorld) -> None:
    """`logging` keeps every logger for ever, so there is one for a node, however many children it has."""

    @task
    async def speak(_: int) -> str:
        return context.logger.logger.name

    @flow
    def speaking() -> Any:
        return speak.map(list(range(50)))

    assert set(await speaking.options(log=MemoryLog(), world=world).value()) == {"eventflow.task.speak"}


@simulated
async def test_consumers_get_copies_of_their_own(world: VirtualWorld) -> None:
    """A body that changes its input changes nobody else's; large values are shared."""
    large: list[int] = []

    @task
    async def make(count: int) -> list[int]:
        return list(range(count))

    @task
    async def spoil(numbers: list[int]) -> int:
        numbers.append(99)
        return len(numbers)

    @task
    async def identity(numbers: list[int]) -> int:
        large.append(id(numbers))
        return len(numbers)

    @flow
    def copies() -> Any:
        small, medium, big = make(3), make(500), make(9000)
        return [spoil(small), spoil(small), spoil(medium), spoil(medium), identity(big), identity(big), small]

    found = await copies.options(log=MemoryLog(), world=world).value()
    assert found == [4, 4, 501, 501, 9000, 9000, [0, 1, 2]]
    assert large[0] == large[1]


@simulated
async def test_share_hands_the_very_object_on(world: VirtualWorld) -> None:
    """`share=True` shares small values as well."""

    @task(share=True)
    async def make() -> list[int]:
        return []

    @task
    async def add(numbers: list[int]) -> int:
        numbers.append(1)
        return len(numbers)

    @flow
    def shared() -> Any:
        made = make()
        return add(made), add(made)

    assert sorted(await shared.options(log=MemoryLog(), world=world).value()) == [1, 2]


@simulated
async def test_large_results_lie_beside_their_event(world: VirtualWorld) -> None:
    """Above 512 bytes the event holds an address, the log the bytes; the value opens all the same."""

    @task
    async def write(count: int) -> str:
        return "x" * count

    @flow
    def writing() -> Any:
        return write(500), write(2000)

    log = MemoryLog()
    assert await writing.options(log=log, world=world, run_id="r").value() == ("x" * 500, "x" * 2000)
    payloads = [
        record.event.result
        async for record in log.read(stream="run/r")
        if isinstance(record.event, TaskSucceeded)
    ]
    stored = [payload for payload in payloads if isinstance(payload, Stored)]
    assert len(stored) == 1
    assert log.peek(stored[0].digest) is not None


@simulated
async def test_a_large_parameter(world: VirtualWorld) -> None:
    """A parameter's bytes may lie beside its event too, and arrive in bodies, also after a resume."""
    options = nightly.options(log=MemoryLog(), world=world, run_id="r")
    assert await options.value("x" * 2000) == 2000 * 2 + 11
    assert (await options.run("x" * 2000)).result["day"].result == "x" * 2000


@simulated
async def test_a_result_that_cannot_be_kept_fails_its_task(world: VirtualWorld) -> None:
    """What nothing can serialize is a failure that names the path to it; there is no retry of that."""
    ran: list[int] = []

    @task(retries=3, retry_delay=1)
    async def bad() -> dict[str, Any]:
        ran.append(1)
        return {"deep": [1, (i for i in ())]}

    class Stubborn:
        def serialize(self, value: Any) -> Any:
            raise ZeroDivisionError("not today")

        def deserialize(self, payload: Any) -> Any:
            return None

    @task(serializer=Stubborn())
    async def worse() -> int:
        return 1

    with Flow("unkept") as unkept:
        bad()
        worse()

    state = await unkept.options(log=MemoryLog(), world=world).run()
    assert type(state.result["bad"]) is Failed
    assert "deep" in state.result["bad"].failure.message
    assert ran == [1]
    assert "not today" in state.result["worse"].failure.message
