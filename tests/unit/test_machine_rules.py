"""Legality: the tables are all there is, an illegal event changes nothing, and repeats decide to nothing."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from eventflow.events import (
    Draft,
    Event,
    FlowDefined,
    Known,
    Origin,
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
from eventflow.graph import Graph, ListOf, Policy
from eventflow.machine import (
    AbandonTask,
    BlockTask,
    ClaimRun,
    Command,
    FailTask,
    FinishRun,
    IllegalEvent,
    MapTask,
    Phase,
    ReleaseRun,
    ReuseTask,
    SkipTask,
    StartRun,
    StartTask,
    Status,
    SucceedTask,
)
from eventflow.machine.evolve import evolve
from eventflow.machine.rules import MAPPED_TASK_TRANSITIONS, RUN_TRANSITIONS, TASK_TRANSITIONS, outcome_of
from tests.unit.machines import CONST, FAILURE, PAYLOAD, Machine, born, claimed, machine, mapped, task

OWNED: dict[str, Any] = {"claim": 2, "task": (0,)}
"""The run's claim, and the node `a`, of which all these events are."""

TASK_EVENTS: list[Any] = [
    TaskStarted(**OWNED, attempt=1),
    TaskSucceeded(**OWNED, attempt=1, result=PAYLOAD),
    TaskReused(**OWNED, result=PAYLOAD, source=Origin("run/x", 3), why="fork"),
    TaskFailed(**OWNED, attempt=1, failure=FAILURE, reason="raised"),
    TaskFailed(**OWNED, attempt=1, failure=FAILURE, reason="timed_out"),
    TaskFailed(**OWNED, attempt=1, failure=FAILURE, reason="crashed"),
    TaskFailed(**OWNED, attempt=1, failure=FAILURE, reason="raised", retry_at=5),
    TaskAbandoned(**OWNED, attempt=1, reason="lost"),
    TaskSkipped(**OWNED, reason="r"),
    TaskBlocked(**OWNED, trigger="all_successful", message="m"),
    TaskMapped(**OWNED, width=2),
]
RUN_EVENTS: list[Any] = [
    born(),
    claimed(),
    RunReleased(claim=2, reason="r"),
    RunFinished(claim=2, outcome="success"),
]

PLAIN = [status for status in Status if status != Status.MAPPED]
OF_MAPS = [
    Status.PENDING,
    *dict.fromkeys(after for targets in MAPPED_TASK_TRANSITIONS.values() for after in targets),
]
"""The statuses that a plain and a mapped task can have."""

KINDS_OF: dict[type, tuple[type, ...]] = {
    StartTask: (TaskStarted,),
    SucceedTask: (TaskSucceeded,),
    FailTask: (TaskFailed,),
    SkipTask: (TaskSkipped,),
    BlockTask: (TaskBlocked,),
    MapTask: (TaskMapped, TaskFailed),
    ReuseTask: (TaskReused,),
    AbandonTask: (TaskAbandoned, TaskFailed),
    StartRun: (RunStarted,),
    ClaimRun: (RunClaimed,),
    ReleaseRun: (RunReleased,),
    FinishRun: (RunFinished,),
}
"""The kinds of events that each command may give; the first is the one that it is named after."""


def in_status(status: Status, *, is_mapped: bool = False) -> Machine:
    """A run whose task `a`, plain or mapped, is in that status; `b` waits for it."""
    a = mapped(ListOf((CONST, CONST))) if is_mapped else task()
    m = machine(a=a, b=task("a"), policy=Policy(retries=1))
    match status:
        case Status.RUNNING:
            m.start("a")
        case Status.RETRYING:
            m.fail("a")
        case Status.SUCCEEDED:
            m.succeed("a")
        case Status.REUSED:
            m.do(ReuseTask, "a")
        case Status.MAPPED:
            m.map("a", 2)
        case Status.SKIPPED:
            m.do(SkipTask, "a")
        case Status.FAILED if is_mapped:
            m.do(MapTask, "a", failure=FAILURE)
        case Status.FAILED:
            m.fail("a", reason="input")
        case Status.TIMED_OUT:
            m.fail("a")
            m.fail("a", reason="timed_out")
        case Status.BLOCKED:
            m.block("a")
        case Status.CRASHED:
            for _ in range(3):
                m.start("a")
                m.do(AbandonTask, "a")
    assert m.status("a") == status
    return m


