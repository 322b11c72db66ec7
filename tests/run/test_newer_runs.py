"""Runs that a later version began, went on with or ended: shown as far as they can be, and never taken for ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from eventflow import Flow, MemoryLog, SQLiteLog, UnknownEvents, flow, state_of, task
from eventflow.events import (
    Draft,
    Event,
    FlowDefined,
    RunClaimed,
    RunFinished,
    RunStarted,
    TaskStarted,
    Unknown,
    flow_stream,
    kind_of,
    missing_features,
    run_stream,
)
from eventflow.history.cache_explain import explain
from eventflow.ports import EventLog, Write
from eventflow.projections import CacheHits, RunView, Timeline, replay
from eventflow.records import LogDamaged, encode_event
from eventflow.runner.compatibility import FlowChanged
from eventflow.runs.find import list_runs, status_of
from eventflow.runs.report import read_events, read_report
from eventflow.runs.states import read_states
from eventflow.testing import VirtualWorld, simulated
from tests.e2e.commands import document

MOON = "moon-phases"
"""A feature that no version will ever have."""


@task(version="1")
async def charge(n: int) -> str:
    """Takes the money."""
    return f"charged {n}"


@task(version="1", cache_for=3600)
async def refund(n: int) -> str:
    """Gives it back."""
    return f"refunded {n}"


def payment(*order: Any) -> Flow:
    """A flow that calls these tasks, in this order."""
    with Flow("payment") as built:
        for called in order:
            called(1)
    return built


@flow
def plain(n: int) -> str:
    """One task of a parameter."""
    return charge(n)


async def events_of(log: EventLog, stream: str) -> list[Event]:
    """The events of a stream."""
    return [record.event async for record in log.read(stream=stream)]


async def put(log: EventLog, stream: str, events: Sequence[Event]) -> None:
    """Append events to a stream, one microsecond apart."""
    head = await log.head(stream)
    await log.append(Write(stream, head, [Draft(1_000_000 + head + i, event) for i, event in enumerate(events)]))  # fmt: skip


async def copied(built: Any, run: Callable[[list[Event]], Sequence[Event]], graph: Any = None) -> MemoryLog:
    """A log with the run `old` of a flow, its events as `run` makes them, its graph as `graph` makes it."""
    source, log = MemoryLog(), MemoryLog()
    await built.options(log=source, run_id="old").run(*([1] if built is plain else []))
    digest = built.graph.digest
    (defined,) = await events_of(source, flow_stream(digest))
    await put(log, flow_stream(digest), [defined if graph is None else graph(defined)])
    await put(log, run_stream("old"), run(await events_of(source, run_stream("old"))))
    return log


def newer_graph(**changes: Any) -> Callable[[Event], Event]:
    """A change of a graph: it has other members, as a later version wrote them."""

    def change(event: Event) -> Event:
        kind, graph = msgspec.msgpack.decode(encode_event(event))
        return Unknown(kind, msgspec.msgpack.encode([kind, {**graph, **changes}]))

    return change


def later(kind: str, *fields: Any) -> Unknown:
    """An event of a kind that is not known here."""
    return Unknown(kind, msgspec.msgpack.encode([kind, *fields]))


def first(events: list[Event], kind: type) -> Any:
    """The first event of a kind."""
    return next(event for event in events if isinstance(event, kind))


async def is_refused(log: EventLog, built: Any, world: VirtualWorld, match: str = "newer eventflow") -> None:
    """Neither gone on with nor rerun, and nothing is written."""
    before = await log.head()
    for options, call in (({"run_id": "old"}, "run"), ({}, "rerun")):
        launch = built.options(log=log, world=world, **options)
        with pytest.raises(UnknownEvents, match=match):
            await (launch.run() if call == "run" else launch.rerun("old"))
    assert await log.head() == before


# ── of another shape ─────────────────────────────────────────────────────────────────────────────────────────


@simulated
async def test_events_of_another_graph_are_never_shown_as_those_of_todays_tasks(world: VirtualWorld) -> None:
    """Also where the run requires an unknown word: `wait=False` refuses, and `state_of` shows each task's own result."""

    def left(events: list[Event]) -> list[Event]:
        return [replace(events[0], requires=(MOON,)), *(e for e in events[1:] if getattr(e, "task", (0,)) == (0,))][:4]  # type: ignore[type-var]  # fmt: skip

    log = await copied(payment(refund, charge), left)
    state = await state_of("old", log=log)
    assert state.result["refund"].result == "refunded 1"
    assert not state.result["charge"].is_finished()
    for wait in (False, True):
        with pytest.raises(UnknownEvents, match=MOON):
            await payment(charge, refund).options(log=log, run_id="old", wait=wait, world=world).run()
        with pytest.raises(FlowChanged, match="is a run of flow 'payment'"):
            await plain.options(log=log, run_id="old", wait=wait, world=world).run(n=1)


