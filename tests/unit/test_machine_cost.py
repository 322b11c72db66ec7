"""Cost per event: the same number of Python operations at 100 tasks and at 100,000."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

import eventflow.machine as machine_package
from eventflow.machine import Due, StartTask, SucceedTask
from eventflow.machine.decide import decide
from eventflow.machine.ready import ready
from tests.unit.machines import PAYLOAD, Machine, machine, mapped, task

SMALL, LARGE = 100, 100_000
ENGINE = str(Path(machine_package.__file__).parent)


def operations(call: Callable[[], Any]) -> int:
    """How many bytecodes of the engine a call takes; other code is not counted."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(ENGINE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


class Counting(list[int]):
    """A list that counts which of its elements are looked at, in C or in Python."""

    touched = 0

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            self.touched += 1
            yield item

    def __getitem__(self, index: Any) -> Any:
        self.touched += len(range(*index.indices(len(self)))) if isinstance(index, slice) else 1
        return super().__getitem__(index)


def one_round(m: Machine, name: str) -> int:
    """Operations to ask what is due, start a task, and fold its success."""
    slot = m.slot(name)
    start = StartTask(slot)
    success = SucceedTask(slot, 1, PAYLOAD)

    def work() -> None:
        due: Due = ready(m.plan, m.run, m.now, 1)
        assert due.start == [slot]
        for command in (start, success):
            (event,) = decide(m.plan, m.run, command, m.now)
            m.fold(event)

    return operations(work)


class Shape(NamedTuple):
    """A run that is driven task by task, in the order of `names`."""

    m: Machine
    names: list[str]

    def rounds(self, begun: int) -> list[int]:
        """Bring tasks to their end, uncounted; then count some rounds."""
        self.m.succeed(*self.names[:begun])
        return [one_round(self.m, name) for name in self.names[begun : begun + 5]]


def chain(count: int) -> Shape:
    """Tasks one after the other."""
    names = [f"n{i}" for i in range(count)]
    downstream = {name: task(up) for up, name in pairwise(names)}
    return Shape(machine(n0=task(), **downstream), names)


def fan_out(count: int) -> Shape:
    """Tasks side by side behind one, and a sum of some of them."""
    names = [f"n{i}" for i in range(count)]
    behind = {name: task("first") for name in names}
    return Shape(machine(first=task(), **behind, sum=task(*names[:6])), ["first", *names])


def map_of_map(count: int) -> Shape:
    """The children of one mapped task, with another map behind them."""
    m = machine(list=task(), first=mapped("list"), second=mapped("first"))
    m.succeed("list")
    m.map("first", count)
    return Shape(m, [f"first[{i}]" for i in range(count)])


@pytest.fixture(autouse=True)
def _traced_before() -> None:
    """Trace the functions once: since Python 3.13 more operations are counted the first time."""
    for shape in (chain, fan_out, map_of_map):
        shape(SMALL).rounds(30)


@pytest.mark.parametrize("shape", [chain, fan_out, map_of_map])
def test_operations_per_event_do_not_grow(shape: Callable[[int], Shape]) -> None:
    """A round in a run of 100,000 takes exactly as many operations as in a run of 100."""
    small = shape(SMALL).rounds(33)
    large = shape(LARGE).rounds(33)
    assert sum(small) > 500, "nothing was counted"
    assert large == small


@pytest.mark.parametrize("shape", [chain, fan_out, map_of_map])
def test_operations_per_event_do_not_grow_with_what_has_finished(shape: Callable[[int], Shape]) -> None:
    """After 30,000 tasks a round takes as many as after 30 (and one look whether to cut the queue)."""
    early = shape(SMALL).rounds(30)
    late = shape(LARGE).rounds(30_000)
    assert max(late) <= max(early) + 16


def test_asking_when_nothing_is_due_does_not_grow() -> None:
    """With everything started, finding out what is due costs the same, however many tasks run."""
    counts = []
    for count in (SMALL, LARGE):
        m = machine(**{f"n{i}": task() for i in range(count)})
        m.start(*m.plan.graph.index)
        counts.append(operations(lambda m=m: ready(m.plan, m.run, 0, 0)))
    assert counts[0] == counts[1]


def test_the_queue_is_not_walked_from_its_beginning() -> None:
    """Tasks that were taken from the queue of due tasks are not looked at again, not even by a loop in C."""
    m, names = fan_out(LARGE)
    m.succeed(*names[:30_000])
    m.run.due = queue = Counting(m.run.due)
    assert ready(m.plan, m.run, m.now, 1).start == [m.slot(names[30_000])]
    assert queue.touched <= 3