def at_its_attempt(m: Machine, event: Any) -> Any:
    """The event as it would be decided now: of the next attempt for a start, of the current one for the rest."""
    if not hasattr(event, "attempt"):
        return event
    return msgspec.structs.replace(event, attempt=m.run.attempt[0] + isinstance(event, TaskStarted))


def is_legal(m: Machine, event: Event) -> bool:
    """Whether the event folds now, tried on a copy."""
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(m.run), type=type(m.run))
    try:
        evolve(m.plan, copy, copy.version + 1, Draft(m.now, event))
    except IllegalEvent:
        return False
    return True


def refused(m: Machine, event: Any, version: int | None = None) -> None:
    """The event is illegal now, and not a byte of the state has changed."""
    before = msgspec.msgpack.encode(m.run)
    with pytest.raises(IllegalEvent):
        evolve(m.plan, m.run, version or m.run.version + 1, Draft(9_999, event))
    assert msgspec.msgpack.encode(m.run) == before


# ── the tables ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("is_mapped", "status"), [*((False, status) for status in PLAIN), *((True, status) for status in OF_MAPS)]
)
@pytest.mark.parametrize("event", TASK_EVENTS, ids=lambda e: f"{type(e).__name__}-{outcome_of(e).name}")
def test_the_tables_of_tasks(event: Any, status: Status, is_mapped: bool) -> None:
    """Each event in each status: if the table has it, it leads where the event says; all else is refused."""
    m = in_status(status, is_mapped=is_mapped)
    event = at_its_attempt(m, event)
    table = MAPPED_TASK_TRANSITIONS if is_mapped else TASK_TRANSITIONS
    if outcome_of(event) in table.get((type(event), status), ()):
        m.fold(event)
        assert m.status("a") == outcome_of(event)
    else:
        refused(m, event)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", RUN_EVENTS, ids=lambda e: type(e).__name__)
def test_the_table_of_runs(event: Any, phase: Phase) -> None:
    """The same for the run as a whole."""
    m = in_phase(phase, has_tasks=not isinstance(event, RunFinished))
    after = RUN_TRANSITIONS.get((type(event), phase))
    if after is None:
        refused(m, event)
    else:
        m.fold(event)
        assert m.run.phase == after


def test_every_kind_of_event_is_in_a_table() -> None:
    """Each kind that a run's stream may have has a transition; only the definition of a flow has another stream."""
    in_tables = {
        kind for table in (TASK_TRANSITIONS, MAPPED_TASK_TRANSITIONS, RUN_TRANSITIONS) for kind, _ in table
    }
    assert in_tables == {*get_args(Known)} - {FlowDefined}


def in_phase(phase: Phase, *, has_tasks: bool = True) -> Machine:
    """A run in a phase, of one task `a`, or of none to be finished."""
    m = machine(**({"a": task()} if has_tasks and phase != Phase.FINISHED else {}), claimed=False)
    for kind in (StartRun, ClaimRun)[: min(phase, 2)]:
        m.do(kind)
    if phase > Phase.CLAIMED:
        m.do(ReleaseRun if phase == Phase.RELEASED else FinishRun)
    assert m.run.phase == phase
    return m


# ── decide and evolve agree ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("is_mapped", "status"), [*((False, status) for status in PLAIN), *((True, status) for status in OF_MAPS)]
)
@pytest.mark.parametrize("kind", [kind for kind in KINDS_OF if kind.__name__.endswith("Task")])
def test_decide_and_evolve_agree_on_tasks(kind: type, status: Status, is_mapped: bool) -> None:
    """For each status and kind a command gives an event if, and only if, an event of its kind is legal."""
    m = in_status(status, is_mapped=is_mapped)
    decided = [*m.decide(kind, "a")]
    if kind is MapTask:
        decided += m.decide(MapTask, "a", failure=FAILURE)
    events = [at_its_attempt(m, event) for event in TASK_EVENTS]
    legal = [event for event in events if may_be_asked_for(kind, event) and is_legal(m, event)]
    assert bool(decided) == bool(legal)
    for event in decided:
        assert isinstance(event, KINDS_OF[kind])
        assert is_legal(m, event)