@simulated
async def test_other_parameters_of_a_newer_run_are_refused_as_those_of_any_run(world: VirtualWorld) -> None:
    """With `wait=False` the state is that of the call, or there is none."""
    log = await copied(plain, lambda events: [replace(events[0], requires=(MOON,)), *events[1:]])  # type: ignore[type-var]
    looked = plain.options(log=log, run_id="old", wait=False, world=world)
    assert (await looked.run(1)).result["charge"].result == "charged 1"
    with pytest.raises(ValueError, match="other values of 'n'"):
        await looked.run(2)


# ── rerun, and graphs that require by themselves ─────────────────────────────────────────────────────────────

NEWER: dict[str, Callable[[list[Event]], list[Event]]] = {
    "its birth requires": lambda events: [replace(events[0], requires=(MOON,)), *events[1:]],  # type: ignore[type-var]
    "its claim requires": lambda events: [events[0], replace(events[1], requires=(MOON,)), *events[2:]],  # type: ignore[type-var]
    "an unknown kind in between": lambda events: [*events[:-1], later("task_reset", 2, [0]), events[-1]],
    "an unknown kind at the end": lambda events: [*events, later("task_reset", 2, [0])],
    "reopened": lambda events: [*events, replace(first(events, RunClaimed), owner="x", requires=(MOON,))],
}


@pytest.mark.parametrize("name", NEWER)
@simulated
async def test_a_rerun_keeps_nothing_of_a_run_that_a_newer_version_wrote_to(
    name: str, world: VirtualWorld
) -> None:
    """By its rules a success may count no more."""
    built = payment(charge, refund)
    log = await copied(built, NEWER[name])
    await is_refused(log, built, world)
    with pytest.raises(UnknownEvents, match="newer eventflow"):
        await explain(log, "old", "refund")
    await replay(log, CacheHits())


@simulated
async def test_a_run_whose_graph_requires_is_refused_although_its_events_do_not_say_it(
    world: VirtualWorld,
) -> None:
    """The word of the graph is enough: of that of the birth, and of that of a claim."""
    built = payment(charge, refund)
    digest = "ab" * 16

    def claimed_again(events: list[Event]) -> list[Event]:
        return [*events[:3], replace(first(events, RunClaimed), owner="x", flow=digest)]

    def born(events: list[Event]) -> list[Event]:
        return [replace(event, flow=digest) for event in events[:2]]  # type: ignore[type-var]

    for change in (born, claimed_again):
        log = await copied(built, change)
        (defined,) = await events_of(log, flow_stream(built.graph.digest))
        assert isinstance(defined, FlowDefined)
        await put(log, flow_stream(digest), [FlowDefined(graph=replace(defined.graph, requires=(MOON,)))])
        await is_refused(log, built, world, MOON)
        state = await built.options(log=log, run_id="old", wait=False, world=world).run()
        assert not state.is_finished()
        assert not (await state_of("old", log=log)).is_finished()
        await replay(log, CacheHits())


# ── what is legal there and not here ─────────────────────────────────────────────────────────────────────────


@simulated
async def test_a_finished_run_that_a_newer_version_opened_again_is_not_damaged(world: VirtualWorld) -> None:
    """The claim says by itself that it follows other rules."""
    built = payment(charge, refund)
    log = await copied(built, NEWER["reopened"])
    assert not (await state_of("old", log=log)).is_finished()
    assert (await read_report(log, "old")).status == "stopped"
    without = await copied(built, lambda events: [*events, replace(first(events, RunClaimed), owner="x")])
    with pytest.raises(LogDamaged, match="the run is FINISHED"):
        await state_of("old", log=without)


