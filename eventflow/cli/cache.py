"""What the cache holds, what it has done, and why a task was or was not taken from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from eventflow.cli.errors import Exit, Trouble
from eventflow.cli.inspect import when
from eventflow.codecs.plain import unpack
from eventflow.events import CacheMiss, LogDamaged, Record, RunClaimed, TaskReused, TaskStarted, run_of
from eventflow.graph import Const, Graph, KeyPart, KeyPartKind, TaskDef, TaskNode
from eventflow.ports import EventLog
from eventflow.projections import Fold, RunNotFound, open_run, read_graph, replay
from eventflow.read_models import ReadModel
from eventflow.result import Inline
from eventflow.views.cache import CacheEntry, CacheHits, CacheRow, differences, entries_under, nearest_entry
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_states import RunStates

__all__ = ["entries_of", "explain", "lines_of", "stats_of"]

_REASONS: Final = {
    "new": "there was no entry with its key",
    "expired": "its entry had expired",
    "lost": "the value of its entry could not be had",
    "opaque": "it has no key",
    "retry": "an attempt after a failure does not ask",
    "future": "its entry was made by a clock that was ahead of this one",
    "unreadable": "the value of its entry does not open as the type that is declared today",
    "refresh": "the caller asked for a new result",
    "dropped": "its entry was dropped",
}
_PARTS: Final[dict[KeyPartKind, str]] = {
    "code": "its code or version",
    "result_type": "the declared type of its result",
    "serializer": "the serializer of its result",
    "key_function": "the code of its cache_key",
    "counted": "what it is cached on",
    "input": "input",
    "parameter": "parameter",
    "answer": "the answer of cache_key",
}
_SHOWN_MAX: Final = 72
_ABSENT: Final = "(not given)"


async def _rows(log: EventLog, prefix: str) -> dict[str, CacheRow]:
    table: ReadModel[CacheRow] = await ReadModel.of(log, CacheHits())
    return await table.under(prefix)


async def entries_of(log: EventLog) -> list[dict[str, Any]]:
    """The entries of the cache, those used or made last first."""
    return [_entry(entry) for entry in CacheHits.entries(await _rows(log, "entry/"))]


def _entry(entry: CacheEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "namespace": entry.namespace,
        "flow": entry.flow,
        "task": entry.node,
        "run": run_of(entry.source.stream),
        "event": entry.source.version,
        "made_us": entry.made_at,
        "used_us": entry.used_at,
        "expires_us": entry.expires_at,
        "hits": entry.hits,
        "size_bytes": entry.size,
        "took_s": entry.took_us / 1e6,
    }


async def stats_of(log: EventLog) -> list[dict[str, Any]]:
    """Hits, misses by reason and time saved, task by task."""
    return [
        {
            "flow": row.flow,
            "task": row.task,
            "hits": row.hits,
            "misses": dict(sorted(row.misses.items())),
            "saved_s": row.saved_us / 1e6,
        }
        for row in CacheHits.tasks(await _rows(log, "task/"))
    ]


async def explain(log: EventLog, run_id: str, task: str) -> dict[str, Any]:
    """Why a task of a run was taken from the cache, or was not; raises `Trouble` for what is not to be explained."""
    view = await open_run(log, run_id)
    # From the beginning: a snapshot is only as good as who made the file.
    facts = (await replay(log, view, stream=view.stream, start=Fold.start(view))).state
    try:
        slot = RunStates(view, facts).slot(task)
    except KeyError as error:
        raise Trouble(Exit.NOT_FOUND, str(error.args[0])) from None
    node = facts.run.node(slot)
    found: dict[str, Any] = {"run": run_id, "task": task}
    if node in view.plan.parameters:
        raise Trouble(Exit.USAGE, f"{task!r} is a parameter: name a task")
    if slot in facts.run.maps:
        raise Trouble(Exit.USAGE, f"{task!r} is mapped: name one of its children, like {task}[0]")
    record = await _decision(log, view, facts, slot)
    graph = view.plan.graph if record is None else await _graph_in_force(log, view, record)
    definition = graph.task_of(node)
    if definition.policy.cache is None:
        why = "the task says neither cache_for, cache_on nor cache_key"
        return {**found, "decision": "uncached", "why": why}
    if record is None:
        state = type(RunStates(view, facts)[task]).__name__
        return {**found, "decision": "not asked", "why": f"it never came to that: the task is {state}"}
    if isinstance(record.event, TaskReused):
        counted = (*map(_words, graph.key_parts(node)), "the type of its result")
        return {**found, **await _hit(log, record, record.event, partial(_key_of, definition), counted)}
    assert isinstance(record.event, TaskStarted), "as in _decision"
    miss = record.event.cache
    if miss is None:
        raise LogDamaged(
            f"task {task!r} of run {run_id!r} is cached, and started without a word of the cache"
        )
    found |= {
        "decision": "miss",
        "reason": miss.reason,
        "why": _REASONS.get(miss.reason, "a newer eventflow wrote this reason"),
        "detail": miss.detail,
    }
    if miss.reason == "opaque":
        return found
    key_parts = graph.key_parts(node)
    found["key"] = _key_of(definition, miss.parts)
    entries = await _rows(log, entries_under(definition.policy.cache.namespace))
    entry = nearest_entry(entries, definition, key_parts, miss.parts, record.at)
    if miss.reason == "new" and entry is not None:
        found |= await _compare(log, view, facts, slot, entry, definition, key_parts, miss)
    return found


def _key_of(task: TaskDef, parts: bytes) -> str:
    try:
        return task.cache_key(parts)
    except ValueError as error:
        raise LogDamaged(f"the cache was asked for a task, and {error}") from error


async def _decision(log: EventLog, view: RunView, facts: RunFacts, slot: int) -> Record | None:
    """The last event that says what the cache was asked for a task."""
    address = facts.run.address(slot)
    async for record in log.read(stream=view.stream, backwards=True):
        event = record.event
        if isinstance(event, TaskReused | TaskStarted) and event.task == address:
            return record
    return None


async def _graph_in_force(log: EventLog, view: RunView, record: Record) -> Graph:
    """The graph by which a record's owner ran the run: of its claim, which a later process may have made."""
    event = record.event
    assert isinstance(event, TaskReused | TaskStarted), "as in _decision"
    async for claim in log.read(stream=view.stream):
        if claim.version == event.claim and isinstance(claim.event, RunClaimed):
            graph = await read_graph(log, claim.event.flow)
            if [*graph.index] != [*view.plan.graph.index]:
                raise LogDamaged(f"run {view.run_id!r} was claimed for another flow, {claim.event.flow}")
            return graph
    return view.plan.graph


