"""What follows from what: triggers, skips, retries, mapping, phases and sources, given and folded by hand."""

from __future__ import annotations

import pytest

from eventflow.events import Failure, RunFinished, TaskAbandoned, TaskFailed, TaskMapped, TaskStarted
from eventflow.graph import DictOf, Input, ListOf, Policy, Ref, TupleOf
from eventflow.machine import (
    AbandonTask,
    BlockTask,
    ClaimRun,
    FailTask,
    FinishRun,
    MapTask,
    Phase,
    ReleaseRun,
    SkipTask,
    StartTask,
    Status,
    SucceedTask,
    causes,
    sources,
)
from eventflow.machine.rules import CRASHES_MAX, SLOTS_MAX, IllegalEvent, Verdict, judge
from tests.unit.machines import CONST, PAYLOAD, Machine, mapped, parameter, task

FAILURE = Failure(type="E", message="m")


def fail(machine: Machine, slot: int) -> None:
    """Start a task and let it fail for good."""
    machine.do(StartTask(slot))
    assert machine.do(FailTask(slot, machine.run.attempt[slot], FAILURE, "raised"))


# ── plain tasks ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_due_when_all_its_upstreams_have_finished() -> None:
    """Each upstream counts once, however often it is taken, and parameters are always there."""
    machine = Machine(parameter("p"), task(0), task(1, 1, 0), task(after=(1,)), task(2, after=(3,)))
    assert machine.due.start == [1]
    machine.succeed(1)
    assert machine.due.start == [2, 3]
    machine.succeed(3)
    assert machine.due.start == [2]
    machine.succeed(2)
    assert machine.due.start == [4]


def test_a_limit_on_starts() -> None:
    """No more starts than there is room for, oldest first."""
    from eventflow.machine.ready import ready

    machine = Machine(task(), task(), task())
    assert ready(machine.plan, machine.run, 0, 2).start == [0, 1]
    assert ready(machine.plan, machine.run, 0, 0).start == []


@pytest.mark.parametrize(
    ("failed", "skipped", "verdict"),
    [(0, 0, Verdict.RUN), (1, 0, Verdict.BLOCK), (0, 1, Verdict.SKIP), (2, 1, Verdict.SKIP)],
)
def test_skip_comes_before_failure(failed: int, skipped: int, verdict: Verdict) -> None:
    """One skipped upstream beside failed ones gives a skip."""
    assert judge(failed, skipped) == verdict
    machine = Machine(*[task() for _ in range(3)], task(0, 1, 2))
    for slot in range(3):
        if slot < failed:
            fail(machine, slot)
        elif slot < failed + skipped:
            machine.do(StartTask(slot))
            machine.do(SkipTask(slot, "r", 1))
        else:
            machine.succeed(slot)
    due = machine.due
    assert {Verdict.RUN: due.start, Verdict.BLOCK: due.block, Verdict.SKIP: due.skip}[verdict] == [3]


def test_blocking_and_skipping_go_on_downstream() -> None:
    """What is blocked blocks, what is skipped skips, to the end of the run."""
    machine = Machine(task(), task(0), task(1))
    fail(machine, 0)
    machine.do(BlockTask(1, "m"))
    assert machine.due.block == [2]
    machine.do(BlockTask(2, "m"))
    assert machine.due.finished
    (event,) = machine.do(FinishRun("n0 failed: m"))
    assert isinstance(event, RunFinished)
    assert (event.outcome, event.message) == ("failed", "n0 failed: m")


def test_the_causes_of_a_failure_are_the_tasks_that_failed_by_themselves_in_order_of_time() -> None:
    """Through triggers that refused and maps, only from what is asked about, also where an input is one child."""
    machine = Machine(task(), task(), mapped(0), task(2, 1), task(3), task())
    machine.succeed(0)
    machine.do(MapTask(2, 3))
    fail(machine, 8)
    fail(machine, 5)  # nothing that is asked about waits for it
    fail(machine, 1)
    fail(machine, 6)
    machine.succeed(7)
    for slot in (3, 4):
        machine.do(BlockTask(slot, "m"))
    assert causes(machine.plan, machine.run, [4]) == [8, 1, 6]
    assert causes(machine.plan, machine.run, [4, 5]) == [8, 5, 1, 6]
    assert causes(machine.plan, machine.run, [2]) == [8, 6]
    assert causes(machine.plan, machine.run, [0, 7]) == []


def test_a_run_that_succeeded_has_no_word_on_failures() -> None:
    """What failed beside the reference tasks is no part of the run's outcome."""
    machine = Machine(task())
    machine.succeed(0)
    (event,) = machine.do(FinishRun("n0 failed: m"))
    assert isinstance(event, RunFinished)
    assert (event.outcome, event.message) == ("success", "")


