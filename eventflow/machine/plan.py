"""The facts that the machine needs of a graph, computed once: the upstreams and the downstream tasks of each node.

A task can wait for an upstream in three ways, and each has its own list:

    whole     until it has finished; a mapped upstream until all its children have
    each      child by child: both are mapped, and child i waits for child i (the parents only for the width)
    element   child i of a task that is mapped over a written list waits for the nodes in item i

A mapped task itself waits for everything that all its children share. A child waits only for its own element, so it starts
as soon as that has finished.

A plan also says which nodes are tasks and which are parameters, so that other modules need not ask for classes of nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from eventflow.graph import (
    Const,
    Counted,
    Graph,
    GraphNode,
    ListOf,
    ParameterNode,
    Ref,
    TaskNode,
    TupleOf,
    refs,
)

__all__ = ["Plan"]

_BIRTH: Final = 1
"""The version of `RunStarted`, which holds the parameters of its run."""


class Plan:
    """Adjacency of one graph, by node index. Never changed after it is made; shared by all runs of a flow."""

    __slots__ = (
        "cached",
        "counted",
        "degree",
        "each",
        "element",
        "followed",
        "graph",
        "judged",
        "mapped",
        "nodes",
        "parameters",
        "plain",
        "tasks",
        "upstreams",
        "whole",
    )

    graph: Graph
    nodes: Sequence[GraphNode]
    tasks: Mapping[int, TaskNode]
    """The tasks among the nodes, by index."""
    parameters: Mapping[int, ParameterNode]
    """The parameters among the nodes, by index."""
    degree: list[int]
    """How many upstreams each node waits for."""
    whole: list[tuple[int, ...]]
    """Downstream tasks that wait until a node has finished."""
    each: dict[int, list[int]]
    """Mapped node → the mapped tasks downstream that follow it child by child."""
    followed: dict[int, tuple[int, ...]]
    """Mapped node → the mapped nodes that it follows child by child."""
    element: dict[int, list[tuple[int, int]]]
    """Node → the children `(task, i)` that wait for it, since item i of the list they are mapped over contains it."""
    plain: list[tuple[int | tuple[int, str], ...] | None]
    """Upstream nodes leaf by leaf, if every leaf is the whole value of a parameter or of a task that is not mapped; else
    None. A parameter is given by its source, which is the same in all runs. In this common case sources are found
    without walking the inputs."""
    upstreams: list[tuple[int, ...]]
    """Distinct task nodes that a node takes values from or waits for."""
    judged: tuple[int, ...]
    """Tasks on which the success of the run is judged: the reference tasks, else those without downstream tasks."""
    mapped: frozenset[int]
    """The tasks that are mapped over something."""
    cached: Mapping[int, Counted]
    """Cached node → the inputs and parameters that count in its keys."""
    counted: frozenset[int]
    """Nodes whose values count in the key of a cached node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = nodes = graph.nodes
        self.tasks = graph.task_nodes
        self.parameters = graph.parameter_nodes
        self.mapped = frozenset(i for i, node in self.tasks.items() if node.mapped)
        self.cached = {node: graph.counted(node) for node in graph.cacheable}
        counted: set[int] = set()
        for inputs, _ in self.cached.values():
            for item in inputs:
                counted.update(ref.node for ref in refs(item.arg))
        self.counted = frozenset(counted)
        self.degree = [0] * len(nodes)
        waiting: list[list[int] | None] = [None] * len(nodes)
        self.each = {}
        self.followed = {}
        self.element = {}
        self.plain = [None] * len(nodes)
        for i in self.parameters:
            self.plain[i] = ()
        self.upstreams = [()] * len(nodes)
        for i, node in self.tasks.items():
            add = self._add_mapped if node.mapped else self._add_plain
            for up in add(i, node):
                downstream = waiting[up]
                if downstream is None:
                    waiting[up] = downstream = []
                downstream.append(i)
        self.whole = [tuple(downstream or ()) for downstream in waiting]
        self.judged = graph.reference or tuple([i for i in self.tasks if not self._is_awaited(i)])

    def _is_awaited(self, i: int) -> bool:
        return bool(self.whole[i]) or i in self.each or i in self.element

    def _add_plain(self, i: int, node: TaskNode) -> tuple[int, ...]:
        """Add a task that is not mapped; returns the upstreams that it waits for."""
        parameters, mapped = self.parameters, self.mapped
        upstreams: list[int] = []
        sources: list[int | tuple[int, str]] = []
        is_plain = True
        for item in node.inputs:
            arg = item.arg
            if type(arg) is Const:
                continue
            leaves = (arg,) if type(arg) is Ref else refs(arg)
            for leaf in leaves:
                up = leaf.node
                upstreams.append(up)
                if up in parameters:
                    sources.append((_BIRTH, parameters[up].name))
                else:
                    sources.append(up)
                if leaf.path or up in mapped:
                    is_plain = False
        upstreams += node.after
        waits = self._wait(i, upstreams)
        if is_plain:
            plain = tuple(sources)
            self.plain[i] = waits if plain == waits else plain  # one tuple for both saves memory
        return waits

    def _add_mapped(self, i: int, node: TaskNode) -> tuple[int, ...]:
        """Add a mapped task; returns the upstreams that it waits for as a whole."""
        shared = list(node.after)
        followed: dict[int, None] = {}
        listed: dict[tuple[int, int], None] = {}
        for item in node.inputs:
            arg = item.arg
            if item.each and isinstance(arg, Ref) and not arg.path and arg.node in self.mapped:
                followed[arg.node] = None
            elif item.each and isinstance(arg, ListOf | TupleOf):
                for nth, part in enumerate(arg.items):
                    for ref in refs(part):
                        if ref.node in self.tasks:
                            listed[ref.node, nth] = None
            else:
                shared += [ref.node for ref in refs(arg)]
        waits = self._wait(i, shared)
        if followed:
            self.followed[i] = tuple(followed)
        for up in followed:
            self.each.setdefault(up, []).append(i)
        for up, nth in listed:
            self.element.setdefault(up, []).append((i, nth))
        self.degree[i] += len(followed)
        self.upstreams[i] = tuple(dict.fromkeys([*waits, *followed, *(up for up, _ in listed)]))
        return waits

    def _wait(self, i: int, upstreams: list[int]) -> tuple[int, ...]:
        distinct = tuple(upstreams)
        if len(distinct) > 1:
            distinct = tuple(dict.fromkeys(distinct))
        if self.parameters:
            distinct = tuple([up for up in distinct if up not in self.parameters])
        self.degree[i] = len(distinct)
        self.upstreams[i] = distinct
        return distinct
