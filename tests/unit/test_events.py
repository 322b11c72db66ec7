"""Events: every kind goes to bytes and comes back, and bytes that are no record are never taken for one."""

from __future__ import annotations

import sys
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow import events
from eventflow.events import (
    Draft,
    Failure,
    FlowDefined,
    Known,
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
    kind_of,
)
from eventflow.graph import Const, Graph, Input, ParameterNode, Policy, Ref, TaskDef, TaskNode
from eventflow.records import UPCASTERS, LogDamaged, decode, encode, encode_event, name_digest
from eventflow.result import Forgotten, Inline, Stored, Withheld

HEAD = b"\x95" + msgspec.msgpack.encode(name_digest("run/x"))
"""How a record of that stream begins."""
INLINE = Inline("msgpack", b"\xc0", b"d" * 16)
STORED = Stored("arrow+zstd", b"e" * 16, 70_000, "blobs")
FAILURE = Failure("ValueError", "no", "Traceback …", cause=Failure("OSError", "disk"))
GRAPH = Graph(
    name="orders",
    tasks=(TaskDef("fetch", "shop:fetch", b"c", Policy(retries=3, retry_delay_us=5_000_000)),),
    nodes=(
        ParameterNode(
            "day", default=Const(Inline("msgpack", b"\xa1x", b"d" * 16)), required=False, annotation="str"
        ),
        TaskNode("fetch", 0, (Input("day", Ref(0, ("a", 1)), each=True),), after=(0,), mapped=True),
    ),
    value=Ref(1),
)

EVENTS: dict[type, events.Event] = {
    FlowDefined: FlowDefined(graph=GRAPH),
    RunStarted: RunStarted(
        flow="f",
        parameters={"b": INLINE, "a": STORED},
        durability="full",
        origin=Origin("run/x", 7),
        labels={"k": "v"},
    ),
    RunClaimed: RunClaimed(owner="o", environment={"host": "h", "pid": "1"}, flow="f"),
    RunReleased: RunReleased(claim=2, reason="interrupted"),
    RunFinished: RunFinished(claim=2, outcome="failed", message="1 of 2 failed"),
    TaskStarted: TaskStarted(claim=2, task=(1, 0), attempt=1, inputs=(1, (1, "day"), (4, 0, "x"))),
    TaskSucceeded: TaskSucceeded(
        claim=2, task=(1,), attempt=2, result=INLINE, queue_us=1, body_us=2, encode_us=3
    ),
    TaskReused: TaskReused(claim=2, task=(1,), result=STORED, source=Origin("run/y", 9), why="cache"),
    TaskFailed: TaskFailed(
        claim=2, task=(1,), attempt=1, failure=FAILURE, reason="raised", retry_at=5, body_us=9
    ),
    TaskAbandoned: TaskAbandoned(claim=2, task=(1, 2, 3), attempt=1, reason="lost"),
    TaskSkipped: TaskSkipped(claim=2, task=(1,), reason="upstream skipped"),
    TaskBlocked: TaskBlocked(claim=2, task=(1,), trigger="all_successful", message="fetch failed"),
    TaskMapped: TaskMapped(claim=2, task=(1,), width=0),
}
"""One of each kind, with every field set."""

TAGS = {
    "flow_defined", "run_started", "run_claimed", "run_released", "run_finished", "task_started", "task_succeeded",
    "task_reused", "task_failed", "task_abandoned", "task_skipped", "task_blocked", "task_mapped",
}  # fmt: skip
"""The kinds by the names under which they are found on disk; these never change."""

each_kind = pytest.mark.parametrize("event", EVENTS.values(), ids=lambda event: type(event).__name__)


def test_every_kind_is_here() -> None:
    """The examples of this module cover the closed union, and each kind has its own stable tag."""
    assert set(EVENTS) == set(get_args(Known))
    assert {kind_of(event) for event in EVENTS.values()} == TAGS