# ── retries and crashes ──────────────────────────────────────────────────────────────────────────────────


def test_retries_are_counted_and_wait_for_their_moment() -> None:
    """`retries=2` with delays that travel in the command: due at the moment written down, not before."""
    machine = Machine(task(), policy=Policy(retries=2))
    for attempt, delay in ((1, 50), (2, 700)):
        assert machine.do(StartTask(0))
        (event,) = machine.do(FailTask(0, attempt, FAILURE, "raised", delay_us=delay))
        assert isinstance(event, TaskFailed)
        assert event.retry_at == machine.now + delay
        assert not machine.due
        assert machine.due.wake_at == event.retry_at
        machine.now += delay
        assert machine.due.start == [0]
    machine.do(StartTask(0))
    (event,) = machine.do(FailTask(0, 3, FAILURE, "raised", delay_us=9))
    assert isinstance(event, TaskFailed)
    assert event.retry_at is None
    assert machine.run.status[0] == Status.FAILED


@pytest.mark.parametrize("reason", ["unserializable", "input"])
def test_failures_that_would_only_repeat_are_final(reason: str) -> None:
    """No retry of what another attempt cannot change."""
    machine = Machine(task(), policy=Policy(retries=5))
    machine.do(StartTask(0))
    machine.do(FailTask(0, 1, FAILURE, reason))  # type: ignore[arg-type]
    assert machine.run.status[0] == Status.FAILED


def test_many_timers() -> None:
    """Retries come in the order of their moments, within the room; the next moment is told, void ones are not."""
    from eventflow.machine.ready import ready

    machine = Machine(*[task() for _ in range(6)], policy=Policy(retries=9))
    for slot, delay in enumerate([60, 10, 30, 20, 40, 50]):
        machine.do(StartTask(slot))
        machine.do(FailTask(slot, 1, FAILURE, "raised", delay_us=delay))
    assert machine.due.wake_at == 1_010
    machine.now = 1_035
    assert machine.due.start == [1, 3, 2]
    assert machine.due.wake_at == 1_040
    assert ready(machine.plan, machine.run, machine.now, 2).start == [1, 3]
    full = ready(machine.plan, machine.run, machine.now, 0)
    assert not full
    assert full.wake_at is None, "whoever makes room asks again: waking up for it would spin"
    machine.do(StartTask(1))
    assert machine.due.start == [3, 2]


def test_a_retry_at_the_same_moment_is_due_once() -> None:
    """Two failures of one task in one moment leave one valid timer."""
    machine = Machine(task(), task(), policy=Policy(retries=9))
    for slot in (1, 0):
        machine.do(StartTask(slot))
        machine.do(FailTask(slot, 1, FAILURE, "raised"))
    machine.do(StartTask(1))
    machine.do(FailTask(1, 2, FAILURE, "raised"))
    starts = machine.due.start
    assert sorted(set(starts)) == [0, 1]
    assert sum(bool(machine.do(StartTask(slot))) for slot in starts) == 2
    assert not machine.due


def test_a_crash_uses_up_no_retry_but_three_in_a_row_are_the_end() -> None:
    """Lost attempts go back to pending; the third in a row makes Crashed, retries or not."""
    machine = Machine(task(), policy=Policy(retries=1))
    for attempt in range(1, CRASHES_MAX):
        machine.do(StartTask(0))
        (event,) = machine.do(AbandonTask(0, attempt, "lost"))
        assert isinstance(event, TaskAbandoned)
        assert machine.due.start == [0]
    assert machine.run.failures == {}
    machine.do(StartTask(0))
    (event,) = machine.do(AbandonTask(0, CRASHES_MAX, "lost"))
    assert isinstance(event, TaskFailed)
    assert event.reason == "crashed"
    assert machine.run.status[0] == Status.CRASHED


def test_only_crashes_in_a_row_count() -> None:
    """A failure in between begins the count anew, and an interruption is no crash."""
    machine = Machine(task(), policy=Policy(retries=1))
    for attempt in range(1, CRASHES_MAX):
        machine.do(StartTask(0))
        machine.do(AbandonTask(0, attempt, "lost"))
    machine.do(StartTask(0))
    machine.do(FailTask(0, CRASHES_MAX, FAILURE, "raised"))
    for attempt in range(CRASHES_MAX + 1, CRASHES_MAX + 6):
        machine.do(StartTask(0))
        (event,) = machine.do(AbandonTask(0, attempt, "interrupted"))
        assert isinstance(event, TaskAbandoned)


# ── mapping ──────────────────────────────────────────────────────────────────────────────────────────────