@simulated
async def test_a_run_that_ended_by_other_rules_is_shown_as_ended(world: VirtualWorld) -> None:
    """Though by ours a task is open, `show`, `runs` and those who wait for it agree that it has finished."""
    built = payment(charge, refund)

    def ended(events: list[Event]) -> list[Event]:
        end = replace(first(events, RunFinished), outcome="cancelled", message="enough")
        return [replace(events[0], requires=(MOON,)), *events[1:3], end]  # type: ignore[type-var]

    log = await copied(built, ended)
    state = await state_of("old", log=log)
    assert state.is_cancelled()
    assert state.message == "enough"
    assert (await read_report(log, "old")).status == "cancelled"
    assert await status_of(log, (await list_runs(log))["old"]) == "cancelled"
    async with log.hold("old") as held:  # its owner lives: it is followed, and the follower comes to an end
        assert held
        assert (await built.options(log=log, run_id="old", world=world).run()).is_cancelled()


# ── graphs and births that do not decode ─────────────────────────────────────────────────────────────────────

NEWER_GRAPHS: dict[str, dict[str, Any]] = {
    "an unknown node": {"nodes": [{"kind": "task", "name": "charge", "task": 0}, {"kind": "moon", "name": "phase"}], "requires": [MOON]},
    "other members of a node": {"nodes": [{"kind": "task", "name": "charge", "task": {"is": "elsewhere"}}], "requires": [MOON]},
    "nodes of another form": {"nodes": {"charge": 0}, "requires": [MOON]},
    "nodes without names": {"nodes": [7, {"kind": "moon"}], "requires": [MOON]},
}  # fmt: skip


async def is_shown(log: EventLog, name: str) -> list[str]:
    """Name, start, state and kinds of events of the run `old` are there; returns the names of its tasks."""
    state = await state_of("old", log=log)
    assert not state.is_finished()
    report = await read_report(log, "old")
    assert (report.flow, report.status, report.head) == (name, "stopped", 4)
    kinds = [event.kind async for event in read_events(log, "old")]
    assert kinds == [kind_of(event) for event in await events_of(log, run_stream("old"))]
    row = (await list_runs(log))["old"]
    assert (row.name, row.started_at, await status_of(log, row)) == (name, 1_000_000, "stopped")
    timeline = (await replay(log, Timeline(), stream=run_stream("old"))).state
    assert len(timeline.tasks) == 1
    return [task.name for task in report.tasks]


@pytest.mark.parametrize("name", NEWER_GRAPHS)
@simulated
async def test_a_run_of_a_graph_that_does_not_decode_is_shown(name: str, world: VirtualWorld) -> None:
    """By the names of its nodes, whatever they are; its tasks have the states that their events say."""
    built = payment(charge, refund)
    log = await copied(built, lambda events: [*events[:2], *_of_charge(events)], newer_graph(**NEWER_GRAPHS[name]))  # fmt: skip
    names = await is_shown(log, "payment")
    if name == "an unknown node":
        assert names == ["charge", "phase"]
        states = await read_states(log, "old")
        assert states["charge"].result == "charged 1"
        assert not states["phase"].is_finished()
    other = await copied(payment(refund, charge), lambda events: events)
    await put(other, flow_stream("f" * 32), await events_of(log, flow_stream(built.graph.digest)))
    await put(other, run_stream("new"), [replace(first(await events_of(log, run_stream("old")), RunStarted), flow="f" * 32)])  # fmt: skip
    for wait in (True, False):
        with pytest.raises(UnknownEvents, match=MOON):
            await built.options(log=other, run_id="new", wait=wait, world=world).run()


def _of_charge(events: list[Event]) -> list[Event]:
    return [event for event in events if getattr(event, "task", None) == (0,)]


@simulated
async def test_a_graph_of_a_later_schema_is_shown(world: VirtualWorld) -> None:
    """Its kind is another one: the run is shown, and refused for that kind."""
    built = payment(charge, refund)

    def change(event: Event) -> Event:
        _, graph = msgspec.msgpack.decode(encode_event(event))
        return later("flow_defined@2", graph)

    log = await copied(built, lambda events: [*events[:2], *_of_charge(events)], change)
    assert await is_shown(log, "payment") == ["charge", "refund"]
    with pytest.raises(UnknownEvents, match="flow_defined@2"):
        await built.options(log=log, world=world).rerun("old")