@each_kind
def test_a_kind_survives_its_bytes(event: events.Event) -> None:
    """A record comes back from its bytes as it was, in its place."""
    draft = Draft(1_800_000_000_000_000, event, "key")
    assert decode(9, "run/x", encode("run/x", 4, draft)) == Record(9, "run/x", 4, draft.at, "key", event)


@each_kind
def test_a_kind_survives_json(event: events.Event) -> None:
    """An event as JSON loads back equal: dashboards and exports need no MessagePack."""
    assert msgspec.json.decode(msgspec.json.encode(event), type=Known) == event


@each_kind
def test_a_kind_cannot_be_changed(event: events.Event) -> None:
    """Facts are frozen."""
    with pytest.raises(AttributeError):
        setattr(event, event.__struct_fields__[0], None)


@each_kind
def test_a_kind_accepts_fields_of_later_versions(event: events.Event) -> None:
    """Fields appended by a later version are ignored, so older readers go on."""
    raw = msgspec.msgpack.decode(encode("s", 1, Draft(5, event)))
    raw[-1].append("from the future")
    assert decode(1, "s", msgspec.msgpack.encode(raw)).event == event


@each_kind
def test_event_bytes_leave_out_the_moment(event: events.Event) -> None:
    """An event alone has the same bytes wherever and whenever it stands, and they are part of its record's."""
    alone = encode_event(event)
    assert msgspec.msgpack.decode(alone, type=Known) == event
    for version, at in ((1, 5), (70_000, 1_800_000_000_000_000)):
        assert encode("run/x", version, Draft(at, event)).endswith(alone)


@pytest.mark.parametrize(
    "payload", [INLINE, STORED, Withheld("persist=False"), Forgotten(b"d" * 16, "expired")]
)
def test_every_payload_travels_natively(payload: object) -> None:
    """Each form of a result's bytes comes back as itself, without any hook."""
    event = TaskSucceeded(claim=2, task=(1,), attempt=1, result=payload)
    assert decode(1, "s", encode("s", 1, Draft(5, event))).event == event


def test_order_of_parameters_is_kept() -> None:
    """Parameters come back in the order of their declaration."""
    record = decode(1, "run/x", encode("run/x", 1, Draft(5, EVENTS[RunStarted])))
    assert list(record.event.parameters) == ["b", "a"]


