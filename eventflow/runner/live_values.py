"""Builds the arguments of tasks, and keeps values in memory while downstream tasks need them.

A downstream task gets the value that it would get after a crash.  A value of up to 4 KiB is opened afresh for each task, from
the recorded bytes; a larger one is shared, and by contract read-only.  A node's values are dropped when its last
downstream task has finished, so memory does not grow with the values of finished tasks.

Opening is synchronous, since nearly all bytes are in memory or in a local file.  If bytes must be awaited, `opened` reads them
and opens again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from eventflow.codecs.plain import unpack
from eventflow.graph import Const, ListOf, Ref, Subscript
from eventflow.machine import FINISHED, RunState, Status, bind
from eventflow.machine.inputs import Leaf, leaf_of, leaves
from eventflow.ports import Bindings, Body, EventLog, Value, inline_of
from eventflow.result import Inline, NoResult, Payload, ResultNotLoaded, Stored
from eventflow.runner.failures import one_line
from eventflow.runner.stored_values import EVENT_INLINE_BYTES_MAX, read_stored
from eventflow.serializers import is_immutable, reopen
from eventflow.states import TaskError
from eventflow.views.run import Ending, RunFacts
from eventflow.views.run_serializers import RunSerializers
from eventflow.views.sequences import follow_path, length_of

__all__ = ["COPY_BYTES_MAX", "InputError", "LiveValues"]

COPY_BYTES_MAX: Final = 4096
"""Bytes up to which each downstream task gets a copy of its own."""
_T = TypeVar("_T")
_Inputs = TypeVar("_Inputs", bound=int | Leaf)
_ABSENT: Final = object()
_NOT_STARTED: Final = frozenset({Status.PENDING, Status.RETRYING})


class InputError(LookupError):
    """A task asks for a part of an upstream's value, and the value has no such part."""


class _NotAtHand(Exception):
    """Bytes must be read from the log first."""


