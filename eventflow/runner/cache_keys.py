"""Finds the parts of cache keys: two calls with the same key have the same result. `fingerprints.keys` makes the bytes.

A key is made of the task (its namespace, its code, the type of its result), which the graph records, and of parts
of 16 bytes each, which `TaskStarted` or `TaskReused` records.  So any two keys can be compared part by part later.

    an input        its name and its content digest; one part for each input that the policy names
    a parameter     of the flow, likewise
    the answer      of the author's `cache_key`

Content digests are taken from the log if it has them; a value is opened only if not.  A call with a value that has no
content digest, such as an open file, is opaque: it has no key, and the error names the argument and the place in it.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

from eventflow.fingerprints.content import NoContent, content_of, quick_content
from eventflow.fingerprints.keys import content_of_map, key_of, key_part
from eventflow.graph import Const, Input, Ref, Subscript
from eventflow.machine import bind
from eventflow.machine.inputs import Leaf
from eventflow.result import Inline, Payload, Stored
from eventflow.runner.failures import one_line
from eventflow.runner.live_values import LiveValues
from eventflow.serializers import Serializer
from eventflow.views.run import Ending, RunFacts

__all__ = ["Declined", "KeyMaker", "Opaque"]


class Opaque(Exception):
    """A call has no cache key; the message says why."""


class Declined(Opaque):
    """The author's `cache_key` returned None, so this call is not cached."""


