"""The consequences of events: triggers, skips, retries, mapping, phases and sources, given and folded by hand."""

from __future__ import annotations

import pytest

from eventflow.events import RunFinished, TaskAbandoned, TaskFailed, TaskMapped, TaskStarted
from eventflow.graph import DictOf, ListOf, Policy, TupleOf
from eventflow.machine import (
    AbandonTask,
    ClaimRun,
    FailTask,
    FinishRun,
    IllegalEvent,
    MapTask,
    Phase,
    ReleaseRun,
    SkipTask,
    StartTask,
    Status,
    SucceedTask,
)
from eventflow.machine.rules import CRASHES_MAX, SLOTS_MAX
from eventflow.machine.triggers import Verdict, judge
from tests.unit.machines import CONST, FAILURE, claimed, machine, mapped, parameter, ref, task, whole

# ── plain tasks ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_task_is_due_when_all_its_upstreams_have_finished() -> None:
    """Each upstream counts once, however often it is taken, and parameters are always there."""
    m = machine(
        p=parameter(),
        a=task("p"),
        b=task("a", "a", "p"),
        c=task(after=["a"]),
        d=task("b", after=["c"]),
    )
    assert m.due.start == ["a"]
    m.succeed("a")
    assert m.due.start == ["b", "c"]
    m.succeed("c")
    assert m.due.start == ["b"]
    m.succeed("b")
    assert m.due.start == ["d"]


def test_a_limit_on_starts() -> None:
    """No more starts than there is room for, oldest first."""
    m = machine(a=task(), b=task(), c=task())
    assert m.due_within(2).start == ["a", "b"]
    assert m.due_within(0).start == []


@pytest.mark.parametrize(
    ("failed", "skipped", "verdict"),
    [(0, 0, Verdict.RUN), (1, 0, Verdict.BLOCK), (0, 1, Verdict.SKIP), (2, 1, Verdict.SKIP)],
)
def test_skip_comes_before_failure(failed: int, skipped: int, verdict: Verdict) -> None:
    """One skipped upstream in addition to failed ones gives a skip."""
    assert judge(failed, skipped) == verdict
    upstreams = ["a", "b", "c"]
    m = machine(a=task(), b=task(), c=task(), sum=task(*upstreams))
    m.fail(*upstreams[:failed])
    m.skip(*upstreams[failed : failed + skipped])
    m.succeed(*upstreams[failed + skipped :])
    due = m.due
    assert {Verdict.RUN: due.start, Verdict.BLOCK: due.block, Verdict.SKIP: due.skip}[verdict] == ["sum"]


def test_blocking_and_skipping_go_on_downstream() -> None:
    """A blocked task blocks, a skipped task skips, to the end of the run."""
    m = machine(a=task(), b=task("a"), c=task("b"))
    m.fail("a")
    m.block("b")
    assert m.due.block == ["c"]
    m.block("c")
    assert m.due.finished
    (event,) = m.do(FinishRun, message="a failed: m")
    assert isinstance(event, RunFinished)
    assert (event.outcome, event.message) == ("failed", "a failed: m")


def test_the_causes_of_a_failure_are_the_tasks_that_failed_by_themselves_in_order_of_time() -> None:
    """Through triggers that refused and maps, only of the tasks in question, also where an input is one child."""
    m = machine(
        list=task(), lone=task(), map=mapped("list"), sum=task("map", "lone"), end=task("sum"), aside=task()
    )
    m.succeed("list")
    m.map("map", 3)
    m.fail("map[2]")
    m.fail("aside")  # no task in question waits for it
    m.fail("lone")
    m.fail("map[0]")
    m.succeed("map[1]")
    m.block("sum", "end")
    assert m.causes("end") == ["map[2]", "lone", "map[0]"]
    assert m.causes("end", "aside") == ["map[2]", "aside", "lone", "map[0]"]
    assert m.causes("map") == ["map[2]", "map[0]"]
    assert m.causes("list", "map[1]") == []


def test_a_run_that_succeeded_has_no_word_on_failures() -> None:
    """A failure that is not among the reference tasks is no part of the run's outcome."""
    m = machine(a=task())
    m.succeed("a")
    (event,) = m.do(FinishRun, message="a failed: m")
    assert isinstance(event, RunFinished)
    assert (event.outcome, event.message) == ("success", "")