def may_be_asked_for(kind: type, event: Any) -> bool:
    """Whether a command gives such an event: a failure without an attempt is that of a map."""
    if isinstance(event, TaskFailed):
        return kind is (FailTask if event.attempt else MapTask)
    return isinstance(event, KINDS_OF[kind])


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", [kind for kind in KINDS_OF if kind.__name__.endswith("Run")])
def test_decide_and_evolve_agree_on_runs(kind: type, phase: Phase) -> None:
    """The same for the run as a whole."""
    m = in_phase(phase, has_tasks=kind is not FinishRun)
    decided = m.decide(kind)
    (event,) = (event for event in RUN_EVENTS if isinstance(event, KINDS_OF[kind]))
    if hasattr(event, "claim"):
        event = msgspec.structs.replace(event, claim=m.run.claim)
    assert bool(decided) == is_legal(m, event)
    assert [*map(type, decided)] == [type(event)] * len(decided)


def test_every_command_is_named_after_its_event() -> None:
    """`StartTask` gives `TaskStarted`: the same noun, and the verb in the past."""
    assert set(KINDS_OF) == {*get_args(Command)}
    for command, (event, *_) in KINDS_OF.items():
        noun = "Task" if command.__name__.endswith("Task") else "Run"
        assert event.__name__.startswith(noun)
        verb, past = command.__name__.removesuffix(noun), event.__name__.removeprefix(noun)
        assert verb[:3] == past[:3], f"{command.__name__} gives {event.__name__}"


# ── facts that no table holds ───────────────────────────────────────────────────────────────────────────────


def test_an_event_of_another_attempt_is_refused() -> None:
    """A start is of the next attempt, an end of the current one; nothing else can be meant."""
    running = in_status(Status.RUNNING)
    for event in (
        TaskSucceeded(**OWNED, attempt=2, result=PAYLOAD),
        TaskFailed(**OWNED, attempt=0, failure=FAILURE, reason="raised"),
        TaskAbandoned(**OWNED, attempt=77, reason="lost"),
    ):
        refused(running, event)
    refused(in_status(Status.PENDING), TaskStarted(**OWNED, attempt=77))
    refused(in_status(Status.RETRYING), TaskStarted(**OWNED, attempt=1))


def test_a_mapped_task_neither_runs_nor_is_reused_itself() -> None:
    """Its children do."""
    pending = in_status(Status.PENDING, is_mapped=True)
    refused(pending, TaskStarted(**OWNED, attempt=1))
    refused(pending, TaskReused(**OWNED, result=PAYLOAD, source=Origin("run/x", 3), why="fork"))


def test_a_run_with_open_tasks_is_not_finished() -> None:
    """The end is refused until every task has come to its own."""
    refused(in_phase(Phase.CLAIMED), RunFinished(claim=2, outcome="success"))


@pytest.mark.parametrize("width", [-1, 3])
def test_a_map_has_no_more_children_than_what_it_is_made_over(width: int) -> None:
    """A width that the written list does not allow is refused, as is any width for a plain task."""
    refused(in_status(Status.PENDING, is_mapped=True), TaskMapped(**OWNED, width=width))
    refused(in_status(Status.PENDING), TaskMapped(**OWNED, width=0))


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.STARTED, Phase.RELEASED])
@pytest.mark.parametrize("event", TASK_EVENTS, ids=lambda e: type(e).__name__)
def test_nothing_happens_to_tasks_of_a_run_that_has_no_owner(event: Any, phase: Phase) -> None:
    """Before the first claim and after a release no event of a task is legal, with any claim."""
    m = in_phase(phase)
    refused(m, event)
    refused(m, msgspec.structs.replace(event, claim=m.run.claim))
    assert m.decide(StartTask, "a") == ()


@pytest.mark.parametrize("event", [*TASK_EVENTS, *RUN_EVENTS[2:]], ids=lambda e: type(e).__name__)
def test_a_stale_claim_is_refused(event: Any) -> None:
    """After a takeover every event of the old owner is illegal."""
    m = in_status(Status.RUNNING)
    m.do(ClaimRun, event=claimed("you"))
    assert m.run.claim == m.run.version
    refused(m, event)


@pytest.mark.parametrize("address", [(9,), (-1,), (), (0, 0), (0, -1)])
@pytest.mark.parametrize("event", TASK_EVENTS[:3], ids=lambda e: type(e).__name__)
def test_a_task_that_the_run_does_not_have(event: Any, address: tuple[int, ...]) -> None:
    """Unknown nodes and children are refused, also by numbers that Python would count from the end."""
    refused(in_status(Status.PENDING), msgspec.structs.replace(event, task=address))


