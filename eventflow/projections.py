"""Folding the log: what stood at any moment, and what stands now.

A projection is a class with a name, a version, a first state and a function that takes one record in.
That is all it takes to be replayed to any position, followed live, snapshotted and served, as long as
msgspec can encode its state, whose type it declares on `initial`.

    replay    records up to a position → Fold
    follow    the same, then a fold after each new record
    dump      Fold → bytes, a snapshot;   restore   bytes → Fold, or nothing
    begin     what the log has as a snapshot, or the fold of nothing

A snapshot is an opinion about the log: it may be deleted at any time, and one that other code has folded, or
with changed bytes, counts as deleted.  fold(all) = fold(snapshot + tail) at
every cut, for `apply` sees nothing but its state and the record.

Built in: `RunView`, `Timeline`, and the row projections `Runs` and `CacheHits`, which can also be kept row by
row (`eventflow.read_models`).  All find the handler of an event by its type, and pass by what they do not know.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar, get_type_hints

import msgspec

from eventflow.events import (
    Address,
    Record,
    RunFinished,
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
from eventflow.views.cache import CacheHits
from eventflow.views.run_list import Runs

__all__ = [
    "Attempt",
    "CacheHits",
    "Fold",
    "Projection",
    "Runs",
    "TaskLine",
    "Timeline",
    "TimelineState",
    "begin",
    "code_of_fold",
    "dump",
    "follow",
    "replay",
    "restore",
    "state_type",
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
        """To be raised when the state comes to mean something else, and the file that defines it did not change."""
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
        state = msgspec.msgpack.decode(body, type=state_type(self.projection))
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
    code: str
    position: int
    state: msgspec.Raw


def dump(fold: Fold[Any]) -> bytes:
    """The snapshot of a fold: its state, with the code that folded it, and its position."""
    state = msgspec.Raw(msgspec.msgpack.encode(fold.state))
    body = msgspec.msgpack.encode(_Snapshot(code_of_fold(fold.projection), fold.position, state))
    return checksum(body).to_bytes(4, "big") + body


def restore(data: bytes, projection: Projection[S]) -> Fold[S] | None:
    """The fold of a snapshot; None when the bytes are not one of this very projection."""
    if data[:4] != checksum(data[4:]).to_bytes(4, "big"):
        return None
    try:
        found = msgspec.msgpack.decode(data[4:], type=_Snapshot)
        if found.code != code_of_fold(projection):
            return None
        state = msgspec.msgpack.decode(found.state, type=state_type(projection))
    except msgspec.DecodeError:  # the state's type has changed, in another file
        return None
    return Fold(projection, state, found.position)


def code_of_fold(projection: Any) -> str:
    """A digest of the code by which a projection folds: of the file that defines it, and of its `modules`.

    A state that other code has folded is not used, whatever its version says. Code that has no file is known by its
    version only. Raises `ImportError` if one of `modules` does not exist.
    """
    own = getattr(type(projection).apply, "__globals__", vars(type(projection))).get("__name__")
    modules = (own or type(projection).__module__, *getattr(projection, "modules", ()))
    return _code_of(projection.name, projection.version, modules)


@cache
def _code_of(name: str, version: int, modules: tuple[str, ...]) -> str:
    found = blake2b(f"{name} {version}".encode("utf-8", "surrogatepass"), digest_size=16)
    for module in modules:
        file = getattr(sys.modules.get(module) or import_module(module), "__file__", None)
        with suppress(OSError):  # an interactive session, or a module in an archive
            found.update(Path(file).read_bytes() if file else b"")
    return found.hexdigest()


def state_type(projection: Any) -> Any:
    """What `initial` is annotated with: the runtime type alone would not say what a dict holds."""
    initial = type(projection).initial
    try:
        return get_type_hints(initial)["return"]
    except (KeyError, NameError) as error:
        raise TypeError(
            f"{initial.__qualname__} must be annotated with the type of the state, "
            f"and that type must stand in a module, so that the state can be copied and restored"
        ) from error


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