class LiveValues:
    """The values of one run, for its tasks."""

    def __init__(self, serializers: RunSerializers, bindings: Bindings, log: EventLog) -> None:
        self.serializers = serializers
        """The serializers that write and open these values."""
        self._plan = plan = serializers.plan
        self._log = log
        self._bodies = [bindings[task.name] for task in plan.graph.tasks]
        self._live: dict[int, Any] = {}
        """Slot → a value that is shared."""
        self._payloads: dict[int, Inline] = {}
        """Slot → the bytes of a value that is copied for each downstream task, if they are not in its event."""
        self._fetched: dict[bytes, Inline] = {}
        """Digest → bytes that `opened` has read."""
        self._lent: dict[bytes, Inline] = {}
        """Digest → bytes of the append under way, which the log does not have yet."""
        self._children: dict[int, list[int]] = {}
        """Mapped node → the slots of its children that have an entry in `_live` or `_payloads`."""
        self._readers = [0] * len(plan.nodes)
        """For each node, the number of downstream nodes that have not finished."""
        for upstreams in plan.upstreams:
            for up in upstreams:
                self._readers[up] += 1

    def body(self, node: int) -> Body:
        """Return the body of a task node."""
        return self._bodies[self._plan.tasks[node].task]

    @property
    def needs_threads(self) -> bool:
        """Whether the body of any task is a plain function, which runs in a thread."""
        return not all(body.is_async for body in self._bodies)

    def put(self, run: RunState, slot: int, value: Any, payload: Inline, *, share: bool) -> None:
        """Keep a new result for the downstream tasks, if there are any."""
        node = slot if run.parent[slot] < 0 else run.node(slot)
        if not self._readers[node]:
            return
        if share or len(payload.data) > COPY_BYTES_MAX or is_immutable(value):
            self._live[slot] = value
        elif len(payload.data) > EVENT_INLINE_BYTES_MAX:
            self._payloads[slot] = payload
        else:
            return  # copies are opened from the bytes in the event
        self._note_child(run, slot)

    def _note_child(self, run: RunState, slot: int) -> None:
        """Note that a child has a value, which is dropped together with those of its node."""
        if run.parent[slot] >= 0:
            self._children.setdefault(run.node(slot), []).append(slot)

    def lend(self, values: Iterable[Value]) -> None:
        """Have the bytes of the next append at hand: decisions about that append may need them before the log has them."""
        self._lent = {value.digest: Inline(value.codec, value.data, value.digest) for value in values}

    def stored(self) -> None:
        """Forget the lent bytes: the append has been made, so the log has them."""
        self._lent = {}

    def release(self, nodes: Iterable[int]) -> None:
        """Drop the values that only these nodes still needed; they and all their children have finished."""
        for node in nodes:
            for up in self._plan.upstreams[node]:
                self._readers[up] -= 1
                if not self._readers[up]:
                    self._drop(up)

    def restore(self, run: RunState) -> None:
        """Continue from a state that was folded from the log.

        Values of running tasks stay in memory: they belong to successes that are reported and not in the log yet.
        Values of tasks that have not started are dropped: they were reused in a round that failed, and another entry may
        be reused now.
        """
        not_started = [
            slot for slot in self._live if slot >= len(run.status) or run.status[slot] in _NOT_STARTED
        ]
        for slot in not_started:
            del self._live[slot]
        self._readers = [0] * len(self._plan.nodes)
        for node, upstreams in enumerate(self._plan.upstreams):
            open_map = node in run.maps and run.maps[node].open
            if run.status[node] not in FINISHED or open_map:
                for up in upstreams:
                    self._readers[up] += 1

    def _drop(self, node: int) -> None:
        for slot in (node, *self._children.pop(node, ())):
            self._live.pop(slot, None)
            self._payloads.pop(slot, None)

    @property
    def live(self) -> int:
        """The number of values in memory."""
        return len(self._live) + len(self._payloads)

    async def arguments(self, facts: RunFacts, slot: int) -> dict[str, Any]:
        """Return the arguments of the task in a slot.

        Raises `ResultError` if a value does not open, `InputError` if `node[key]` has no such part.
        """
        return await self.opened(facts, slot, self._arguments)

    async def opened(
        self, facts: RunFacts, inputs: _Inputs, opening: Callable[[RunFacts, _Inputs], _T]
    ) -> _T:
        """Return `opening(facts, inputs)`, where `opening` is synchronous and opens values with `leaf` or `constant`.

        `inputs` is the slot whose inputs it opens, or the only leaf. If bytes cannot be read synchronously, those of all
        `inputs` are read in one go, and `opening` is called a second time.
        """
        try:
            return opening(facts, inputs)
        except _NotAtHand:
            wanted = [inputs] if isinstance(inputs, Leaf) else leaves(self._plan, facts.run, inputs)
            await self._fetch(facts, wanted)
            try:
                return opening(facts, inputs)
            finally:
                self._fetched.clear()

    def _arguments(self, facts: RunFacts, slot: int) -> dict[str, Any]:
        run = facts.run
        if slot < len(self._plan.plain) and self._plan.plain[slot] is not None:
            node = self._plan.tasks[slot]
            arguments = {}
            for item in node.inputs:
                arg = item.arg
                if type(arg) is Ref:
                    arguments[item.name] = self._value(facts, arg.node)
                elif type(arg) is Const:
                    arguments[item.name] = self.constant(slot, item.name, (), arg)
                elif type(arg) is ListOf and all(type(part) is Ref for part in arg.items):
                    arguments[item.name] = [self._value(facts, part.node) for part in arg.items]  # type: ignore[union-attr]
                else:
                    break
            else:
                return arguments
        return bind(
            self._plan,
            run,
            slot,
            lambda leaf: self.leaf(facts, leaf),
            lambda name, path, const: self.constant(run.node(slot), name, path, const),
        )

    def constant(self, node: int, name: str, path: tuple[Subscript, ...], const: Const) -> Any:
        """Return the value of a constant of the graph."""
        payload = const.value
        if type(payload) is Inline and payload.codec == "msgpack":
            return unpack(payload.data)
        return self.body(node).constant(name, path, const)

    def leaf(self, facts: RunFacts, leaf: Leaf) -> Any:
        """Return the value at a leaf; to be called by a function that is given to `opened`."""
        value: Any = [self._value(facts, up) for up in leaf.slots]
        if leaf.children is None:
            (value,) = value
        if not leaf.path:
            return value
        try:
            return follow_path(value, leaf.path, is_element=leaf.is_element)
        except (LookupError, TypeError) as error:
            raise InputError(self._no_such_part(facts, leaf, error)) from error

    def _no_such_part(self, facts: RunFacts, leaf: Leaf, error: Exception) -> str:
        name = facts.run.name(self._plan, leaf.slot)
        path = "".join(f"[{key!r}]" for key in leaf.path)
        return f"argument {leaf.label!r} is {name}{path}, which is not there: {type(error).__name__}: {one_line(error)}"

    def _value(self, facts: RunFacts, slot: int) -> Any:
        """Return the value in a slot for a downstream task: shared, or a copy."""
        value = self._live.get(slot, _ABSENT)
        if value is not _ABSENT:
            return value
        run = facts.run
        payload = self._payloads.get(slot)
        if payload is not None:
            serializer = self.serializers.serializer_of(slot, run)  # the value was made in this process
            return reopen(payload, serializer)
        if run.status[slot] == Status.MAPPED:
            children = run.maps[slot]
            return [
                self._value(facts, child) for child in range(children.base, children.base + children.width)
            ]
        return self._open(facts, slot)

    def _open(self, facts: RunFacts, slot: int) -> Any:
        """Open a recorded value; a large one is kept in memory, as if it had just been made."""
        payload = self.payload(facts, slot)
        if isinstance(payload, Stored):
            digest = payload.digest
            payload = self._fetched.get(digest) or self._lent.get(digest) or self._peek(payload)
        if type(payload) is not Inline:
            name = facts.run.name(self._plan, slot)
            if isinstance(payload, Ending):
                if payload.failure is None:
                    return NoResult
                return TaskError(name, payload.failure)
            raise ResultNotLoaded(f"the result of {name!r} is not in the log: {payload!r}")
        serializer = self.serializers.deserializer_of(slot, facts)  # another process may have recorded it
        value = reopen(payload, serializer)
        if len(payload.data) > COPY_BYTES_MAX:
            self._live[slot] = value
            self._note_child(facts.run, slot)
        return value

    def payload(self, facts: RunFacts, slot: int) -> Payload | Ending | None:
        """Return the recorded result in a slot."""
        parameter = self._plan.parameters.get(slot)
        if parameter is not None:
            return facts.parameters[parameter.name]
        return facts.kept.get(facts.run.source[slot])

    def _peek(self, stored: Stored) -> Inline:
        value = self._log.peek(stored.digest)
        if value is None:
            raise _NotAtHand
        return inline_of(stored, value)

    async def _fetch(self, facts: RunFacts, wanted: Iterable[Leaf]) -> None:
        """Read the stored bytes of all these leaves in one go."""
        payloads = [self.payload(facts, up) for leaf in wanted for up in leaf.slots]
        stored = [payload for payload in payloads if isinstance(payload, Stored)]
        self._fetched = await read_stored(self._log, [one for one in stored if one.digest not in self._lent])

    async def length(self, facts: RunFacts, arg: Ref) -> int:
        """Return the number of elements of a node's value; raises `TypeError` if it cannot be mapped over."""
        leaf = leaf_of(facts.run, "it", arg)
        return length_of(await self.opened(facts, leaf, self.leaf))