@pytest.mark.parametrize(
    "event", [e for e in TASK_EVENTS if isinstance(e, TaskStarted | TaskSkipped | TaskReused)]
)
def test_a_task_that_still_waits_cannot_move(event: Any) -> None:
    """No event begins or ends a task whose upstreams have not finished."""
    m = in_status(Status.RUNNING)
    refused(m, msgspec.structs.replace(event, task=m.run.address(m.slot("b"))))


@pytest.mark.parametrize("version", [1, 2, 4, 5])
def test_versions_are_dense(version: int) -> None:
    """Only the next version folds."""
    refused(machine(a=task()), TASK_EVENTS[0], version)


@pytest.mark.parametrize("event", [Unknown("task_flew", b""), FlowDefined(graph=Graph("g"))])
def test_events_that_no_run_has(event: Any) -> None:
    """An event of another stream, or of an unknown kind, is refused as well."""
    refused(machine(a=task()), event)


# ── commands that come twice, or late ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("status", "kind", "fields"),
    [
        (Status.PENDING, StartTask, {}),
        (Status.PENDING, SkipTask, {}),
        (Status.PENDING, BlockTask, {}),
        (Status.PENDING, ReuseTask, {}),
        (Status.RUNNING, SucceedTask, {"attempt": 1}),
        (Status.RUNNING, FailTask, {"attempt": 1}),
        (Status.RUNNING, SkipTask, {"attempt": 1}),
        (Status.RUNNING, AbandonTask, {"attempt": 1}),
        (Status.RETRYING, StartTask, {}),
    ],
)
def test_repeating_a_command_decides_to_nothing(status: Status, kind: type, fields: dict[str, Any]) -> None:
    """Once it has been folded, the same command makes nothing true."""
    m = in_status(status)
    assert len(m.do(kind, "a", **fields)) == 1
    assert m.decide(kind, "a", **fields) == ()


def test_repeating_a_release_decides_to_nothing() -> None:
    """The same for a command about the run."""
    m = in_status(Status.PENDING)
    assert len(m.do(ReleaseRun)) == 1
    assert m.decide(ReleaseRun) == ()


@pytest.mark.parametrize("status", [s for s in Status if s >= Status.SUCCEEDED])
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (StartTask, {}),
        (SucceedTask, {"attempt": 1}),
        (FailTask, {"attempt": 1}),
        (SkipTask, {}),
        (SkipTask, {"attempt": 1}),
        (BlockTask, {}),
        (MapTask, {"width": 1}),
        (AbandonTask, {"attempt": 1}),
        (ReuseTask, {}),
    ],
    ids=lambda it: getattr(it, "__name__", ""),
)
def test_late_answers_are_dropped(status: Status, kind: type, fields: dict[str, Any]) -> None:
    """Of a task that has finished nothing more can be made true (the other one keeps the run open)."""
    m = in_status(status, is_mapped=status == Status.MAPPED)
    assert m.decide(kind, "a", **fields) == ()
    assert m.decide(StartRun) == ()
    assert m.decide(FinishRun) == ()


def test_answers_of_an_earlier_attempt_are_ignored() -> None:
    """An outcome counts for the attempt that it names, and for no later one."""
    m = in_status(Status.RETRYING)
    m.start("a")
    for kind in (SucceedTask, FailTask, SkipTask, AbandonTask):
        assert m.decide(kind, "a", attempt=1) == ()
    assert m.decide(SucceedTask, "a", attempt=2)


def test_a_start_waits_for_its_upstreams() -> None:
    """A task whose upstreams have not finished cannot be started, skipped, blocked or given a result."""
    m = machine(a=task(), b=task("a"))
    for kind in (StartTask, SkipTask, BlockTask, ReuseTask):
        assert m.decide(kind, "b") == ()


def test_mapped_and_plain_are_not_mixed_up() -> None:
    """A mapped task has no body to start or result to take, and a plain one no children."""
    m = machine(map=mapped(ListOf((CONST, CONST))), plain=task())
    assert m.decide(StartTask, "map") == ()
    assert m.decide(ReuseTask, "map") == ()
    assert m.decide(MapTask, "plain") == ()