# ── retries and crashes ──────────────────────────────────────────────────────────────────────────────────


def test_retries_are_counted_and_wait_for_their_moment() -> None:
    """`retries=2` with delays that travel in the command: due at the moment written down, not before."""
    m = machine(a=task(), policy=Policy(retries=2))
    for attempt, delay in ((1, 50), (2, 700)):
        m.start("a")
        (event,) = m.do(FailTask, "a", attempt=attempt, delay_us=delay)
        assert isinstance(event, TaskFailed)
        assert event.retry_at == m.now + delay
        assert not m.due
        assert m.due.wake_at == event.retry_at
        m.now += delay
        assert m.due.start == ["a"]
    m.start("a")
    (event,) = m.do(FailTask, "a", attempt=3, delay_us=9)
    assert isinstance(event, TaskFailed)
    assert event.retry_at is None
    assert m.status("a") == Status.FAILED


@pytest.mark.parametrize("reason", ["unserializable", "input"])
def test_failures_that_would_only_repeat_are_final(reason: str) -> None:
    """There is no retry if another attempt cannot change the failure."""
    m = machine(a=task(), policy=Policy(retries=5))
    m.fail("a", reason=reason)
    assert m.status("a") == Status.FAILED


def test_many_timers() -> None:
    """Retries come in the order of their moments, within the room; only the next valid moment is given."""
    m = machine(**{name: task() for name in "abcdef"}, policy=Policy(retries=9))
    for name, delay in zip("abcdef", [60, 10, 30, 20, 40, 50], strict=True):
        m.fail(name, delay_us=delay)
    assert m.due.wake_at == 1_010
    m.now = 1_035
    assert m.due.start == ["b", "d", "c"]
    assert m.due.wake_at == 1_040
    assert m.due_within(2).start == ["b", "d"]
    full = m.due_within(0)
    assert not full
    assert full.wake_at is None, "the task that makes room asks again: waking up for it would spin"
    m.start("b")
    assert m.due.start == ["d", "c"]


def test_a_retry_at_the_same_moment_is_due_once() -> None:
    """Two failures of one task in one moment leave one valid timer."""
    m = machine(a=task(), b=task(), policy=Policy(retries=9))
    m.fail("b", "a")
    m.fail("b", attempt=2)
    starts = m.due.start
    assert sorted(set(starts)) == ["a", "b"]
    assert sum(bool(m.do(StartTask, name)) for name in starts) == 2
    assert not m.due


def test_a_crash_uses_up_no_retry_but_three_in_a_row_are_the_end() -> None:
    """Lost attempts go back to pending; the third in a row makes Crashed, retries or not."""
    m = machine(a=task(), policy=Policy(retries=1))
    for attempt in range(1, CRASHES_MAX):
        m.start("a")
        (event,) = m.do(AbandonTask, "a", attempt=attempt, reason="lost")
        assert isinstance(event, TaskAbandoned)
        assert m.due.start == ["a"]
    assert m.run.failures == {}
    m.start("a")
    (event,) = m.do(AbandonTask, "a", attempt=CRASHES_MAX, reason="lost")
    assert isinstance(event, TaskFailed)
    assert event.reason == "crashed"
    assert m.status("a") == Status.CRASHED


def test_only_crashes_in_a_row_count() -> None:
    """A failure in between restarts the count, and an interruption is no crash."""
    m = machine(a=task(), policy=Policy(retries=1))
    for attempt in range(1, CRASHES_MAX):
        m.start("a")
        m.do(AbandonTask, "a", attempt=attempt, reason="lost")
    m.fail("a", attempt=CRASHES_MAX)
    for attempt in range(CRASHES_MAX + 1, CRASHES_MAX + 6):
        m.start("a")
        (event,) = m.do(AbandonTask, "a", attempt=attempt, reason="interrupted")
        assert isinstance(event, TaskAbandoned)


# ── mapping ──────────────────────────────────────────────────────────────────────────────────────────────


def test_children_are_numbered_and_addressed() -> None:
    """A map of width 3 appends three slots; a task that reduces it waits for them all."""
    m = machine(list=task(), map=mapped("list"), sum=task("map"))
    m.succeed("list")
    assert m.due.map == ["map"]
    m.map("map", 3)
    assert m.due.start == ["map[0]", "map[1]", "map[2]"]
    assert [m.run.address(slot) for slot in (3, 4, 5)] == [(1, 0), (1, 1), (1, 2)]
    assert m.run.name(m.plan, 4) == "map[1]"
    with pytest.raises(LookupError):
        m.run.slot((4,))  # the slot of a child is no address
    m.succeed("map[2]", "map[0]")
    assert m.due.start == ["map[1]"]
    m.succeed("map[1]")
    assert m.due.start == ["sum"]


