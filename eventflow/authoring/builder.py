"""The builder of one flow's graph: every call of a task adds a node to it.

A `Builder` adds nodes in order, so a node can refer only to earlier nodes, and a cycle cannot be written.  The
active builder is a context variable: each thread and each asyncio task builds its own flow, and a flow is not built
inside another one.

Adding a node costs a few microseconds in a flow of any size, if its arguments are nodes or small plain values.  The
other arguments go through `arguments`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from eventflow.authoring.arguments import (
    Location,
    Unmapped,
    argument,
    constant,
    each_argument,
    own_ref,
    quick,
)
from eventflow.authoring.definition import TaskDefinition
from eventflow.authoring.nodes import BuildError, Node
from eventflow.fingerprints.type_defs import Description
from eventflow.fingerprints.type_describer import describe
from eventflow.graph import (
    Arg,
    Const,
    Graph,
    GraphNode,
    Input,
    ListOf,
    ParameterNode,
    Ref,
    TaskDef,
    TaskNode,
    described,
    unequal,
)
from eventflow.ports import Body
from eventflow.runs.parameters import FlowParameter, type_text
from eventflow.suggestions import did_you_mean

__all__ = ["Builder", "active"]

active: Final[ContextVar[Builder | None]] = ContextVar("eventflow_builder", default=None)
"""The flow being built here, if any."""


class Builder:
    """The graph of one flow as it grows."""

    __slots__ = (
        "_index",
        "_names",
        "_nodes",
        "_task_names",
        "_tasks",
        "_types",
        "bodies",
        "name",
        "parameters",
        "traced",
    )

    name: str
    traced: bool
    """The flow is made by calling a function, whose signature has the parameters."""
    parameters: dict[str, FlowParameter]
    bodies: dict[str, Body]
    """The live side of every task, by the name of its `TaskDef`."""

    def __init__(self, name: str, *, traced: bool = False) -> None:
        self.name = name
        self.traced = traced
        self.parameters = {}
        self.bodies = {}
        self._nodes: list[GraphNode] = []
        self._names: dict[str, int] = {}
        self._tasks: list[TaskDef] = []
        self._task_names: dict[str, int] = {}
        self._index: dict[TaskDefinition, int] = {}
        self._types: dict[bytes, Description] = {}

    def name_of(self, index: int) -> str:
        """Return the name of a node."""
        return self._nodes[index].name

    def parameter(self, parameter: FlowParameter) -> Node:
        """Add a parameter; `BuildError` for a name in use, and for an invalid type or default."""
        name = parameter.name
        if name in self._names:
            raise BuildError(
                f"in flow {self.name!r}, the name {name!r} of a parameter is taken already; parameters keep "
                f"their names, so declare them before the tasks, and each once"
            )
        try:
            checked = parameter.checked()
        except TypeError as error:
            raise BuildError(f"in flow {self.name!r}, {error}") from None
        default: Const | None = None
        if not checked.required:
            default = constant(
                checked.default, checked.type, Location(self, f"default of parameter {name!r}")
            )
        self._names[name] = 1
        self.parameters[name] = checked
        index = len(self._nodes)
        digest = b""
        declared = describe(checked.type)
        if declared is not None:
            digest = declared.digest
            self._types[digest] = declared
        self._nodes.append(ParameterNode(name, default is None, default, type_text(checked.type), digest))
        return Node(self, Ref(index), checked.type)

    def call(
        self,
        definition: TaskDefinition,
        label: str | None,
        after: tuple[Node, ...],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Node:
        """Add a node for one call of a task."""
        bound = self._bind(definition, args, kwargs)
        inputs = [
            Input(name, quick(value, self) or self._argument(definition, name, value))
            for name, value in bound.items()
        ]
        return self._add_task(definition, label, after, inputs, False)

    def map(
        self,
        definition: TaskDefinition,
        label: str | None,
        after: tuple[Node, ...],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        zip_shortest: bool,
    ) -> Node:
        """Add a node for one child per element; a plain call when every argument is unmapped."""
        bound = self._bind(definition, args, kwargs)
        inputs: list[Input] = []
        for name, value in bound.items():
            if isinstance(value, Unmapped):
                inputs.append(Input(name, self._argument(definition, name, value.value)))
            else:
                location = self._location(definition, name)
                arg = each_argument(value, definition.signature.type_of(name), location)
                inputs.append(Input(name, arg, True))
        mapped = any(item.each for item in inputs)
        widths = {
            item.name: len(item.arg.items) for item in inputs if item.each and isinstance(item.arg, ListOf)
        }
        if len({*widths.values()}) > 1 and not zip_shortest:
            raise BuildError(f"in flow {self.name!r}, {unequal(definition.name, widths)}")
        return self._add_task(definition, label, after, inputs, mapped, zip_shortest=mapped and zip_shortest)

    def finish(self, returned: Any, reference: tuple[int, ...]) -> Graph:
        """Return the graph; `returned` is None or nodes, bare or in lists, tuples and dicts. To be called once."""
        value: Arg | None = None
        if returned is not None:
            value = self._value(returned)
        for task in self._tasks:
            self._check_cache(task)
        types, classes = described(self._types)
        return Graph(self.name, tuple(self._tasks), tuple(self._nodes), value, reference, types, classes)

    def _check_cache(self, task: TaskDef) -> None:
        """Check that the parameters on which a task is cached are the flow's."""
        cache = task.policy.cache
        if cache is None:
            return
        for name in cache.parameters or ():
            if name not in self.parameters:
                raise BuildError(
                    f"in flow {self.name!r}, task {task.name!r} is cached on parameters({name!r})"
                    f"{did_you_mean(name, self.parameters)}"
                )

    def locate(self, node: object) -> Ref:
        """Return the index and path of a node; `BuildError` for anything else, and for a node of another flow."""
        if not isinstance(node, Node):
            raise BuildError(f"flow {self.name!r} can be asked for its nodes, not for {node!r:.80}")
        return own_ref(node, Location(self, "asked for a node"))

    def named(self, name: str) -> tuple[int]:
        """Return the index of the task node of that name; `BuildError` if there is none."""
        tasks = {node.name: i for i, node in enumerate(self._nodes) if isinstance(node, TaskNode)}
        if name not in tasks:
            raise BuildError(
                f"flow {self.name!r} has no task {name!r} to refer to{did_you_mean(name, tasks)}"
            )
        return (tasks[name],)

    def calls_of(self, definition: TaskDefinition) -> tuple[int, ...]:
        """Return the indices of all nodes of one task; `BuildError` if there is none."""
        wanted = self._index.get(definition)
        if wanted is None:
            raise BuildError(f"flow {self.name!r} never calls task {definition.name!r}, which it refers to")
        return tuple(i for i, n in enumerate(self._nodes) if isinstance(n, TaskNode) and n.task == wanted)

    def task_index(self, node: object, use: str) -> int:
        """Return the index of the task of a node; `BuildError` for a parameter, or anything but a node of this flow.

        `use` names the call that takes the node, for messages.
        """
        if not isinstance(node, Node):
            raise BuildError(
                f"in flow {self.name!r}, {use} takes nodes, which calls of tasks return: not {node!r:.80}"
            )
        index = own_ref(node, Location(self, use)).node
        if isinstance(self._nodes[index], ParameterNode):
            raise BuildError(
                f"in flow {self.name!r}, {use} takes nodes of tasks, not parameter {self.name_of(index)!r}"
            )
        return index

    def _value(self, returned: Any) -> Arg:
        location = Location(self, "the returned value")
        arg: Arg | None = None
        if isinstance(returned, Node | list | tuple | dict):
            arg = argument(returned, Any, location)
        if arg is None or isinstance(arg, Const):
            raise BuildError(
                f"{location}: {returned!r:.80} was not made by a task of this flow; return a node (a call of a "
                f"task returns one), a list, tuple or dict of nodes, or nothing"
            )
        return arg

    def _bind(
        self, definition: TaskDefinition, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        try:
            return definition.signature.bind(args, kwargs)
        except TypeError as error:
            raise BuildError(f"in flow {self.name!r}, {error}") from None

    def _location(self, definition: TaskDefinition, name: str) -> Location:
        return Location(self, f"task {definition.name!r}, argument {name!r}")

    def _argument(self, definition: TaskDefinition, name: str, value: Any) -> Arg:
        return argument(value, definition.signature.type_of(name), self._location(definition, name))

    def _add_task(
        self,
        definition: TaskDefinition,
        label: str | None,
        after: tuple[Node, ...],
        inputs: list[Input],
        mapped: bool,
        *,
        zip_shortest: bool = False,
    ) -> Node:
        task = self._index.get(definition)
        if task is None:
            task = self._define(definition)
        waits: tuple[int, ...] = ()
        if after:
            use = f"task {definition.name!r}: .after()"
            waits = tuple(dict.fromkeys(self.task_index(node, use) for node in after))
        name = _unique(self._names, label or definition.name)
        index = len(self._nodes)
        self._nodes.append(TaskNode(name, task, tuple(inputs), waits, mapped, zip_shortest))
        return Node(self, Ref(index), definition.returns_each if mapped else definition.returns)

    def _define(self, definition: TaskDefinition) -> int:
        task = definition.graph_form(_unique(self._task_names, definition.name))
        self._index[definition] = len(self._tasks)
        self._tasks.append(task)
        self._types.update(definition.types.values())
        if task.codeless:
            warnings.warn(
                f"in flow {self.name!r}, task {task.name!r} is never cached, for its code has no digest: {task.codeless}",
                stacklevel=2,
            )
        self.bodies[task.name] = definition.body
        return len(self._tasks) - 1


def _unique(taken: dict[str, int], name: str) -> str:
    """Return the name itself if it is free, else with the first free number, as in `fetch-2`."""
    count = taken.get(name)
    if count is None:
        taken[name] = 1
        return name
    numbered = name
    while numbered in taken:
        count += 1
        numbered = f"{name}-{count}"
    taken[name], taken[numbered] = count, 1
    return numbered
