"""The pure core under any commands: `evolve` accepts all that `decide` gives, and a fold can be cut anywhere."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventflow.events import Draft, Failure, Origin, RunClaimed, RunStarted
from eventflow.graph import ListOf, Ref
from eventflow.machine import (
    AbandonTask,
    BlockTask,
    ClaimRun,
    Command,
    FailTask,
    FinishRun,
    MapTask,
    Phase,
    Plan,
    ReleaseRun,
    ReuseTask,
    RunState,
    SkipTask,
    StartRun,
    StartTask,
    SucceedTask,
)
from eventflow.machine.decide import decide
from eventflow.machine.ready import ready
from eventflow.result import Inline
from eventflow.views.run import RunFacts, RunView, advance
from tests.properties.flows import Journal, Sketch, build, sketches

PAYLOAD = Inline("msgpack", b"\x01", b"d" * 16)
FAILURE = Failure(type="ValueError", message="no")
KINDS_OF_DUE = ("start", "map", "skip", "block")


def _width(plan: Plan, run: RunState, slot: int, wanted: int) -> int:
    """A width that a mapped task may have: no more than what it follows child by child."""
    node = plan.nodes[slot]
    widths = [wanted]
    for item in node.inputs:
        if item.each and isinstance(item.arg, ListOf):
            widths.append(len(item.arg.items))
        elif item.each and isinstance(item.arg, Ref) and not item.arg.path and item.arg.node in run.maps:
            widths.append(run.maps[item.arg.node].width)
    return min(widths)


@st.composite
def _commands(draw: st.DrawFn, plan: Plan, run: RunState) -> Command:
    """Any command: often one that is due, often nonsense, often late or repeated."""
    due = [(kind, slot) for kind in KINDS_OF_DUE for slot in getattr(ready(plan, run, run.at, 3), kind)]
    if due and draw(st.integers(0, 2)):
        kind, slot = draw(st.sampled_from(due))
    else:
        kind = draw(st.sampled_from([*KINDS_OF_DUE, "succeed", "succeed", "fail", "abandon", "reuse", "run"]))
        slot = draw(st.integers(0, len(run.status) - 1))
        running = list(run.active())
        if running and kind in ("succeed", "fail", "abandon") and draw(st.integers(0, 3)):
            slot = draw(st.sampled_from(running))
    attempt = max(0, run.attempt[slot] - draw(st.sampled_from([0, 0, 0, 1, 2])))
    match kind:
        case "start":
            return StartTask(slot)
        case "map":
            node = run.node(slot)
            width = _width(plan, run, node, draw(st.integers(0, 3))) if node in plan.mapped else 2
            return MapTask(slot, width, draw(st.sampled_from([None, None, None, FAILURE])))
        case "skip":
            return SkipTask(slot, "why", draw(st.sampled_from([0, attempt])))
        case "block":
            return BlockTask(slot)
        case "succeed":
            return SucceedTask(slot, attempt, PAYLOAD)
        case "fail":
            reason: Any = draw(st.sampled_from(["raised", "timed_out", "unserializable", "input"]))
            return FailTask(slot, attempt, FAILURE, reason, delay_us=draw(st.sampled_from([0, 5])))
        case "abandon":
            return AbandonTask(slot, attempt, draw(st.sampled_from(["lost", "lost", "interrupted"])))
        case "reuse":
            return ReuseTask(slot, PAYLOAD, Origin("run/old", 3), "fork")
        case _:
            return draw(st.sampled_from([_claim("me"), _claim("you"), ReleaseRun("x"), FinishRun(), BIRTH]))


def _claim(owner: str) -> ClaimRun:
    return ClaimRun(RunClaimed(owner=owner, environment={}, flow="f"))


BIRTH = StartRun(RunStarted(flow="f", parameters={"p": PAYLOAD}, durability="full"))


def _drafts(data: st.DataObject, view: RunView) -> list[Draft]:
    """Drive a run by random commands; every event that is decided is folded on the way."""
    facts = view.initial()
    run, plan = facts.run, view.plan
    drafts: list[Draft] = []
    now = 1_000
    commands: list[Command] = [
        data.draw(st.sampled_from([BIRTH, FinishRun(), StartTask(0)])),
        BIRTH,
        _claim("me"),
    ]
    for turn in range(data.draw(st.integers(3, 40))):
        command = commands[turn] if turn < 3 else data.draw(_commands(plan, run))
        now += data.draw(st.sampled_from([0, 1, 7]))
        before = msgspec.msgpack.encode(facts)
        events = decide(plan, run, command, now)
        assert msgspec.msgpack.encode(facts) == before, "decide changed the state"
        for event in events:
            drafts.append(Draft(now, event))
            advance(view.plan, facts, run.version + 1, drafts[-1])
        if not isinstance(command, ClaimRun):
            assert decide(plan, run, command, now) == ()
        _check_counters(plan, run)
    return drafts


def _check_counters(plan: Plan, run: RunState) -> None:
    """Counters that are kept step by step agree with a count of everything."""
    active = list(run.active())
    assert run.running == len(active)
    assert all(waiting >= 0 for waiting in run.waiting)
    ended = [
        run.maps[slot].open == 0 if slot in run.maps else run.status[slot] >= 3
        for slot in range(len(plan.nodes))
    ]
    tasks = range(1, len(plan.nodes))  # the parameter is node 0
    assert run.open == sum(not ended[slot] for slot in tasks)
    for slot in tasks:
        if slot not in plan.mapped:
            assert run.waiting[slot] == sum(not ended[up] for up in plan.upstreams[slot])
    if run.phase == Phase.CLAIMED and run.open and not active:
        due = ready(plan, run, 10**18, 1000)
        assert due, "nothing runs, nothing is due, and the run is not over: it would wait for ever"


@given(st.data(), sketches())
def test_decide_emits_only_what_evolve_accepts(data: st.DataObject, sketch: Sketch) -> None:
    """Any commands, stale and senseless ones included: no IllegalEvent, and the counters hold."""
    _drafts(data, RunView("r", build(sketch, Journal()).plan))


@given(st.data(), sketches())
def test_a_snapshot_and_the_tail_are_the_whole(data: st.DataObject, sketch: Sketch) -> None:
    """At every cut, facts that went through MessagePack fold on to the same bytes."""
    view = RunView("r", build(sketch, Journal()).plan)
    drafts = _drafts(data, view)
    whole = view.initial()
    snapshots: list[bytes] = []
    for version, draft in enumerate(drafts, 1):
        snapshots.append(msgspec.msgpack.encode(whole))
        advance(view.plan, whole, version, draft)
    last = msgspec.msgpack.encode(whole)
    for cut, snapshot in enumerate(snapshots):
        facts = msgspec.msgpack.decode(snapshot, type=RunFacts)
        for version, draft in enumerate(drafts[cut:], cut + 1):
            advance(view.plan, facts, version, draft)
        assert msgspec.msgpack.encode(facts) == last