def test_a_map_over_a_map_goes_child_by_child() -> None:
    """Child i of the second starts when child i of the first has finished; failures hit the same index only."""
    m = machine(list=task(), first=mapped("list"), second=mapped("first"), sum=task("second"))
    m.succeed("list")
    m.map("first", 3)
    assert m.due.map == ["second"], "the second is mapped as soon as the width is known"
    m.map("second", 3)
    assert m.due.start == ["first[0]", "first[1]", "first[2]"]
    m.succeed("first[1]")
    assert "second[1]" in m.due.start
    assert "second[0]" not in m.due.start
    m.fail("first[0]")
    assert m.due.block == ["second[0]"]
    m.succeed("first[2]", "second[1]", "second[2]")
    m.block("second[0]")
    assert m.due.block == ["sum"]


def test_a_map_over_a_map_that_had_finished_before() -> None:
    """Children that come late count the outcomes that their elements have already."""
    m = machine(list=task(), first=mapped("list"), gate=task(), second=mapped("first", after=["gate"]))
    m.succeed("list")
    m.map("first", 3)
    m.succeed("first[0]")
    m.fail("first[1]")
    m.skip("first[2]")
    m.succeed("gate")
    m.map("second", 3)
    due = m.due
    assert (due.start, due.block, due.skip) == (["second[0]"], ["second[1]"], ["second[2]"])


def test_a_written_list_is_mapped_element_by_element() -> None:
    """Child i waits only for the nodes in item i; the map itself waits for none of them."""
    items = ListOf((ref("a"), CONST, TupleOf((ref("a"), ref("b")))))
    m = machine(a=task(), b=task(), map=mapped(items))
    assert m.due.map == ["map"]
    m.map("map", 3)
    assert set(m.due.start) == {"a", "b", "map[1]"}
    m.fail("a")
    assert m.due.block == ["map[0]"]
    m.succeed("b")
    assert m.due.block == ["map[0]", "map[2]"]


def test_a_parent_whose_shared_upstream_failed_still_gets_children_to_answer_for_it() -> None:
    """An unmapped upstream that failed blocks each child, not the parent."""
    m = machine(list=task(), shared=task(), map=mapped("list", whole("shared")))
    m.succeed("list")
    m.fail("shared")
    assert m.due.map == ["map"]
    m.map("map", 2)
    assert m.due.block == ["map[0]", "map[1]"]


def test_a_parent_whose_list_failed_is_blocked() -> None:
    """Without the list there are no children; a map over that map is blocked in turn."""
    m = machine(list=task(), first=mapped("list"), second=mapped("first"))
    m.fail("list")
    assert m.due.block == ["first"]
    m.block("first")
    assert m.due.block == ["second"]


@pytest.mark.parametrize("upstreams", [("list", "shared"), ("shared", "list")])
def test_a_parent_with_a_skipped_upstream_is_skipped(upstreams: tuple[str, str]) -> None:
    """Whether it was mapped over or taken whole."""
    skipped, other = upstreams
    m = machine(list=task(), shared=task(), first=mapped("list", whole("shared")), second=mapped("first"))
    m.succeed(other)
    m.skip(skipped)
    assert m.due.skip == ["first"]
    m.do(SkipTask, "first")
    assert m.due.skip == ["second"]


def test_empty_maps_all_the_way_down() -> None:
    """A map of nothing has finished at once, so has the map of it, and the reduction runs."""
    m = machine(
        list=task(),
        first=mapped("list"),
        second=mapped("first"),
        of_second=task("second"),
        of_first=task("first"),
    )
    m.succeed("list")
    m.map("first", 0)
    m.map("second", 0)
    assert sorted(m.due.start) == ["of_first", "of_second"]
    m.succeed("of_second", "of_first")
    assert m.due.finished


