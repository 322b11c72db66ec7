"""A flow runs: its values, its failures, and what a body sees of it."""

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
    NoResult,
    ParameterError,
    Result,
    Skip,
    TaskError,
    context,
    flow,
    task,
    unmapped,
)
from eventflow.events import TaskSucceeded
from eventflow.result import Stored
from eventflow.states import Failed, Mapped, Skipped, Success, TimedOut, TriggerFailed
from eventflow.testing.virtual import EPOCH_US, VirtualWorld, simulate


@task
async def one(day: str) -> list[int]:
    """Three numbers."""
    await anyio.sleep(1)
    return [len(day), 2, 3]


@task
def double(number: int) -> int:
    """In a thread."""
    return number * 2


@task
async def total(numbers: list[int], extra: int = 0) -> int:
    """The end."""
    return sum(numbers) + extra


@flow
def nightly(day: str, extra: int = 1) -> int:
    """The usual shape: fetch, map, reduce."""
    return total(double.map(one(day)), extra)


async def test_a_flow_on_the_real_clock() -> None:
    """Without any option a flow runs in this process's memory, on the wall clock."""

    @flow
    def quick(numbers: list[int]) -> int:
        return total(double.map(numbers))

    assert await quick.value([1, 2]) == 6
    state = await quick.run(numbers=[3])
    assert state.is_successful()
    assert state.result["total"].result == 6


def test_results_by_name_by_node_and_by_child() -> None:
    """A final State gives each task's State: by name, by child's name, by node handle; and Results."""
    with Flow("explicit") as explicit:
        numbers = one("ab")
        amount = total(double.map(numbers))

    async def main(world: VirtualWorld) -> None:
        state = await explicit.options(log=MemoryLog(), world=world).run()
        assert type(state) is Success
        assert state.result[amount].result == 14
        assert state.result["total"].result == 14
        assert state.result[numbers].result == [2, 2, 3]
        assert state.result[numbers[1]].result == 2
        assert state.result["double"].result == [4, 4, 6]
        assert type(state.result["double"]) is Mapped
        assert state.result["double[2]"].result == 6
        kept = state.result[amount]._result
        assert isinstance(kept, Result)
        assert kept.serialized
        assert kept.deserialize().value == 14
        assert state.result["total"].cached_inputs["numbers[1]"].deserialize().value == 4
        with pytest.raises(KeyError, match="no task 'nobody'"):
            state.result["nobody"]
        with pytest.raises(KeyError):
            state.result["double[3]"]

    simulate(main)


def test_value_and_parameters_with_defaults() -> None:
    """`.value()` gives the returned node's value; defaults and converted values arrive in bodies."""

    async def main(world: VirtualWorld) -> None:
        options = nightly.options(log=MemoryLog(), world=world)
        assert await options.value("ab") == 15
        assert await options.value(day="abc", extra=100) == 116

    simulate(main)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({}, "day"),
        ({"day": 3}, "day"),
        ({"day": "x", "night": 1}, "night"),
        ({"day": "x", "extra": "many"}, "extra"),
    ],
)
def test_wrong_parameters_start_nothing(kwargs: dict[str, Any], told: str) -> None:
    """Missing, mistyped and unknown parameters are named, and the log stays empty."""

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        with pytest.raises(ParameterError, match=told):
            await nightly.options(log=log, world=world).run(**kwargs)
        assert await log.head() == 0

    simulate(main)


def test_what_a_flow_returns_may_be_a_container() -> None:
    """Lists, tuples, dicts, parts and mapped nodes among what is returned come back as values."""

    @task
    async def pair() -> tuple[int, str]:
        return 1, "x"

    @flow
    def many(day: str) -> Any:
        number, text = pair()
        return {"a": [number, text], "b": (double.map(one(day)), one(day)[0])}

    async def main(world: VirtualWorld) -> None:
        found = await many.options(log=MemoryLog(), world=world).value("ab")
        assert found == {"a": [1, "x"], "b": ([4, 4, 6], 2)}
        assert type(found["b"]) is tuple

    simulate(main)


class Boom(Exception):
    """What the tests' bodies raise."""


@task
async def boom(number: int = 0) -> int:
    """Never well."""
    raise Boom(f"no {number}")


