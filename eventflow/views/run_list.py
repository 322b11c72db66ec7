"""The list of runs: one row for each, folded from the log.

A row projection (see `eventflow.read_models`): rows by the name of the stream that they are about, `run/<id>` and
`flow/<digest>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TypeAlias

import msgspec

from eventflow.events import (
    FlowDefined,
    Record,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskSucceeded,
    Unknown,
    flow_stream,
    run_of,
    run_stream,
)
from eventflow.graph import Graph, outline
from eventflow.records import flow_of_birth
from eventflow.result import Payload

__all__ = ["FlowRow", "RunRow", "Runs", "RunsRow"]


class FlowRow(msgspec.Struct, array_like=True, tag="flow"):
    """One graph, as far as a list of runs needs it."""

    name: str
    """Of the flow."""
    tasks: int
    """Task nodes; a mapped one counts once."""


class RunRow(msgspec.Struct, array_like=True, tag="run"):
    """One run as a list of runs shows it."""

    run: str
    """Its id: the stream without `run/`."""
    flow: str = ""
    """Digest of the graph in force."""
    name: str = ""
    """Of the flow; empty where its `FlowDefined` was not read, as in a replay of one run's stream."""
    nodes: int = 0
    """Tasks of the flow, with the children of those that have been mapped."""
    status: str = "started"
    """`started`, `running`, `released` (by its owner, unfinished) or `finished`."""
    outcome: str = ""
    """Of a finished run: `success`, `failed` or `cancelled`."""
    tasks: dict[str, int] = {}
    """How many tasks ended as `succeeded`, `reused`, `failed`, `skipped` or `blocked`; children one by one."""
    started_at: int = 0
    """Microseconds UTC."""
    finished_at: int | None = None
    labels: Mapping[str, str] = {}
    parameters: Mapping[str, Payload] = {}
    """As recorded; they are not opened here."""


RunsRow: TypeAlias = RunRow | FlowRow


class Runs:
    """One row for each run of the log, and one for each graph.

    ```python
    from eventflow import MemoryLog, Runs, flow, replay, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    fold = await replay(log, Runs())
    row = Runs.of(fold.state)["a"]
    print(row.name, row.status, row.outcome, row.tasks)

    rows = Runs().initial()
    async for record in log.read():
        names = Runs().needs(rows, record)  # the only rows that `apply` reads or writes
        rows = Runs().apply(rows, record)
    print(names, rows == fold.state)
    ```

    ```text
    doubled finished success {'succeeded': 1}
    ('run/a',) True
    ```
    """

    name = "runs"
    version = 1
    modules = ("eventflow.events", "eventflow.records", "eventflow.graph.outline")

    def initial(self) -> dict[str, RunsRow]:
        """Return no rows."""
        return {}

    def needs(self, rows: Mapping[str, RunsRow], record: Record) -> tuple[str, ...]:  # noqa: ARG002 - see `RowProjection`
        """Return the names of the rows that a record is about."""
        event = record.event
        if isinstance(event, RunStarted | RunClaimed):
            return (record.stream, flow_stream(event.flow))
        if type(event) in _HANDLERS or isinstance(event, FlowDefined):
            return (record.stream,)
        if isinstance(event, Unknown) and record.version == 1:
            return (record.stream, flow_stream(flow_of_birth(event)))
        return ()

    def apply(self, state: MutableMapping[str, RunsRow], record: Record) -> MutableMapping[str, RunsRow]:
        """Fold one record, by its kind."""
        event = record.event
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            row = state.get(record.stream)
            if not isinstance(row, RunRow):
                row = RunRow(run_of(record.stream))
            handler(state, row, record, event)
            state[record.stream] = row
        elif isinstance(event, FlowDefined):
            state[record.stream] = _flow_row(event.graph)
        elif isinstance(event, Unknown) and record.version == 1:
            _unknown(state, record, event)
        return state

    @staticmethod
    def of(rows: Mapping[str, RunsRow]) -> dict[str, RunRow]:
        """Return the rows of runs, by id, in the order of their start."""
        runs = [row for row in rows.values() if isinstance(row, RunRow)]
        return {row.run: row for row in sorted(runs, key=lambda row: row.started_at)}


_RunRows: TypeAlias = MutableMapping[str, RunsRow]


def _flow_row(graph: Graph) -> FlowRow:
    return FlowRow(graph.name, len(graph.task_nodes))


def _unknown(rows: _RunRows, record: Record, event: Unknown) -> None:
    """Note the first record of a stream, if it is of a newer version: a graph or a run, as far as it can be shown."""
    if record.stream.startswith(flow_stream("")):
        rows[record.stream] = _flow_row(outline(event.kind, event.data))
    elif record.stream.startswith(run_stream("")):
        row = RunRow(run_of(record.stream), started_at=record.at)
        _set_flow(rows, row, flow_of_birth(event))
        rows[record.stream] = row


def _set_flow(rows: _RunRows, row: RunRow, flow: str) -> None:
    row.flow = flow
    flow_row = rows.get(flow_stream(flow))
    if isinstance(flow_row, FlowRow):
        row.name = flow_row.name
        row.nodes = row.nodes or flow_row.tasks


def _started(rows: _RunRows, row: RunRow, record: Record, event: RunStarted) -> None:
    _set_flow(rows, row, event.flow)
    row.started_at = record.at
    row.labels, row.parameters = event.labels, event.parameters


def _claimed(rows: _RunRows, row: RunRow, _record: Record, event: RunClaimed) -> None:
    _set_flow(rows, row, event.flow)
    row.status = "running"


def _released(_rows: _RunRows, row: RunRow, _record: Record, _event: RunReleased) -> None:
    row.status = "released"


def _finished(_rows: _RunRows, row: RunRow, record: Record, event: RunFinished) -> None:
    row.status, row.outcome, row.finished_at = "finished", event.outcome, record.at


def _ended(outcome: str) -> Callable[[_RunRows, RunRow, Record, Any], None]:
    def count(_rows: _RunRows, row: RunRow, _record: Record, event: Any) -> None:
        if not isinstance(event, TaskFailed) or event.retry_at is None:
            row.tasks[outcome] = row.tasks.get(outcome, 0) + 1

    return count


def _mapped(_rows: _RunRows, row: RunRow, _record: Record, event: TaskMapped) -> None:
    row.nodes += event.width - 1


_HANDLERS: Final[Mapping[type, Callable[[_RunRows, RunRow, Record, Any], None]]] = {
    TaskSucceeded: _ended("succeeded"),
    TaskReused: _ended("reused"),
    TaskFailed: _ended("failed"),
    TaskSkipped: _ended("skipped"),
    TaskBlocked: _ended("blocked"),
    TaskMapped: _mapped,
    RunStarted: _started,
    RunClaimed: _claimed,
    RunReleased: _released,
    RunFinished: _finished,
}