def test_an_unknown_kind_comes_through() -> None:
    """A kind of a later version keeps its name and its bytes through any number of copies."""
    data = msgspec.msgpack.encode(["task_teleported@2", 2, {"where": b"x"}])
    event = Unknown("task_teleported@2", data)
    body = encode("s", 3, Draft(5, event, "k"))
    record = decode(1, "s", body)
    assert record == Record(1, "s", 3, 5, "k", event)
    assert (kind_of(record.event), encode_event(record.event)) == ("task_teleported@2", data)
    assert encode("s", 3, Draft(5, record.event, "k")) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        HEAD + b"\x01\x02\xc0",
        HEAD + b"\x01\x02\xc0\x90",
        HEAD + b"\x01\x02\xc0\x91\x07",
        HEAD + b"\x01\x02\xc0\xa4text",
        HEAD + b"\x01\x02\xc0\x81\x00\xa4text",
        HEAD + b"\x01\x02\xa1\xff\x91\xa4kind",
        HEAD + b"\x01\x02\xc0\x91\xa1\xff",
        HEAD + b"\x01\x02\xc0\x91\x91\x01",
        HEAD + b"\x01\x02\xc0\x91\x80",
        HEAD + b"\x01\x02\xc0" + b"\x91" * 9_999 + b"\x01",
        encode("run/x", 1, Draft(5, EVENTS[TaskMapped]))[:-1],
        encode("run/x", 1, Draft(5, EVENTS[TaskMapped])) + b"\x00",
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [1]]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [1], "wide"]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [1], 2**40]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [1], -1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [-1], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_mapped", 2, [1] * 65, 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 5, None, ["task_abandoned", 2, [1], 2**31, "lost"]]),
        msgspec.msgpack.encode([name_digest("run/x"), -1, 5, None, ["task_mapped", 2, [1], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 2**62, 5, None, ["task_mapped", 2, [1], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, -1, None, ["task_mapped", 2, [1], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 2**62, None, ["task_mapped", 2, [1], 1]]),
        msgspec.msgpack.encode([name_digest("run/x"), 1, 2**62, None, ["unheard_of"]]),
    ],
)
def test_what_is_no_record_is_damage(body: bytes) -> None:
    """Bytes that are no record, or a known kind gone wrong, raise `LogDamaged`, which names the place."""
    with pytest.raises(LogDamaged, match=r"record 7 of 'run/x'"):
        decode(7, "run/x", body)


def test_a_kind_nested_deeply_is_damage_at_any_recursion_limit() -> None:
    """A program that allows deep recursion decodes what others cannot, and cannot show it either."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(16_384)
    try:
        with pytest.raises(LogDamaged, match=r"record 7 of 'run/x'"):
            decode(7, "run/x", HEAD + b"\x01\x02\xc0" + b"\x91" * 9_999 + b"\x01")
    finally:
        sys.setrecursionlimit(limit)


@given(
    event=st.sampled_from(list(EVENTS.values())), place=st.integers(min_value=0), junk=st.binary(max_size=6)
)
def test_broken_bytes_raise_nothing_else(event: events.Event, place: int, junk: bytes) -> None:
    """Whatever is written over a record, `decode` gives a record or raises `LogDamaged`."""
    body = encode("s", 1, Draft(5, event, "key"))
    start = place % (len(body) + 1)
    try:
        record = decode(1, "s", body[:start] + junk + body[start + len(junk) :])
    except LogDamaged:
        return
    assert isinstance(record, Record)


# ── older schemas ────────────────────────────────────────────────────────────────────────────────────────────


def _stored(*fields: object) -> bytes:
    """A record as an older version would have written it."""
    return msgspec.msgpack.encode([name_digest("run/r"), 7, 1_000, None, fields])


def test_an_older_schema_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, each schema to the next, until it is one that is written today."""
    monkeypatch.setitem(UPCASTERS, "skipped@1", lambda old: ["skipped@2", old[1], [old[2]], old[3]])
    monkeypatch.setitem(UPCASTERS, "skipped@2", lambda old: ["task_skipped", *old[1:3], old[3].strip()])
    expected = TaskSkipped(claim=2, task=(4,), reason="nothing to do")
    assert decode(3, "run/r", _stored("skipped@1", 2, 4, " nothing to do ")).event == expected
    assert decode(3, "run/r", _stored("skipped@2", 2, [4], "nothing to do")).event == expected


def test_an_older_schema_that_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that its upcaster, or today's schema, cannot take are damage, and named."""
    monkeypatch.setitem(UPCASTERS, "skipped@1", lambda old: ["task_skipped", *old[1:]])
    for fields in ((2, "no address", "why"), (2, [1]), ()):
        with pytest.raises(LogDamaged, match="record 3 of 'run/r' is a damaged 'skipped@1'"):
            decode(3, "run/r", _stored("skipped@1", *fields))


def test_a_schema_without_an_upcaster_is_unknown() -> None:
    """A tag that nobody here has heard of is a newer version's, with its bytes intact."""
    body = _stored("task_skipped@9", 2, "whatever")
    found = decode(3, "run/r", body)
    assert isinstance(found.event, Unknown)
    assert found.event.kind == "task_skipped@9"
    assert encode("run/r", 7, Draft(1_000, found.event)) == body


@pytest.mark.parametrize("event", [EVENTS[TaskMapped], Unknown("later", msgspec.msgpack.encode(["later"]))])
def test_a_record_found_in_another_stream_is_damage(event: events.Event) -> None:
    """Its bytes say where it belongs, whatever index it was found by."""
    with pytest.raises(
        LogDamaged, match="record 7 is found in stream 'run/x' and says that it belongs to another"
    ):
        decode(7, "run/x", encode("run/y", 1, Draft(5, event)))
