"""Folding the log: what stood at any moment, and what stands now.

A projection is a class with a name, a version, a first state and a function that takes one record in.
That is all it takes to be replayed to any position, followed live, snapshotted and served, as long as
msgspec can encode its state, whose type it declares on `initial`.

    replay    records up to a position → Fold
    follow    the same, then a fold after each new record
    dump      Fold → bytes, a snapshot;   restore   bytes → Fold, or nothing
    begin     what the log has as a snapshot, or the fold of nothing

A snapshot is an opinion about the log: it may be deleted at any time, and one of another projection, of
another version of it, or with changed bytes counts as deleted.  fold(all) = fold(snapshot + tail) at
every cut, for `apply` sees nothing but its state and the record.

Built in: `Runs` and `Timeline`.  Both find the handler of an event by its type, and pass by what they do
not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar, get_type_hints

import msgspec

from eventflow.events import (
    Address,
    FlowDefined,
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
    checksum,
)
from eventflow.ports import EventLog
from eventflow.result import Payload

__all__ = [
    "Attempt",
    "Fold",
    "Projection",
    "RunRow",
    "Runs",
    "RunsState",
    "TaskLine",
    "Timeline",
    "TimelineState",
    "begin",
    "dump",
    "follow",
    "replay",
    "restore",
]

S = TypeVar("S")


class Projection(Protocol[S]):
    """How records become a state of type `S`; `initial` is annotated with that type."""

    @property
    def name(self) -> str:
        """What its snapshots are kept under; a plain class attribute will do."""
        ...

    @property
    def version(self) -> int:
        """To be raised whenever `S` or `apply` changes, so that older snapshots are of no use."""
        ...

    def initial(self) -> S:
        """The state before the first record; a new one each time."""
        ...

    def apply(self, state: S, record: Record) -> S:
        """Give the state after a record; may change the one it was given, which is its own."""
        ...


class Fold(Generic[S]):
    """A projection's state after the record at `position`; it goes on from there."""

    __slots__ = ("position", "projection", "state")

    def __init__(self, projection: Projection[S], state: S, position: int = 0) -> None:
        self.projection = projection
        self.state = state
        self.position = position
        """The last record that was applied; 0 when there was none."""

    @classmethod
    def start(cls, projection: Projection[S]) -> Fold[S]:
        """The fold of nothing."""
        return cls(projection, projection.initial())

    def push(self, record: Record) -> None:
        """Apply the next record, in place; its position must lie after the fold's."""
        assert record.position > self.position, f"record {record.position} is not after {self.position}"
        self.state = self.projection.apply(self.state, record)
        self.position = record.position

    def frozen(self) -> Fold[S]:
        """A copy that later records do not change."""
        body = msgspec.msgpack.encode(self.state)
        state = msgspec.msgpack.decode(body, type=_state_type(self.projection))
        return Fold(self.projection, state, self.position)

    def __repr__(self) -> str:
        return f"Fold({self.projection.name} at {self.position}: {self.state!r})"


async def replay(
    log: EventLog,
    projection: Projection[S],
    *,
    stream: str | None = None,
    until: int | None = None,
    start: Fold[S] | None = None,
) -> Fold[S]:
    """Fold the log, or one stream, up to and with position `until`; nothing but the log is needed.

    With `start` the work begins there, and that fold itself moves on and is given back. Without it, a
    projection that has a `snapshot_name` is begun with the snapshot that the log keeps under it.
    """
    fold = await begin(log, projection, until=until) if start is None else start
    apply, state, position = projection.apply, fold.state, fold.position
    async for record in log.read(stream=stream, after=position, until=until):
        state = apply(state, record)
        position = record.position
    fold.state, fold.position = state, position
    return fold


async def follow(
    log: EventLog,
    projection: Projection[S],
    *,
    stream: str | None = None,
    start: Fold[S] | None = None,
) -> AsyncIterator[Fold[S]]:
    """Give the fold once it has caught up, then again after each new record; ends with `LogClosed`.

    It is one and the same fold, which moves on: take `.frozen()` to keep what it shows.
    """
    head = await log.head()
    fold = await replay(log, projection, stream=stream, until=head, start=start)
    yield fold
    async for record in log.follow(after=max(head, fold.position)):
        if stream is None or record.stream == stream:
            fold.push(record)
            yield fold


