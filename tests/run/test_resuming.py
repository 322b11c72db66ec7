"""The same call again: resumed, read, refused, or rerun with today's code."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, Parameter, RunNotFound, flow, open_run, replay, task
from eventflow.events import Draft, FlowDefined, RunStarted, TaskReused
from eventflow.ports import Write
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.states import Cached
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated


class Boom(Exception):
    """What the bodies raise."""


def pipeline(
    ran: Counter[str], *, broken: bool = False, version: str = "1", extra: bool = False, name: str = "pipe"
) -> Flow[..., Any]:
    """Fetch → work (mapped) → total, and perhaps one task more; `broken` fails the second element."""

    @task(version=version)
    async def fetch(day: str) -> list[int]:
        ran["fetch"] += 1
        return [1, 2, 3]

    @task(version=version if not broken else "broken")
    async def work(number: int) -> int:
        ran[f"work {number}"] += 1
        if broken and number == 2:
            raise Boom("two")
        return number * 10

    @task(version=version)
    async def total(numbers: list[int], day: str) -> str:
        ran["total"] += 1
        return f"{day}: {sum(numbers)}"

    @task(version="1")
    async def report(text: str) -> str:
        ran["report"] += 1
        return text.upper()

    @flow(name=name)
    def pipe(day: str, scale: int = 1) -> str:
        found = total(work.map(fetch(day)), day)
        return report(found) if extra else found

    return pipe


@simulated
async def test_a_finished_run_executes_nothing(world: VirtualWorld) -> None:
    """Its recorded State comes back, equal to the live one, and not a byte is appended."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    live = await pipeline(ran).options(log=log, world=world, run_id="r").run("mon")
    head, before = await log.head(), ran.copy()
    again = pipeline(ran).options(log=log, world=world, run_id="r")
    recorded = await again.run("mon")
    assert dict(recorded.result.items()) == dict(live.result.items())
    assert await again.value("mon") == "mon: 60"
    assert ran == before
    assert await log.head() == head


@simulated
async def test_other_parameters_are_refused_by_name(world: VirtualWorld) -> None:
    """Given ones must agree with the recorded ones; defaults that are left out are not compared."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    options = pipeline(ran).options(log=log, world=world, run_id="r")
    await options.run("mon", scale=3)
    await options.run("mon")
    head = await log.head()
    with pytest.raises(ParametersDiffer, match="'day'"):
        await options.run("tue")
    with pytest.raises(ParametersDiffer, match="'scale'"):
        await options.run("mon", scale=4)
    assert await log.head() == head


@pytest.mark.parametrize("finished", [True, False])
@simulated
async def test_another_flow_under_the_same_run_id(finished: bool, world: VirtualWorld) -> None:
    """Another name or another shape is refused, before its graph meets the run's events; nothing is written."""
    ran: Counter[str] = Counter()

    inside = MemoryLog()
    log: Any = inside if finished else CrashingLog(inside, crash_at=5)
    try:
        await pipeline(ran, extra=True).options(log=log, world=world, run_id="r").run("mon")
    except Crash:
        assert not finished
    head = await inside.head()
    with pytest.raises(FlowChanged, match="'pipe', not of 'other'"):
        await pipeline(ran, extra=True, name="other").options(log=inside, world=world, run_id="r").run("mon")
    with pytest.raises(FlowChanged, match=r"report +report\(.*\) +\(not there\)"):
        await pipeline(ran).options(log=inside, world=world, run_id="r").run("mon")
    with Flow("pipe") as tiny:
        pass
    with pytest.raises(FlowChanged, match="another shape"):
        await tiny.options(log=inside, world=world, run_id="r").run()
    assert await inside.head() == head