def test_a_failure_is_a_state_and_value_raises_it() -> None:
    """The run is Failed, the consumer's body never runs, and `.value()` raises with the live cause."""
    ran: list[int] = []

    @task
    async def after_it(number: int) -> int:
        ran.append(number)
        return number

    @flow
    def broken() -> int:
        return after_it(boom(7))

    async def main(world: VirtualWorld) -> None:
        options = broken.options(log=MemoryLog(), world=world)
        state = await options.run()
        assert type(state) is Failed
        assert "after_it" in state.message
        failed, blocked = state.result["boom"], state.result["after_it"]
        assert type(failed) is Failed
        assert failed.failure.message == "no 7"
        assert "raise Boom" in failed.failure.traceback
        assert "runner" not in failed.failure.traceback
        assert type(blocked) is TriggerFailed
        assert "boom" in blocked.message
        assert not ran
        with pytest.raises(TaskError, match="task 'boom' failed: .*Boom: no 7") as caught:
            await options.value()
        assert isinstance(caught.value.__cause__, Boom)

    simulate(main)


def test_value_of_a_missing_part_names_it() -> None:
    """A flow that returns `node[key]` of a value without that key raises a TaskError that says so."""

    @task
    async def answers() -> dict[str, int]:
        return {"a": 1}

    @flow
    def wrong() -> int:
        return answers()["b"]

    async def main(world: VirtualWorld) -> None:
        with pytest.raises(TaskError, match="no such part"):
            await wrong.options(log=MemoryLog(), world=world).value()

    simulate(main)


def test_a_failed_element_only_hits_its_own_index() -> None:
    """Downstream of a failed child only the child of the same index is blocked; a reduction is too."""

    @task
    async def odd(number: int) -> int:
        if number == 2:
            raise Boom("two")
        return number

    @flow
    def mapped() -> Any:
        return total(double.map(odd.map([1, 2, 3])))

    async def main(world: VirtualWorld) -> None:
        options = mapped.options(log=MemoryLog(), world=world)
        state = await options.run()
        kinds = [type(child) for child in state.result["double"].map_states]
        assert kinds == [Success, TriggerFailed, Success]
        assert type(state.result["total"]) is TriggerFailed
        with pytest.raises(TaskError, match=r"odd\[1\]"):
            await options.value()

    simulate(main)


def test_skip_goes_downstream_and_is_a_success() -> None:
    """A body that raises Skip ends skipped, with it all that need it; the run is successful."""

    @task
    async def nothing() -> int:
        raise Skip("weekend")

    @flow
    def idle() -> int:
        return total([nothing(), 1])

    async def main(world: VirtualWorld) -> None:
        options = idle.options(log=MemoryLog(), world=world)
        state = await options.run()
        assert state.is_successful()
        assert type(state.result["nothing"]) is Skipped
        assert state.result["nothing"].message == "weekend"
        assert type(state.result["total"]) is Skipped
        assert state.result["total"].result is NoResult
        assert await options.value() is NoResult

    simulate(main)


@pytest.mark.parametrize("error", [anyio.get_cancelled_exc_class, lambda: SystemExit, lambda: StopIteration])
def test_whatever_a_body_raises_is_its_failure(error: Any) -> None:
    """A CancelledError that nobody asked for, `sys.exit` and StopIteration fail the task, not the run."""

    async def main(world: VirtualWorld) -> None:
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

    simulate(main)


def test_a_plain_body_may_exit_too() -> None:
    """`sys.exit` in a plain function is that task's failure as well."""

    @task
    def leave() -> int:
        sys.exit(3)

    with Flow("leaving") as leaving:
        leave()

    async def main(world: VirtualWorld) -> None:
        state = await leaving.options(log=MemoryLog(), world=world).run()
        assert state.result["leave"].failure.type == "SystemExit"

    simulate(main)


def test_timeout_of_an_async_body() -> None:
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

    async def main(world: VirtualWorld) -> None:
        state = await slowly.options(log=MemoryLog(), world=world).run()
        assert type(state.result["slow"]) is TimedOut
        assert "timeout of 5 s" in state.result["slow"].failure.message
        assert world.monotonic() == 5_000_000
        assert seen == ["CancelledError"]

    simulate(main)


def test_plain_functions_run_side_by_side() -> None:
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

    async def main(world: VirtualWorld) -> None:
        found = await party.options(log=MemoryLog(), world=world).value()
        assert found == [("meet[0]", 1), ("meet[1]", 2), ("meet[2]", 3)]

    simulate(main)


def test_bodies_do_not_see_each_others_context_variables() -> None:
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

    async def main(world: VirtualWorld) -> None:
        mark.set("mine")
        found = await clean.options(log=MemoryLog(), world=world).value()
        assert found == (["mine"] * 5, ["mine"] * 2)
        assert mark.get() == "mine"

    simulate(main)


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


def test_consumers_get_copies_of_their_own() -> None:
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

    async def main(world: VirtualWorld) -> None:
        found = await copies.options(log=MemoryLog(), world=world).value()
        assert found == [4, 4, 501, 501, 9000, 9000, [0, 1, 2]]
        assert large[0] == large[1]

    simulate(main)


