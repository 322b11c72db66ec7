"""A flow runs: its values by name and node, its failures, its maps, its order."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventflow import (
    Flow,
    MemoryLog,
    NoResult,
    NoValue,
    ParameterError,
    Result,
    Skip,
    TaskError,
    context,
    flow,
    state_of,
    task,
    unmapped,
)
from eventflow.events import RunFinished
from eventflow.states import Failed, Mapped, Skipped, Success, TriggerFailed
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.run.pipeline import double, nightly, one, total


@simulated
async def test_the_message_of_a_failed_run_names_what_failed_first_and_why(world: VirtualWorld) -> None:
    """Neither the last task, which never ran, nor the first one listed; recorded, and the same wherever it is read."""

    @task
    async def late(name: str, after_s: int) -> str:
        await anyio.sleep(after_s)
        raise Boom(f"{name} is empty\nsecond line")

    @flow
    def several() -> str:
        names = [late.named("slow")("slow", 9), late.named("quick")("quick", 2)]
        return one.named("never")(names)

    log = MemoryLog()
    state = await several.options(log=log, world=world, run_id="a").run()
    assert state.message == "2 tasks failed, first quick: tests.run.test_running.Boom: quick is empty"
    [recorded] = [r.event async for r in log.read(stream="run/a") if isinstance(r.event, RunFinished)]
    assert recorded.message == state.message
    assert (await state_of("a", log=log)).message == state.message
    with pytest.raises(TaskError, match="task 'quick' failed"):
        await several.options(log=log, world=world, run_id="a").value()


async def test_a_flow_on_the_real_clock() -> None:
    """Without any option a flow runs in this process's memory, on the wall clock."""

    @flow
    def quick(numbers: list[int]) -> int:
        return total(double.map(numbers))

    assert await quick.value([1, 2]) == 6
    state = await quick.run(numbers=[3])
    assert state.is_successful()
    assert state.result["total"].result == 6


@simulated
async def test_results_by_name_by_node_and_by_child(world: VirtualWorld) -> None:
    """A final State gives each task's State: by name, by child's name, by node handle; and Results."""
    with Flow("explicit") as explicit:
        numbers = one("ab")
        amount = total(double.map(numbers))

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


@simulated
async def test_value_and_parameters_with_defaults(world: VirtualWorld) -> None:
    """`.value()` gives the returned node's value; defaults and converted values arrive in bodies."""
    options = nightly.options(log=MemoryLog(), world=world)
    assert await options.value("ab") == 15
    assert await options.value(day="abc", extra=100) == 116


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({}, "day"),
        ({"day": 3}, "day"),
        ({"day": "x", "night": 1}, "night"),
        ({"day": "x", "extra": "many"}, "extra"),
    ],
)
@simulated
async def test_wrong_parameters_start_nothing(kwargs: dict[str, Any], told: str, world: VirtualWorld) -> None:
    """Missing, mistyped and unknown parameters are named, and the log stays empty."""
    log = MemoryLog()
    with pytest.raises(ParameterError, match=told):
        await nightly.options(log=log, world=world).run(**kwargs)
    assert await log.head() == 0


@simulated
async def test_what_a_flow_returns_may_be_a_container(world: VirtualWorld) -> None:
    """Lists, tuples, dicts, parts and mapped nodes among what is returned come back as values."""

    @task
    async def pair() -> tuple[int, str]:
        return 1, "x"

    @flow
    def many(day: str) -> Any:
        number, text = pair()
        return {"a": [number, text], "b": (double.map(one(day)), one(day)[0])}

    found = await many.options(log=MemoryLog(), world=world).value("ab")
    assert found == {"a": [1, "x"], "b": ([4, 4, 6], 2)}
    assert type(found["b"]) is tuple


class Boom(Exception):
    """What the tests' bodies raise."""


@task
async def boom(number: int = 0) -> int:
    """Never well."""
    raise Boom(f"no {number}")


