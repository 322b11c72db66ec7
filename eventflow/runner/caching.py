"""Asks the cache before tasks start: what their keys are, and whether an entry may stand for their work.

A key is made of the task (its namespace, its code, the type that its result opens as), which the graph records,
and of parts, 16 bytes each, which `TaskStarted` or `TaskReused` records.  So any two keys can be compared part by
part afterwards.

    an input        its name and its content, one for each that the policy names
    a parameter     of the flow, likewise
    the answer      of the author's `cache_key`

Contents come from digests that are recorded already; a value is opened only where they say too little.  What has
no content that could be told soundly makes a task opaque: it runs, and its event says which argument, and where
in it.

An entry is the last success that bears the key.  It must be in time by the clock that is recorded, by what it
said then and by what the task says today, and its bytes must be there, be sound, and be of a codec that opens
here.  Otherwise the task runs, and its success is the next entry.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from logging import getLogger
from typing import Any, Final

from eventflow.events import CacheMiss, LogDamaged, Origin, Record, TaskSucceeded
from eventflow.graph import CachePolicy, Const, Input, Key, ParameterNode, Ref, TaskDef, TaskNode
from eventflow.machine import Reuse, Start, Status, bind
from eventflow.machine.inputs import Leaf, leaves
from eventflow.ports import Bindings, EventLog, World
from eventflow.result import Inline, Payload, Stored
from eventflow.runfacts import Ending, RunFacts
from eventflow.runner.failures import brief
from eventflow.runner.values import NotAtHand, Values
from eventflow.runview import RunView
from eventflow.serializers import Serializer, digest_of
from eventflow.serializers.canonical import NoContent, content_of, quick_content

__all__ = ["Cache"]

_logger: Final = getLogger("eventflow.cache")
_NO_ANSWER: Final = "its cache_key gave None"
_READ_MAX: Final = 16 << 20
"""Bytes of entries' values that are in memory at once while they are checked."""
_JUDGED: Final = frozenset({"msgpack", "tagged", "typed"})
"""Codecs whose bytes open if they are the bytes that were written, for the key knows the type."""


class _Opaque(Exception):
    """There is no key; the message says why."""