def test_share_hands_the_very_object_on() -> None:
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

    async def main(world: VirtualWorld) -> None:
        assert sorted(await shared.options(log=MemoryLog(), world=world).value()) == [1, 2]

    simulate(main)


def test_large_results_lie_beside_their_event() -> None:
    """Above 512 bytes the event holds an address, the log the bytes; the value opens all the same."""

    @task
    async def write(count: int) -> str:
        return "x" * count

    @flow
    def writing() -> Any:
        return write(500), write(2000)

    async def main(world: VirtualWorld) -> None:
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

    simulate(main)


def test_a_large_parameter() -> None:
    """A parameter's bytes may lie beside its event too, and arrive in bodies, also after a resume."""

    async def main(world: VirtualWorld) -> None:
        options = nightly.options(log=MemoryLog(), world=world, run_id="r")
        assert await options.value("x" * 2000) == 2000 * 2 + 11
        assert (await options.run("x" * 2000)).result["day"].result == "x" * 2000

    simulate(main)


def test_a_result_that_cannot_be_kept_fails_its_task() -> None:
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

    async def main(world: VirtualWorld) -> None:
        state = await unkept.options(log=MemoryLog(), world=world).run()
        assert type(state.result["bad"]) is Failed
        assert "deep" in state.result["bad"].failure.message
        assert ran == [1]
        assert "not today" in state.result["worse"].failure.message

    simulate(main)


def test_mapping_over_what_is_no_list_fails_the_mapped_task() -> None:
    """A dict, a number or text cannot be mapped over: the parent fails and says what to return."""

    @task
    async def give(what: str) -> Any:
        return {"dict": {"a": 1}, "int": 3, "str": "abc"}[what]

    @flow
    def over(what: str) -> Any:
        return double.map(give(what))

    async def main(world: VirtualWorld) -> None:
        for what in ("dict", "int", "str"):
            state = await over.options(log=MemoryLog(), world=world).run(what)
            assert type(state.result["double"]) is Failed
            assert f"cannot map over a {what}" in state.result["double"].failure.message

    simulate(main)


def test_empty_maps_all_the_way_down() -> None:
    """Nothing to map over gives no children, the map of it none either, and a sum of nothing."""

    @flow
    def empty() -> int:
        return total(double.map(double.map([])), 5)

    async def main(world: VirtualWorld) -> None:
        options = empty.options(log=MemoryLog(), world=world)
        assert await options.value() == 5
        state = await options.run()
        assert state.result["double-2"].result == []

    simulate(main)


def test_unmapped_and_a_map_over_a_map() -> None:
    """`unmapped` goes whole to every child; child i of the second map starts when its own element is there."""
    started: dict[str, int] = {}

    @task
    async def nap(seconds: int) -> int:
        await anyio.sleep(seconds)
        return seconds

    async def main(world: VirtualWorld) -> None:
        @task
        async def note(seconds: int, base: list[int]) -> int:
            started[context.task] = world.monotonic()
            return seconds + len(base)

        @flow
        def naps() -> Any:
            return note.map(nap.map([5, 1]), unmapped([1, 2]))

        assert await naps.options(log=MemoryLog(), world=world).value() == [7, 3]
        assert started == {"note[0]": 5_000_000, "note[1]": 1_000_000}

    simulate(main)


def test_after_orders_without_data() -> None:
    """`.after` waits for the end of another task, and is blocked when that failed."""
    order: list[str] = []

    @task
    async def step(name: str) -> str:
        await anyio.sleep(1 if name == "first" else 0)
        order.append(name)
        return name

    with Flow("ordered") as ordered:
        step.after(step("first"))("second")
        step.named("never").after(boom(1))("never")

    async def main(world: VirtualWorld) -> None:
        state = await ordered.options(log=MemoryLog(), world=world).run()
        assert order == ["first", "second"]
        assert type(state.result["never"]) is TriggerFailed

    simulate(main)


def test_reference_tasks_judge_the_run() -> None:
    """Success is judged on the reference tasks, whatever the others did."""
    with Flow("judged", reference=["total"]) as judged:
        total([1])
        boom(1)

    async def main(world: VirtualWorld) -> None:
        state = await judged.options(log=MemoryLog(), world=world).run()
        assert state.is_successful()
        assert state.result["boom"].is_failed()

    simulate(main)


def test_a_flow_of_no_tasks() -> None:
    """It is over as soon as it is begun, and successful."""
    with Flow("empty") as empty:
        pass

    async def main(world: VirtualWorld) -> None:
        state = await empty.options(log=MemoryLog(), world=world).run()
        assert state.is_successful()
        assert list(state.result) == []

    simulate(main)