@simulated
async def test_a_failure_is_a_state_and_value_raises_it(world: VirtualWorld) -> None:
    """The run is Failed, the consumer's body never runs, and `.value()` raises with the live cause."""
    ran: list[int] = []

    @task
    async def after_it(number: int) -> int:
        ran.append(number)
        return number

    @flow
    def broken() -> int:
        return after_it(boom(7))

    options = broken.options(log=MemoryLog(), world=world)
    state = await options.run()
    assert type(state) is Failed
    assert state.message == "boom failed: tests.run.test_running.Boom: no 7"
    failed, blocked = state.result["boom"], state.result["after_it"]
    assert type(failed) is Failed
    assert failed.failure.message == "no 7"
    assert "raise Boom" in failed.failure.traceback
    assert "eventflow/runner" not in failed.failure.traceback
    assert type(blocked) is TriggerFailed
    assert "boom" in blocked.message
    assert not ran
    with pytest.raises(TaskError, match=r"task 'boom' failed: .*Boom: no 7") as caught:
        await options.value()
    assert isinstance(caught.value.__cause__, Boom)


@simulated
async def test_value_of_a_missing_part_names_it(world: VirtualWorld) -> None:
    """A flow that returns `node[key]` of a value without that key raises a TaskError that says so."""

    @task
    async def answers() -> dict[str, int]:
        return {"a": 1}

    @flow
    def wrong() -> int:
        return answers()["b"]

    with pytest.raises(TaskError, match="no such part"):
        await wrong.options(log=MemoryLog(), world=world).value()


@simulated
async def test_a_failed_element_only_hits_its_own_index(world: VirtualWorld) -> None:
    """Downstream of a failed child only the child of the same index is blocked; a reduction is too."""

    @task
    async def odd(number: int) -> int:
        if number == 2:
            raise Boom("two")
        return number

    @flow
    def mapped() -> Any:
        return total(double.map(odd.map([1, 2, 3])))

    options = mapped.options(log=MemoryLog(), world=world)
    state = await options.run()
    kinds = [type(child) for child in state.result["double"].map_states]
    assert kinds == [Success, TriggerFailed, Success]
    assert type(state.result["total"]) is TriggerFailed
    with pytest.raises(TaskError, match=r"odd\[1\]"):
        await options.value()


@simulated
async def test_skip_goes_downstream_and_is_a_success(world: VirtualWorld) -> None:
    """A body that raises Skip ends skipped, with it all that need it; the run is successful."""

    @task
    async def nothing() -> int:
        raise Skip("weekend")

    @flow
    def idle() -> int:
        return total([nothing(), 1])

    options = idle.options(log=MemoryLog(), world=world)
    state = await options.run()
    assert state.is_successful()
    assert type(state.result["nothing"]) is Skipped
    assert state.result["nothing"].message == "weekend"
    assert type(state.result["total"]) is Skipped
    assert state.result["total"].result is NoResult
    with pytest.raises(NoValue, match="an upstream was skipped"):
        await options.value()


@simulated
async def test_mapping_over_what_is_no_list_fails_the_mapped_task(world: VirtualWorld) -> None:
    """A dict, a number or text cannot be mapped over: the parent fails and says what to return."""

    @task
    async def give(what: str) -> Any:
        return {"dict": {"a": 1}, "int": 3, "str": "abc"}[what]

    @flow
    def over(what: str) -> Any:
        return double.map(give(what))

    for what in ("dict", "int", "str"):
        state = await over.options(log=MemoryLog(), world=world).run(what)
        assert type(state.result["double"]) is Failed
        named = "an int" if what == "int" else f"a {what}"
        assert f"cannot map over {named}:" in state.result["double"].failure.message