def test_children_are_numbered_and_addressed() -> None:
    """A map of width 3 appends three slots; a reducing consumer waits for them all."""
    machine = Machine(task(), mapped(0), task(1))
    machine.succeed(0)
    assert machine.due.map == [1]
    machine.do(MapTask(1, 3))
    assert machine.due.start == [3, 4, 5]
    assert [machine.run.address(slot) for slot in (3, 4, 5)] == [(1, 0), (1, 1), (1, 2)]
    assert machine.run.name(machine.plan, 4) == "n1[1]"
    with pytest.raises(LookupError):
        machine.slot(4)  # a child's slot is no address
    machine.succeed(5, 3)
    assert machine.due.start == [4]
    machine.succeed(4)
    assert machine.due.start == [2]


def test_a_map_over_a_map_goes_child_by_child() -> None:
    """Child i of the second starts when child i of the first has finished; failures hit the same index only."""
    machine = Machine(task(), mapped(0), mapped(1), task(2))
    machine.succeed(0)
    machine.do(MapTask(1, 3))
    assert machine.due.map == [2], "the second is mapped as soon as the width is known"
    machine.do(MapTask(2, 3))
    first, second = machine.slot(1, 0), machine.slot(2, 0)
    assert machine.due.start == [first, first + 1, first + 2]
    machine.succeed(first + 1)
    assert second + 1 in machine.due.start
    assert second not in machine.due.start
    fail(machine, first)
    assert machine.due.block == [second]
    machine.succeed(first + 2, second + 1, second + 2)
    machine.do(BlockTask(second, "m"))
    assert machine.due.block == [3]


def test_a_map_over_a_map_that_had_finished_before() -> None:
    """Children that come late count in what their elements have come to already."""
    machine = Machine(task(), mapped(0), task(), mapped(1, after=(2,)))
    machine.succeed(0)
    machine.do(MapTask(1, 3))
    base = machine.slot(1, 0)
    machine.succeed(base)
    fail(machine, base + 1)
    machine.do(StartTask(base + 2))
    machine.do(SkipTask(base + 2, "r", 1))
    machine.succeed(2)
    machine.do(MapTask(3, 3))
    late = machine.slot(3, 0)
    due = machine.due
    assert (due.start, due.block, due.skip) == ([late], [late + 1], [late + 2])


def test_a_written_list_is_mapped_element_by_element() -> None:
    """Child i waits only for the nodes in item i; the map itself waits for none of them."""
    machine = Machine(task(), task(), mapped(ListOf((Ref(0), CONST, TupleOf((Ref(0), Ref(1)))))))
    assert machine.due.map == [2]
    machine.do(MapTask(2, 3))
    base = machine.slot(2, 0)
    assert set(machine.due.start) == {0, 1, base + 1}
    fail(machine, 0)
    assert machine.due.block == [base]
    machine.succeed(1)
    assert machine.due.block == [base, base + 2]


def test_a_parent_whose_shared_upstream_failed_still_gets_children_to_answer_for_it() -> None:
    """An unmapped upstream that failed blocks each child, not the parent."""
    machine = Machine(task(), task(), mapped(0, Input("b", Ref(1))))
    machine.succeed(0)
    fail(machine, 1)
    assert machine.due.map == [2]
    machine.do(MapTask(2, 2))
    base = machine.slot(2, 0)
    assert machine.due.block == [base, base + 1]


def test_a_parent_whose_list_failed_is_blocked() -> None:
    """Without the list there are no children; a map over that map is blocked in turn."""
    machine = Machine(task(), mapped(0), mapped(1))
    fail(machine, 0)
    assert machine.due.block == [1]
    machine.do(BlockTask(1, "m"))
    assert machine.due.block == [2]


@pytest.mark.parametrize("which", [0, 1])
def test_a_parent_with_a_skipped_upstream_is_skipped(which: int) -> None:
    """Whether it was mapped over or taken whole."""
    machine = Machine(task(), task(), mapped(0, Input("b", Ref(1))), mapped(2))
    machine.succeed(1 - which)
    machine.do(StartTask(which))
    machine.do(SkipTask(which, "r", 1))
    assert machine.due.skip == [2]
    machine.do(SkipTask(2, "r"))
    assert machine.due.skip == [3]


def test_empty_maps_all_the_way_down() -> None:
    """A map of nothing has finished at once, so has the map of it, and the reduction runs."""
    machine = Machine(task(), mapped(0), mapped(1), task(2), task(1))
    machine.succeed(0)
    machine.do(MapTask(1, 0))
    machine.do(MapTask(2, 0))
    assert sorted(machine.due.start) == [3, 4]
    machine.succeed(3, 4)
    assert machine.due.finished