async def _hit(
    log: EventLog,
    record: Record,
    event: TaskReused,
    key_of: Callable[[bytes], str],
    counted: tuple[str, ...],
) -> dict[str, Any]:
    source = event.source
    if event.why != "cache":
        return {"decision": "kept", "why": f"a rerun kept it from {source.stream.removeprefix('run/')!r}"}
    made = [r.at async for r in log.read(stream=source.stream) if r.version == source.version]
    return {
        "decision": "hit",
        "why": f"{', '.join(('its code', *counted[:-1]))} and {counted[-1]} were the same",
        "key": key_of(event.parts),
        "source_run": run_of(source.stream),
        "source_event": source.version,
        "age_s": (record.at - made[0]) / 1e6 if made else None,
        "saved_s": event.saved_us / 1e6,
        "expires_us": event.expires_at,
    }


async def _compare(
    log: EventLog,
    view: RunView,
    facts: RunFacts,
    slot: int,
    entry: CacheEntry,
    definition: TaskDef,
    key_parts: tuple[KeyPart, ...],
    miss: CacheMiss,
) -> dict[str, Any]:
    """The nearest earlier entry, and what differs, with the values then and now where they can be shown."""
    made = entry.first  # the entry as it was then; it may have been made again since
    try:
        then = await open_run(log, run_of(made.stream))
    except RunNotFound as error:
        raise LogDamaged(f"the cache has an entry of a run that is not there: {error}") from error
    past = (await replay(log, then, stream=then.stream, start=Fold.start(then))).state
    origin = next((s for s, version in enumerate(past.run.source) if version == made.version), None)
    differs = []
    for part in differences(entry, definition, key_parts, miss.parts):
        now = _shown(log, view, facts, slot, part) if part in key_parts else ""
        before = (
            _shown(log, then, past, origin, part) if part in entry.key_parts and origin is not None else ""
        )
        if now or before:
            now, before = _apart(now or _ABSENT, before or _ABSENT)
        differs.append({"what": _words(part), "now": now, "then": before})
    shown = {
        "key": entry.key,
        "task": entry.node,
        "run": then.run_id,
        "event": made.version,
        "made_us": entry.first_at,
    }
    return {"nearest": shown, "differs": differs}


