"""The cache index: its entries, hits, misses and the time saved, folded from the log.

A row projection (see `eventflow.read_models`) with four kinds of rows:

    entry/<namespace>, <key>   the last success recorded with a key
    task/<flow>, <task>        how often a task's result was reused or made, and why it was made
    flow/<digest>              the cached tasks of a graph
    run/<id>                   calls of cached tasks under way; gone when the run has finished

In a row's name, a line break separates the two parts; no other character is excluded from both.
Flows without a cached task, and their runs, have no row.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TypeAlias, assert_never

import msgspec

from eventflow.events import (
    FlowDefined,
    Origin,
    Record,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    flow_stream,
    missing_features,
)
from eventflow.graph import CachePolicy, KeyPart, TaskDef
from eventflow.records import LogDamaged
from eventflow.result import Forgotten, Inline, Payload, Stored, Withheld

__all__ = [
    "CacheEntry",
    "CacheHits",
    "CacheRow",
    "CachedFlow",
    "CachedRun",
    "CachedTask",
    "entries_under",
    "key_differences",
    "nearest_entry",
]


class CacheEntry(msgspec.Struct, array_like=True, tag="entry"):
    """One entry of the cache."""

    key: str
    namespace: str
    code: bytes
    """Digest of the task's code, as the graph of its run has it."""
    returns: bytes
    """Digest of the type of its result."""
    keeper: bytes
    """Digest of its serializer."""
    keyer: bytes
    """Digest of the code of its `cache_key`."""
    on: tuple[tuple[str, ...] | None, tuple[str, ...] | None]
    """The inputs and the parameters on which it was cached; None for all."""
    parts: bytes
    """Of the key; see `TaskDef.cache_key`."""
    key_parts: tuple[KeyPart, ...]
    """The part of the key that each 16 bytes of `parts` are the digest of."""
    flow: str
    node: str
    source: Origin
    """The success itself."""
    made_at: int
    """Microseconds UTC."""
    first: Origin
    """The first success that was recorded with the key."""
    first_at: int
    expires_at: int | None
    size: int
    """Bytes of the value."""
    took_us: int
    hits: int = 0
    used_at: int | None = None


class CachedTask(msgspec.Struct, array_like=True, tag="task"):
    """Hits, misses and time saved for the calls of one node, in all runs."""

    flow: str
    task: str
    hits: int = 0
    misses: dict[str, int] = {}
    """By reason, see `CacheMiss`; each call once, however many attempts it took."""
    saved_us: int = 0


class CachedFlow(msgspec.Struct, array_like=True, tag="flow"):
    """The cached tasks of one graph."""

    name: str
    tasks: list[TaskDef]
    key_parts: list[tuple[KeyPart, ...]]
    """Each list of key parts that a node has."""
    nodes: dict[int, tuple[str, int, int]]
    """Node → its name, and its indices in `tasks` and `key_parts`."""

    def at(self, event: TaskStarted | TaskSucceeded | TaskReused) -> tuple[str, TaskDef]:
        """Return the name and definition of the node that an event is about."""
        node = self.nodes.get(event.task[0])
        if node is None:
            raise LogDamaged(
                f"a run of {self.name!r} asked the cache for node {event.task[0]}, which is not cached"
            )
        name, task, _ = node
        return name, self.tasks[task]


class CachedRun(msgspec.Struct, array_like=True, tag="run"):
    """A run with cached tasks."""

    flow: str
    """Digest of the graph in force; empty for a run that requires features that are not known here. Its calls are not
    counted: by other rules other nodes may be cached."""
    parts: dict[str, bytes] = {}
    """Address as text → the parts of the key of the attempt under way."""


CacheRow: TypeAlias = CacheEntry | CachedTask | CachedFlow | CachedRun
_CacheRows: TypeAlias = MutableMapping[str, CacheRow]


