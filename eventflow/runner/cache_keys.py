"""Makes the keys of cached tasks: what must be the same for an earlier result to stand for a call.

A key is made of the task (its namespace, its code, the type that its result opens as), which the graph records,
and of parts, 16 bytes each, which `TaskStarted` or `TaskReused` records.  So any two keys can be compared part by
part afterwards.

    an input        its name and its content, one for each that the policy names
    a parameter     of the flow, likewise
    the answer      of the author's `cache_key`

Contents come from digests that are recorded already; a value is opened only where they say too little.  What has
no content that could be told soundly makes a call opaque: it has no key, and the error says which argument is at
fault, and where in it.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from eventflow.fingerprints.content import NoContent, content_of, quick_content
from eventflow.graph import Const, Input, Ref, Subscript
from eventflow.machine import bind
from eventflow.machine.inputs import Leaf, leaves
from eventflow.result import Inline, Payload, Stored
from eventflow.runner.failures import brief
from eventflow.runner.live_values import LiveValues, NotAtHand
from eventflow.serializers import Serializer, digest_of
from eventflow.views.run import Ending, RunFacts

__all__ = ["Declined", "KeyMaker", "Opaque"]


class Opaque(Exception):
    """A call has no key; the message says why."""


class Declined(Opaque):
    """The author's `cache_key` gave None: this call is not to be cached."""


