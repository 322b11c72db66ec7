"""Explain a cache decision: why a task of a run was taken from the cache, or why it ran.

Each lookup records the digests of its key's parts.  So the entries that existed then can be compared with the lookup,
part by part, from the log alone.  Values are shown as text where they open without the flow's code; pickles are never
opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from eventflow.codecs.plain import unpack
from eventflow.events import CacheMiss, Origin, Record, TaskReused, TaskStarted, run_of
from eventflow.graph import Const, Graph, KeyPart, TaskDef
from eventflow.ports import EventLog
from eventflow.projections import (
    CacheHits,
    Fold,
    RunNotFound,
    RunStates,
    RunView,
    open_run,
    read_graph,
    replay,
)
from eventflow.read_models import ReadModel
from eventflow.records import LogDamaged
from eventflow.result import Inline, Result
from eventflow.runner.ownership import check_known
from eventflow.views.cache import CacheEntry, CacheRow, entries_under, key_differences, nearest_entry
from eventflow.views.run import RunFacts

__all__ = [
    "Explanation",
    "Hit",
    "Kept",
    "Miss",
    "NotAsked",
    "NotExplainable",
    "PartDifference",
    "TaskNotFound",
    "Uncached",
    "explain",
]

NOT_GIVEN: Final = "(not given)"
"""Text of an input that only the other call has."""


class TaskNotFound(LookupError):
    """A run has no task with the given name."""


class NotExplainable(ValueError):
    """The name is that of a parameter, or of a mapped task as a whole; neither is looked up in the cache."""


class Uncached(msgspec.Struct, frozen=True, kw_only=True):
    """The task has no cache options."""

    run: str
    task: str


class NotAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The task is cached, and has not been due yet, so that no lookup was made."""

    run: str
    task: str
    state: str
    """Name of the class of its state."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A rerun kept the result of the old run, without a lookup."""

    run: str
    task: str
    source: Origin


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """The result was taken from the cache."""

    run: str
    task: str
    key: str
    key_parts: tuple[KeyPart, ...]
    """Inputs, parameters and the answer of a `cache_key`, which were equal, as were code and result type."""
    source: Origin
    """The success whose result was taken."""
    age_us: int | None
    """Between that success and the hit; None if its record is not in the log."""
    saved_us: int
    expires_at: int | None
    """µs UTC."""


class PartDifference(msgspec.Struct, frozen=True):
    """A part of the key that differs between a lookup and an entry."""

    part: KeyPart
    then: str
    """The value of the entry's call, as text; empty for a part that is not a value, such as the code."""
    now: str
    """The value of this call."""


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """The task ran, because no entry could be used."""

    run: str
    task: str
    reason: str
    """See `CacheMiss`."""
    detail: str
    key: str | None
    """None if an argument has no digest, so that the call has no key."""
    nearest: CacheEntry | None = None
    """The earlier entry with the fewest differences, if the reason is `new`."""
    differences: tuple[PartDifference, ...] = ()


Explanation: TypeAlias = Uncached | NotAsked | Kept | Hit | Miss


class _Call(NamedTuple):
    """A task or child of a run that was folded to its end."""

    log: EventLog
    view: RunView
    facts: RunFacts
    slot: int

    @property
    def node(self) -> int:
        return self.facts.run.node(self.slot)