class CacheHits:
    """Entries, hits, misses by reason, and time saved."""

    name = "cache"
    version = 1
    modules = (
        "eventflow.events",
        "eventflow.records",
        "eventflow.graph.flow_graph",
        "eventflow.graph.tasks",
    )

    def initial(self) -> dict[str, CacheRow]:
        """Return no rows."""
        return {}

    def needs(self, rows: Mapping[str, CacheRow], record: Record) -> tuple[str, ...]:
        """Return the names of the rows that a record is about, as far as `rows` are enough to know them."""
        event = record.event
        if isinstance(event, FlowDefined | RunFinished):
            return (record.stream,)
        if isinstance(event, RunStarted | RunClaimed):
            return (record.stream, flow_stream(event.flow))
        if not _is_about_cache(record):
            return ()
        run = rows.get(record.stream)
        if not isinstance(run, CachedRun):
            return (record.stream,)
        flow = rows.get(flow_stream(run.flow))
        if not isinstance(flow, CachedFlow):
            return (record.stream, flow_stream(run.flow))
        assert isinstance(event, TaskStarted | TaskSucceeded | TaskReused)
        node, task = flow.at(event)
        names: tuple[str, ...] = (record.stream, flow_stream(run.flow), _task_name(flow, node))
        key = record.key
        if isinstance(event, TaskReused):
            key = _key(task, event.parts)
        if key is not None:
            names += (_entry_name(task, key),)
        return names

    def apply(self, state: _CacheRows, record: Record) -> _CacheRows:
        """Fold one record."""
        event = record.event
        match event:
            case FlowDefined():
                _add_flow(state, record, event)
            case RunStarted() | RunClaimed():
                _add_run(state, record.stream, event)
            case RunFinished():
                state.pop(record.stream, None)
            case TaskStarted() | TaskSucceeded() | TaskReused():
                if _is_about_cache(record):
                    _count(state, record, event)
            case (
                RunReleased()
                | TaskAbandoned()
                | TaskBlocked()
                | TaskFailed()
                | TaskMapped()
                | TaskSkipped()
                | Unknown()
            ):
                pass
            case _:
                assert_never(event)
        return state

    @staticmethod
    def entries(rows: Mapping[str, CacheRow]) -> list[CacheEntry]:
        """Return the entries, the latest used or made first."""
        entries = [row for row in rows.values() if isinstance(row, CacheEntry)]
        return sorted(entries, key=lambda row: row.used_at or row.made_at, reverse=True)

    @staticmethod
    def tasks(rows: Mapping[str, CacheRow]) -> list[CachedTask]:
        """Return the counts of each task, by flow and name."""
        tasks = [row for row in rows.values() if isinstance(row, CachedTask)]
        return sorted(tasks, key=lambda row: (row.flow, row.task))


def _is_about_cache(record: Record) -> bool:
    match record.event:
        case TaskStarted(cache=cache):
            return cache is not None
        case TaskReused(why=why):
            return why == "cache"
        case TaskSucceeded():
            return record.key is not None
        case _:
            return False


def _entry_name(task: TaskDef, key: str) -> str:
    assert task.policy.cache is not None, f"{task.name} is cached"
    return f"{entries_under(task.policy.cache.namespace)}{key}"


def _key(task: TaskDef, parts: bytes) -> str:
    try:
        return task.cache_key(parts)
    except ValueError as error:
        raise LogDamaged(f"a result was taken from the cache, and {error}") from error


def _task_name(flow: CachedFlow, node: str) -> str:
    return f"task/{flow.name}\n{node}"


def entries_under(namespace: str) -> str:
    """Return the prefix of the names of a namespace's entries; a namespace contains no line break."""
    return f"entry/{namespace}\n"


def _add_flow(rows: _CacheRows, record: Record, event: FlowDefined) -> None:
    graph = event.graph
    if missing_features(graph.requires):
        return
    tasks: dict[int, int] = {}
    key_parts: dict[tuple[KeyPart, ...], int] = {}
    nodes: dict[int, tuple[str, int, int]] = {}
    for index in graph.cacheable:
        node = graph.task_nodes[index]
        task = tasks.setdefault(node.task, len(tasks))
        parts = key_parts.setdefault(graph.key_parts(index), len(key_parts))
        nodes[index] = (node.name, task, parts)
    if nodes:
        definitions = [graph.tasks[i] for i in tasks]
        rows[record.stream] = CachedFlow(graph.name, definitions, list(key_parts), nodes)


def _add_run(rows: _CacheRows, stream: str, event: RunStarted | RunClaimed) -> None:
    """Add a run with its graph, or replace the graph by that of a later claim."""
    run = rows.get(stream)
    if missing_features(event.requires) or (isinstance(run, CachedRun) and not run.flow):
        rows[stream] = CachedRun("")
    elif isinstance(rows.get(flow_stream(event.flow)), CachedFlow):
        rows[stream] = CachedRun(event.flow)
    else:
        rows.pop(stream, None)


def _count(rows: _CacheRows, record: Record, event: TaskStarted | TaskSucceeded | TaskReused) -> None:
    """Count a call of a cached task, if the graph of its run is known."""
    run = rows.get(record.stream)
    if not isinstance(run, CachedRun):
        return
    flow = rows.get(flow_stream(run.flow))
    if not isinstance(flow, CachedFlow):
        return
    match event:
        case TaskStarted():
            _count_miss(rows, run, flow, event)
        case TaskSucceeded():
            _add_entry(rows, run, flow, record, event)
        case TaskReused():
            _count_hit(rows, flow, record, event)
        case _:
            assert_never(event)
    rows[record.stream] = run


def _address(event: TaskStarted | TaskSucceeded | TaskReused) -> str:
    return ".".join(map(str, event.task))