async def begin(log: EventLog, projection: Projection[S], *, until: int | None = None) -> Fold[S]:
    """The fold to go on from: of the log's snapshot, if it has a sound one up to `until`, or of nothing."""
    name: str | None = getattr(projection, "snapshot_name", None)
    data = await log.snapshot(name) if name is not None else None
    found = restore(data, projection) if data is not None else None
    if found is None or (until is not None and found.position > until):
        return Fold.start(projection)
    return found


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    name: str
    version: int
    position: int
    state: msgspec.Raw


def dump(fold: Fold[Any]) -> bytes:
    """The snapshot of a fold: its state with the projection's name and version, and its position."""
    projection = fold.projection
    state = msgspec.Raw(msgspec.msgpack.encode(fold.state))
    body = msgspec.msgpack.encode(_Snapshot(projection.name, projection.version, fold.position, state))
    return checksum(body).to_bytes(4, "big") + body


def restore(data: bytes, projection: Projection[S]) -> Fold[S] | None:
    """The fold of a snapshot; None when the bytes are not one of this very projection."""
    if data[:4] != checksum(data[4:]).to_bytes(4, "big"):
        return None
    try:
        found = msgspec.msgpack.decode(data[4:], type=_Snapshot)
        if (found.name, found.version) != (projection.name, projection.version):
            return None
        state = msgspec.msgpack.decode(found.state, type=_state_type(projection))
    except msgspec.DecodeError:  # the state's type has changed, and nobody raised the version
        return None
    return Fold(projection, state, found.position)


def _state_type(projection: Projection[S]) -> type[S]:
    """What `initial` is annotated with: the runtime type alone would not say what a dict holds."""
    initial = type(projection).initial
    try:
        found: type[S] = get_type_hints(initial)["return"]
    except (KeyError, NameError) as error:
        raise TypeError(
            f"{initial.__qualname__} must be annotated with the type of the state, "
            f"and that type must stand in a module, so that the state can be copied and restored"
        ) from error
    return found


# ── one row a run ────────────────────────────────────────────────────────────────────────────────────────


class RunRow(msgspec.Struct):
    """One run as a list of runs shows it."""

    run: str
    """Its id: the stream without `run/`."""
    flow: str = ""
    """Digest of the graph in force."""
    name: str = ""
    """Of the flow; empty where its `FlowDefined` was not read, as in a replay of one run's stream."""
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
    """As recorded; nobody opens them here."""


class RunsState(msgspec.Struct):
    """What `Runs` knows."""

    runs: dict[str, RunRow] = {}
    """By id, in the order of their start."""
    flows: dict[str, str] = {}
    """Digest of a graph → name of its flow."""


class Runs:
    """One row for each run of the log."""

    name = "runs"
    version = 1

    def initial(self) -> RunsState:
        """No runs."""
        return RunsState()

    def apply(self, state: RunsState, record: Record) -> RunsState:
        """Take one record in, by its kind."""
        event = record.event
        if (handler := _RUNS.get(type(event))) is not None:
            run = record.stream.removeprefix("run/")
            row = state.runs.get(run)
            if row is None:
                row = state.runs[run] = RunRow(run)
            handler(state, row, record, event)
        elif isinstance(event, FlowDefined):
            state.flows[record.stream.removeprefix("flow/")] = event.graph.name
        return state


def _run_started(state: RunsState, row: RunRow, record: Record, event: RunStarted) -> None:
    row.flow, row.name = event.flow, state.flows.get(event.flow, "")
    row.started_at = record.at
    row.labels, row.parameters = event.labels, event.parameters


def _run_claimed(state: RunsState, row: RunRow, _record: Record, event: RunClaimed) -> None:
    row.flow, row.name = event.flow, state.flows.get(event.flow, "")
    row.status = "running"


def _run_released(_state: RunsState, row: RunRow, _record: Record, _event: RunReleased) -> None:
    row.status = "released"