async def explain(log: EventLog, run_id: str, task: str) -> Explanation:
    """Explain the last cache decision about a task of a run.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.history.cache_explain import explain

    @task(cache_for=3600)
    async def double(number: int) -> int:
        return 2 * number

    @flow
    def doubled(number: int) -> int:
        return double(number)

    log = MemoryLog()
    for run_id, number in (("a", 1), ("b", 2), ("c", 1)):
        await doubled.options(log=log, run_id=run_id).run(number)

    miss = await explain(log, "b", "double")
    print(miss.reason, [(each.part.name, each.then, each.now) for each in miss.differences])
    hit = await explain(log, "c", "double")
    print(hit.source.stream)
    ```

    ```text
    new [('number', '1', '2')]
    run/a
    ```

    Raises `RunNotFound`, `TaskNotFound`, `NotExplainable`, `LogDamaged`, and `UnknownEvents` for a run that a newer version
    wrote to, since its lookups may have followed other rules.
    """
    view, facts = await _fold(log, run_id)
    check_known(facts, run_id)
    slot = _slot_of(view, facts, task)
    call = _Call(log, view, facts, slot)
    decision = await _last_decision(call)
    graph = view.plan.graph if decision is None else await _graph_in_force(call, decision)
    definition = graph.task_of(call.node)
    if definition.policy.cache is None:
        return Uncached(run=run_id, task=task)
    if decision is None:
        state = type(RunStates(view, facts).at(slot)).__name__
        return NotAsked(run=run_id, task=task, state=state)
    match decision.event:
        case TaskReused(why="cache"):
            return await _hit(call, task, decision, graph)
        case TaskReused(source=source):
            return Kept(run=run_id, task=task, source=source)
        case TaskStarted(cache=CacheMiss() as miss):
            return await _miss(call, task, decision, miss, graph)
        case _:
            raise LogDamaged(
                f"task {task!r} of run {run_id!r} is cached, and its start does not record a cache decision"
            )


async def _fold(log: EventLog, run_id: str) -> tuple[RunView, RunFacts]:
    view = await open_run(log, run_id)
    # From the first record: a snapshot is only as trustworthy as the process that wrote the file.
    fold = await replay(log, view, stream=view.stream, start=Fold.start(view))
    return view, fold.state


def _slot_of(view: RunView, facts: RunFacts, task: str) -> int:
    try:
        slot = RunStates(view, facts).slot(task)
    except KeyError as error:
        raise TaskNotFound(str(error.args[0])) from None
    if facts.run.node(slot) in view.plan.parameters:
        raise NotExplainable(f"{task!r} is a parameter: name a task")
    if slot in facts.run.maps:
        raise NotExplainable(f"{task!r} is mapped: name one of its children, like '{task}[0]'")
    return slot


async def _last_decision(call: _Call) -> Record | None:
    """Return the last start or reuse of a task, which records the answer of the cache."""
    address = call.facts.run.address(call.slot)
    async for record in call.log.read(stream=call.view.stream, backwards=True):
        event = record.event
        if isinstance(event, TaskReused | TaskStarted) and event.task == address:
            return record
    return None


async def _graph_in_force(call: _Call, decision: Record) -> Graph:
    """Return the graph of the claim under which a decision was recorded; a later process may have brought another one."""
    view = call.view
    digest = call.facts.flow_at(decision.version)
    if digest == view.plan.graph.digest:
        return view.plan.graph
    graph = await read_graph(call.log, digest)
    call.facts.note_missing(graph.requires)
    check_known(call.facts, view.run_id)
    if list(graph.index) != list(view.plan.graph.index):
        raise LogDamaged(f"run {view.run_id!r} was claimed for another flow, {digest}")
    return graph


def _key_of(task: TaskDef, parts: bytes) -> str:
    try:
        return task.cache_key(parts)
    except ValueError as error:
        raise LogDamaged(f"the cache was asked for a task, and {error}") from error


async def _hit(call: _Call, task: str, decision: Record, graph: Graph) -> Hit:
    event = decision.event
    assert isinstance(event, TaskReused), "as the caller matched"
    made_at = await _moment_of(call.log, event.source)
    age_us = None if made_at is None else decision.at - made_at
    return Hit(
        run=call.view.run_id,
        task=task,
        key=_key_of(graph.task_of(call.node), event.parts),
        key_parts=graph.key_parts(call.node),
        source=event.source,
        age_us=age_us,
        saved_us=event.saved_us,
        expires_at=event.expires_at,
    )