def _task_row(rows: _CacheRows, flow: CachedFlow, node: str) -> CachedTask:
    name = _task_name(flow, node)
    row = rows.get(name)
    if not isinstance(row, CachedTask):
        row = CachedTask(flow.name, node)
    rows[name] = row
    return row


def _count_miss(rows: _CacheRows, run: CachedRun, flow: CachedFlow, event: TaskStarted) -> None:
    assert event.cache is not None, "such starts only"
    node, _ = flow.at(event)
    row = _task_row(rows, flow, node)
    if event.attempt == 1:  # later ones are the same call again, after a failure or a crash
        row.misses[event.cache.reason] = row.misses.get(event.cache.reason, 0) + 1
    run.parts[_address(event)] = event.cache.parts


def _add_entry(
    rows: _CacheRows, run: CachedRun, flow: CachedFlow, record: Record, event: TaskSucceeded
) -> None:
    node, task = flow.at(event)
    assert record.key is not None, "such successes only"
    assert task.policy.cache is not None, "as in its graph"
    source = Origin(record.stream, record.version)
    entry = CacheEntry(
        key=record.key,
        namespace=task.policy.cache.namespace,
        code=task.code,
        returns=task.returns,
        keeper=task.keeper,
        keyer=task.keyer,
        on=_on(task.policy.cache),
        parts=run.parts.pop(_address(event), b""),
        key_parts=flow.key_parts[flow.nodes[event.task[0]][2]],
        flow=flow.name,
        node=node,
        source=source,
        made_at=record.at,
        first=source,
        first_at=record.at,
        expires_at=event.expires_at,
        size=_size_of(event.result),
        took_us=event.body_us + event.encode_us,
    )
    name = _entry_name(task, record.key)
    before = rows.get(name)
    if isinstance(before, CacheEntry):
        entry.first, entry.first_at = before.first, before.first_at
        entry.hits, entry.used_at = before.hits, before.used_at
    rows[name] = entry


def _on(policy: CachePolicy) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    return policy.inputs, policy.parameters


def _size_of(payload: Payload) -> int:
    match payload:
        case Inline():
            return len(payload.data)
        case Stored():
            return payload.size
        case Withheld() | Forgotten():
            return 0
        case _:
            assert_never(payload)


def _count_hit(rows: _CacheRows, flow: CachedFlow, record: Record, event: TaskReused) -> None:
    node, task = flow.at(event)
    row = _task_row(rows, flow, node)
    row.hits += 1
    row.saved_us += event.saved_us
    name = _entry_name(task, _key(task, event.parts))
    entry = rows.get(name)
    if isinstance(entry, CacheEntry):
        entry.hits += 1
        entry.used_at = record.at
        rows[name] = entry


# ── why a call was a miss ──────────────────────────────────────────────────────────────────────────────────────────────────


def key_differences(
    entry: CacheEntry, task: TaskDef, key_parts: tuple[KeyPart, ...], parts: bytes
) -> tuple[KeyPart, ...]:
    """Compare a call of a task with the one that made an entry, and return the parts of the key that differ.

    `parts` has the 16-byte digests of the call's `key_parts`.
    """
    differing: list[KeyPart] = []
    if entry.code != task.code:
        differing.append(KeyPart("code"))
    if entry.returns != task.returns:
        differing.append(KeyPart("result_type"))
    if entry.keeper != task.keeper:
        differing.append(KeyPart("serializer"))
    if entry.keyer != task.keyer:
        differing.append(KeyPart("key_function"))
    if task.policy.cache is not None and entry.on != _on(task.policy.cache):
        differing.append(KeyPart("counted"))
    then = _digests_by_part(entry.key_parts, entry.parts)
    now = _digests_by_part(key_parts, parts)
    differing += [part for part in dict.fromkeys((*now, *then)) if now.get(part) != then.get(part)]
    return tuple(differing)


def nearest_entry(
    rows: Mapping[str, CacheRow], task: TaskDef, key_parts: tuple[KeyPart, ...], parts: bytes, before: int
) -> CacheEntry | None:
    """Find the closest earlier entry: fewest differences, newest first among equals.

    Only entries first made until `before` (µs UTC) are compared.
    """
    key = task.cache_key(parts)
    earlier = [entry for entry in CacheHits.entries(rows) if entry.first_at <= before and entry.key != key]

    def distance(entry: CacheEntry) -> tuple[int, int]:
        return len(key_differences(entry, task, key_parts, parts)), -entry.first_at

    return min(earlier, key=distance, default=None)


def _digests_by_part(key_parts: tuple[KeyPart, ...], parts: bytes) -> dict[KeyPart, bytes]:
    return {part: parts[16 * i : 16 * i + 16] for i, part in enumerate(key_parts)}
