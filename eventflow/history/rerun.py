"""Rerun: a new run that keeps an old run's successes, so that a bug can be fixed and the rest be run again.

A success is kept if its node has the same name, task and inputs, the declared type and the classes in its value are
the same, its bytes are sound, and everything upstream of it was kept.  Nodes are matched by name, so the graph may have grown or
shrunk.
Each kept result enters the new run as `TaskReused(why="fork")`, so the new run is complete in itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import assert_never

import msgspec

from eventflow.events import Origin
from eventflow.graph import Arg, Const, DictOf, Graph, ListOf, Ref, TupleOf, refs
from eventflow.machine import Command, MapTask, Plan, ReuseTask, Status
from eventflow.ports import EventLog
from eventflow.projections import read_graphs
from eventflow.records import LogDamaged
from eventflow.result import DeserializationError, Inline, ResultNotLoaded, Stored
from eventflow.runner.compatibility import constants_differ
from eventflow.serializers.signed import PICKLE_PREFIX, changed_pickle
from eventflow.views.results import fetcher
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_serializers import serialization_differences

__all__ = ["kept_results"]

_SUCCEEDED = (Status.SUCCEEDED, Status.REUSED)


async def kept_results(log: EventLog, old: RunView, facts: RunFacts, new: Plan) -> tuple[Command, ...]:
    """Return the commands that keep the old run's results at the start of the new run, each after those it depends on."""
    graphs: dict[str, Graph] = {}
    await read_graphs(log, facts, graphs)
    return tuple(_Keeper(log, old, facts, graphs, new).commands())


class _Keeper:
    def __init__(
        self, log: EventLog, old: RunView, facts: RunFacts, graphs: Mapping[str, Graph], new: Plan
    ) -> None:
        self.keyring = log.keyring
        self.fetch = fetcher(log.peek)
        self.old = old
        self.facts = facts
        self.graphs = graphs
        """Digest → graph, of those that were in force in the old run."""
        self.new = new
        self.same: dict[tuple[str, int, int], bool] = {}
        """Graph in force, node then, node now → whether the node's results have the same type."""
        self.kept: set[int] = set()
        """Nodes of the new graph whose results are all kept."""
        self.children: dict[int, set[int]] = {}
        """Mapped node of the new graph that has its children → the children whose results are kept."""
        self.next_slot = len(new.nodes)

    def commands(self) -> Iterator[Command]:
        old_index = self.old.plan.graph.index
        self.kept.update(self.new.parameters)
        for node, task in self.new.tasks.items():
            old_node = old_index.get(task.name)
            if old_node is None or not self._is_same(node, old_node):
                continue
            if task.mapped:
                yield from self._mapped(node, old_node)
            else:
                yield from self._plain(node, old_node)

    def _is_same(self, node: int, old_node: int) -> bool:
        """Return whether a node has the name, task and inputs of an old one, and its upstreams are kept."""
        followed = self.new.followed.get(node, ())
        listed: set[int] = set().union(*self._lists(node))
        for up in self.new.upstreams[node]:
            if up in followed:
                if up not in self.children:
                    return False
            elif up not in self.kept and up not in listed:
                return False
        return _by_names(self.new.graph, node) == _by_names(self.old.plan.graph, old_node)

    def _plain(self, node: int, old_node: int) -> Iterator[Command]:
        command = self._reuse(node, old_node, node)
        if command is not None:
            self.kept.add(node)
            yield command

    def _mapped(self, node: int, old_node: int) -> Iterator[Command]:
        if self.facts.run.status[old_node] != Status.MAPPED:
            return
        old_children = self.facts.run.maps[old_node]
        width, base = old_children.width, self.next_slot
        self.next_slot += width
        yield MapTask(node, width)
        kept = self.children[node] = set()
        for nth in range(width):
            if not self._has_inputs(node, nth):
                continue
            command = self._reuse(base + nth, old_children.base + nth, node)
            if command is not None:
                kept.add(nth)
                yield command
        if len(kept) == width:
            self.kept.add(node)

    def _has_inputs(self, node: int, nth: int) -> bool:
        """Return whether the results that only child `nth` depends on are kept."""
        for up in self.new.followed.get(node, ()):
            if nth not in self.children[up]:
                return False
        return all(upstreams <= self.kept for upstreams in self._lists(node, nth))

    def _lists(self, node: int, nth: int | None = None) -> Iterator[set[int]]:
        """Yield the task nodes in each list that a mapped node is mapped over, or in item `nth` of each."""
        tasks = self.new.tasks
        for item in tasks[node].inputs:
            if item.each and isinstance(item.arg, ListOf | TupleOf):
                parts = item.arg.items
                if nth is not None:
                    parts = parts[nth : nth + 1]
                yield {ref.node for part in parts for ref in refs(part) if ref.node in tasks}

    def _reuse(self, slot: int, old_slot: int, node: int) -> ReuseTask | None:
        """Return the command that keeps an old slot's result for `slot`, a slot of `node`; None if it cannot be kept."""
        run = self.facts.run
        if run.status[old_slot] not in _SUCCEEDED:
            return None
        version = run.source[old_slot]
        if not self._is_of_type(node, run.node(old_slot), version):
            return None
        payload = self.facts.kept[version]
        if not isinstance(payload, Inline | Stored) or not self._is_there(payload):
            return None
        content = self.facts.contents.get(version)
        return ReuseTask(slot, payload, Origin(self.old.stream, version), "fork", content=content)

    def _is_of_type(self, node: int, old_node: int, version: int) -> bool:
        """Return whether a task's result and constants have the declared types that they had."""
        flow = self.facts.flow_at(version)
        case = (flow, old_node, node)
        if case not in self.same:
            then, now = self.graphs[flow], self.new.graph
            if serialization_differences(then, old_node, now, node):
                self.same[case] = False
            else:
                self.same[case] = not any(constants_differ(then, old_node, now, node))
        return self.same[case]

    def _is_there(self, payload: Inline | Stored) -> bool:
        """Return whether a result's bytes can be read, are undamaged, and contain today's classes; if not, the task runs again."""
        if isinstance(payload, Stored):
            try:
                payload = self.fetch(payload)
            except (ResultNotLoaded, LogDamaged):
                return False
        if not payload.codec.startswith(PICKLE_PREFIX):
            return True
        try:
            return changed_pickle(payload.codec, payload.data, self.keyring) is None
        except DeserializationError:  # without its key it does not open
            return False


def _by_names(graph: Graph, node: int) -> bytes:
    """Describe a task node by names instead of numbers."""
    task_node = graph.task_nodes[node]

    def named(arg: Arg) -> object:
        match arg:
            case Const():
                return arg
            case Ref(node=up, path=path):
                return (graph.nodes[up].name, path)
            case ListOf(items=items) | TupleOf(items=items):
                return (type(arg).__name__, (), [named(part) for part in items])
            case DictOf(keys=keys, items=items):
                return (type(arg).__name__, keys, [named(part) for part in items])
            case _:
                assert_never(arg)

    task_name = graph.tasks[task_node.task].name
    inputs = [(item.name, named(item.arg), item.each) for item in task_node.inputs]
    return msgspec.msgpack.encode((task_name, inputs, task_node.mapped, task_node.zip_shortest))
