"""Legality: the table is all there is, an event outside it changes nothing, and repeats decide to nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventflow.events import (
    Draft,
    Failure,
    FlowDefined,
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
from eventflow.graph import Policy
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
from eventflow.machine.rules import RUN, TASK, outcome_of
from tests.unit.machines import PAYLOAD, Machine, graph_of, mapped, task

FAILURE = Failure(type="E", message="m")
OWNED: dict[str, Any] = {"claim": 2, "task": (0,)}

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
    RunStarted(flow="f", parameters={}, durability="full"),
    RunClaimed(owner="me", environment={}, flow="f"),
    RunReleased(claim=2, reason="r"),
    RunFinished(claim=2, outcome="success"),
]


def in_status(status: Status, *, to_map: bool = False) -> Machine:
    """A run whose first task (plain, or mapped where need be) is in that status; a second one waits."""
    is_mapped = status == Status.MAPPED or (to_map and status == Status.PENDING)
    machine = Machine(mapped(Input_const()) if is_mapped else task(), task(0), policy=Policy(retries=1))
    path: dict[Status, list[Command]] = {
        Status.PENDING: [],
        Status.RUNNING: [StartTask(0)],
        Status.RETRYING: [StartTask(0), FailTask(0, 1, FAILURE, "raised")],
        Status.SUCCEEDED: [StartTask(0), SucceedTask(0, 1, PAYLOAD)],
        Status.REUSED: [ReuseTask(0, PAYLOAD, Origin("run/x", 3), "fork")],
        Status.MAPPED: [MapTask(0, 2)],
        Status.SKIPPED: [SkipTask(0, "r")],
        Status.FAILED: [StartTask(0), FailTask(0, 1, FAILURE, "input")],
        Status.TIMED_OUT: [
            StartTask(0),
            FailTask(0, 1, FAILURE, "raised"),
            StartTask(0),
            FailTask(0, 2, FAILURE, "timed_out"),
        ],
        Status.BLOCKED: [BlockTask(0, "m")],
        Status.CRASHED: [step for n in (1, 2, 3) for step in (StartTask(0), AbandonTask(0, n, "lost"))],
    }
    for command in path[status]:
        assert machine.do(command)
    assert machine.run.status[0] == status
    return machine


def at_its_attempt(machine: Machine, event: Any) -> Any:
    """The event as it would be decided now: of the next attempt for a start, of the current one for the rest."""
    if not hasattr(event, "attempt"):
        return event
    return msgspec.structs.replace(event, attempt=machine.run.attempt[0] + isinstance(event, TaskStarted))


def Input_const() -> Any:  # noqa: N802 - reads as what it makes
    """A mapped input that waits for nothing."""
    from eventflow.graph import ListOf
    from tests.unit.machines import CONST

    return ListOf((CONST, CONST))


def refused(machine: Machine, event: Any, version: int | None = None) -> None:
    """The event is illegal now, and not a byte of the state has changed."""
    before = msgspec.msgpack.encode(machine.run)
    with pytest.raises(IllegalEvent):
        evolve(machine.plan, machine.run, version or machine.run.version + 1, Draft(9_999, event))
    assert msgspec.msgpack.encode(machine.run) == before


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("event", TASK_EVENTS, ids=lambda e: f"{type(e).__name__}-{outcome_of(e).name}")
def test_the_task_table(event: Any, status: Status) -> None:
    """Each event in each status: what the table has leads where the event says, all else is refused."""
    machine = in_status(status, to_map=isinstance(event, TaskMapped))
    event = at_its_attempt(machine, event)
    if outcome_of(event) in TASK.get((type(event), status), ()):
        machine.fold(event)
        assert machine.run.status[0] == outcome_of(event)
    else:
        refused(machine, event)


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
    pending = in_status(Status.PENDING, to_map=True)
    refused(pending, TaskStarted(**OWNED, attempt=1))
    refused(pending, TaskReused(**OWNED, result=PAYLOAD, source=Origin("run/x", 3), why="fork"))


def test_a_run_with_open_tasks_is_not_finished() -> None:
    """The end is refused until every task has come to its own."""
    refused(in_phase(Phase.CLAIMED), RunFinished(claim=2, outcome="success"))


@pytest.mark.parametrize("width", [-1, 3])
def test_a_map_has_no_more_children_than_what_it_is_made_over(width: int) -> None:
    """A width that the written list does not allow is refused, as is any width for a plain task."""
    refused(in_status(Status.PENDING, to_map=True), TaskMapped(**OWNED, width=width))
    refused(in_status(Status.PENDING), TaskMapped(**OWNED, width=0))


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", RUN_EVENTS, ids=lambda e: type(e).__name__)
def test_the_run_table(event: Any, phase: Phase) -> None:
    """The same for the run as a whole."""
    machine = in_phase(phase, tasks=not isinstance(event, RunFinished))
    after = RUN.get((type(event), phase))
    if after is None:
        refused(machine, event)
    else:
        machine.fold(event)
        assert machine.run.phase == after


def in_phase(phase: Phase, *, tasks: bool = True) -> Machine:
    """A run of one task (none, to be finished) in a phase."""
    machine = Machine(*([task()] if tasks and phase != Phase.FINISHED else []), claimed=False)
    steps: list[Command] = [StartRun("f", {}, "full", {}), ClaimRun("me", {}, "f")]
    for command in steps[: min(phase, 2)]:
        machine.do(command)
    if phase > Phase.CLAIMED:
        machine.do(ReleaseRun("r") if phase == Phase.RELEASED else FinishRun())
    assert machine.run.phase == phase
    return machine


@pytest.mark.parametrize("phase", [Phase.NEW, Phase.STARTED, Phase.RELEASED])
@pytest.mark.parametrize("event", TASK_EVENTS, ids=lambda e: type(e).__name__)
def test_nothing_happens_to_tasks_of_a_run_that_nobody_owns(event: Any, phase: Phase) -> None:
    """Before the first claim and after a release no task event may stand, whatever claim it bears."""
    machine = in_phase(phase)
    refused(machine, event)
    refused(machine, msgspec.structs.replace(event, claim=machine.run.claim))
    assert machine.decide(StartTask(0)) == ()


@pytest.mark.parametrize("event", [*TASK_EVENTS, *RUN_EVENTS[2:]], ids=lambda e: type(e).__name__)
def test_a_stale_claim_is_refused(event: Any) -> None:
    """After a takeover nothing that the old owner writes may stand."""
    machine = in_status(Status.RUNNING)
    machine.do(ClaimRun("you", {}, "f"))
    assert machine.run.claim == machine.run.version
    refused(machine, event)


@pytest.mark.parametrize("address", [(9,), (-1,), (), (0, 0), (0, -1)])
@pytest.mark.parametrize("event", TASK_EVENTS[:3], ids=lambda e: type(e).__name__)
def test_a_task_that_the_run_does_not_have(event: Any, address: tuple[int, ...]) -> None:
    """Unknown nodes and children are refused, also by numbers that Python would count from the end."""
    refused(in_status(Status.PENDING), msgspec.structs.replace(event, task=address))


@pytest.mark.parametrize(
    "event", [e for e in TASK_EVENTS if isinstance(e, TaskStarted | TaskSkipped | TaskReused)]
)
def test_a_task_that_still_waits_cannot_move(event: Any) -> None:
    """Nothing may begin or end a task whose upstreams have not finished."""
    machine = in_status(Status.RUNNING)
    refused(machine, msgspec.structs.replace(event, task=(1,)))


@pytest.mark.parametrize("version", [1, 2, 4, 5])
def test_versions_are_dense(version: int) -> None:
    """Only the next version folds."""
    machine = Machine(task())
    refused(machine, TASK_EVENTS[0], version)


@pytest.mark.parametrize("event", [Unknown("task_flew", b""), FlowDefined(graph=graph_of())])
def test_events_that_no_run_has(event: Any) -> None:
    """What is no event of a run is refused as well."""
    refused(Machine(task()), event)


@pytest.mark.parametrize(
    ("status", "command"),
    [
        (Status.PENDING, StartTask(0)),
        (Status.PENDING, SkipTask(0, "r")),
        (Status.PENDING, BlockTask(0, "m")),
        (Status.PENDING, ReuseTask(0, PAYLOAD, Origin("run/x", 3), "fork")),
        (Status.RUNNING, SucceedTask(0, 1, PAYLOAD)),
        (Status.RUNNING, FailTask(0, 1, FAILURE, "raised")),
        (Status.RUNNING, SkipTask(0, "r", 1)),
        (Status.RUNNING, AbandonTask(0, 1, "lost")),
        (Status.RETRYING, StartTask(0)),
        (Status.PENDING, ReleaseRun("r")),
    ],
)
def test_repeating_a_command_decides_to_nothing(status: Status, command: Command) -> None:
    """Once it has been folded, the same command makes nothing true."""
    machine = in_status(status)
    assert len(machine.do(command)) == 1
    assert machine.decide(command) == ()


@pytest.mark.parametrize("status", [s for s in Status if s >= Status.SUCCEEDED])
@pytest.mark.parametrize(
    "command",
    [
        StartTask(0),
        SucceedTask(0, 1, PAYLOAD),
        FailTask(0, 1, FAILURE, "raised"),
        SkipTask(0, "r"),
        SkipTask(0, "r", 1),
        BlockTask(0, "m"),
        MapTask(0, 1),
        AbandonTask(0, 1, "lost"),
        ReuseTask(0, PAYLOAD, Origin("run/x", 3), "fork"),
        StartRun("f", {}, "full", {}),
        FinishRun(),
    ],
    ids=lambda c: type(c).__name__,
)
def test_late_answers_fall_on_the_floor(status: Status, command: Command) -> None:
    """Of a task that has finished nothing more can be made true (the other one keeps the run open)."""
    assert in_status(status).decide(command) == ()


def test_answers_of_an_earlier_attempt_are_ignored() -> None:
    """An outcome counts for the attempt that it names, and for no later one."""
    machine = in_status(Status.RETRYING)
    machine.do(StartTask(0))
    for command in (
        SucceedTask(0, 1, PAYLOAD),
        FailTask(0, 1, FAILURE, "raised"),
        SkipTask(0, "r", 1),
        AbandonTask(0, 1, "lost"),
    ):
        assert machine.decide(command) == ()
    assert machine.decide(SucceedTask(0, 2, PAYLOAD))


def test_a_start_waits_for_its_upstreams() -> None:
    """A task whose upstreams have not finished cannot be started, skipped, blocked or given a result."""
    machine = Machine(task(), task(0))
    for command in (
        StartTask(1),
        SkipTask(1, "r"),
        BlockTask(1, "m"),
        ReuseTask(1, PAYLOAD, Origin("x", 1), "fork"),
    ):
        assert machine.decide(command) == ()


def test_mapped_and_plain_are_not_mixed_up() -> None:
    """A mapped task has no body to start or result to take, and a plain one no children."""
    machine = Machine(mapped(Input_const()), task())
    assert machine.decide(StartTask(0)) == ()
    assert machine.decide(ReuseTask(0, PAYLOAD, Origin("x", 1), "fork")) == ()
    assert machine.decide(MapTask(1, 2)) == ()
