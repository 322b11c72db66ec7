"""Cost per event: the same number of Python operations at 100 tasks and at 100,000."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import eventflow.machine as machine_package
from eventflow.machine import Due, MapTask, StartTask, SucceedTask
from eventflow.machine.ready import ready
from tests.unit.machines import PAYLOAD, Machine, mapped, task

SMALL, LARGE = 100, 100_000
ENGINE = str(Path(machine_package.__file__).parent)


def operations(call: Callable[[], Any]) -> int:
    """How many bytecodes of the engine's a call takes; what else Python may do meanwhile is not counted."""
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


def one_round(machine: Machine, slot: int) -> int:
    """Operations to ask what is due, start a task, and fold its success."""

    def work() -> None:
        due: Due = ready(machine.plan, machine.run, machine.now, 1)
        assert due.start == [slot]
        machine.do(StartTask(slot))
        assert machine.do(SucceedTask(slot, 1, PAYLOAD))

    return operations(work)


def quietly(machine: Machine, slots: Any) -> None:
    """Bring tasks to their end, uncounted."""
    for slot in slots:
        machine.do(StartTask(slot))
        machine.do(SucceedTask(slot, 1, PAYLOAD))


def chain(count: int, begun: int) -> tuple[Machine, int]:
    """A chain that has come so far."""
    machine = Machine(task(), *[task(i) for i in range(count - 1)])
    quietly(machine, range(begun))
    return machine, begun


def fan_out(count: int, begun: int) -> tuple[Machine, int]:
    """Tasks side by side behind one, and a sum of them all."""
    machine = Machine(task(), *[task(0) for _ in range(count)], task(*range(1, 7)))
    quietly(machine, range(begun))
    return machine, begun


def map_of_map(count: int, begun: int) -> tuple[Machine, int]:
    """The children of one mapped task, with another map behind them."""
    machine = Machine(task(), mapped(0), mapped(1))
    machine.succeed(0)
    machine.do(MapTask(1, count))
    quietly(machine, range(3, 3 + begun))
    return machine, 3 + begun


@pytest.mark.parametrize("shape", [chain, fan_out, map_of_map])
def test_operations_per_event_do_not_grow(shape: Callable[[int, int], tuple[Machine, int]]) -> None:
    """A round in a run of 100,000 takes exactly what it takes in a run of 100."""
    small = [one_round(machine, slot + i) for machine, slot in [shape(SMALL, 33)] for i in range(5)]
    large = [one_round(machine, slot + i) for machine, slot in [shape(LARGE, 33)] for i in range(5)]
    assert sum(small) > 500, "nothing was counted"
    assert large == small


@pytest.mark.parametrize("shape", [chain, fan_out, map_of_map])
def test_operations_per_event_do_not_grow_with_what_has_finished(
    shape: Callable[[int, int], tuple[Machine, int]],
) -> None:
    """After 30,000 tasks a round takes what it took after 30 (and one look whether to cut the queue)."""
    early = [one_round(machine, slot + i) for machine, slot in [shape(SMALL, 30)] for i in range(5)]
    late = [one_round(machine, slot + i) for machine, slot in [shape(LARGE, 30_000)] for i in range(5)]
    assert max(late) <= max(early) + 16


def test_asking_when_nothing_is_due_does_not_grow() -> None:
    """With everything started, what is owed costs the same to find out, however much runs."""
    found = []
    for count in (SMALL, LARGE):
        machine = Machine(*[task() for _ in range(count)])
        for slot in range(count):
            machine.do(StartTask(slot))
        found.append(operations(lambda machine=machine: ready(machine.plan, machine.run, 0, 0)))
    assert found[0] == found[1]


def test_the_queue_is_not_walked_from_its_beginning() -> None:
    """What was taken from the queue of due tasks is not looked at again, not even by a loop in C."""
    machine, slot = fan_out(LARGE, 30_000)
    machine.run.due = queue = Counting(machine.run.due)
    assert ready(machine.plan, machine.run, machine.now, 1).start == [slot]
    assert queue.touched <= 3