@simulated
async def test_changed_code_of_a_finished_task_is_refused(world: VirtualWorld) -> None:
    """Unfinished tasks may get new code on resume, finished ones may not."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    with pytest.raises(Crash):
        await pipeline(ran).options(log=CrashingLog(log, crash_at=3), world=world, run_id="r").run("mon")
    with pytest.raises(FlowChanged, match="fetch") as caught:
        await pipeline(ran, version="2").options(log=log, world=world, run_id="r").run("mon")
    change = caught.value.changes[0]
    assert change.name == "fetch"
    assert change.then != change.now
    assert "on_change='keep'" in str(caught.value)


@simulated
async def test_changed_code_of_a_finished_task_is_kept_on_request(world: VirtualWorld) -> None:
    """With `on_change="keep"` the result stands as it was made, the rest runs today's code, and that is recorded."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    with pytest.raises(Crash):
        await pipeline(ran).options(log=CrashingLog(log, crash_at=3), world=world, run_id="r").run("mon")
    fetched = ran["fetch"]
    flow = pipeline(ran, version="2")
    state = await flow.options(log=log, world=world, run_id="r", on_change="keep").run("mon")
    assert state.is_successful()
    assert ran["fetch"] == fetched
    again = await flow.options(log=log, world=world, run_id="r").run("mon")  # its code is today's by now
    assert again.is_successful()


@simulated
async def test_what_changed_is_a_table(world: VirtualWorld) -> None:
    """Each task, parameter and constant that differs has its line: what it was, what it is."""

    @task
    async def add(a: int, b: int) -> int:
        return a + b

    def build(variant: int) -> Flow[..., Any]:
        with Flow("sums") as flow:
            x = Parameter("x", type=int) if variant else Parameter("x", type=int, default=3)
            one = add(x, 1 + variant)
            two = add.after(one)(x, 0) if variant else add(x, 0)
            add.map([one, two], [1, 2]) if variant else add(one, two)
        return flow

    log = MemoryLog()
    await build(0).options(log=log, world=world, run_id="r").run(1)
    with pytest.raises(FlowChanged) as caught:
        await build(1).options(log=log, world=world, run_id="r").run(1)
    assert str(caught.value).splitlines() == [
        "run 'r' was started with another shape of flow 'sums':",
        "         then                       now",
        "  x      parameter: int, default 3  parameter: int, required",
        "  add    add(a=x, b=1)              add(a=x, b=2)",
        "  add-2  add(a=x, b=0)              add(a=x, b=0, after add)",
        "  add-3  add(a=add, b=add-2)        add(a=each of [add, add-2], b=each of [1, 2])",
        "finish it with the old code, or keep the results that still fit in a new run: `rerun('r')`",
    ]


def test_an_unknown_answer_to_a_change_is_refused() -> None:
    """`on_change` is `refuse` or `keep`."""
    with pytest.raises(ValueError, match="on_change='ignore' is none of refuse, keep"):
        pipeline(Counter()).options(on_change="ignore")  # type: ignore[arg-type]


@simulated
async def test_new_code_of_unfinished_tasks_is_taken_and_recorded(world: VirtualWorld) -> None:
    """A run that died before anything finished goes on with today's code."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    with pytest.raises(Crash):
        await pipeline(ran).options(log=CrashingLog(log, crash_at=2), world=world, run_id="r").run("mon")
    state = await pipeline(ran, version="2").options(log=log, world=world, run_id="r").run("mon")
    assert state.is_successful()
    view = await open_run(log, "r")
    fold = await replay(log, view, stream=view.stream)
    assert fold.state.run.flow == pipeline(ran, version="2").graph.digest


@simulated
async def test_rerun_keeps_the_successes_and_runs_the_rest(world: VirtualWorld) -> None:
    """Fix the bug and go on: only the failed element and what needs it run, in a run of their own."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    failed = await pipeline(ran, broken=True).options(log=log, world=world, run_id="r").run("mon")
    assert failed.is_failed()
    assert ran == Counter({"fetch": 1, "work 1": 1, "work 2": 1, "work 3": 1})
    ran.clear()
    fixed = await pipeline(ran).options(log=log, world=world).rerun("r")
    assert fixed.is_successful()
    assert fixed.result["total"].result == "mon: 60"
    assert ran == Counter({"work 2": 1, "total": 1})
    assert type(fixed.result["fetch"]) is Cached
    assert [type(child).__name__ for child in fixed.result["work"].map_states] == [
        "Cached",
        "Success",
        "Cached",
    ]
    origins = [r.event.origin async for r in log.read() if isinstance(r.event, RunStarted)]
    assert origins[0] is None
    assert origins[1].stream == "run/r"
    reused = [r.event async for r in log.read() if isinstance(r.event, TaskReused)]
    assert {event.why for event in reused} == {"fork"}


