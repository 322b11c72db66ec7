"""Reading a log: which runs there are, one run at any of its events, its events one by one.

Nothing here writes: a log is opened to be looked at only, which takes no lock and works on a file and a folder that
are read-only; one that does not exist is not made, and no pickled value is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from eventflow.cli.errors import Exit, Trouble
from eventflow.cli.output import escaped
from eventflow.cli.progress import task_name
from eventflow.events import CacheMiss, Origin, Record, RunClaimed, RunStarted, kind_of, run_stream
from eventflow.graph import Graph
from eventflow.logs.open import open_log
from eventflow.logs.urls import SQLITE, check_url, default_url, path_of
from eventflow.machine import FAILED, FINISHED
from eventflow.ports import EventLog
from eventflow.projections import Fold, Runs, Timeline, open_run
from eventflow.read_models import ReadModel
from eventflow.result import Inline, Stored
from eventflow.states import Failed
from eventflow.suggestions import did_you_mean
from eventflow.views.run import cut
from eventflow.views.run_list import RunRow
from eventflow.views.run_states import STATES, RunStates

__all__ = ["events_of", "find_run", "opened", "recorded_entry", "runs_in", "show_run", "state_of", "when"]

_LAST_US = 253_402_214_400_000_000
"""The last moment that is one in every time zone, in microseconds UTC."""


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[EventLog]:
    """A log that exists, to be read; raises `Trouble` where there is none."""
    place = default_url() if url is None else check_url(url, "--log")
    if place.startswith(SQLITE):
        path = path_of(place)
        if not path.is_file():
            raise Trouble(Exit.LOG, f"there is no log {path}; name another with --log {SQLITE}FILE")
    async with open_log(place, read_only=True) as log:
        yield log


async def find_run(log: EventLog, given: str) -> str:
    """The id that was given, shortened while unique, or as `@last`; raises `Trouble`."""
    if not given.startswith("@") and await log.head(run_stream(given)):
        return given
    runs = await _runs(log)
    if given == "@last" and runs:
        return max(runs.values(), key=lambda row: row.started_at).run
    found = [run for run in runs if run.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise Trouble(
            Exit.USAGE,
            f"{given!r} is the beginning of several runs: {', '.join(map(escaped, found[:8]))}{more}",
        )
    hint = did_you_mean(given, runs, otherwise="see `eventflow runs`")
    raise Trouble(Exit.NOT_FOUND, f"there is no run {given!r} in this log{hint}")


async def recorded_entry(log: EventLog, run_id: str) -> tuple[str, str]:
    """Where the code of a run is found again, as its last owner recorded it, and its flow's name."""
    view = await open_run(log, run_id)
    entry = ""
    async for record in log.read(stream=view.stream):
        match record.event:
            case RunStarted(entry=born):
                entry = born
            case RunClaimed(environment=environment):
                entry = environment.get("entry", "") or entry
    if not entry:
        raise Trouble(
            Exit.USAGE, f"run {run_id!r} does not say where its code is: name it with --flow FILE:FLOW"
        )
    return entry, view.plan.graph.name


