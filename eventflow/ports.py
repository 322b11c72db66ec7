"""Every protocol between the pure core and the world: log, clock, executor, code.

What stands here says what; `logs/`, `executors/` and `runner/` do it.  An adapter is right when the
conformance suite in `eventflow.testing` passes on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from eventflow.events import Draft, Record
from eventflow.graph import Const, Subscript
from eventflow.result import ResultSerializer
from eventflow.serializers import Keyring

__all__ = [
    "Bindings",
    "Body",
    "BodyCancelled",
    "BodyLost",
    "BodyRaised",
    "BodyReturned",
    "Checkpoint",
    "Conflict",
    "Durability",
    "EventLog",
    "Executor",
    "Keyring",
    "LogClosed",
    "LogForked",
    "LogOfAnotherLoop",
    "LogReplaced",
    "LogUnusable",
    "LogWriteFailed",
    "Outcome",
    "OutcomeUnknown",
    "RowsFound",
    "Ticket",
    "Value",
    "World",
    "Write",
]

Durability: TypeAlias = Literal["full", "normal", "pipelined"]
"""When a value may be handed on: synced to disk, committed, or at once (the run's end waits)."""


class Conflict(Exception):
    """A write expected another version than the stream has; nothing of the append was stored."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream!r} is at version {actual}, not {expected}")
        self.stream = stream
        self.expected = expected
        self.actual = actual


class OutcomeUnknown(Exception):
    """An append was sent and its end could not be learnt; read the stream again to know."""


class LogClosed(Exception):
    """The log was closed; open it again."""


class LogUnusable(Exception):
    """The file cannot be a log here: it is not ours, newer than us, read-only, or in the wrong place."""


class LogWriteFailed(Exception):
    """The file could not be written; nothing of the append stands. Once the cause is gone, append again."""


class LogForked(LogUnusable):
    """The file was open when this process was forked, and cannot be used in the child."""


class LogReplaced(LogUnusable):
    """The files that are open are not those at their paths any more; the handle acknowledges nothing after that."""


class LogOfAnotherLoop(RuntimeError):
    """A log object is used by one event loop, and another one, perhaps of another thread, has called it."""


class Write(msgspec.Struct, frozen=True):
    """New records for one stream, to stand right after version `expect`."""

    stream: str
    expect: int
    """The stream's version before the write; 0 for a stream that does not exist."""
    drafts: Sequence[Draft]


class Value(msgspec.Struct, frozen=True, gc=False):
    """The bytes of one result, kept by the log under their digest."""

    digest: bytes
    codec: str
    data: bytes


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a table is folded, and by what code."""

    code: str
    position: int


class RowsFound(msgspec.Struct, frozen=True):
    """Rows of a table, all of one moment."""

    checkpoint: Checkpoint | None
    """None for a table that is not there."""
    rows: Mapping[str, bytes]
    """By name, in the order of names."""


class Ticket(Protocol):
    """An append that was submitted, and may not be committed yet."""

    @property
    def error(self) -> BaseException | None:
        """Why it was not stored, as soon as that is known."""
        ...

    async def wait(self) -> Sequence[Record]:
        """Wait for the commit and give the records; raises what `append` would have raised.

        Cancelled, it stops waiting; the append goes on.
        """
        ...


class EventLog(Protocol):
    """The only place where anything becomes true: streams of records, appended, never changed.

    Positions are dense from 1 over the log, versions dense from 1 in a stream; readers assert both,
    and each record's CRC-32 (`LogDamaged` names the record).
    """

    @property
    def keyring(self) -> Keyring:
        """Keys with which pickled results of this log are signed."""
        ...

    async def append(
        self, *writes: Write, values: Iterable[Value] = (), durability: Durability = "full"
    ) -> Sequence[Record]:
        """Store all drafts of all writes, and all values, or nothing.

        Returns the records after the commit, at `durability`. A write whose events and keys (not `at`)
        already stand at those versions is satisfied, alone or beside new ones, so sending again succeeds
        again; any other difference from `expect` raises `Conflict`. Writes to one stream may follow each
        other. `at` is raised to its stream's last `at` where it would be less. A cancelled caller learns the outcome first: cancelled before the append was
        taken up nothing is stored, after that it is stored, and only then the cancellation goes on.
        """
        ...

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Take an append up and go on before it is committed, which will be at durability `normal`.

        Appends are stored in the order in which they were taken up. One whose `after`, an earlier ticket of
        this handle, was not stored is not stored either, for the same reason: so a chain of tickets is in the
        log up to some link, without a hole. Waits only while too much is under way already.
        """
        ...

    def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Give records in order, `after` < position ≤ `until` (both are positions, also with `stream`).

        Reads in pages; records appended while it is read may or may not come. Nothing is held while
        the caller's code runs, so it may be left at any point.
        """
        ...

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """For each key that any record bears, the last such record up to position `until`."""
        ...

    async def head(self, stream: str | None = None) -> int:
        """The last position of the log, or the last version of a stream; 0 when there is none."""
        ...

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """The values of those digests that are there; what is missing is left out."""
        ...

    def peek(self, digest: bytes) -> Value | None:
        """Like `values` for one digest, synchronously, from local bytes; works after `aclose` too."""
        ...

    async def snapshot(self, name: str) -> bytes | None:
        """What was kept under a name, if it still is."""
        ...

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Keep something that can be made again from the events, in place of what had that name.

        A log may forget it at any time.
        """
        ...

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """Rows that were kept: of those names, or all whose name begins with `prefix`."""
        ...

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """Move a table's checkpoint and write rows with it, in one transaction; None removes a row.

        Gives false, with nothing changed, when the checkpoint is not at `was`. Where `was` is None or of other code,
        all its rows are removed first. A log may forget a table at any time.
        """
        ...

    def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Give every record after a position, then whatever comes, in order, once; never ends by itself.

        Ends with `LogClosed` when the log is closed.
        """
        ...

    def hold(self, run: str) -> AbstractAsyncContextManager[bool]:
        """Try to be the one live runner of a run; gives whether it worked, without waiting.

        A hold ends with its block or with its process. Ending one nudges those who `follow`.
        """
        ...

    async def is_live(self, run: str) -> bool:
        """Whether anybody holds a run at this moment; it only asks, so it is in nobody's way."""
        ...

    async def aclose(self) -> None:
        """Finish what was taken up, then refuse more. May be called twice."""
        ...


class World(Protocol):
    """Clock, timers, ids, chance and threads of one runner: everything that differs in a simulation.

    Timers are anyio's: `anyio.current_time()` runs at the pace of this world.
    """

    def now(self) -> int:
        """Microseconds UTC."""
        ...

    def monotonic(self) -> int:
        """Microseconds of a clock that never jumps, for durations."""
        ...

    def new_id(self) -> str:
        """A fresh id, ordered by time of making as text."""
        ...

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def executor(self) -> Executor:
        """Make the executor of one run's plain functions, for the running event loop; the caller closes it."""
        ...


class BodyReturned(msgspec.Struct, frozen=True):
    """The body returned a value."""

    value: Any


class BodyRaised(msgspec.Struct, frozen=True):
    """The body raised an exception."""

    error: BaseException


class BodyLost(msgspec.Struct, frozen=True):
    """The process that ran the body died, so its outcome will never be known."""


class BodyCancelled(msgspec.Struct, frozen=True):
    """The body was cancelled: before it began, or by an executor that can cancel bodies under way."""


Outcome: TypeAlias = BodyReturned | BodyRaised | BodyLost | BodyCancelled


class Executor(Protocol):
    """Runs bodies off the event loop: in threads of this process.

    Every call that was submitted is answered once, with one outcome, until the executor is closed. An executor never
    repeats a call: a retry is decided by the runner and is an event.
    """

    @property
    def unfinished(self) -> int:
        """Calls that were submitted and are not answered yet."""
        ...

    def claim(self, wanted: int, on_free: Callable[[], object]) -> int:
        """Take up to `wanted` free lanes for calls that will be submitted; returns how many it took.

        If there are fewer, `on_free` is called on the event loop when it is worth asking again.
        """
        ...

    def give_up(self, count: int) -> None:
        """Give back lanes that were claimed and are not needed."""
        ...

    def submit(self, call: Callable[[], Any], done: Callable[[Outcome], None]) -> None:
        """Run `call`, then `done(outcome)` on the event loop; many outcomes may arrive at once.

        It begins at once if a lane was claimed for it, and otherwise waits for one. `call` runs in a copy of the
        submitter's context variables. Raises `RuntimeError` when the executor is closed.
        """
        ...

    def cancel_queued(self) -> None:
        """Answer the calls that have not begun with `BodyCancelled`, and give back all claims."""
        ...

    def close(self) -> None:
        """Give back everything that is not in use; calls under way are not answered any more. May be called twice."""
        ...


class Body(msgspec.Struct, frozen=True):
    """The live side of one `TaskDef`: what the graph, being data, cannot hold."""

    call: Callable[..., Any]
    is_async: bool
    serializer: ResultSerializer
    """Bound to the declared type of what the body returns."""
    constant: Callable[[str, tuple[Subscript, ...], Const], Any]
    """Opens a constant of the graph: argument name, path to it in nested lists and dicts, the constant."""
    delay: Callable[[int], float] | None = None
    """`retry_delay` given as a callable: number of failures so far → seconds."""
    cache_key: Callable[..., Any] | None = None
    """Takes the task's arguments by name; what it gives counts in the key."""
    digests: Callable[[], tuple[bytes, bytes]] | None = None
    """Digests of the code and of the code of `cache_key`, as they are at the moment; None where they cannot change."""


Bindings: TypeAlias = Mapping[str, Body]
"""Task name → its live side."""
