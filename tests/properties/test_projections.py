"""fold(all) = fold(snapshot + tail), at every cut, for every projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.events import (
    Event,
    Failure,
    FlowDefined,
    Origin,
    Record,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
)
from eventflow.graph import Graph
from eventflow.projections import CacheHits, Fold, Runs, Timeline, dump, restore
from eventflow.result import Inline, Stored


class Streams:
    """A projection whose state is a plain dict: how often each kind of event stands in each stream."""

    name = "streams"
    version = 3

    def initial(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Nothing."""
        return {}

    def apply(self, state: dict[str, Any], record: Record) -> dict[str, Any]:
        """Give a new state, as a purist would."""
        kinds = state.get(record.stream, {})
        kind = type(record.event).__name__
        return {**state, record.stream: {**kinds, kind: (*kinds.get(kind, ()), record.version)}}


CLAIM = {"claim": st.just(2)}
TASK = {**CLAIM, "task": st.sampled_from([(0,), (1,), (1, 0), (1, 1), (1, 1, 2)])}
ATTEMPT = {**TASK, "attempt": st.integers(1, 3)}
PAYLOAD = st.sampled_from([Inline("msgpack", b"\xc0", b"d" * 16), Stored("json", b"e" * 16, 9, "log")])
TEXT = st.sampled_from(["", "a", "é"])
LABELS = st.dictionaries(TEXT, TEXT, max_size=2)
FLOW = st.sampled_from(["f", "g"])

FACTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        RunStarted, flow=FLOW, parameters=st.dictionaries(TEXT, PAYLOAD), durability=TEXT, labels=LABELS
    ),
    st.builds(RunClaimed, owner=TEXT, environment=LABELS, flow=FLOW),
    st.builds(RunReleased, **CLAIM, reason=TEXT),
    st.builds(RunFinished, **CLAIM, outcome=st.sampled_from(["success", "failed"]), message=TEXT),
    st.builds(TaskStarted, **ATTEMPT),
    st.builds(TaskSucceeded, **ATTEMPT, result=PAYLOAD),
    st.builds(
        TaskFailed,
        **ATTEMPT,
        failure=st.just(Failure("ValueError", "no")),
        reason=st.just("raised"),
        retry_at=st.none() | st.just(9),
    ),
    st.builds(TaskAbandoned, **ATTEMPT, reason=st.just("lost")),
    st.builds(TaskReused, **TASK, result=PAYLOAD, source=st.just(Origin("run/x", 3)), why=st.just("cache")),
    st.builds(TaskSkipped, **TASK, reason=TEXT),
    st.builds(TaskBlocked, **TASK, trigger=TEXT, message=TEXT),
    st.builds(TaskMapped, **TASK, width=st.integers(0, 3)),
    st.just(Unknown("task_teleported", b"\x91\xaftask_teleported")),
)
"""Facts in any order, also orders that no run would write: a projection must fold whatever stands there."""

LOGS = st.lists(
    st.tuples(st.sampled_from(["run/a", "run/b"]), FACTS)
    | st.tuples(st.just("flow/f"), st.just(FlowDefined(graph=Graph(name="orders")))),
    max_size=25,
)


def records(facts: Sequence[tuple[str, Event]]) -> list[Record]:
    """The facts in their places."""
    versions: dict[str, int] = {}
    found = []
    for position, (stream, event) in enumerate(facts, 1):
        versions[stream] = versions.get(stream, 0) + 1
        found.append(Record(position, stream, versions[stream], position * 10, None, event))
    return found


def fold(projection: Any, found: Sequence[Record], start: Fold[Any] | None = None) -> Fold[Any]:
    """Push one record after the other."""
    folded = Fold.start(projection) if start is None else start
    for record in found:
        folded.push(record)
    return folded


@pytest.mark.parametrize("projection", [Runs(), CacheHits(), Timeline(), Streams()], ids=lambda p: p.name)
@given(facts=LOGS)
def test_snapshot_and_tail(projection: Any, facts: list[tuple[str, Event]]) -> None:
    """Wherever a snapshot is taken, it and the records after it give what all records give."""
    found = records(facts)
    whole = fold(projection, found)
    for cut in range(len(found) + 1):
        snapshot = restore(dump(fold(projection, found[:cut])), projection)
        assert snapshot is not None
        resumed = fold(projection, found[cut:], snapshot)
        assert (resumed.state, resumed.position) == (whole.state, whole.position)
        assert dump(resumed) == dump(whole)


@pytest.mark.parametrize("projection", [Runs(), CacheHits(), Timeline(), Streams()], ids=lambda p: p.name)
@given(facts=LOGS, cut=st.integers(min_value=0))
def test_frozen_is_cut_off(projection: Any, facts: list[tuple[str, Event]], cut: int) -> None:
    """A frozen fold equals its original and is not reached by what comes later."""
    found = records(facts)
    cut %= len(found) + 1
    folded = fold(projection, found[:cut])
    frozen = folded.frozen()
    before = dump(folded)
    fold(projection, found[cut:], folded)
    assert (dump(frozen), frozen.position) == (before, cut)