BIRTHS: dict[str, Callable[[RunStarted], Unknown]] = {
    "a parameter of another form": lambda event: later(
        "run_started", event.flow, {"n": ["lunar", 1]}, "full", None, {}, "", None, "", {}, [MOON]
    ),
    "of a graph that has another form": lambda event: later(
        "run_started", [event.flow], {}, "full", None, {}, "", None, "", {}, [MOON]
    ),
    "another kind": lambda event: later("run_born", 1, 2),
}


@pytest.mark.parametrize("name", BIRTHS)
@simulated
async def test_a_run_that_begins_with_an_unknown_event_is_shown(name: str, world: VirtualWorld) -> None:
    """With its id, start, state and events, and with its flow's name where the graph is named."""
    built = payment(charge, refund)
    log = await copied(
        built, lambda events: [BIRTHS[name](first(events, RunStarted)), events[1], *_of_charge(events)]
    )
    in_list = "payment"  # by its claim
    report = await read_report(log, "old")
    assert report.flow == ("payment" if name == "a parameter of another form" else "")
    assert (report.status, report.head) == ("stopped", 4)
    row = (await list_runs(log))["old"]
    assert (row.name, row.started_at, await status_of(log, row)) == (in_list, 1_000_000, "stopped")
    assert [event.kind async for event in read_events(log, "old")][1:] == ["run_claimed", "task_started", "task_succeeded"]  # fmt: skip
    assert not (await state_of("old", log=log)).is_finished()
    await is_refused(log, built, world)
    with pytest.raises(UnknownEvents, match="newer eventflow"):
        await built.options(log=log, run_id="old", wait=False, world=world).run()


def test_the_command_line_shows_runs_of_a_later_version(tmp_path: Path) -> None:
    """`runs`, `show`, `events` and `cache ls` end well; the required words are a list."""
    path = tmp_path / "log.db"
    built = payment(charge, refund)

    async def make() -> None:
        source = await copied(
            built,
            lambda events: [replace(events[0], requires=(MOON, "tides")), *events[1:2], *_of_charge(events)],  # type: ignore[type-var]
            newer_graph(**NEWER_GRAPHS["an unknown node"]),
        )
        async with SQLiteLog(path) as log:
            async for record in source.read():
                await log.append(Write(record.stream, record.version - 1, [Draft(record.at, record.event)]))

    asyncio.run(make())
    where = ("--log", f"sqlite:///{path}")
    (row,) = document("runs", *where, cwd=tmp_path)
    assert (row["run"], row["flow"], row["state"]) == ("old", "payment", "stopped")
    shown = document("show", "old", *where, cwd=tmp_path)
    assert [(task["task"], task["state"]) for task in shown["tasks"]] == [("charge", "Success"), ("phase", "Pending")]  # fmt: skip
    listed = document("events", "old", *where, cwd=tmp_path)
    assert listed[0]["details"]["requires"] == [MOON, "tides"]
    assert "requires" not in listed[1]["details"]
    assert document("cache", "ls", *where, cwd=tmp_path) == []


@simulated
async def test_inputs_that_do_not_fit_are_left_out_of_a_newer_run_only(world: VirtualWorld) -> None:
    """By other rules a task may have other inputs; in a run of ours that is damage."""

    def more_inputs(events: list[Event]) -> list[Event]:
        return [replace(e, inputs=(2, 2, 2)) if isinstance(e, TaskStarted) else e for e in events]

    ours = await copied(plain, more_inputs)
    with pytest.raises(LogDamaged, match="records 3 inputs"):
        _ = (await read_states(ours, "old"))["charge"]
    newer = await copied(plain, lambda events: more_inputs(NEWER["its birth requires"](events)))
    assert (await read_states(newer, "old"))["charge"].cached_inputs == {}


def test_a_snapshot_is_not_used_by_a_version_that_knows_other_features() -> None:
    """A newer version keeps it of a run whose features it knows; the older one would not see that it does not."""
    assert missing_features.__module__ in RunView.modules
