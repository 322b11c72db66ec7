"""What the machine needs of a graph, worked out once: who waits for whom, and for what of it.

A task can wait for an upstream in three ways, and each has its own list here:

    whole     until it has finished; a mapped upstream until all its children have
    each      child by child: both are mapped, child i waits for child i (the parents only for the width)
    element   child i of a task mapped over a written list waits for the nodes in item i

A mapped task's *parent* waits for everything that all children share; its children wait only for what
is their own.  So a child starts as soon as its own element is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eventflow.graph import (
    Const,
    Counted,
    Graph,
    Input,
    ListOf,
    Node,
    ParameterNode,
    Ref,
    TaskNode,
    TupleOf,
    refs,
)

__all__ = ["Plan"]


class Plan:
    """Adjacency of one graph, by node index. Immutable by contract; shared by all runs of a flow."""

    __slots__ = (
        "cached",
        "counted",
        "degree",
        "each",
        "element",
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
    nodes: Sequence[Node]
    tasks: Mapping[int, TaskNode]
    """The tasks among the nodes, by index."""
    parameters: Mapping[int, ParameterNode]
    """The parameters among the nodes, by index."""
    degree: list[int]
    """How many upstreams each node waits for."""
    whole: list[list[int]]
    """Consumers that wait for a node's end."""
    each: dict[int, list[int]]
    """Mapped consumers that follow a mapped node child by child."""
    element: dict[int, list[tuple[int, int]]]
    """Children `(consumer, i)` that wait for a node's end because it stands in item i of their list."""
    plain: list[tuple[int, ...] | None]
    """Upstream nodes leaf by leaf, for nodes whose every leaf is a plain task's whole value: the
    common case, in which sources are looked up without walking the inputs."""
    upstreams: list[tuple[int, ...]]
    """Distinct task nodes whose values a node may read."""
    judged: tuple[int, ...]
    """Tasks on which the run's success is judged: the reference ones, or those nothing waits for."""
    mapped: frozenset[int]
    cached: Mapping[int, Counted]
    """The cached nodes → what counts in their keys."""
    counted: frozenset[int]
    """Nodes whose values count in the key of a cached one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = nodes = graph.nodes
        self.tasks = graph.task_nodes
        self.parameters = graph.parameter_nodes
        self.mapped = frozenset(i for i, node in self.tasks.items() if node.mapped)
        self.cached = {node: graph.counted(node) for node in graph.cacheable}
        count = (item for inputs, _ in self.cached.values() for item in inputs)
        self.counted = frozenset(ref.node for item in count for ref in refs(item.arg))
        self.degree = [0] * len(nodes)
        self.whole = [[] for _ in nodes]
        self.each = {}
        self.element = {}
        self.plain = [() if i in self.parameters else None for i in range(len(nodes))]
        self.upstreams = [()] * len(nodes)
        for i, node in self.tasks.items():
            if node.mapped:
                self._add_mapped(i, node)
            else:
                self._add_plain(i, node)
        self.judged = graph.reference or tuple([i for i in self.tasks if not self._is_awaited(i)])

    def _is_awaited(self, i: int) -> bool:
        return bool(self.whole[i]) or i in self.each or i in self.element

    def _add_plain(self, i: int, node: TaskNode) -> None:
        parameters, mapped = self.parameters, self.mapped
        leaves: list[int] = []
        simple = True
        for item in node.inputs:
            arg = item.arg
            if type(arg) is Const:
                continue
            for ref in (arg,) if type(arg) is Ref else refs(arg):
                up = ref.node
                leaves.append(up)
                if ref.path or up in mapped or up in parameters:
                    simple = False
        self._wait(i, leaves + list(node.after) if node.after else leaves)
        if simple:
            self.plain[i] = tuple(leaves)

    def _add_mapped(self, i: int, node: TaskNode) -> None:
        shared = list(node.after)
        followed: dict[int, None] = {}
        listed: dict[tuple[int, int], None] = {}
        for item in node.inputs:
            if self.follows(item):
                assert isinstance(item.arg, Ref)
                followed[item.arg.node] = None
            elif item.each and isinstance(item.arg, ListOf | TupleOf):
                for nth, part in enumerate(item.arg.items):
                    for ref in refs(part):
                        if ref.node in self.tasks:
                            listed[ref.node, nth] = None
            else:
                shared += [ref.node for ref in refs(item.arg)]
        self._wait(i, shared)
        for up in followed:
            self.each.setdefault(up, []).append(i)
        for up, nth in listed:
            self.element.setdefault(up, []).append((i, nth))
        self.degree[i] += len(followed)
        self.upstreams[i] = tuple(dict.fromkeys([*self.upstreams[i], *followed, *(up for up, _ in listed)]))

    def _wait(self, i: int, upstreams: list[int]) -> None:
        found = tuple(upstreams if len(upstreams) < 2 else dict.fromkeys(upstreams))
        if self.parameters:
            found = tuple([up for up in found if up not in self.parameters])
        for up in found:
            self.whole[up].append(i)
        self.degree[i] = len(found)
        self.upstreams[i] = found

    def follows(self, item: Input) -> bool:
        """Whether this input of a mapped task takes a mapped upstream child by child."""
        arg = item.arg
        return item.each and isinstance(arg, Ref) and not arg.path and arg.node in self.mapped