class KeyMaker:
    """Makes the keys of one run's calls."""

    def __init__(self, values: LiveValues) -> None:
        self._values = values
        self._serializers = values.serializers
        self._plan = values.serializers.plan
        self._checked: set[str] = set()
        """Tasks whose code was found to be what it was; see `recheck_code`."""
        self._begun: dict[str, blake2b] = {}
        """Task → the beginning of its keys."""
        self._constants: dict[int, bytes] = {}
        """Content of constants that had to be opened, by the identity of what the graph holds."""
        self._parameters: dict[int, bytes] = {}
        self._maps: dict[int, bytes] = {}
        """Slot of a mapped task that is done → the content of all its children's results."""

    def forget(self) -> None:
        """The run is folded anew, and perhaps by others' records: keep nothing of what it was."""
        self._parameters.clear()
        self._maps.clear()

    def recheck_code(self) -> None:
        """See anew that a task's code is that of the graph, before the next key of each."""
        self._checked.clear()

    def key(self, node: int, parts: bytes) -> str:
        """The key of a call of a cached node; `TaskDef.cache_key`, quicker for many."""
        task = self._plan.graph.task_of(node)
        begun = self._begun.get(task.name)
        if begun is None:
            begun = self._begun[task.name] = task.begin_key()
        whole = begun.copy()
        whole.update(parts)
        return whole.hexdigest()

    async def parts(self, facts: RunFacts, slot: int) -> bytes:
        """The parts of the key of the call in a slot, which is due; raises `Opaque`."""
        try:
            try:
                found = self._known_parts(facts, slot)
            except NotAtHand:
                await self._values.load(facts, leaves(self._plan, facts.run, slot))
                found = self._known_parts(facts, slot)
            keyer = self._values.body(facts.run.node(slot)).cache_key
            return found if keyer is None else found + await self._answer(facts, slot, keyer)
        except Opaque:
            raise
        except Exception as error:  # opening runs what users wrote: serializers, `__getitem__`
            raise Opaque(f"{type(error).__qualname__}: {brief(error)}") from error
        finally:
            self._values.unload()

    def _known_parts(self, facts: RunFacts, slot: int) -> bytes:
        """All parts but the answer of a `cache_key`."""
        node = facts.run.node(slot)
        self._check_code(node)
        inputs, parameters = self._plan.cached[node]
        parts = [_part(b"input", item.name, self._of_input(facts, slot, item)) for item in inputs]
        for name in parameters:
            content = self._of_parameter(
                facts, self._plan.graph.index[name], f"parameter {name!r} of the flow"
            )
            parts.append(_part(b"parameter", name, content))
        return b"".join(parts)

    def _check_code(self, node: int) -> None:
        """See that the code that will run is that of the graph."""
        task = self._plan.graph.task_of(node)
        if task.name in self._checked:
            return
        if task.codeless:
            raise Opaque(f"its code has no digest: {task.codeless}")
        digests = self._values.body(node).digests
        if digests is not None and digests() != (task.code, task.keyer):
            raise Opaque("what its code has closed over is not what it was when the flow was built")
        self._checked.add(task.name)

    async def _answer(self, facts: RunFacts, slot: int, keyer: Callable[..., Any]) -> bytes:
        """The part of the author's `cache_key`."""
        arguments = await self._values.arguments(facts, slot)
        try:
            answer = keyer(**arguments)
        except (Exception, SystemExit, CancelledError) as error:
            raise Opaque(f"its cache_key raised {type(error).__qualname__}: {brief(error)}") from error
        if answer is None:
            raise Declined("its cache_key gave None")
        try:
            return _part(b"answer", "", content_of(answer))
        except NoContent as error:
            raise Opaque(f"the answer of its cache_key: {error}") from error

    # -- contents -----------------------------------------------------------------------------------

    def _of_input(self, facts: RunFacts, slot: int, item: Input) -> Any:
        """The content of one argument: bytes, or what it is made of with bytes in place of the values."""
        arg, run = item.arg, facts.run
        if not item.each:  # most arguments are one value, which needs no rebuilding
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
        """The content at one leaf of the inputs; that of all children of a map is made of theirs."""
        if leaf.path:
            return _told(leaf.label, self._values.leaf(facts, leaf))
        if leaf.children is None:
            return self._of_slot(facts, leaf.slot, leaf.label)
        found = self._maps.get(leaf.slot)
        if found is None:
            contents = [self._of_slot(facts, child, leaf.label) for child in leaf.children]
            found = self._maps[leaf.slot] = digest_of(b"map " + content_of(contents))
        return found

    def _of_slot(self, facts: RunFacts, slot: int, label: str) -> bytes:
        if slot in self._plan.parameters:
            return self._of_parameter(facts, slot, label)
        version = facts.run.source[slot]
        known = facts.contents.get(version)
        if known:
            return known
        payload = facts.kept.get(version)
        if known is not None and isinstance(payload, Inline | Stored):
            return payload.digest  # which says it
        return self._of_payload(facts, slot, label, payload)

    def _of_parameter(self, facts: RunFacts, slot: int, label: str) -> bytes:
        found = self._parameters.get(slot)
        if found is None:
            name = self._plan.nodes[slot].name
            found = self._of_payload(facts, slot, label, facts.parameters[name])
            self._parameters[slot] = found
        return found

    def _of_payload(self, facts: RunFacts, slot: int, label: str, payload: Payload | Ending | None) -> bytes:
        """The content of a value of which none was recorded."""
        by_default = type(self._serializers.deserializer_of(slot, facts)) is Serializer
        quick = quick_content(payload) if by_default and isinstance(payload, Inline) else None
        return quick or _told(label, self._values.leaf(facts, Leaf(label, slot)))

    def _of_constant(self, node: int, name: str, path: tuple[Subscript, ...], const: Const) -> bytes:
        found = self._constants.get(id(const))
        if found is None:
            found = quick_content(const.value) if isinstance(const.value, Inline) else None
            if found is not None:
                return found
            place = name + "".join(f"[{key!r}]" for key in path)
            found = self._constants[id(const)] = _told(place, self._values.constant(node, name, path, const))
        return found


def _told(label: str, value: object) -> bytes:
    """The content of a value; raises `Opaque` with its place."""
    try:
        return content_of(value)
    except NoContent as error:
        place = label if label.startswith("parameter ") else f"argument {label}"
        raise Opaque(
            f"{place}{error.path} is a {error.kind}, which has no content of its own: leave it out of cache_on=, or give "
            "the task a cache_key="
        ) from error


def _part(kind: bytes, name: str, content: Any) -> bytes:
    """One part of a key: what it is, its name, and a content, or the content of a structure of contents."""
    found = _begun(kind, name).copy()
    if type(content) is not bytes:
        found.update(b"made of ")
        content = content_of(content)
    found.update(content)
    return found.digest()


@lru_cache(maxsize=1024)
def _begun(kind: bytes, name: str) -> blake2b:
    text = name.encode("utf-8", "surrogatepass")
    return blake2b(b"%b %d %b" % (kind, len(text), text), digest_size=16)
