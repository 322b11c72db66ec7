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

from eventflow.events import LogDamaged, Origin
from eventflow.graph import Arg, Const, DictOf, Graph, ListOf, Ref, TupleOf, refs
from eventflow.machine import Command, MapTask, Plan, ReuseTask, Status
from eventflow.ports import EventLog
from eventflow.projections import read_graphs
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
        index = self.old.plan.graph.index
        self.kept.update(self.new.parameters)
        for slot, node in self.new.tasks.items():
            before = index.get(node.name)
            if before is not None and self._is_same(slot, before):
                yield from self._mapped(slot, before) if node.mapped else self._plain(slot, before)

    def _is_same(self, slot: int, before: int) -> bool:
        followed = set(self.new.followed.get(slot, ()))
        listed = {up for item in self._lists(slot) for up in item}
        for up in self.new.upstreams[slot]:
            if up in followed:
                if up not in self.children:
                    return False
            elif up not in self.kept and up not in listed:
                return False
        return _described(self.new.graph, slot) == _described(self.old.plan.graph, before)

    def _plain(self, slot: int, before: int) -> Iterator[Command]:
        command = self._reuse(slot, before, slot)
        if command is not None:
            self.kept.add(slot)
            yield command

    def _mapped(self, slot: int, before: int) -> Iterator[Command]:
        run = self.facts.run
        if run.status[before] != Status.MAPPED:
            return
        children = run.maps[before]
        base, self.next_slot = self.next_slot, self.next_slot + children.width
        yield MapTask(slot, children.width)
        mine = self.children[slot] = set()
        for nth in range(children.width):
            command = None
            if self._has_inputs(slot, nth):
                command = self._reuse(base + nth, children.base + nth, slot)
            if command is not None:
                mine.add(nth)
                yield command
        if len(mine) == children.width:
            self.kept.add(slot)

    def _has_inputs(self, slot: int, nth: int) -> bool:
        """Return whether the results that only child `nth` depends on are kept."""
        if any(nth not in self.children[up] for up in self.new.followed.get(slot, ())):
            return False
        return all(up in self.kept for item in self._lists(slot, nth) for up in item)

    def _lists(self, slot: int, nth: int | None = None) -> Iterator[set[int]]:
        """Yield the task nodes in each list that a mapped node is mapped over, or in item `nth` of each."""
        for item in self.new.tasks[slot].inputs:
            if item.each and isinstance(item.arg, ListOf | TupleOf):
                parts = item.arg.items if nth is None else item.arg.items[nth : nth + 1]
                nodes = {ref.node for part in parts for ref in refs(part)}
                yield {node for node in nodes if node in self.new.tasks}

    def _reuse(self, slot: int, before: int, node: int) -> ReuseTask | None:
        """Return the command that keeps the old result of slot `before` for `slot`, a slot of `node`; None if it cannot be kept."""
        run = self.facts.run
        if run.status[before] not in _SUCCEEDED:
            return None
        version = run.source[before]
        payload = self.facts.kept[version]
        if not self._is_of_type(node, before, version):
            return None
        if not isinstance(payload, Inline | Stored) or not self._is_there(payload):
            return None
        content = self.facts.contents.get(version)
        return ReuseTask(slot, payload, Origin(self.old.stream, version), "fork", content=content)

    def _is_of_type(self, node: int, before: int, version: int) -> bool:
        """Return whether a task's result and constants have the declared types that they had."""
        flow = self.facts.flow_at(version)
        was = self.facts.run.node(before)
        same = self.same.get((flow, was, node))
        if same is None:
            then, now = self.graphs[flow], self.new.graph
            same = not serialization_differences(then, was, now, node) and not any(
                constants_differ(then, was, now, node)
            )
            self.same[flow, was, node] = same
        return same

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


def _described(graph: Graph, node: int) -> bytes:
    """Describe a task node by names instead of numbers."""
    described = graph.task_nodes[node]

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

    inputs = [(item.name, named(item.arg), item.each) for item in described.inputs]
    return msgspec.msgpack.encode(
        (graph.tasks[described.task].name, inputs, described.mapped, described.zip_shortest)
    )
