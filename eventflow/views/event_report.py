"""Shows an event in few words: its kind, its task, and its fields; of values only the sizes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from eventflow.events import CacheMiss, Origin, Record, kind_of
from eventflow.graph import Graph
from eventflow.result import Inline, Stored
from eventflow.views.run import cut

__all__ = ["EventReport", "event_report"]

_NOT_SHOWN: Final = frozenset({"task", "claim", "inputs", "data", "kind"})
"""Fields that have a place of their own, or that only the engine reads."""


class EventReport(msgspec.Struct, frozen=True):
    """One event of a run."""

    version: int
    at_us: int
    """Microseconds UTC."""
    kind: str
    """As `kind_of` returns it."""
    task: str
    """The name of the task; empty for an event of the run."""
    details: dict[str, Any]
    """The fields that are not empty: numbers, short texts, and mappings and lists of these."""


def event_report(graph: Graph, record: Record) -> EventReport:
    """Report a record of a run in few words; `graph` is the run's. Bytes of values are never shown.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.views.event_report import event_report


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    async for record in log.read(stream="run/a"):
        report = event_report(doubled.graph, record)
        if report.task:
            print(report.version, report.kind, report.task, report.details["attempt"])
    ```

    ```text
    3 task_started double 1
    4 task_succeeded double 1
    ```
    """
    event, task = record.event, ""
    address = getattr(event, "task", None)
    if address is not None and address[0] < len(graph.nodes):
        task = graph.name_at(address)
    details: dict[str, Any] = {}
    for field in event.__struct_fields__:
        shown = _brief(getattr(event, field))
        if field not in _NOT_SHOWN and shown not in (None, "", {}, []):
            details[field] = shown
    return EventReport(
        version=record.version,
        at_us=record.at,
        kind=kind_of(event),
        task=task,
        details=details,
    )


def _brief(value: Any) -> Any:  # noqa: PLR0911 - one return for each shape
    """Return a field of an event in few words."""
    match value:
        case Stored():
            return f"{value.codec}, {value.size} bytes, stored"
        case Inline():
            return f"{value.codec}, {len(value.data)} bytes"
        case CacheMiss(detail=""):
            return value.reason
        case CacheMiss():
            return f"{value.reason}: {value.detail}"
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
        case tuple():
            return [_brief(part) for part in value]
        case int() | float() | None:
            return value
        case _:
            return cut(str(value))