class Cache:
    """The cache, as one run asks it."""

    def __init__(
        self, view: RunView, values: Values, bindings: Bindings, log: EventLog, world: World
    ) -> None:
        self._view = view
        self._plan = view.plan
        self._values = values
        self._log = log
        self._world = world
        self._bodies = bindings
        self._told: set[int] = set()
        self._checked: set[int] = set()
        """Tasks of the graph whose code was found to be what it was, in this look-up."""
        self._begun: dict[int, blake2b] = {}
        """Index of a task of the graph → the beginning of its keys."""
        self._constants: dict[int, bytes] = {}
        """Content of constants that had to be opened, by the identity of what the graph holds."""
        self._parameters: dict[int, bytes] = {}
        self._maps: dict[int, bytes] = {}
        """Slot of a mapped task that is done → the content of all its children's results."""
        self.keys: dict[int, str] = {}
        """Slots of attempts under way → the key that their success will bear."""

    def forget(self) -> None:
        """The run is folded anew, and perhaps by others' records: keep nothing of what it was."""
        self.keys.clear()
        self._parameters.clear()
        self._maps.clear()

    async def ask(self, facts: RunFacts, slots: Sequence[int], now: int) -> list[Start | Reuse]:
        """What is to be decided on each of these slots, which are due, at `now`; one look-up for all."""
        with self._world.outside():
            return await self._ask(facts, slots, now)

    async def _ask(self, facts: RunFacts, slots: Sequence[int], now: int) -> list[Start | Reuse]:
        plan, run = self._plan, facts.run
        self._checked.clear()
        commands: dict[int, Start | Reuse] = {}
        asked: dict[int, bytes] = {}
        for slot in slots:
            if run.node(slot) not in plan.cached:
                commands[slot] = Start(slot)
                continue
            try:
                parts = await self._parts(facts, slot)
            except _Opaque as why:
                self.keys.pop(slot, None)
                self._tell(run.name(plan, slot), run.node(slot), brief(why))
                commands[slot] = Start(slot, CacheMiss(b"", "opaque", brief(why)))
                continue
            self.keys[slot] = self._key(run.node(slot), parts)
            if run.status[slot] == Status.RETRYING:
                commands[slot] = Start(slot, CacheMiss(parts, "retry"))
            else:
                commands[slot] = Start(slot, CacheMiss(parts, "new"))
                asked[slot] = parts
        if asked:
            found = await self._entries(list(dict.fromkeys(self.keys[slot] for slot in asked)))
            if found:
                commands.update(await self._judge(facts, asked, found, now))
        return [commands[slot] for slot in slots]

    def _tell(self, name: str, node: int, why: str) -> None:
        """Tell once in a run of each node that is not cached though it says so; its events tell of every call."""
        if node not in self._told and why != _NO_ANSWER:
            self._told.add(node)
            _logger.warning("task %r of run %r is not cached: %s", name, self._view.run_id, why)

    async def _entries(self, keys: list[str]) -> Mapping[str, Record | None]:
        """The last record of each key that has one, None where that is damaged."""
        try:
            return await self._log.latest(keys)
        except LogDamaged:
            found: dict[str, Record | None] = {}
            for key in keys:
                try:
                    found.update(await self._log.latest([key]))
                except LogDamaged:
                    found[key] = None
            return found

    async def _judge(
        self, facts: RunFacts, asked: Mapping[int, bytes], found: Mapping[str, Record | None], now: int
    ) -> dict[int, Start | Reuse]:
        """What becomes of the slots for whose keys there are entries."""
        answers: dict[int, Start | Reuse] = {}
        hits: list[Reuse] = []
        for slot, parts in asked.items():
            if self.keys[slot] not in found:
                continue
            entry = found[self.keys[slot]]
            event = None if entry is None else entry.event
            if entry is None or not isinstance(event, TaskSucceeded):
                answers[slot] = Start(
                    slot, CacheMiss(parts, "lost", "the record of its entry cannot be read")
                )
            elif (since := self._expired(facts.run.node(slot), entry, event, now)) is not None:
                answers[slot] = Start(slot, CacheMiss(parts, "expired", _out_of_date(entry, since)))
            else:
                hits.append(
                    Reuse(
                        slot,
                        event.result,
                        Origin(entry.stream, entry.version),
                        "cache",
                        parts,
                        event.content,
                        event.expires_at,
                        event.body_us + event.encode_us,
                    )
                )
        unsound = await self._unsound(facts, hits)
        for hit in hits:
            if hit.slot in unsound:
                answers[hit.slot] = Start(hit.slot, CacheMiss(hit.parts, "lost", unsound[hit.slot]))
            else:
                answers[hit.slot] = hit
                del self.keys[hit.slot]
        return answers

    def _expired(self, node: int, entry: Record, event: TaskSucceeded, now: int) -> int | None:
        """How long ago an entry went out of date, by its own word or by the task's of today; None if it did not."""
        ends = [] if event.expires_at is None else [event.expires_at]
        for_us = self._policy(node).for_us
        if for_us:
            ends.append(entry.at + for_us)
        over = now - min(ends, default=now + 1)
        return over if over >= 0 else None

    async def _unsound(self, facts: RunFacts, hits: Sequence[Reuse]) -> dict[int, str]:
        """Slots whose entries' values cannot be had, with the reason."""
        unsound: dict[int, str] = {}
        batch: list[Reuse] = []
        size = 0
        for hit in hits:
            payload = hit.result
            if isinstance(payload, Inline):
                self._check(facts, hit.slot, payload, unsound)
            elif isinstance(payload, Stored):
                if size + payload.size > _READ_MAX and batch:
                    await self._check_stored(facts, batch, unsound)
                    batch, size = [], 0
                batch.append(hit)
                size += payload.size
            else:
                unsound[hit.slot] = f"the value was not kept: {payload.reason}"
        if batch:
            await self._check_stored(facts, batch, unsound)
        return unsound

    async def _check_stored(self, facts: RunFacts, batch: Sequence[Reuse], unsound: dict[int, str]) -> None:
        payloads = {hit.slot: hit.result for hit in batch if isinstance(hit.result, Stored)}
        digests = list(dict.fromkeys(payload.digest for payload in payloads.values()))
        try:
            found = dict(await self._log.values(digests))
        except LogDamaged:  # which one, shows one by one
            found = {}
            for digest in digests:
                try:
                    found.update(await self._log.values([digest]))
                except LogDamaged:
                    continue
        for slot, payload in payloads.items():
            value = found.get(payload.digest)
            if value is None:
                unsound[slot] = f"the bytes of {payload.digest.hex()} are gone or damaged"
            else:
                self._check(facts, slot, Inline(payload.codec, value.data, payload.digest), unsound)

    def _check(self, facts: RunFacts, slot: int, payload: Inline, unsound: dict[int, str]) -> None:
        """See that a value would open; only its own codec can tell, but for those of plain data."""
        serializer = self._view.serializer_of(slot, facts.run)
        if type(serializer) is Serializer and payload.codec in _JUDGED:
            return
        try:
            serializer.deserialize(payload)
        except Exception as error:  # noqa: BLE001 - opening runs what users wrote
            unsound[slot] = f"{type(error).__qualname__}: {brief(error)}"

    # -- the key ----------------------------------------------------------------------------------

    def _key(self, node: int, parts: bytes) -> str:
        found = self._plan.nodes[node]
        assert isinstance(found, TaskNode), f"node {node} is a parameter"
        begun = self._begun.get(found.task)
        if begun is None:
            begun = self._begun[found.task] = self._plan.graph.tasks[found.task].begin_key()
        whole = begun.copy()
        whole.update(parts)
        return whole.hexdigest()

    def _policy(self, node: int) -> CachePolicy:
        policy = self._plan.graph.task_of(node).policy.cache
        assert policy is not None, f"node {node} is not cached"
        return policy

    async def _parts(self, facts: RunFacts, slot: int) -> bytes:
        """The parts of a task's key; raises `_Opaque`."""
        try:
            try:
                found = self._known_parts(facts, slot)
            except NotAtHand:
                await self._values.load(facts, leaves(self._plan, facts.run, slot))
                found = self._known_parts(facts, slot)
            return found + await self._answer(facts, slot)
        except _Opaque:
            raise
        except Exception as error:  # opening runs what users wrote: serializers, `__getitem__`
            raise _Opaque(f"{type(error).__qualname__}: {brief(error)}") from error
        finally:
            self._values.unload()

    def _known_parts(self, facts: RunFacts, slot: int) -> bytes:
        plan, index = self._plan, facts.run.node(slot)
        node, policy = plan.nodes[index], self._policy(index)
        assert isinstance(node, TaskNode)
        if node.task not in self._checked:
            self._check_code(plan.graph.tasks[node.task])
            self._checked.add(node.task)
        named = [
            _part(b"input", item.name, self._of_input(facts, slot, item))
            for item in node.inputs
            if policy.inputs is None or item.name in policy.inputs
        ]
        outer = plan.graph.parameters if policy.parameters is None else policy.parameters
        named += [
            _part(
                b"parameter",
                name,
                self._of_parameter(facts, plan.graph.index[name], f"parameter {name!r} of the flow"),
            )
            for name in outer
        ]
        return b"".join(named)

    def _check_code(self, task: TaskDef) -> None:
        """See that the code that will run is that of the graph."""
        if task.codeless:
            raise _Opaque(f"its code has no digest: {task.codeless}")
        digests = self._bodies[task.name].digests
        if digests is not None and digests() != (task.code, task.keyer):
            raise _Opaque("what its code has closed over is not what it was when the flow was built")

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

    async def _answer(self, facts: RunFacts, slot: int) -> bytes:
        """The part of the author's `cache_key`, if there is one."""
        node = self._plan.nodes[facts.run.node(slot)]
        assert isinstance(node, TaskNode)
        keyer = self._bodies[self._plan.graph.tasks[node.task].name].cache_key
        if keyer is None:
            return b""
        arguments = await self._values.arguments(facts, slot)
        try:
            answer = keyer(**arguments)
        except (Exception, SystemExit, CancelledError) as error:
            raise _Opaque(f"its cache_key raised {type(error).__qualname__}: {brief(error)}") from error
        if answer is None:
            raise _Opaque(_NO_ANSWER)
        try:
            return _part(b"answer", "", content_of(answer))
        except NoContent as error:
            raise _Opaque(f"the answer of its cache_key: {error}") from error

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
        if slot < len(self._plan.nodes) and isinstance(self._plan.nodes[slot], ParameterNode):
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
        by_default = type(self._view.serializer_of(slot, facts.run)) is Serializer
        quick = quick_content(payload) if by_default and isinstance(payload, Inline) else None
        return quick or _told(label, self._values.leaf(facts, Leaf(label, slot)))

    def _of_constant(self, node: int, name: str, path: tuple[Key, ...], const: Const) -> bytes:
        found = self._constants.get(id(const))
        if found is None:
            found = quick_content(Inline(const.codec, const.data, digest_of(const.data)))
            if found is not None:
                return found
            place = name + "".join(f"[{key!r}]" for key in path)
            found = self._constants[id(const)] = _told(place, self._values.constant(node, name, path, const))
        return found


def _out_of_date(entry: Record, since_us: int) -> str:
    run = entry.stream.removeprefix("run/")
    return f"event {entry.version} of run {run} is out of date since {since_us / 1e6:.0f} s"


def _told(label: str, value: object) -> bytes:
    """The content of a value; raises `_Opaque` with its place."""
    try:
        return content_of(value)
    except NoContent as error:
        place = label if label.startswith("parameter ") else f"argument {label}"
        raise _Opaque(
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
