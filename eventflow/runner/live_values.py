"""Puts a task's arguments together, and keeps live what consumers still need.

A consumer sees what it would see after a crash.  Up to 4 KiB it gets a fresh copy, opened from the very
bytes that were recorded; larger values are shared, and by contract read-only.  A node's values are
dropped with its last consumer, so memory does not grow with finished tasks' values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from eventflow.codecs.plain import unpack
from eventflow.graph import Const, ListOf, Ref, Subscript
from eventflow.machine import FINISHED, RunState, Status, bind
from eventflow.machine.inputs import Leaf, leaf_of, leaves
from eventflow.ports import Bindings, Body, EventLog, Value
from eventflow.result import Inline, NoResult, Payload, ResultNotLoaded, Stored
from eventflow.runner.failures import brief
from eventflow.serializers import is_immutable, reopen
from eventflow.states import TaskError
from eventflow.views.run import Ending, RunFacts
from eventflow.views.run_serializers import RunSerializers
from eventflow.views.sequences import follow_path, length_of

__all__ = ["COPY_MAX", "INLINE_MAX", "InputError", "LiveValues", "to_store"]

INLINE_MAX: Final = 512
"""Bytes of a result that travel in its event; above, they lie in the log's value table."""
COPY_MAX: Final = 4096
"""Bytes up to which each consumer gets a copy of its own."""
_ABSENT: Final = object()


class InputError(LookupError):
    """A task asks for a part of an upstream's value, and the value has no such part."""


class NotAtHand(Exception):
    """Bytes must be read from the log first."""