def test_what_cannot_be_mapped_fails_the_parent() -> None:
    """A map with a failure ends the parent without an attempt, and blocks those after it."""
    machine = Machine(task(), mapped(0), task(1))
    machine.succeed(0)
    (event,) = machine.do(MapTask(1, 0, FAILURE))
    assert isinstance(event, TaskFailed)
    assert (event.attempt, event.reason) == (0, "input")
    assert machine.due.block == [2]


def test_skipped_children_skip_the_reduction() -> None:
    """A mapped upstream counts once for each of its children."""
    machine = Machine(task(), mapped(0), task(1))
    machine.succeed(0)
    machine.do(MapTask(1, 2))
    base = machine.slot(1, 0)
    fail(machine, base)
    machine.do(StartTask(base + 1))
    machine.do(SkipTask(base + 1, "r", 1))
    assert machine.due.skip == [2]


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────


def test_sources_of_every_kind_of_leaf() -> None:
    """Versions for whole values, paths for parts, names for parameters, the children of a map by their map."""
    machine = Machine(
        parameter("p"),
        task(),
        mapped(1),
        task(
            1,
            0,
            Ref(0, ("k",)),
            ListOf((Ref(1, (0,)), CONST, DictOf(("x",), (Ref(2, (1,)),)))),
            TupleOf((Ref(2),)),
            Ref(2, (-1, "deep")),
        ),
        mapped(1, Input("b", Ref(0)), ListOf((Ref(1), CONST))),
        mapped(2),
    )
    machine.succeed(1)
    one = machine.run.version
    machine.do(MapTask(2, 2))
    whole = machine.run.version
    machine.do(MapTask(4, 2))
    machine.do(MapTask(5, 2))
    base = machine.slot(2, 0)
    machine.succeed(base)
    machine.succeed(base + 1)
    second = machine.run.version
    (event,) = machine.do(StartTask(3))
    assert isinstance(event, TaskStarted)
    assert event.inputs == (
        one,
        (1, "p"),
        (1, "p", "k"),
        (one, 0),
        second,
        whole,
        (second, "deep"),
    )
    assert sources(machine.plan, machine.run, machine.slot(4, 0)) == ((one, 0), (1, "p"), one)
    assert sources(machine.plan, machine.run, machine.slot(4, 1)) == ((one, 1), (1, "p"))
    assert sources(machine.plan, machine.run, machine.slot(5, 1)) == (second,)


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


def test_phases_and_claims() -> None:
    """A run is born, claimed, released, claimed again; it ends only when nothing is open; then nothing more."""
    machine = Machine(task())
    assert (machine.run.phase, machine.run.claim) == (Phase.CLAIMED, 2)
    assert machine.decide(FinishRun()) == ()
    machine.do(ReleaseRun("r"))
    assert not machine.due
    machine.do(ClaimRun("you", {}, "g"))
    assert (machine.run.claim, machine.run.flow) == (4, "g")
    machine.succeed(0)
    assert machine.due.finished
    assert machine.do(FinishRun())
    assert machine.run.outcome == "success"
    for command in (FinishRun(), ClaimRun("me", {}, "f"), ReleaseRun("r"), StartTask(0)):
        assert machine.decide(command) == ()


def test_success_is_judged_on_reference_tasks() -> None:
    """By default on what nothing waits for (mapped over or in a list counts as waiting), else as asked."""
    assert Machine(task(), task(0), mapped(0), mapped(2), task()).plan.judged == (1, 3, 4)
    for reference, outcome in (((), "failed"), ((0,), "success")):
        machine = Machine(task(), task(), reference=reference)
        machine.succeed(0)
        fail(machine, 1)
        machine.do(FinishRun())
        assert machine.run.outcome == outcome


def test_a_late_success_names_its_attempt() -> None:
    """A success after an abandoned attempt is of the new attempt."""
    machine = Machine(task())
    machine.do(StartTask(0))
    machine.do(AbandonTask(0, 1, "interrupted"))
    machine.do(StartTask(0))
    assert machine.decide(SucceedTask(0, 1, PAYLOAD)) == ()
    assert machine.do(SucceedTask(0, 2, PAYLOAD))


def test_a_run_has_no_more_tasks_than_memory_is_meant_for() -> None:
    """However many maps share them: the event that goes beyond is illegal, and nothing is changed."""
    machine = Machine(mapped(CONST))
    machine.run.status += bytes(SLOTS_MAX - 11)  # as if there were as many tasks already
    with pytest.raises(IllegalEvent, match=f"more than {SLOTS_MAX}"):
        machine.fold(TaskMapped(claim=2, task=(0,), width=11))
    assert (machine.run.version, machine.run.maps, machine.run.attempt) == (2, {}, [0])
