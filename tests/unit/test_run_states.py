"""A run as it stood at any of its events, from its records alone."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from eventflow import (
    Flow,
    MemoryLog,
    RunNotFound,
    RunStates,
    RunView,
    Skip,
    State,
    Timeline,
    open_run,
    replay,
    run_report,
    states,
    task,
    unmapped,
)
from eventflow.events import Record
from eventflow.result import Inline, Result, Withheld
from eventflow.serializers import Serializer
from eventflow.testing.virtual import VirtualWorld, simulate, simulated
from eventflow.views.results import PartSerializer
from eventflow.views.run import RunFacts
from eventflow.views.states_serializer import StatesSerializer


@task(version="1")
async def numbers(count: int) -> list[int]:
    """A few."""
    return list(range(count))


@task(version="1", retries=1, retry_delay=10)
async def third(number: int, by: int) -> float:
    """Fails for 0, skips 1."""
    await anyio.sleep(number)
    if number == 1:
        raise Skip("one")
    return by / number


@task(version="1")
async def last(found: list[float]) -> int:
    """Never runs."""
    return len(found)


def example() -> Flow[..., Any]:
    """A run with everything in it: success, retry, failure, skip, block, map."""
    with Flow("example") as flow:
        many = numbers(4)
        each = third.map(many, unmapped(6))
        last(each)
        last.named("ok")([each[2], many[1]])
    return flow


def recorded() -> tuple[State, list[Record], MemoryLog]:
    """The final State, and the records of the run."""
    log = MemoryLog()

    async def main(world: VirtualWorld) -> tuple[State, list[Record]]:
        state = await example().options(log=log, world=world, run_id="r").run()
        return state, [record async for record in log.read(stream="run/r")]

    return *simulate(main), log


async def view_of(log: MemoryLog) -> RunView:
    """The view from the log alone."""
    return await open_run(log, "r")


def as_bytes(run_states: RunStates) -> list[bytes]:
    """Every task's State, dumped."""
    names = [*run_states, *(f"third[{i}]" for i in range(4))]
    return [states.encode_msgpack(run_states[name]) for name in names]


def test_the_log_alone_shows_what_the_run_returned() -> None:
    """States from the log equal the live ones byte by byte, without the flow's code."""
    state, _, log = recorded()

    async def main(world: VirtualWorld) -> None:
        view = await view_of(log)
        fold = await replay(log, view, stream=view.stream)
        assert as_bytes(RunStates(view, fold.state)) == as_bytes(state.result)
        assert [type(child).__name__ for child in state.result["third"].map_states] == [
            "Failed",
            "Skipped",
            "Success",
            "Success",
        ]
        assert type(state.result["last"]) is states.Skipped

    simulate(main)


def test_every_moment_of_a_run_can_be_shown() -> None:
    """At each event all states can be built and dumped, and statuses only go where they may."""
    _, records, log = recorded()

    async def main(world: VirtualWorld) -> None:
        view = await view_of(log)
        told: list[str] = []
        for record in records:
            fold = await replay(log, view, stream=view.stream, until=record.position)
            run_states = RunStates(view, fold.state)
            assert [states.encode_json(run_states[name]) for name in run_states]
            assert run_states.version == record.version
            try:
                told.append(type(run_states["third[0]"]).__name__)
            except KeyError:
                told.append("")
        seen = [name for i, name in enumerate(told) if name != told[i - 1]]
        assert [name for name in seen if name] == ["Pending", "Running", "Retrying", "Running", "Failed"]

    simulate(main)


def test_facts_at_every_cut_go_through_messagepack() -> None:
    """A snapshot and the tail are the whole, for a run with everything in it."""
    _, records, log = recorded()

    async def main(world: VirtualWorld) -> None:
        view = await view_of(log)
        whole = await replay(log, view, stream=view.stream)
        last = msgspec.msgpack.encode(whole.state)
        facts = view.initial()
        for cut, record in enumerate(records):
            tail: RunFacts = msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=RunFacts)
            for later in records[cut:]:
                tail = view.apply(tail, later)
            assert msgspec.msgpack.encode(tail) == last
            facts = view.apply(facts, record)

    simulate(main)


def test_cached_inputs_are_joined_from_their_sources() -> None:
    """By argument name; each leaf of a container under its own; a mapped element is its own element."""
    state, _, _ = recorded()
    run_states = state.result
    inputs = {
        name: result.deserialize().value for name, result in run_states["third[2]"].cached_inputs.items()
    }
    assert inputs == {"number": 2}
    assert run_states["numbers"].cached_inputs == {}
    assert type(run_states["ok"]) is states.Skipped


def test_finding_a_task() -> None:
    """By name, child's name or address; anything else is a KeyError that names it."""
    state, _, _ = recorded()
    run_states = state.result
    assert run_states[(1, 2)] == run_states["third[2]"] == run_states["third"].map_states[2]
    assert list(run_states) == ["numbers", "third", "last", "ok"]
    assert len(run_states) == 4
    for wrong in ("thirds", "third[9]", "third[x]", "numbers[0]"):
        with pytest.raises(KeyError, match="no task"):
            run_states[wrong]
    with pytest.raises(LookupError):
        run_states[(7,)]


@simulated
async def test_an_unknown_run(world: VirtualWorld) -> None:
    """It is RunNotFound, by its id."""
    with pytest.raises(RunNotFound, match="'nobody'"):
        await open_run(MemoryLog(), "nobody")