class LiveValues:
    """The values of one run, as its tasks are given them."""

    def __init__(self, serializers: RunSerializers, bindings: Bindings, log: EventLog) -> None:
        self.serializers = serializers
        self._plan = plan = serializers.plan
        self._log = log
        self._bodies: list[Body | None] = [
            bindings[plan.graph.task_of(node).name] if node in plan.tasks else None
            for node in range(len(plan.nodes))
        ]
        self.is_plain = [body is not None and not body.is_async for body in self._bodies]
        """Of each node, whether its body is a plain function, which needs a thread."""
        self._live: dict[int, Any] = {}
        self._near: dict[int, Inline] = {}
        self._loaded: dict[bytes, Inline] = {}
        self._underway: dict[bytes, Inline] = {}
        """Bytes of the append that is being made, which the log does not have yet."""
        self._children: dict[int, list[int]] = {}
        self._readers = [0] * len(plan.nodes)
        for upstreams in plan.upstreams:
            for up in upstreams:
                self._readers[up] += 1

    def body(self, node: int) -> Body:
        """The live side of a task node."""
        found = self._bodies[node]
        assert found is not None, f"node {node} is a parameter"
        return found

    def put(self, run: RunState, slot: int, value: Any, payload: Inline, *, share: bool) -> None:
        """Keep a result for its consumers, if it has any."""
        node = slot if run.parent[slot] < 0 else run.node(slot)
        if not self._readers[node]:
            return
        if share or len(payload.data) > COPY_MAX or is_immutable(value):
            self._live[slot] = value
        elif len(payload.data) > INLINE_MAX:
            self._near[slot] = payload
        else:
            return  # the event itself holds the bytes, and copies are opened from there
        self._belongs(run, slot)

    def _belongs(self, run: RunState, slot: int) -> None:
        """Remember a child's value under its node, with whose last reader it goes."""
        if run.parent[slot] >= 0:
            self._children.setdefault(run.node(slot), []).append(slot)

    def lend(self, beside: Iterable[Value]) -> None:
        """Have at hand the bytes that go into the next append: what is decided for it may need them already."""
        self._underway = {value.digest: Inline(value.codec, value.data, value.digest) for value in beside}

    def stored(self) -> None:
        """The append has been made: the log has the bytes."""
        self._underway = {}

    def release(self, nodes: Iterable[int]) -> None:
        """Drop what these nodes, which are done with all their children, were the last to read."""
        for node in nodes:
            for up in self._plan.upstreams[node]:
                self._readers[up] -= 1
                if not self._readers[up]:
                    self._drop(up)

    def forget(self) -> None:
        """Keep nothing live: what the log has is all there is."""
        self._live.clear()
        self._near.clear()
        self._children.clear()

    def recount(self, run: RunState) -> None:
        """Go on from a state that was folded from the log.

        What is live stays: it may be of a success that is reported and not yet in the log.
        """
        self._readers = [0] * len(self._plan.nodes)
        for node, upstreams in enumerate(self._plan.upstreams):
            open_map = node in run.maps and run.maps[node].open
            if run.status[node] not in FINISHED or open_map:
                for up in upstreams:
                    self._readers[up] += 1

    def _drop(self, node: int) -> None:
        for slot in (node, *self._children.pop(node, ())):
            self._live.pop(slot, None)
            self._near.pop(slot, None)

    @property
    def live(self) -> int:
        """How many values are kept in memory."""
        return len(self._live) + len(self._near)

    async def arguments(self, facts: RunFacts, slot: int) -> dict[str, Any]:
        """The arguments of the task in a slot, opened.

        Raises `ResultError` when something does not open, `LookupError` or `TypeError` when `node[key]`
        has no such part.
        """
        try:
            return self._arguments(facts, slot)
        except NotAtHand:
            await self.load(facts, leaves(self._plan, facts.run, slot))
            try:
                return self._arguments(facts, slot)
            finally:
                self.unload()

    def _arguments(self, facts: RunFacts, slot: int) -> dict[str, Any]:
        run = facts.run
        if slot < len(self._plan.plain) and self._plan.plain[slot] is not None:
            node = self._plan.tasks[slot]
            found = {}
            for item in node.inputs:
                arg = item.arg
                if type(arg) is Ref:
                    found[item.name] = self._value(facts, arg.node)
                elif type(arg) is Const:
                    found[item.name] = self.constant(slot, item.name, (), arg)
                elif type(arg) is ListOf and all(type(part) is Ref for part in arg.items):
                    found[item.name] = [self._value(facts, part.node) for part in arg.items]  # type: ignore[union-attr]
                else:
                    break
            else:
                return found
        return bind(
            self._plan,
            run,
            slot,
            lambda leaf: self.leaf(facts, leaf),
            lambda name, path, const: self.constant(run.node(slot), name, path, const),
        )

    def constant(self, node: int, name: str, path: tuple[Subscript, ...], const: Const) -> Any:
        """The value of a constant of the graph."""
        payload = const.value
        if type(payload) is Inline and payload.codec == "msgpack":
            return unpack(payload.data)
        return self.body(node).constant(name, path, const)

    def leaf(self, facts: RunFacts, leaf: Leaf) -> Any:
        """The value at a leaf; raises `NotAtHand` where bytes must be read first."""
        found = [self._value(facts, up) for up in leaf.slots]
        value: Any = found[0] if leaf.children is None else found
        if not leaf.path:
            return value
        try:
            return follow_path(value, leaf.path, is_element=leaf.is_element)
        except (LookupError, TypeError) as error:
            raise InputError(self._no_such_part(facts, leaf, error)) from error

    def _no_such_part(self, facts: RunFacts, leaf: Leaf, error: Exception) -> str:
        name = facts.run.name(self._plan, leaf.slot)
        path = "".join(f"[{key!r}]" for key in leaf.path)
        return f"argument {leaf.label!r} is {name}{path}, which is not there: {type(error).__name__}: {brief(error)}"

    def _value(self, facts: RunFacts, slot: int) -> Any:
        """The value in a slot, as a consumer is handed it."""
        value = self._live.get(slot, _ABSENT)
        if value is not _ABSENT:
            return value
        run = facts.run
        near = self._near.get(slot)
        if near is not None:
            return reopen(near, self.serializers.serializer_of(slot, run))
        if run.status[slot] == Status.MAPPED:
            children = run.maps[slot]
            return [
                self._value(facts, child) for child in range(children.base, children.base + children.width)
            ]
        return self._open(facts, slot)

    def _open(self, facts: RunFacts, slot: int) -> Any:
        """Open what the log holds; something large is then kept live, as if it had just been made."""
        payload = self.payload(facts, slot)
        if isinstance(payload, Stored):
            payload = (
                self._loaded.get(payload.digest) or self._underway.get(payload.digest) or self._peek(payload)
            )
        if type(payload) is not Inline:
            name = facts.run.name(self._plan, slot)
            if isinstance(payload, Ending):
                return NoResult if payload.failure is None else TaskError(name, payload.failure)
            raise ResultNotLoaded(f"the result of {name!r} is not in the log: {payload!r}")
        value = reopen(payload, self.serializers.deserializer_of(slot, facts))
        if len(payload.data) > COPY_MAX:
            self._live[slot] = value
            self._belongs(facts.run, slot)
        return value

    def payload(self, facts: RunFacts, slot: int) -> Payload | Ending | None:
        """What the run's record says of the result in a slot."""
        parameter = self._plan.parameters.get(slot)
        if parameter is not None:
            return facts.parameters[parameter.name]
        return facts.kept.get(facts.run.source[slot])

    def _peek(self, stored: Stored) -> Inline:
        value = self._log.peek(stored.digest)
        if value is None:
            raise NotAtHand
        return Inline(stored.codec, value.data, stored.digest)

    async def load(self, facts: RunFacts, wanted: Iterable[Leaf]) -> None:
        """Read the stored bytes behind all these leaves in one go."""
        payloads = (self.payload(facts, up) for leaf in wanted for up in leaf.slots)
        stored = {
            payload.digest: payload
            for payload in payloads
            if isinstance(payload, Stored) and payload.digest not in self._underway
        }
        found = await self._log.values(stored)
        for digest, payload in stored.items():
            if digest not in found:
                raise ResultNotLoaded(f"the {payload.size} bytes under {digest.hex()} are not in the log")
            self._loaded[digest] = Inline(payload.codec, found[digest].data, digest)

    def unload(self) -> None:
        """Forget what `load` read."""
        self._loaded.clear()

    def is_failed(self, facts: RunFacts, arg: Ref) -> bool:
        """Whether the one task behind a reference, which may be a child of a map, has no value to give."""
        leaf = leaf_of(facts.run, "it", arg)
        return leaf.children is None and facts.run.ends(leaf.slot)[0] > 0

    async def length(self, facts: RunFacts, arg: Ref) -> int:
        """How many elements lie at a node's value; raises `TypeError` when it is nothing to map over."""
        leaf = leaf_of(facts.run, "it", arg)
        try:
            return length_of(self.leaf(facts, leaf))
        except NotAtHand:
            await self.load(facts, [leaf])
            try:
                return length_of(self.leaf(facts, leaf))
            finally:
                self.unload()


def to_store(payload: Inline) -> tuple[Inline | Stored, Value | None]:
    """Where a result's bytes go: into its event, or beside it in the same append."""
    if len(payload.data) <= INLINE_MAX:
        return payload, None
    stored = Stored(payload.codec, payload.digest, len(payload.data), "log")
    return stored, Value(payload.digest, payload.codec, payload.data)
