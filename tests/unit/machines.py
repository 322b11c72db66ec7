"""Small graphs and a driver for the machine's tests: given, when, then, without any loop."""

from __future__ import annotations

from typing import Any

from eventflow.events import Draft, Event
from eventflow.graph import Const, Graph, Input, ParameterNode, Policy, Ref, TaskDef, TaskNode
from eventflow.machine import (
    ClaimRun,
    Command,
    Due,
    Plan,
    RunState,
    StartRun,
    StartTask,
    SucceedTask,
)
from eventflow.machine.decide import decide
from eventflow.machine.evolve import evolve
from eventflow.machine.ready import ready
from eventflow.result import Inline

__all__ = ["PAYLOAD", "Machine", "graph_of", "mapped", "parameter", "task"]

PAYLOAD = Inline("msgpack", b"\x01", b"d" * 16)


def parameter(name: str) -> ParameterNode:
    """A parameter node."""
    return ParameterNode(name=name)


def task(*inputs: Any, after: tuple[int, ...] = (), name: str = "") -> TaskNode:
    """A task node whose arguments `a`, `b` … are nodes (by index), Args, or Inputs."""
    return TaskNode(name=name, task=0, inputs=_inputs(inputs), after=after)


def mapped(*inputs: Any, after: tuple[int, ...] = (), name: str = "") -> TaskNode:
    """A mapped task node; indices and Args are mapped over, Inputs are as they say."""
    return TaskNode(name=name, task=0, inputs=_inputs(inputs, each=True), after=after, mapped=True)


def _inputs(given: tuple[Any, ...], *, each: bool = False) -> tuple[Input, ...]:
    found = []
    for letter, arg in zip("abcdef", given, strict=False):
        if isinstance(arg, Input):
            found.append(arg)
        else:
            found.append(Input(letter, Ref(arg) if isinstance(arg, int) else arg, each))
    return tuple(found)


def graph_of(*nodes: Any, policy: Policy | None = None, reference: tuple[int, ...] = ()) -> Graph:
    """A graph of those nodes, named n0, n1 … where they have no name."""
    import msgspec

    named = tuple(
        node if node.name else msgspec.structs.replace(node, name=f"n{i}") for i, node in enumerate(nodes)
    )
    return Graph("g", (TaskDef("t", "m:t", b"", policy or Policy()),), named, reference=reference)


class Machine:
    """A run that is driven by hand."""

    def __init__(
        self, *nodes: Any, policy: Policy | None = None, claimed: bool = True, **options: Any
    ) -> None:
        self.plan = Plan(graph_of(*nodes, policy=policy, **options))
        self.run = RunState.initial(self.plan)
        self.now = 1_000
        if claimed:
            self.do(StartRun("f", {}, "full", {}))
            self.do(ClaimRun("me", {}, "f"))

    def decide(self, command: Command) -> tuple[Event, ...]:
        """What a command makes true, without folding it."""
        return decide(self.plan, self.run, command, self.now)

    def do(self, command: Command) -> tuple[Event, ...]:
        """Decide and fold."""
        events = self.decide(command)
        for event in events:
            self.fold(event)
        return events

    def fold(self, event: Event) -> None:
        """Fold one event as the next version."""
        evolve(self.plan, self.run, self.run.version + 1, Draft(self.now, event))

    @property
    def due(self) -> Due:
        """What is owed now."""
        return ready(self.plan, self.run, self.now, 1000)

    def succeed(self, *slots: int) -> None:
        """Start those tasks if they have not been, and let them succeed."""
        for slot in slots:
            self.do(StartTask(slot))
            assert self.do(SucceedTask(slot, self.run.attempt[slot], PAYLOAD)), f"{slot} could not succeed"

    def slot(self, *address: int) -> int:
        """The slot of an address."""
        return self.run.slot(address)


CONST = Const(Inline("msgpack", b"\x01", b"d" * 16))