def when(at_us: int) -> str:
    """A moment in local time, to the second."""
    shown = min(max(at_us, 0), _LAST_US)  # a table may hold any number
    return datetime.fromtimestamp(shown / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


async def state_of(log: EventLog, row: RunRow) -> str:
    """One word for where a run stands; `stopped` is one that its events say is running, and nobody runs."""
    if row.status == "finished":
        return row.outcome
    if row.status == "running" and not await log.is_live(row.run):
        return "stopped"
    return row.status


async def _runs(log: EventLog) -> dict[str, RunRow]:
    """All runs by id, in the order of their start."""
    return Runs.of(await (await ReadModel.of(log, Runs())).under())


async def runs_in(log: EventLog) -> list[dict[str, Any]]:
    """A row for each run, the latest first."""
    rows = []
    for row in reversed((await _runs(log)).values()):
        took = None if row.finished_at is None else (row.finished_at - row.started_at) / 1e6
        rows.append(
            {
                "run": row.run,
                "flow": row.name,
                "state": await state_of(log, row),
                "done": sum(row.tasks.get(how, 0) for how in ("succeeded", "reused", "skipped")),
                "failed": row.tasks.get("failed", 0),
                "blocked": row.tasks.get("blocked", 0),
                "tasks": row.nodes,
                "started_us": row.started_at,
                "took_s": took,
                "labels": dict(row.labels),
            }
        )
    return rows


async def show_run(log: EventLog, run_id: str, at: int | None) -> dict[str, Any]:
    """A run as it stood at one of its events, by default the last."""
    view = await open_run(log, run_id)
    head = await log.head(view.stream)
    if at is not None and not 1 <= at <= head:
        raise Trouble(Exit.USAGE, f"run {run_id!r} has events 1 to {head}, so there is no --at {at}")
    fold, line = Fold.start(view), Fold.start(Timeline())
    async for record in log.read(stream=view.stream):
        fold.push(record)
        line.push(record)
        if record.version == (at or head):
            break
    run_states, tasks = RunStates(view, fold.state), []
    for i, node in view.plan.tasks.items():
        found = line.state.tasks.get(str(i))
        tasks.append(_task(run_states, i, node.name, found))
    state = run_states.state
    return {
        "run": run_id,
        "flow": view.plan.graph.name,
        "state": type(state).__name__,
        "message": state.message,
        "version": run_states.version,
        "of": head,
        "tasks": tasks,
    }


def _task(run_states: RunStates, node: int, name: str, line: Any) -> dict[str, Any]:
    attempts = line.attempts if line is not None else []
    last = attempts[-1] if attempts else None
    seconds = None if last is None or last.ended_us is None else (last.ended_us - last.started_us) / 1e6
    row: dict[str, Any] = {
        "task": name,
        "attempt": last.attempt if last is not None else 0,
        "seconds": seconds,
        "message": "",
    }
    statuses = run_states.statuses_below(node)
    if statuses is None:
        state = run_states.at(node)  # not by its name, which may be anything in a log of somebody else's
        row["state"] = type(state).__name__
        row["message"] = state.message if isinstance(state, Failed) else ""
        return row
    children = Counter(statuses)
    row["state"] = "Mapped"
    row["children"] = {STATES[status].__name__: count for status, count in children.items()}
    failed = FAILED & children.keys()
    row["outcome"] = "Running" if children.keys() - FINISHED else "Failed" if failed else "Success"
    row["failures"] = {
        f"{name}[{k}]": run_states[(node, k)].message
        for k, status in (enumerate(statuses) if failed else ())
        if status in failed
    }
    return row


async def events_of(log: EventLog, run_id: str) -> AsyncIterator[dict[str, Any]]:
    """The events of a run, oldest first, values only by their size and place."""
    graph = (await open_run(log, run_id)).plan.graph
    async for record in log.read(stream=run_stream(run_id)):
        yield _event(graph, record)


def _event(graph: Graph, record: Record) -> dict[str, Any]:
    event = record.event
    address = getattr(event, "task", None)
    details = {
        field: _brief(getattr(event, field))
        for field in getattr(event, "__struct_fields__", ())
        if field not in ("task", "claim", "inputs", "data", "kind")
    }
    return {
        "version": record.version,
        "at_us": record.at,
        "kind": kind_of(event),
        "task": task_name(graph, address) if address is not None and address[0] < len(graph.nodes) else "",
        "details": {field: value for field, value in details.items() if value not in (None, "", {})},
    }


def _brief(value: Any) -> Any:  # noqa: PLR0911 - one return for each shape
    """A field of an event in few words: never the bytes of a value."""
    match value:
        case Stored():
            return f"{value.codec}, {value.size} bytes, stored"
        case Inline():
            return f"{value.codec}, {len(value.data)} bytes"
        case CacheMiss():
            return f"{value.reason}: {value.detail}" if value.detail else value.reason
        case Origin():
            return f"{value.stream} {value.version}"
        case bytes():
            return value.hex()
        case msgspec.Struct():
            if hasattr(value, "message"):
                return cut(f"{getattr(value, 'type', '')}: {value.message}")
            return cut(", ".join(f"{f} {_brief(getattr(value, f))}" for f in value.__struct_fields__))
        case dict():
            return {cut(str(key)): _brief(part) for key, part in value.items()}
        case int() | float() | None:
            return value
        case _:
            return cut(str(value))
