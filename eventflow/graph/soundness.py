"""Check a graph that was read: every index in it exists, and nodes refer only to nodes before them.

The builder of a flow makes only sound graphs, but a file may hold any bytes.  So a graph is checked once, when a
`FlowDefined` is made or decoded, and no other code has to check it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from eventflow.graph.arguments import Arg, Const, DictOf, ListOf, Ref
from eventflow.graph.flow_graph import Graph, TaskNode

__all__ = ["fault_of"]

DEPTH_MAX: Final = 100
"""How deep lists, tuples and dicts of an argument may be nested."""

COUNTED_MAX: Final = 10_000_000
"""Cached nodes times the parameters that count for each."""


def fault_of(graph: Graph) -> str:
    """Return the first fault of a graph in words; empty if the graph is sound."""
    return next(_faults(graph), "")


def _faults(graph: Graph) -> Iterator[str]:
    nodes = graph.nodes
    if len({node.name for node in nodes}) < len(nodes):
        yield "two nodes have the same name"
    for i, node in graph.task_nodes.items():
        if node.mapped or node.after or not 0 <= node.task < len(graph.tasks):
            yield from _faults_of_task(graph, i, node)
        for item in node.inputs:
            if not _is_plain(item.arg, i):  # most are, and this is all that they cost
                yield from _faults_of_arg(f"node {i}", item.arg, i)
    yield from _faults_of_rest(graph)
    yield from _faults_of_caches(graph)


def _faults_of_rest(graph: Graph) -> Iterator[str]:
    if graph.value is not None:
        yield from _faults_of_arg("the value", graph.value, len(graph.nodes))
    for number in graph.reference:
        if number not in graph.task_nodes:
            yield f"node {number}, on which success is judged, is no task"
    for type_def in graph.types:
        if not all(0 <= number < len(graph.classes) for number in type_def.classes):
            yield f"a declared type names a class that is not among the {len(graph.classes)} there are"


def _is_plain(arg: Arg, end: int) -> bool:
    """Return whether an argument is a constant, or values of nodes before `end` as they are or in one list."""
    kind = type(arg)
    if kind is Ref:
        return 0 <= arg.node < end  # type: ignore[union-attr]  # as its type says
    if kind is ListOf:
        return all(type(part) is Ref and 0 <= part.node < end for part in arg.items)  # type: ignore[union-attr]
    return kind is Const


def _faults_of_caches(graph: Graph) -> Iterator[str]:
    tasks = set()
    for i, task in enumerate(graph.tasks):
        cache = task.policy.cache
        if cache is not None and cache.parameters is None:
            tasks.add(i)
    if tasks:
        counted = sum(node.task in tasks for node in graph.task_nodes.values())
        if counted * len(graph.parameter_nodes) > COUNTED_MAX:
            yield "too many parameters count for too many cached tasks"


def _faults_of_task(graph: Graph, i: int, node: TaskNode) -> Iterator[str]:
    if not 0 <= node.task < len(graph.tasks):
        yield f"node {i} is of task {node.task}, and there are {len(graph.tasks)}"
    for number in node.after:
        if not 0 <= number < i:
            yield f"node {i} comes after node {number}, which is not before it"
    if node.mapped:
        over = [item.arg for item in node.inputs if item.each]
        if not over or any(isinstance(arg, Const | DictOf) for arg in over):
            yield f"node {i} is mapped over nothing that has elements"


def _faults_of_arg(owner: str, arg: Arg, end: int) -> Iterator[str]:
    """Yield the faults of an argument, which may take values of the nodes before `end`."""
    level: list[Arg] = [arg]
    for _ in range(DEPTH_MAX):
        deeper: list[Arg] = []
        for part in level:
            if isinstance(part, Ref):
                if not 0 <= part.node < end:
                    yield f"{owner} takes the value of node {part.node}, which is not before it"
            elif not isinstance(part, Const):
                if isinstance(part, DictOf) and len(part.keys) != len(part.items):
                    yield f"{owner} takes a dict of {len(part.keys)} keys and {len(part.items)} items"
                deeper += part.items
        if not deeper:
            return
        level = deeper
    yield f"{owner} takes what is nested more than {DEPTH_MAX} levels deep"