def test_a_final_state_can_be_dumped_whole() -> None:
    """A run's own State dumps with all its tasks' states, and they open after loading."""
    state, _, _ = recorded()
    loaded = states.decode_json(states.encode_json(state))
    assert type(loaded) is type(state)
    payload = loaded._result.value
    tasks = StatesSerializer().deserialize(payload)
    assert tasks["numbers"].result == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "key",
    [
        (99,),
        (-1,),
        (),
        0,
        None,
        "third]",
        "third[",
        "third[1",
        "third[-1]",
        "third[01]",
        "third[٣]",
        "third[" + "9" * 5000 + "]",
        "thrid",
        numbers,
    ],
    ids=lambda key: f"{key!r:.16}",
)
def test_what_is_no_task_is_a_key_error(key: Any) -> None:
    """The states of a run are a mapping like any other: `in` and `.get` say no, `[]` raises KeyError."""
    state, _, _ = recorded()
    assert key not in state.result
    assert state.result.get(key) is None
    with pytest.raises(KeyError):
        state.result[key]


def test_a_wrong_name_is_answered_with_a_near_one() -> None:
    """A slip of the hand is named."""
    state, _, _ = recorded()
    with pytest.raises(KeyError, match="did you mean 'third'"):
        state.result["thrid"]


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_runs_own_state_is_dumped_with_all_its_tasks(form: str) -> None:
    """Dumped and loaded, the states of tasks and of mapped children open to the same values."""
    state, _, _ = recorded()
    encode, decode = getattr(states, f"encode_{form}"), getattr(states, f"decode_{form}")
    again = decode(encode(state))
    assert type(again) is type(state)
    loaded = again.result
    assert loaded["third[2]"].result == state.result["third[2]"].result == 3.0
    assert loaded["third[1]"].is_skipped()
    assert loaded["numbers"].result == [0, 1, 2, 3]
    assert type(loaded["third"]) is states.Mapped


def test_a_part_of_a_value_travels_as_that_part() -> None:
    """`cached_inputs` of a task that was given `node[key]` are the part, before and after a dump."""
    state, _, _ = recorded()
    failed = state.result["third[0]"]
    assert failed.cached_inputs["number"].deserialize().value == 0
    again = states.decode_json(states.encode_json(failed))
    assert again.cached_inputs["number"].deserialize().value == 0


class Order(msgspec.Struct):
    """What a typed result consists of."""

    item: str


def test_a_part_of_a_typed_value_is_not_of_the_type_of_the_whole() -> None:
    """It is kept by its own type; where it cannot be had, what travels says so and nothing is raised."""
    whole = Serializer(dict[str, Order])
    payload = whole.serialize({"a": Order("pen")})
    part = PartSerializer(whole, ("a",)).part(Result(payload, True, PartSerializer(whole, ("a",))))
    assert isinstance(part, Inline)
    assert Serializer(Order).deserialize(part) == Order("pen")
    lost = PartSerializer(whole, ("b",)).part(Result(payload, True, PartSerializer(whole, ("b",))))
    assert isinstance(lost, Withheld)


def test_the_states_know_the_run_they_are_of() -> None:
    """A run that was given no id says which one it got."""
    state, _, _ = recorded()
    assert state.result.run_id == "r"


def test_a_report_joins_states_and_timings() -> None:
    """A row for each task: its state, its last attempt's number and duration; children are counted, failures named."""
    _, records, log = recorded()

    async def main(world: VirtualWorld) -> None:
        view = await view_of(log)
        facts = (await replay(log, view, stream=view.stream)).state
        timeline = (await replay(log, Timeline(), stream=view.stream)).state
        report = run_report(view, facts, timeline)
        assert (report.run, report.flow, report.status) == ("r", "example", "success")
        assert report.version == records[-1].version
        assert report.message == "all tasks that decide the outcome succeeded"
        numbers_row, third_row, last_row, ok_row = report.tasks
        assert (numbers_row.name, numbers_row.state, numbers_row.attempt) == ("numbers", "Success", 1)
        assert numbers_row.elapsed_us == 0
        assert (third_row.state, third_row.attempt, third_row.message) == ("Mapped", 0, "")
        assert third_row.children is not None
        assert third_row.children.outcome == "Failed"
        assert third_row.children.states == {"Failed": 1, "Skipped": 1, "Success": 2}
        assert third_row.children.failures == {"third[0]": "ZeroDivisionError: division by zero"}
        assert (last_row.state, last_row.attempt, last_row.children) == ("Skipped", 0, None)
        assert ok_row.state == "Skipped"

    simulate(main)


def test_a_report_of_a_run_under_way() -> None:
    """A task that runs has an attempt and no duration yet; a map is running until its last child has finished."""
    _, records, log = recorded()

    async def main(world: VirtualWorld) -> None:
        view = await view_of(log)
        facts, timeline, seen = view.initial(), Timeline().initial(), set[tuple[str, str]]()
        for record in records:
            facts, timeline = view.apply(facts, record), Timeline().apply(timeline, record)
            report = run_report(view, facts, timeline)
            for row in report.tasks:
                assert (row.state != "Running") or (row.attempt, row.elapsed_us) == (1, None)
                seen.add((row.name, row.state if row.children is None else row.children.outcome))
        assert {("numbers", "Pending"), ("numbers", "Running"), ("numbers", "Success")} <= seen
        assert {("third", "Pending"), ("third", "Running"), ("third", "Failed")} <= seen

    simulate(main)