def _run_finished(_state: RunsState, row: RunRow, record: Record, event: RunFinished) -> None:
    row.status, row.outcome, row.finished_at = "finished", event.outcome, record.at


def _run_task(outcome: str) -> Callable[[RunsState, RunRow, Record, Any], None]:
    def count(_state: RunsState, row: RunRow, _record: Record, event: Any) -> None:
        if not isinstance(event, TaskFailed) or event.retry_at is None:
            row.tasks[outcome] = row.tasks.get(outcome, 0) + 1

    return count


_RUNS: Final[Mapping[type, Callable[[RunsState, RunRow, Record, Any], None]]] = {
    TaskSucceeded: _run_task("succeeded"),
    TaskReused: _run_task("reused"),
    TaskFailed: _run_task("failed"),
    TaskSkipped: _run_task("skipped"),
    TaskBlocked: _run_task("blocked"),
    RunStarted: _run_started,
    RunClaimed: _run_claimed,
    RunReleased: _run_released,
    RunFinished: _run_finished,
}


# ── when each task ran ───────────────────────────────────────────────────────────────────────────────────


class Attempt(msgspec.Struct, array_like=True):
    """One bar of a timeline; moments in microseconds UTC, by the clock of the run's owner."""

    attempt: int
    """0 for a task that ended without running."""
    started_us: int
    ended_us: int | None = None
    """None while it runs."""
    outcome: str = "running"
    """`running`, `succeeded`, `failed`, `retrying` (failed, another attempt follows), `abandoned`,
    `reused`, `skipped` or `blocked`."""


class TaskLine(msgspec.Struct, array_like=True):
    """All attempts of one task, oldest first."""

    task: Address
    attempts: list[Attempt] = []
    width: int | None = None
    """Number of its children, once a mapped task has them."""


class TimelineState(msgspec.Struct):
    """What `Timeline` knows of one run."""

    started_us: int | None = None
    ended_us: int | None = None
    tasks: dict[str, TaskLine] = {}
    """By address as text (`4`, or `4.0.2` for a child), in the order of their first event."""


class Timeline:
    """When each task of one run ran, waited and ended; to be folded over that run's stream."""

    name = "timeline"
    version = 1

    def initial(self) -> TimelineState:
        """No tasks."""
        return TimelineState()

    def apply(self, state: TimelineState, record: Record) -> TimelineState:
        """Take one record in, by its kind."""
        event = record.event
        if (handler := _TIMELINE.get(type(event))) is not None:
            address = event.task  # type: ignore[union-attr]  # every kind in the table has one
            text = ".".join(map(str, address))
            line = state.tasks.get(text)
            if line is None:
                line = state.tasks[text] = TaskLine(address)
            handler(line, record.at, event)
        elif isinstance(event, RunStarted):
            state.started_us = record.at
        elif isinstance(event, RunFinished):
            state.ended_us = record.at
        return state


def _line_started(line: TaskLine, at: int, event: TaskStarted) -> None:
    line.attempts.append(Attempt(event.attempt, at))


def _line_mapped(line: TaskLine, _at: int, event: TaskMapped) -> None:
    line.width = event.width


def _line_ended(outcome: str) -> Callable[[TaskLine, int, Any], None]:
    def end(line: TaskLine, at: int, event: Any) -> None:
        if not line.attempts or line.attempts[-1].ended_us is not None:
            line.attempts.append(Attempt(0, at))
        last = line.attempts[-1]
        last.ended_us = at
        last.outcome = "retrying" if getattr(event, "retry_at", None) is not None else outcome

    return end


_TIMELINE: Final[Mapping[type, Callable[[TaskLine, int, Any], None]]] = {
    TaskStarted: _line_started,
    TaskSucceeded: _line_ended("succeeded"),
    TaskFailed: _line_ended("failed"),
    TaskAbandoned: _line_ended("abandoned"),
    TaskReused: _line_ended("reused"),
    TaskSkipped: _line_ended("skipped"),
    TaskBlocked: _line_ended("blocked"),
    TaskMapped: _line_mapped,
}
