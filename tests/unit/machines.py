"""Given, when, then for the machine: small graphs of named nodes, driven without any loop.

    m = machine(a=task(), b=mapped("a"))     given
    m.succeed("a")                           when
    assert m.due.map == ["b"]                then

Nodes are named everywhere; a child of a map is `b[1]`, as people see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from eventflow.events import Draft, Event, Failure, Origin, RunClaimed, RunStarted
from eventflow.graph import (
    Arg,
    Const,
    DictOf,
    Graph,
    GraphNode,
    Input,
    ListOf,
    ParameterNode,
    Policy,
    Ref,
    Subscript,
    TaskDef,
    TaskNode,
    TupleOf,
)
from eventflow.machine import (
    AbandonTask,
    BlockTask,
    ClaimRun,
    Command,
    FailTask,
    FinishRun,
    MapTask,
    Plan,
    ReleaseRun,
    ReuseTask,
    RunState,
    SkipTask,
    StartRun,
    StartTask,
    Status,
    SucceedTask,
    causes,
    sources,
)
from eventflow.machine.decide import decide
from eventflow.machine.evolve import evolve
from eventflow.machine.ready import ready
from eventflow.result import Inline

__all__ = [
    "CONST",
    "FAILURE",
    "PAYLOAD",
    "Machine",
    "born",
    "claimed",
    "machine",
    "mapped",
    "parameter",
    "ref",
    "task",
    "whole",
]

PAYLOAD = Inline("msgpack", b"\x01", b"d" * 16)
FAILURE = Failure(type="E", message="m")
CONST = Const(PAYLOAD)


# ── given ────────────────────────────────────────────────────────────────────────────────────────────────


def parameter() -> ParameterNode:
    """A parameter node."""
    return ParameterNode(name="")


def task(*inputs: Any, after: Sequence[str] = ()) -> TaskNode:
    """A task node whose arguments `a`, `b` … are names of nodes, Args, or Inputs."""
    return TaskNode(name="", task=0, inputs=_inputs(inputs), after=tuple(after))  # type: ignore[arg-type]


def mapped(*inputs: Any, after: Sequence[str] = ()) -> TaskNode:
    """A mapped task node; names and Args are mapped over, Inputs are as they say."""
    return TaskNode(
        name="", task=0, inputs=_inputs(inputs, each=True), after=tuple(after), mapped=True  # type: ignore[arg-type]
    )  # fmt: skip


def whole(name: str, argument: str = "b") -> Input:
    """An input of a mapped task that every child takes whole."""
    return Input(argument, ref(name))


def ref(name: str, *path: Subscript) -> Ref:
    """The value of a node, or a part of it; `machine` puts the node's number in place of its name."""
    return Ref(name, path)  # type: ignore[arg-type]


def _inputs(args: tuple[Any, ...], *, each: bool = False) -> tuple[Input, ...]:
    return tuple(
        arg if isinstance(arg, Input) else Input(letter, ref(arg) if isinstance(arg, str) else arg, each)
        for letter, arg in zip("abcdef", args, strict=False)
    )


def _numbered(arg: Arg, numbers: dict[str, int]) -> Arg:
    match arg:
        case Const():
            return arg
        case Ref(node=name, path=path):
            return Ref(numbers[name], path)  # type: ignore[index]
        case ListOf(items=items) | TupleOf(items=items):
            return type(arg)(tuple(_numbered(item, numbers) for item in items))
        case DictOf(keys=keys, items=items):
            return DictOf(keys, tuple(_numbered(item, numbers) for item in items))


def _node(name: str, node: GraphNode, numbers: dict[str, int]) -> GraphNode:
    if isinstance(node, ParameterNode):
        return msgspec.structs.replace(node, name=name)
    inputs = tuple(msgspec.structs.replace(item, arg=_numbered(item.arg, numbers)) for item in node.inputs)
    after = tuple(numbers[up] for up in node.after)  # type: ignore[index]
    return msgspec.structs.replace(node, name=name, inputs=inputs, after=after)


def machine(
    *, policy: Policy | None = None, reference: Sequence[str] = (), claimed: bool = True, **nodes: GraphNode
) -> Machine:
    """A run of these nodes, in their order; claimed, unless a test wants to see to that itself."""
    numbers = {name: number for number, name in enumerate(nodes)}
    graph = Graph(
        "g",
        (TaskDef("t", "m:t", b"", policy or Policy()),),
        tuple(_node(name, node, numbers) for name, node in nodes.items()),
        reference=tuple(numbers[name] for name in reference),
    )
    m = Machine(graph)
    if claimed:
        m.do(StartRun)
        m.do(ClaimRun)
    return m


def born() -> RunStarted:
    """The first event of a run."""
    return RunStarted(flow="f", parameters={}, durability="full")


def claimed(owner: str = "me", flow: str = "f") -> RunClaimed:
    """The event by which a runner owns a run."""
    return RunClaimed(owner=owner, environment={}, flow=flow)