async def _moment_of(log: EventLog, origin: Origin) -> int | None:
    async for record in log.read(stream=origin.stream):
        if record.version == origin.version:
            return record.at
    return None


async def _miss(call: _Call, task: str, decision: Record, miss: CacheMiss, graph: Graph) -> Miss:
    definition = graph.task_of(call.node)
    key = nearest = None
    differences: tuple[PartDifference, ...] = ()
    if miss.reason != "opaque":
        key = _key_of(definition, miss.parts)
    if miss.reason == "new":
        key_parts = graph.key_parts(call.node)
        rows = await _entries(call.log, definition)
        nearest = nearest_entry(rows, definition, key_parts, miss.parts, decision.at)
        if nearest is not None:
            differing = key_differences(nearest, definition, key_parts, miss.parts)
            differences = await _compare(call, nearest, key_parts, differing)
    return Miss(
        run=call.view.run_id,
        task=task,
        reason=miss.reason,
        detail=miss.detail,
        key=key,
        nearest=nearest,
        differences=differences,
    )


async def _entries(log: EventLog, task: TaskDef) -> dict[str, CacheRow]:
    assert task.policy.cache is not None, "the task is cached"
    rows: ReadModel[CacheRow] = await ReadModel.of(log, CacheHits())
    return await rows.under(entries_under(task.policy.cache.namespace))


async def _compare(
    call: _Call, entry: CacheEntry, key_parts: tuple[KeyPart, ...], differing: tuple[KeyPart, ...]
) -> tuple[PartDifference, ...]:
    """Return the values of the parts that differ, of this call and of the one that first made an entry."""
    earlier = await _call_that_made(call.log, entry)
    compared = []
    for part in differing:
        now = then = ""
        if part in key_parts:
            now = _text_of(call, part)
        if earlier is not None and part in entry.key_parts:
            then = _text_of(earlier, part)
        if now or then:
            now, then = now or NOT_GIVEN, then or NOT_GIVEN
        compared.append(PartDifference(part, then=then, now=now))
    return tuple(compared)


async def _call_that_made(log: EventLog, entry: CacheEntry) -> _Call | None:
    """Return the call that first made an entry; None if its run has no such success."""
    try:
        view, facts = await _fold(log, run_of(entry.first.stream))
    except RunNotFound as error:
        raise LogDamaged(f"the cache has an entry of a run that is not there: {error}") from error
    for slot, version in enumerate(facts.run.source):
        if version == entry.first.version:
            return _Call(log, view, facts, slot)
    return None


def _text_of(call: _Call, part: KeyPart) -> str:
    """Return the value of an input or of a parameter as text; empty if it has none. Pickles stay closed."""
    if part.kind not in ("input", "parameter"):
        return ""
    states = RunStates(call.view, call.facts, peek=call.log.peek)
    try:
        if part.kind == "parameter":
            return repr(states[part.name].result)
        return _text_of_input(call, part.name, states.inputs(call.slot))
    except Exception as error:  # noqa: BLE001 - without the user's code not every value opens
        return f"(not shown: {type(error).__name__}, it opens only with the flow's code)"


def _text_of_input(call: _Call, name: str, inputs: Mapping[str, Result]) -> str:
    values = {}
    for label, result in inputs.items():
        if label == name or label.startswith(f"{name}["):
            values[label] = result.deserialize().value
    labels = list(values)
    if not values:
        return _text_of_constant(call, name)
    if labels == [name]:
        return repr(values[name])
    if labels == [f"{name}[{nth}]" for nth in range(len(values))]:
        return repr(list(values.values()))
    return repr(values)


def _text_of_constant(call: _Call, name: str) -> str:
    """Return a constant that was written in the flow as text, if it is plain data."""
    for item in call.view.plan.tasks[call.node].inputs:
        if item.name == name and isinstance(item.arg, Const):
            payload = item.arg.value
            if isinstance(payload, Inline) and payload.codec == "msgpack":
                return repr(unpack(payload.data))
    return "(written in the flow)"