@simulated
async def test_empty_maps_all_the_way_down(world: VirtualWorld) -> None:
    """Nothing to map over gives no children, the map of it none either, and a sum of nothing."""

    @flow
    def empty() -> int:
        return total(double.map(double.map([])), 5)

    options = empty.options(log=MemoryLog(), world=world)
    assert await options.value() == 5
    state = await options.run()
    assert state.result["double-2"].result == []


@simulated
async def test_unmapped_and_a_map_over_a_map(world: VirtualWorld) -> None:
    """`unmapped` goes whole to every child; child i of the second map starts when its own element is there."""
    started: dict[str, int] = {}

    @task
    async def nap(seconds: int) -> int:
        await anyio.sleep(seconds)
        return seconds

    @task
    async def note(seconds: int, base: list[int]) -> int:
        started[context.task] = world.monotonic()
        return seconds + len(base)

    @flow
    def naps() -> Any:
        return note.map(nap.map([5, 1]), unmapped([1, 2]))

    assert await naps.options(log=MemoryLog(), world=world).value() == [7, 3]
    assert started == {"note[0]": 5_000_000, "note[1]": 1_000_000}


@simulated
async def test_after_orders_without_data(world: VirtualWorld) -> None:
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

    state = await ordered.options(log=MemoryLog(), world=world).run()
    assert order == ["first", "second"]
    assert type(state.result["never"]) is TriggerFailed


@simulated
async def test_reference_tasks_judge_the_run(world: VirtualWorld) -> None:
    """Success is judged on the reference tasks, whatever the others did."""
    with Flow("judged", reference=["total"]) as judged:
        total([1])
        boom(1)

    state = await judged.options(log=MemoryLog(), world=world).run()
    assert state.is_successful()
    assert state.result["boom"].is_failed()


@simulated
async def test_a_flow_of_no_tasks(world: VirtualWorld) -> None:
    """It is over as soon as it is begun, and successful."""
    with Flow("empty") as empty:
        pass

    state = await empty.options(log=MemoryLog(), world=world).run()
    assert state.is_successful()
    assert list(state.result) == []


@task
async def only_even(number: int) -> int:
    """Fails for odd numbers."""
    if number % 2:
        raise ValueError(f"odd: {number}")
    return number


async def test_a_run_fails_with_any_child_of_a_map_that_it_is_judged_on() -> None:
    """The map says so too: in its predicates and in its message."""
    with Flow("maps", reference=("only_even",)) as maps:
        only_even.map([2, 3, 4])
    state = await maps.options(log=MemoryLog()).run()
    mapped = state.result["only_even"]
    assert state.is_failed()
    assert (mapped.is_successful(), mapped.is_failed(), mapped.is_finished()) == (False, True, True)
    assert mapped.message == "3 children: 1 failed"
    assert [child.is_failed() for child in mapped.map_states] == [False, True, False]


async def test_a_value_is_not_given_of_a_run_that_failed() -> None:
    """Although what the flow returns succeeded: the error of the task that failed is raised, with its cause."""

    @flow
    def careless() -> int:
        only_even(5)
        return only_even(4)

    @flow(reference=("only_even",))
    def judged() -> int:
        only_even(7)
        return only_even(6)

    for made, number in ((careless, 5), (judged, 7)):
        with pytest.raises(TaskError, match=f"task 'only_even' failed: ValueError: odd: {number}") as caught:
            await made.options(log=MemoryLog()).value()
        assert isinstance(caught.value.__cause__, ValueError)


async def test_a_map_that_is_too_wide_fails_before_it_takes_memory() -> None:
    """A million children are the limit, and the error says what to do instead."""

    @flow
    def wide(width: int) -> int:
        return only_even.map(many(width))  # type: ignore[return-value]

    @task(version="1")
    async def many(width: int) -> list[int]:
        return [0] * width

    state = await wide.options(log=MemoryLog()).run(1_000_001)
    failed = state.result["only_even"]
    assert failed.is_failed()
    assert "mapping over 1000001 elements" in failed.message
    assert "take a batch of elements" in failed.message