def test_inputs_that_cannot_be_mapped_over_fail_the_parent() -> None:
    """A map with a failure ends the parent without an attempt, and blocks those after it."""
    m = machine(list=task(), map=mapped("list"), sum=task("map"))
    m.succeed("list")
    (event,) = m.do(MapTask, "map", width=0, failure=FAILURE)
    assert isinstance(event, TaskFailed)
    assert (event.attempt, event.reason) == (0, "input")
    assert m.due.block == ["sum"]


def test_skipped_children_skip_the_reduction() -> None:
    """A mapped upstream counts once for each of its children."""
    m = machine(list=task(), map=mapped("list"), sum=task("map"))
    m.succeed("list")
    m.map("map", 2)
    m.fail("map[0]")
    m.skip("map[1]")
    assert m.due.skip == ["sum"]


# ── sources ──────────────────────────────────────────────────────────────────────────────────────────────


def test_sources_of_every_kind_of_leaf() -> None:
    """Versions for whole values, paths for parts, names for parameters, the children of a map by their map."""
    m = machine(
        p=parameter(),
        a=task(),
        map=mapped("a"),
        all=task(
            "a",
            "p",
            ref("p", "k"),
            ListOf((ref("a", 0), CONST, DictOf(("x",), (ref("map", 1),)))),
            TupleOf((ref("map"),)),
            ref("map", -1, "deep"),
        ),
        mixed=mapped("a", whole("p"), ListOf((ref("a"), CONST))),
        second=mapped("map"),
    )
    m.succeed("a")
    one = m.run.version
    m.map("map", 2)
    of_map = m.run.version
    m.map("mixed", 2)
    m.map("second", 2)
    m.succeed("map[0]")
    m.succeed("map[1]")
    last_child = m.run.version
    (event,) = m.do(StartTask, "all")
    assert isinstance(event, TaskStarted)
    assert event.inputs == (
        one,
        (1, "p"),
        (1, "p", "k"),
        (one, 0),
        last_child,
        of_map,
        (last_child, "deep"),
    )
    assert m.sources("mixed[0]") == ((one, 0), (1, "p"), one)
    assert m.sources("mixed[1]") == ((one, 1), (1, "p"))
    assert m.sources("second[1]") == (last_child,)


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────


def test_phases_and_claims() -> None:
    """A run is born, claimed, released, claimed again; it ends only when nothing is open; then nothing more."""
    m = machine(a=task())
    assert (m.run.phase, m.run.claim) == (Phase.CLAIMED, 2)
    assert m.decide(FinishRun) == ()
    m.do(ReleaseRun)
    assert not m.due
    m.do(ClaimRun, event=claimed("you", "g"))
    assert (m.run.claim, m.run.flow) == (4, "g")
    m.succeed("a")
    assert m.due.finished
    assert m.do(FinishRun)
    assert m.run.outcome == "success"
    for kind in (FinishRun, ClaimRun, ReleaseRun):
        assert m.decide(kind) == ()
    assert m.decide(StartTask, "a") == ()


def test_success_is_judged_on_reference_tasks() -> None:
    """By default on the tasks that none waits for (mapped over or in a list counts as waiting), else as asked."""
    m = machine(a=task(), b=task("a"), c=mapped("a"), d=mapped("c"), e=task())
    assert m.names(m.plan.judged) == ["b", "d", "e"]
    for reference, outcome in (([], "failed"), (["a"], "success")):
        m = machine(a=task(), b=task(), reference=reference)
        m.succeed("a")
        m.fail("b")
        m.do(FinishRun)
        assert m.run.outcome == outcome


def test_a_late_success_names_its_attempt() -> None:
    """A success after an abandoned attempt is of the new attempt."""
    m = machine(a=task())
    m.start("a")
    m.do(AbandonTask, "a", reason="interrupted")
    m.start("a")
    assert m.decide(SucceedTask, "a", attempt=1) == ()
    assert m.do(SucceedTask, "a", attempt=2)


def test_a_run_has_no_more_tasks_than_memory_is_meant_for() -> None:
    """However many maps share them: the event that goes beyond is illegal, and nothing is changed."""
    m = machine(map=mapped(CONST))
    m.run.status += bytes(SLOTS_MAX - 11)  # as if there were as many tasks already
    with pytest.raises(IllegalEvent, match=f"more than {SLOTS_MAX}"):
        m.fold(m.event(TaskMapped, "map", width=11))
    assert (m.run.version, m.run.maps, m.run.attempt) == (2, {}, [0])