_FIELDS: Final[dict[type, dict[str, Any]]] = {
    StartRun: {"event": born()},
    ClaimRun: {"event": claimed()},
    ReleaseRun: {"reason": "r"},
    FinishRun: {},
    StartTask: {},
    SucceedTask: {"result": PAYLOAD},
    FailTask: {"failure": FAILURE, "reason": "raised"},
    SkipTask: {"reason": "r"},
    BlockTask: {},
    MapTask: {"width": 2},
    ReuseTask: {"result": PAYLOAD, "source": Origin("run/x", 3), "why": "fork"},
    AbandonTask: {"reason": "lost"},
}
"""The fields of each command that are the same in most tests."""


class Names(msgspec.Struct):
    """What is due, by names instead of slots."""

    start: list[str]
    map: list[str]
    skip: list[str]
    block: list[str]
    wake_at: int | None
    finished: bool

    def __bool__(self) -> bool:
        return bool(self.start or self.map or self.skip or self.block)


class Machine:
    """A run that is driven by hand."""

    def __init__(self, graph: Graph) -> None:
        self.plan = Plan(graph)
        self.run = RunState.initial(self.plan)
        self.now = 1_000

    # ── when ─────────────────────────────────────────────────────────────────────────────────────────

    def command(self, kind: type, name: str | None = None, **fields: Any) -> Command:
        """A command about a node; of its current attempt, unless the test names another."""
        fields = _FIELDS[kind] | fields
        if name is not None:
            fields["slot"] = slot = self.slot(name)
            is_running = self.run.status[slot] == Status.RUNNING
            if kind in (SucceedTask, FailTask, AbandonTask) or (kind is SkipTask and is_running):
                fields.setdefault("attempt", self.run.attempt[slot])
        command: Command = kind(**fields)
        return command

    def decide(self, kind: type, name: str | None = None, **fields: Any) -> tuple[Event, ...]:
        """The events that a command gives, without folding them."""
        return decide(self.plan, self.run, self.command(kind, name, **fields), self.now)

    def do(self, kind: type, name: str | None = None, **fields: Any) -> tuple[Event, ...]:
        """Decide and fold."""
        events = self.decide(kind, name, **fields)
        for event in events:
            self.fold(event)
        return events

    def event(self, kind: type, name: str, **fields: Any) -> Any:
        """An event about a node by the owner of the run."""
        return kind(claim=self.run.claim, task=self.run.address(self.slot(name)), **fields)

    def fold(self, event: Event) -> None:
        """Fold one event as the next version."""
        evolve(self.plan, self.run, self.run.version + 1, Draft(self.now, event))

    def start(self, *names: str) -> None:
        """Start tasks."""
        for name in names:
            assert self.do(StartTask, name), f"{name} could not start"

    def succeed(self, *names: str) -> None:
        """Start tasks if they do not run yet, and let them succeed."""
        self._end(SucceedTask, names)

    def fail(self, *names: str, **fields: Any) -> None:
        """Start tasks if they do not run yet, and let them fail."""
        self._end(FailTask, names, **fields)

    def skip(self, *names: str) -> None:
        """Start tasks if they do not run yet, and let their bodies skip."""
        self._end(SkipTask, names)

    def _end(self, kind: type, names: tuple[str, ...], **fields: Any) -> None:
        for name in names:
            self.do(StartTask, name)
            assert self.do(kind, name, **fields), f"{name} could not end by {kind.__name__}"

    def map(self, name: str, width: int) -> None:
        """Give a mapped task its children."""
        assert self.do(MapTask, name, width=width), f"{name} could not be mapped"

    def block(self, *names: str) -> None:
        """End tasks that are due because their trigger refused."""
        for name in names:
            assert self.do(BlockTask, name), f"{name} could not be blocked"

    # ── then ─────────────────────────────────────────────────────────────────────────────────────────

    def slot(self, name: str) -> int:
        """The slot of a node, or of a child of a map, by its name."""
        number = self.plan.graph.index.get(name)
        if number is not None:
            return number
        node, *path = name.replace("]", "").split("[")
        return self.run.slot((self.plan.graph.index[node], *map(int, path)))

    def names(self, slots: Sequence[int]) -> list[str]:
        """The names of tasks."""
        return [self.run.name(self.plan, slot) for slot in slots]

    def status(self, name: str) -> Status:
        """The status of a task."""
        return Status(self.run.status[self.slot(name)])

    @property
    def due(self) -> Names:
        """Everything that is due now."""
        return self.due_within(1_000)

    def due_within(self, limit: int) -> Names:
        """What is due now if so many tasks may start."""
        due = ready(self.plan, self.run, self.now, limit)
        slots = (due.start, due.map, due.skip, due.block)
        return Names(*map(self.names, slots), due.wake_at, due.finished)

    def causes(self, *names: str) -> list[str]:
        """The tasks that made these fail."""
        return self.names(causes(self.plan, self.run, [self.slot(name) for name in names]))

    def sources(self, name: str) -> tuple[Any, ...]:
        """Where the inputs of a task come from."""
        return sources(self.plan, self.run, self.slot(name))
