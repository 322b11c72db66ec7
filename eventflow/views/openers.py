"""Which serializer opens what a run recorded.

A value is written with the serializer of its task, bound to the type that the task declares.  It is opened with
today's, if the type is the same today; the graph in force when it was written says which it was.  If it is
another, only bytes that need no type are opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from eventflow.fingerprints.type_defs import Difference, differences
from eventflow.graph import Graph
from eventflow.machine import Plan, RunState
from eventflow.ports import Bindings
from eventflow.result import ResultSerializer
from eventflow.serializers import Keyring, Serializer
from eventflow.serializers.recorded import AsRecorded
from eventflow.views.run_facts import RunFacts

__all__ = ["Openers", "kept_differently"]


class Openers:
    """The serializers of one run's values."""

    def __init__(
        self,
        plan: Plan,
        bindings: Bindings | None,
        parameters: Mapping[str, ResultSerializer],
        keyring: Keyring | None,
    ) -> None:
        """Without `bindings` no type is known, so nothing that needs one is opened."""
        self._plan = plan
        self.graphs: Final[dict[str, Graph]] = {plan.graph.digest: plan.graph}
        """The graphs that were in force, as far as they were read."""
        self._is_bound = bindings is not None
        self._earlier: dict[tuple[str, int], ResultSerializer] = {}
        self._today = self._bind(bindings or {}, parameters, keyring)

    def serializer_of(self, slot: int, run: RunState) -> ResultSerializer:
        """What writes, and opens, the values of a slot today."""
        by_node = self._today
        return by_node[slot] if slot < len(by_node) else by_node[run.node(slot)]

    def opener_of(self, slot: int, facts: RunFacts) -> ResultSerializer:
        """What opens the value that is recorded for a slot."""
        by_node = self._today
        today = by_node[slot] if slot < len(by_node) else by_node[facts.run.node(slot)]
        if not facts.is_foreign or not self._is_bound:
            return today
        flow = facts.flow_at(self.made_at(slot, facts))
        if flow == self._plan.graph.digest:
            return today
        node = facts.run.node(slot)
        found = self._earlier.get((flow, node))
        if found is None:
            changed = self.differences_of(node, flow)
            found = AsRecorded(today, self.whose(node), changed) if changed else today
            self._earlier[flow, node] = found
        return found

    def made_at(self, slot: int, facts: RunFacts) -> int:
        """Version of the record that holds the value of a slot."""
        return 1 if slot in self._plan.parameters else facts.run.source[slot]

    def differences_of(self, node: int, flow: str) -> tuple[Difference, ...]:
        """What sets the type of a node's values under an earlier graph apart from today's."""
        then = self.graphs.get(flow)
        if then is None:
            return (Difference("type", f"as flow {flow} has it, which was not read", "not compared"),)
        return kept_differently(then, node, self._plan.graph, node)

    def whose(self, node: int) -> str:
        """A node's value, for people."""
        kind = "parameter" if node in self._plan.parameters else "the result of"
        return f"{kind} {self._plan.nodes[node].name!r}"

    def _bind(
        self, bindings: Bindings, parameters: Mapping[str, ResultSerializer], keyring: Keyring | None
    ) -> list[ResultSerializer]:
        """For each node its serializer; nodes of one task share one."""

        def bound(found: ResultSerializer | None) -> ResultSerializer:
            if found is None or isinstance(found, Serializer):
                return (found or Serializer()).with_keyring(keyring)
            return found

        graph = self._plan.graph
        bodies = [bindings.get(task.name) for task in graph.tasks]
        of_tasks = [bound(body.serializer if body else None) for body in bodies]
        by_node = {i: of_tasks[node.task] for i, node in self._plan.tasks.items()}
        by_node |= {i: bound(parameters.get(node.name)) for i, node in self._plan.parameters.items()}
        return [by_node[i] for i in range(len(graph.nodes))]


def kept_differently(then: Graph, node: int, now: Graph, other: int) -> tuple[Difference, ...]:
    """What sets type and serializer of one node's values apart from those of another graph's node."""
    before, after = then.kept_as(node), now.kept_as(other)
    found: tuple[Difference, ...] = ()
    if before[0] != after[0]:
        found = differences(then.descriptions.get(before[0]), now.descriptions.get(after[0]))
    if before[1] != after[1]:
        pair = [side.hex()[:8] or "the default" for side in (before[1], after[1])]
        found = (*found, Difference("serializer", *pair))
    return found
