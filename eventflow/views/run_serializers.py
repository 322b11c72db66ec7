"""Chooses the serializers of one run's values.

A value is serialized by its task's serializer, which is bound to the type that the task declares.  A recorded value is
deserialized by today's serializer if the declared type is still the same; the graph that was in force when the value was
recorded has the type of that time.  If the types differ, only bytes that need no type are opened.
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
from eventflow.views.run import RunFacts

__all__ = ["RunSerializers", "serialization_differences"]


class RunSerializers:
    """The serializers of one run's values, by slot."""

    def __init__(
        self,
        plan: Plan,
        bindings: Bindings | None = None,
        parameters: Mapping[str, ResultSerializer] | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        """Bind the tasks' and parameters' serializers.

        Without `bindings` no declared type is known: plain data opens, typed and pickled values raise.
        """
        self.plan = plan
        self.graphs: Final[dict[str, Graph]] = {plan.graph.digest: plan.graph}
        """Digest → graph, of those that were in force and have been read."""
        self._is_bound = bindings is not None
        self._earlier: dict[tuple[str, int], ResultSerializer] = {}
        self._by_node = _bound(plan, bindings or {}, parameters or {}, keyring)

    def serializer_of(self, slot: int, run: RunState) -> ResultSerializer:
        """Return the serializer for new values of a slot."""
        if slot < len(self._by_node):
            return self._by_node[slot]
        return self._by_node[run.node(slot)]

    def deserializer_of(self, slot: int, facts: RunFacts) -> ResultSerializer:
        """Return the serializer that opens the value recorded for a slot."""
        today = self.serializer_of(slot, facts.run)
        if not facts.is_foreign or not self._is_bound:
            return today
        flow = facts.flow_at(self.made_at(slot, facts))
        if flow == self.plan.graph.digest:
            return today
        node = facts.run.node(slot)
        earlier = self._earlier.get((flow, node))
        if earlier is None:
            earlier = today
            if changed := self.differences_of(node, flow):
                earlier = AsRecorded(today, self.describe(node), changed)
            self._earlier[flow, node] = earlier
        return earlier

    def made_at(self, slot: int, facts: RunFacts) -> int:
        """Return the version of the record that holds the value of a slot."""
        return 1 if slot in self.plan.parameters else facts.run.source[slot]

    def differences_of(self, node: int, flow: str) -> tuple[Difference, ...]:
        """Compare the type and serializer of a node under an earlier graph with today's."""
        then = self.graphs.get(flow)
        if then is None:
            return (Difference("type", f"as flow {flow} has it, which was not read", "not compared"),)
        return serialization_differences(then, node, self.plan.graph, node)

    def describe(self, node: int) -> str:
        """Describe a node's value in words, for messages."""
        kind = "parameter" if node in self.plan.parameters else "the result of"
        return f"{kind} {self.plan.nodes[node].name!r}"


def _bound(
    plan: Plan, bindings: Bindings, parameters: Mapping[str, ResultSerializer], keyring: Keyring | None
) -> list[ResultSerializer]:
    """Return the serializer of each node; nodes of one task share one."""

    def with_key(serializer: ResultSerializer) -> ResultSerializer:
        return serializer.with_keyring(keyring) if isinstance(serializer, Serializer) else serializer

    plain = with_key(Serializer())
    by_task = []
    for task in plan.graph.tasks:
        body = bindings.get(task.name)
        by_task.append(plain if body is None or body.serializer is None else with_key(body.serializer))
    by_node = [plain] * len(plan.nodes)
    for i, node in plan.tasks.items():
        by_node[i] = by_task[node.task]
    for i, parameter in plan.parameters.items():
        if parameter.name in parameters:
            by_node[i] = with_key(parameters[parameter.name])
    return by_node


def serialization_differences(then: Graph, node: int, now: Graph, other: int) -> tuple[Difference, ...]:
    """Compare the type and serializer of a node's values with those of another graph's node."""
    type_then, serializer_then = then.kept_as(node)
    type_now, serializer_now = now.kept_as(other)
    changes: tuple[Difference, ...] = ()
    if type_then != type_now:
        changes = differences(then.descriptions.get(type_then), now.descriptions.get(type_now))
    if serializer_then != serializer_now:
        names = [digest.hex()[:8] or "the default" for digest in (serializer_then, serializer_now)]
        changes = (*changes, Difference("serializer", *names))
    return changes