class KeyMaker:
    """Makes the cache keys of one run's calls."""

    def __init__(self, values: LiveValues) -> None:
        self._values = values
        self._serializers = values.serializers
        self._plan = values.serializers.plan
        self._checked: set[str] = set()
        """Names of tasks whose code is that of the graph; see `recheck_code`."""
        self._prefixes: dict[str, bytes] = {}
        """Name of a task → the hash state after the part of its keys that all calls share."""
        self._constants: dict[int, bytes] = {}
        """`id` of a constant of the graph → its content, if the constant had to be opened."""
        self._parameters: dict[int, bytes] = {}
        self._maps: dict[int, bytes] = {}
        """Slot of a finished mapped task → the content of its children's results together."""

    def restore(self) -> None:
        """Forget the contents of results: after a round that failed, a task may reuse another entry."""
        self._maps.clear()

    def recheck_code(self) -> None:
        """Compare the code of each task with that of the graph again, before its next key."""
        self._checked.clear()

    def key(self, node: int, parts: bytes) -> str:
        """Return the key of a call of a cached node: `TaskDef.cache_key`, faster for many calls."""
        task = self._plan.graph.task_of(node)
        prefix = self._prefixes.get(task.name)
        if prefix is None:
            prefix = self._prefixes[task.name] = task.key_prefix()
        return key_of(prefix, parts)

    async def parts(self, facts: RunFacts, slot: int) -> bytes:
        """Return the key's parts for the call in a slot, which is due; raises `Opaque`."""
        try:
            known = await self._values.opened(facts, slot, self._known_parts)
            keyer = self._values.body(facts.run.node(slot)).cache_key
            if keyer is None:
                return known
            return known + await self._answer(facts, slot, keyer)
        except Opaque:
            raise
        except Exception as error:  # opening runs code of users: serializers, `__getitem__`
            raise Opaque(f"{type(error).__qualname__}: {one_line(error)}") from error

    def _known_parts(self, facts: RunFacts, slot: int) -> bytes:
        """Return all parts except the answer of a `cache_key`."""
        node = facts.run.node(slot)
        self._check_code(node)
        inputs, parameters = self._plan.cached[node]
        parts = [key_part("input", item.name, self._of_input(facts, slot, item)) for item in inputs]
        for name in parameters:
            content = self._of_parameter(
                facts, self._plan.graph.index[name], f"parameter {name!r} of the flow"
            )
            parts.append(key_part("parameter", name, content))
        return b"".join(parts)

    def _check_code(self, node: int) -> None:
        """Raise `Opaque` if the code that will run is not that of the graph."""
        task = self._plan.graph.task_of(node)
        if task.name in self._checked:
            return
        if task.codeless:
            raise Opaque(f"its code has no digest: {task.codeless}")
        digests = self._values.body(node).digests
        if digests is not None and digests() != (task.code, task.keyer):
            raise Opaque("a closure variable of the task changed after the flow was built")
        self._checked.add(task.name)

    async def _answer(self, facts: RunFacts, slot: int, keyer: Callable[..., Any]) -> bytes:
        """Call the author's `cache_key` and return its part."""
        arguments = await self._values.arguments(facts, slot)
        try:
            answer = keyer(**arguments)
        except (Exception, SystemExit, CancelledError) as error:
            raise Opaque(f"its cache_key raised {type(error).__qualname__}: {one_line(error)}") from error
        if answer is None:
            raise Declined("its cache_key returned None")
        try:
            return key_part("answer", "", content_of(answer))
        except NoContent as error:
            raise Opaque(f"the answer of its cache_key: {error}") from error

    # -- contents -----------------------------------------------------------------------------------

    def _of_input(self, facts: RunFacts, slot: int, item: Input) -> Any:
        """Return the content of one argument: bytes, or a structure with bytes in place of its values."""
        arg, run = item.arg, facts.run
        if not item.each:  # most arguments are one value, without a structure
            if type(arg) is Ref and not arg.path and arg.node not in run.maps:
                return self._of_slot(facts, arg.node, item.name)
            if type(arg) is Const:
                return self._of_constant(run.node(slot), item.name, (), arg)
        rebuilt = bind(
            self._plan,
            run,
            slot,
            lambda leaf: self._of_leaf(facts, leaf),
            lambda name, path, const: self._of_constant(run.node(slot), name, path, const),
            only=(item.name,),
        )
        return rebuilt[item.name]

    def _of_leaf(self, facts: RunFacts, leaf: Leaf) -> bytes:
        """Return the content at one leaf of the inputs; for a mapped task, that of all its children together."""
        if leaf.path:
            return _content_of(leaf.label, self._values.leaf(facts, leaf))
        if leaf.children is None:
            return self._of_slot(facts, leaf.slot, leaf.label)
        content = self._maps.get(leaf.slot)
        if content is None:
            contents = [self._of_slot(facts, child, leaf.label) for child in leaf.children]
            content = self._maps[leaf.slot] = content_of_map(contents)
        return content

    def _of_slot(self, facts: RunFacts, slot: int, label: str) -> bytes:
        if slot in self._plan.parameters:
            return self._of_parameter(facts, slot, label)
        version = facts.run.source[slot]
        known = facts.contents.get(version)
        if known:
            return known
        payload = facts.kept.get(version)
        if known is not None and isinstance(payload, Inline | Stored):
            return payload.digest  # the digest is the content
        return self._of_payload(facts, slot, label, payload)

    def _of_parameter(self, facts: RunFacts, slot: int, label: str) -> bytes:
        content = self._parameters.get(slot)
        if content is None:
            name = self._plan.nodes[slot].name
            content = self._parameters[slot] = self._of_payload(facts, slot, label, facts.parameters[name])
        return content

    def _of_payload(self, facts: RunFacts, slot: int, label: str, payload: Payload | Ending | None) -> bytes:
        """Return the content of a value that was recorded without one."""
        by_default = type(self._serializers.deserializer_of(slot, facts)) is Serializer
        if by_default and isinstance(payload, Inline):
            content = quick_content(payload)
            if content:
                return content
        return _content_of(label, self._values.leaf(facts, Leaf(label, slot)))

    def _of_constant(self, node: int, name: str, path: tuple[Subscript, ...], const: Const) -> bytes:
        content = self._constants.get(id(const))
        if content is None and isinstance(const.value, Inline):
            content = quick_content(const.value)
        if content is None:
            label = name + "".join(f"[{key!r}]" for key in path)
            value = self._values.constant(node, name, path, const)
            content = self._constants[id(const)] = _content_of(label, value)
        return content


def _content_of(label: str, value: object) -> bytes:
    """Return the content of a value; raises `Opaque` with the location of a value that has none."""
    try:
        return content_of(value)
    except NoContent as error:
        argument = label if label.startswith("parameter ") else f"argument {label}"
        raise Opaque(
            f"{argument}{error.path} is a {error.kind}, which has no content of its own: leave it out of cache_on=, or give "
            "the task a cache_key="
        ) from error