@simulated
async def test_rerun_of_a_map_over_a_map_keeps_it_element_by_element(world: VirtualWorld) -> None:
    """A failed element is run again with what hangs on it; the others are kept all the way down."""
    ran: Counter[str] = Counter()
    broken = True

    @task(version="1")
    async def first(number: int) -> int:
        ran[f"first {number}"] += 1
        if broken and number == 0:
            raise ValueError
        return number

    @task(version="1")
    async def second(number: int, other: int) -> int:
        ran[f"second {number}"] += 1
        return number + other

    @flow
    def twice() -> list[int]:
        ones = first.map([0, 1, 2])
        return second.map(ones, [first(10), first(11), first(12)])

    log = MemoryLog()
    assert (await twice.options(log=log, world=world, run_id="r").run()).is_failed()
    assert ran["second 1"] == ran["second 2"] == 1
    broken = False
    ran.clear()
    state = await twice.options(log=log, world=world).rerun("r")
    assert state.result["second"].result == [10, 12, 14]
    assert ran == Counter({"first 0": 1, "second 0": 1})


@simulated
async def test_rerun_with_a_changed_graph(world: VirtualWorld) -> None:
    """Results are found by name: a task that was added runs, the others are kept."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    await pipeline(ran).options(log=log, world=world, run_id="r").run("mon")
    ran.clear()
    state = await pipeline(ran, extra=True).options(log=log, world=world).rerun("r")
    assert state.result["report"].result == "MON: 60"
    assert ran == Counter({"report": 1})


@simulated
async def test_a_rerun_can_crash_and_be_resumed(world: VirtualWorld) -> None:
    """The kept results are in the first append: a rerun that dies right after it goes on with them."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    await pipeline(ran, broken=True).options(log=log, world=world, run_id="r").run("mon")
    ran.clear()
    dying = CrashingLog(log, crash_at=1, when="after")
    with pytest.raises(Crash):
        await pipeline(ran).options(log=dying, world=world, run_id="again").rerun("r")
    state = await pipeline(ran).options(log=log, world=world, run_id="again").run("mon")
    assert state.is_successful()
    assert ran == Counter({"work 2": 1, "total": 1})


@simulated
async def test_rerun_of_what_cannot_be(world: VirtualWorld) -> None:
    """An unknown id is RunNotFound; a run that its process left can be; another flow's run is refused."""
    ran: Counter[str] = Counter()

    log = MemoryLog()
    options = pipeline(ran).options(log=log, world=world)
    with pytest.raises(RunNotFound, match="'nope'"):
        await options.rerun("nope")
    with pytest.raises(Crash):
        await pipeline(ran).options(log=CrashingLog(log, crash_at=3), world=world, run_id="r").run("mon")
    assert (await options.rerun("r")).is_successful()
    with pytest.raises(ValueError, match="'pipe', not of 'other'"):
        await pipeline(ran, name="other").options(log=log, world=world).rerun("r")


@simulated
async def test_a_flow_that_another_version_defined_in_other_words_is_no_hindrance(
    world: VirtualWorld,
) -> None:
    """The stream of a flow's digest holds other bytes than ours: the run begins all the same, and ends."""

    @task
    async def one() -> int:
        return 1

    with Flow("ones") as flow:
        one()

    log = MemoryLog()
    other = Draft(0, FlowDefined(graph=flow.graph), key="in other words")
    await log.append(Write(f"flow/{flow.graph.digest}", 0, [other]))
    assert (await flow.options(log=log, world=world, run_id="r").run()).is_successful()


async def test_a_finished_run_is_shown_whatever_the_code_is_today() -> None:
    """What its tasks gave was given by the code of that time; nothing of today's is run."""

    def version(number: int) -> Flow[..., Any]:
        @task(version=str(number), name="work")
        async def work() -> int:
            return number

        with Flow("f") as found:
            work()
        return found

    log = MemoryLog()
    await version(1).options(log=log, run_id="r").run()
    state = await version(2).options(log=log, run_id="r").run()
    assert state.result["work"].result == 1
