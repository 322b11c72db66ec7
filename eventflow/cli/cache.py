"""The commands about the cache: its entries, hits and misses, and why a task was or was not taken from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, assert_never

import click

from eventflow.cli.options import json_option, log_option, read_log
from eventflow.cli.output import when, write_json, write_line, write_table
from eventflow.events import run_of
from eventflow.graph import KeyPart, KeyPartKind
from eventflow.history.cache_explain import (
    Explanation,
    Hit,
    Kept,
    Miss,
    NotAsked,
    PartDifference,
    Uncached,
    explain,
)
from eventflow.ports import EventLog
from eventflow.projections import CacheHits
from eventflow.read_models import ReadModel
from eventflow.runs.find import find_run
from eventflow.views.cache import CachedTask, CacheEntry, CacheRow
from eventflow.views.durations import duration

__all__ = ["cache"]

_REASONS: Final = {
    "new": "there was no entry with its key",
    "expired": "its entry had expired",
    "lost": "the cached value is missing or damaged",
    "opaque": "it has no key",
    "retry": "retries do not consult the cache",
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
_VALUE_WIDTH: Final = 72


@click.group()
def cache() -> None:
    """Show the entries of the cache, the time it has saved, and why a task ran all the same."""


async def _rows(log: EventLog, prefix: str) -> dict[str, CacheRow]:
    rows: ReadModel[CacheRow] = await ReadModel.of(log, CacheHits())
    return await rows.under(prefix)


# -- ls -------------------------------------------------------------------------------------------


@cache.command("ls")
@log_option
@json_option
def entries(log: str | None, as_json: bool) -> None:
    """List the entries, those used last first."""

    async def read(opened: EventLog) -> list[dict[str, Any]]:
        return [_entry(entry) for entry in CacheHits.entries(await _rows(opened, "entry/"))]

    rows = read_log(log, read)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["key"][:12],
            row["task"],
            row["flow"],
            row["run"],
            str(row["hits"]),
            duration(row["took_s"]),
            str(row["size_bytes"]),
            when(row["made_us"]),
            _when(row["expires_us"]),
        )
        for row in rows
    ]
    write_table(("KEY", "TASK", "FLOW", "MADE BY", "HITS", "TOOK", "BYTES", "MADE", "EXPIRES"), table)


def _when(at_us: int | None) -> str:
    """A moment as a cell of a table; empty for an entry without an end."""
    if at_us is None:
        return ""
    return when(at_us)


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


# -- stats ----------------------------------------------------------------------------------------


@cache.command("stats")
@log_option
@json_option
def stats(log: str | None, as_json: bool) -> None:
    """Count hits, misses by reason, and the time saved, task by task."""

    async def read(opened: EventLog) -> list[dict[str, Any]]:
        return [_stats(task) for task in CacheHits.tasks(await _rows(opened, "task/"))]

    rows = read_log(log, read)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["flow"],
            row["task"],
            str(row["hits"]),
            str(sum(row["misses"].values())),
            duration(row["saved_s"]),
            _reasons(row["misses"]),
        )
        for row in rows
    ]
    head = ("FLOW", "TASK", "HITS", "MISSES", "SAVED", "REASONS OF MISSES")
    write_table(head, table, ends_in_prose=True)


def _reasons(misses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in misses.items())


def _stats(task: CachedTask) -> dict[str, Any]:
    return {
        "flow": task.flow,
        "task": task.task,
        "hits": task.hits,
        "misses": dict(sorted(task.misses.items())),
        "saved_s": task.saved_us / 1e6,
    }


# -- explain --------------------------------------------------------------------------------------


@cache.command("explain")
@click.argument("run")
@click.argument("task")
@log_option
@json_option
def explain_task(run: str, task: str, log: str | None, as_json: bool) -> None:
    """Show why a task was taken from the cache, or why it ran."""

    async def read(opened: EventLog) -> Explanation:
        return await explain(opened, await find_run(opened, run), task)

    answer = _answer(read_log(log, read))
    if as_json:
        write_json(json.dumps(answer))
        return
    for line in _lines(answer):
        write_line(line)


def _answer(explanation: Explanation) -> dict[str, Any]:
    """An explanation as one JSON document, with its reason in words."""
    answer: dict[str, Any] = {"run": explanation.run, "task": explanation.task}
    match explanation:
        case Uncached():
            why = "the task has neither cache_for, cache_on nor cache_key"
            return {**answer, "decision": "uncached", "why": why}
        case NotAsked(state=state):
            return {**answer, "decision": "not asked", "why": f"no lookup was made: the task is {state}"}
        case Kept(source=source):
            why = f"a rerun kept it from {run_of(source.stream)!r}"
            return {**answer, "decision": "kept", "why": why}
        case Hit():
            return {**answer, **_hit(explanation)}
        case Miss():
            return {**answer, **_miss(explanation)}
        case _:
            assert_never(explanation)


def _hit(hit: Hit) -> dict[str, Any]:
    equal = ", ".join(("the code", *map(_words, hit.key_parts)))
    return {
        "decision": "hit",
        "why": f"{equal} and the result type are the same",
        "key": hit.key,
        "source_run": run_of(hit.source.stream),
        "source_event": hit.source.version,
        "age_s": None if hit.age_us is None else hit.age_us / 1e6,
        "saved_s": hit.saved_us / 1e6,
        "expires_us": hit.expires_at,
    }


def _miss(miss: Miss) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "decision": "miss",
        "reason": miss.reason,
        "why": _REASONS.get(miss.reason, "a newer eventflow wrote this reason"),
        "detail": miss.detail,
    }
    if miss.key is not None:
        answer["key"] = miss.key
    if miss.nearest is not None:
        answer["nearest"] = {
            "key": miss.nearest.key,
            "task": miss.nearest.node,
            "run": run_of(miss.nearest.first.stream),
            "event": miss.nearest.first.version,
            "made_us": miss.nearest.first_at,
        }
        answer["differs"] = [_difference(difference) for difference in miss.differences]
    return answer


def _difference(difference: PartDifference) -> dict[str, str]:
    now, then = _cut_around_difference(difference.now, difference.then)
    return {"what": _words(difference.part), "now": now, "then": then}


def _words(part: KeyPart) -> str:
    words = _PARTS[part.kind]
    if part.name:
        words += f" {part.name!r}"
    return words


def _cut_around_difference(now: str, then: str) -> tuple[str, str]:
    """Two texts cut to the width of a line, so that the place where they differ is seen."""
    equal = next((i for i, pair in enumerate(zip(now, then, strict=False)) if pair[0] != pair[1]), 0)
    start = 0 if equal < _VALUE_WIDTH - 20 else equal - 20

    def cut(text: str) -> str:
        shown = text[start : start + _VALUE_WIDTH]
        return f"{'…' * (start > 0)}{shown}{'…' * (start + _VALUE_WIDTH < len(text))}"

    return cut(now), cut(then)


def _lines(answer: dict[str, Any]) -> list[str]:
    """An explanation as people read it."""
    decision = "not cached" if answer["decision"] == "uncached" else answer["decision"]
    lines = [f"{answer['task']} of run {answer['run']}: {decision}: {answer['why']}"]
    if answer.get("detail"):
        lines.append(f"  {answer['detail']}")
    if answer["decision"] == "hit":
        source = f"run {answer['source_run']}, event {answer['source_event']}"
        if answer["age_s"] is not None:
            source += f", made {duration(answer['age_s'])} before"
        lines.append(f"  taken from {source}")
        lines.append(f"  saved {duration(answer['saved_s'])}")
        if answer["expires_us"] is not None:
            lines.append(f"  good until {when(answer['expires_us'])}")
    if "key" in answer:
        lines.append(f"  key {answer['key']}")
    if "nearest" in answer:
        entry = answer["nearest"]
        made = when(entry["made_us"])
        lines.append(f"  nearest earlier entry: run {entry['run']}, event {entry['event']}, made {made}")
    for part in answer.get("differs", ()):
        lines.append(f"  differs in {part['what']}")
        if part["now"]:
            lines += [f"    then {part['then']}", f"    now  {part['now']}"]
    return lines