def _written(node: TaskNode, name: str) -> str:
    """A constant of the flow, where it is plain data."""
    arg = next((item.arg for item in node.inputs if item.name == name), None)
    payload = arg.value if isinstance(arg, Const) else None
    is_plain = isinstance(payload, Inline) and payload.codec == "msgpack"
    return repr(unpack(payload.data)) if is_plain else "(written in the flow)"  # type: ignore[union-attr]


def _words(part: KeyPart) -> str:
    return f"{_PARTS[part.kind]} {part.name!r}" if part.name else _PARTS[part.kind]


def _shown(log: EventLog, view: RunView, facts: RunFacts, slot: int, part: KeyPart) -> str:
    """An input or a parameter in few words; nothing for what is no value, and pickles stay closed."""
    name = part.name
    run_states = RunStates(view, facts, peek=log.peek)
    node = facts.run.node(slot)
    try:
        if part.kind == "parameter":
            return repr(run_states[name].result)
        if part.kind != "input" or node in view.plan.parameters:
            return ""
        given = {
            label: result.deserialize().value
            for label, result in run_states.inputs(slot).items()
            if label == name or label.startswith(f"{name}[")
        }
    except Exception as error:  # noqa: BLE001 - without the user's code not every value opens
        return f"(not shown: {type(error).__name__}, it opens only with the flow's code)"
    if not given:
        return _written(view.plan.tasks[node], name)
    if [*given] == [f"{name}[{nth}]" for nth in range(len(given))]:
        return repr([*given.values()])
    return repr(given[name] if [*given] == [name] else given)


def _apart(now: str, then: str) -> tuple[str, str]:
    """Two texts cut to what fits a line, so that where they differ is seen."""
    same = next((i for i, pair in enumerate(zip(now, then, strict=False)) if pair[0] != pair[1]), 0)
    start = 0 if same < _SHOWN_MAX - 20 else same - 20

    def cut(text: str) -> str:
        shown = text[start : start + _SHOWN_MAX]
        return f"{'…' * (start > 0)}{shown}{'…' * (start + _SHOWN_MAX < len(text))}"

    return cut(now), cut(then)


def lines_of(found: dict[str, Any]) -> list[str]:
    """An explanation as people read it."""
    lines = [f"{found['task']} of run {found['run']}: {found['decision']}, {found['why']}"]
    if found.get("detail"):
        lines.append(f"  {found['detail']}")
    if found["decision"] == "hit":
        age = "" if found["age_s"] is None else f", made {found['age_s']:.0f} s before"
        lines.append(f"  taken from run {found['source_run']}, event {found['source_event']}{age}")
        lines.append(f"  saved {found['saved_s']:.3f} s")
        if found["expires_us"] is not None:
            lines.append(f"  good until {when(found['expires_us'])}")
    if "key" in found:
        lines.append(f"  key {found['key']}")
    entry = found.get("nearest")
    if entry is not None:
        lines.append(
            f"  nearest earlier entry: run {entry['run']}, event {entry['event']}, made {when(entry['made_us'])}"
        )
    for part in found.get("differs", ()):
        lines.append(f"  differs in {part['what']}")
        if part["now"]:
            lines += [f"    then {part['then']}", f"    now  {part['now']}"]
    return lines
