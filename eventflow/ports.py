"""Every protocol between the pure core and the world: log, clock, executor, code.

The adapters are in `logs/`, `executors/` and `runs/`.  A log is correct if the conformance suite in
`eventflow.testing` passes on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from eventflow.events import Draft, Failure, Record
from eventflow.graph import Const, Subscript
from eventflow.result import Inline, ResultNotLoaded, ResultSerializer, Stored
from eventflow.serializers import Keyring

__all__ = [
    "Bindings",
    "Body",
    "BodyCancelled",
    "BodyLost",
    "BodyRaised",
    "BodyReturned",
    "BodySkipped",
    "Checkpoint",
    "Conflict",
    "Durability",
    "EventLog",
    "Executor",
    "Keyring",
    "LiveCall",
    "LogClosed",
    "LogForked",
    "LogOfAnotherLoop",
    "LogReplaced",
    "LogUnusable",
    "LogWriteFailed",
    "Outcome",
    "OutcomeUnknown",
    "RemoteCall",
    "RowsFound",
    "Ticket",
    "Value",
    "World",
    "Write",
    "inline_of",
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
    """An append was sent and its outcome is not known; read the stream again to learn it."""


class LogClosed(Exception):
    """The log was closed; open it again."""


class LogUnusable(Exception):
    """The file cannot be a log here: it is not ours, newer than us, read-only, or in the wrong place."""


class LogWriteFailed(Exception):
    """The file could not be written; nothing of the append is stored. Once the cause is gone, append again."""


class LogForked(LogUnusable):
    """The file was open when this process was forked, and cannot be used in the child."""


class LogReplaced(LogUnusable):
    """The files that are open are not those at their paths any more; the handle acknowledges nothing after that."""


class LogOfAnotherLoop(RuntimeError):
    """A log object is used by one event loop, and another one, perhaps of another thread, has called it."""


class Write(msgspec.Struct, frozen=True):
    """New records for one stream, to be stored right after version `expect`."""

    stream: str
    expect: int
    """The stream's version before the write; 0 for a stream that does not exist."""
    drafts: Sequence[Draft]


class Value(msgspec.Struct, frozen=True, gc=False):
    """The bytes of one result, kept by the log under their digest."""

    digest: bytes
    codec: str
    data: bytes


def inline_of(stored: Stored, value: Value | None) -> Inline:
    """Return a stored payload with its bytes, which `value` has; raise `ResultNotLoaded` for None: the log has none.

    ```python
    from eventflow.ports import Value, inline_of
    from eventflow.serializers import Serializer
    from eventflow.result import Stored

    made = Serializer().serialize("a value")
    stored = Stored(made.codec, made.digest, len(made.data), "log")
    assert inline_of(stored, Value(made.digest, made.codec, made.data)) == made
    ```
    """
    if value is None:
        raise ResultNotLoaded(f"the {stored.size} bytes under {stored.digest.hex()} are not in the log")
    return Inline(stored.codec, value.data, stored.digest)


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a read model is folded, and the code that folded it."""

    code: str
    position: int


class RowsFound(msgspec.Struct, frozen=True):
    """Rows of a read model, all of one moment."""

    checkpoint: Checkpoint | None
    """None for a read model that does not exist."""
    rows: Mapping[str, bytes]
    """By name, in the order of names."""


class Ticket(Protocol):
    """An append that was submitted, and may not be committed yet."""

    @property
    def error(self) -> BaseException | None:
        """Why it was not stored, as soon as that is known."""
        ...

    async def wait(self) -> Sequence[Record]:
        """Wait for the commit and return the records; raises as `append` does.

        Cancelled, it stops waiting; the append continues.
        """
        ...


class EventLog(Protocol):
    """The source of truth: streams of records, which are appended and never changed.

    Positions are dense from 1 over the log, versions dense from 1 in a stream; readers assert both,
    and each record's CRC-32 (`LogDamaged` names the record).

    ```python
    from eventflow import Conflict, MemoryLog
    from eventflow.codecs.digests import digest_of
    from eventflow.events import Draft, TaskMapped
    from eventflow.ports import Checkpoint, Value, Write

    log = MemoryLog()
    draft = Draft(1_800_000_000_000_000, TaskMapped(claim=2, task=(0,), width=3), "a key")
    value = Value(digest_of(b"*"), "msgpack", b"*")

    first = await log.append(Write("run/monday", 0, [draft]), values=[value])
    ticket = await log.submit(Write("run/monday", 1, [draft]))
    second = await ticket.wait()
    try:
        await log.append(Write("run/monday", 0, [draft, draft, draft]))
    except Conflict as conflict:
        print("expected", conflict.expected, "but the version is", conflict.actual)

    assert [record async for record in log.read(stream="run/monday")] == [*first, *second]
    assert await log.latest(["a key"]) == {"a key": second[0]}
    assert await log.head() == await log.head("run/monday") == 2
    assert await log.values([value.digest]) == {value.digest: value}
    assert log.peek(value.digest) == value

    await log.keep_snapshot("run/monday", b"any bytes")
    assert await log.snapshot("run/monday") == b"any bytes"
    await log.keep_rows("widths", None, Checkpoint("code", 2), {"monday": b"3"})
    assert (await log.rows("widths")).rows == {"monday": b"3"}

    async with log.hold("monday") as mine:
        print("mine:", mine, "live:", await log.is_live("monday"))
    async for record in log.follow(after=1):
        print("position", record.position)
        break
    await log.aclose()
    ```
    ```text
    expected 0 but the version is 2
    mine: True live: True
    position 2
    ```
    """

    @property
    def keyring(self) -> Keyring:
        """Keys with which pickled results of this log are signed."""
        ...

    async def append(
        self, *writes: Write, values: Iterable[Value] = (), durability: Durability = "full"
    ) -> Sequence[Record]:
        """Store all drafts of all writes, and all values, or nothing.

        Returns the records after the commit, at `durability`. A write is satisfied if its events and keys (not `at`)
        are already stored at those versions, also if the append has other writes that are new; so sending an append
        again succeeds again. Any other difference from `expect` raises `Conflict`. Writes to one stream may follow
        each other. `at` is raised to its stream's last `at` if it would be less. Raises `UnknownEncoding` if one of the
        values is there in a form that only a later version can open: new records would have no value.

        Cancellation: before the append is accepted, nothing is stored. After that the append completes, then
        `CancelledError` is raised; if its outcome does not become known in time, `OutcomeUnknown`.
        """
        ...

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Accept an append and return before it is committed, which will be at durability `normal`.

        Appends are stored in the order in which they were accepted. `after` is an earlier ticket of this handle: if
        that was not stored, this append is not stored either, for the same reason. So a chain of tickets is in the
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
        """Yield records in order, `after` < position ≤ `until` (both are positions, also with `stream`).

        Reads in pages; records appended meanwhile may or may not be yielded. No lock or transaction is held while
        the caller's code runs, so the caller may stop at any point.
        """
        ...

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """Return for each key the last record with that key, up to position `until`; other keys are left out."""
        ...

    async def head(self, stream: str | None = None) -> int:
        """Return the last position of the log, or the last version of a stream; 0 when there is none."""
        ...

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """Return the stored values of these digests; the others are left out."""
        ...

    def peek(self, digest: bytes) -> Value | None:
        """Return the value of one digest, synchronously, if its bytes are local; works after `aclose` too."""
        ...

    async def snapshot(self, name: str) -> bytes | None:
        """Return the snapshot of that name, if the log still has it."""
        ...

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Keep a snapshot, which can be made again from the events; it replaces an earlier one of that name.

        A log may forget it at any time.
        """
        ...

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """Return rows of a read model: those of these names, or all whose name begins with `prefix`."""
        ...

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """Move a read model's checkpoint and write rows with it, in one transaction; None removes a row.

        Returns false, with nothing changed, when the checkpoint is not at `was`. If `was` is None or of other code,
        all its rows are removed first. A log may forget a read model at any time.
        """
        ...

    def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield every record after a position, then new ones as they are appended, in order, each once.

        It never ends by itself; raises `LogClosed` when the log is closed.
        """
        ...

    def hold(self, run: str) -> AbstractAsyncContextManager[bool]:
        """Try to become the one live runner of a run, without waiting; yields whether it succeeded.

        A hold ends with its block or with its process. The end of a hold wakes the callers of `follow`.
        """
        ...

    async def is_live(self, run: str) -> bool:
        """Whether a process holds a run at this moment. It takes no hold, so it never prevents one."""
        ...

    async def aclose(self) -> None:
        """Complete the appends that were accepted, then refuse more. May be called twice."""
        ...


class World(Protocol):
    """Clock, ids, chance and threads of one runner: everything that differs in a simulation, apart from timers.

    Timers are those of anyio. In a simulation the event loop makes them run at the pace of this world.

    ```python
    from eventflow.testing import VirtualWorld, simulate

    async def main(world: VirtualWorld) -> None:
        executor = world.executor()
        print(world.now(), world.monotonic(), world.new_id()[:8], 0 <= world.random() < 1)
        executor.close()

    simulate(main)
    ```
    ```text
    1700000000000000 0 018bcfe5 True
    ```
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


class RemoteCall(msgspec.Struct, frozen=True):
    """A task by reference with its arguments as bytes, for an executor that is not in this process.

    The other process imports the task. So the declared type and the serializer of the result are those of its own
    copy of the code, and are not part of the call. Keys are not part of it either. The codec of a signed pickle names
    its key, and the other process must have that key already, from `EVENTFLOW_KEY` or from the key file of the log.
    """

    entry: str
    """`module:qualname` of the task's function, as the graph records it. The object there is the function or its task."""
    arguments: Mapping[str, Inline]
    """By name, in the formats of the default serializer, which open without a declared type."""
    run: str
    task: str
    attempt: int
    started_us: int
    """When the run started, microseconds UTC; with the three before it the body's `context`."""


LiveCall: TypeAlias = Callable[[], Any]
"""A body with its live arguments, for an executor in this process."""


class BodyReturned(msgspec.Struct, frozen=True):
    """The body returned a value."""

    value: Any
    """The live value; of a remote call an `Inline` payload that the task's serializer opens.

    The runner opens the payload when it arrives. If it does not open, or its digest is not that of its bytes, the
    attempt has failed. If it is signed with a key that is not at hand, the run stops and can be resumed.
    """


class BodyRaised(msgspec.Struct, frozen=True):
    """The body raised an exception."""

    error: BaseException | Failure
    """The live exception; of a remote call its description."""


class BodySkipped(msgspec.Struct, frozen=True):
    """The body raised `Skip`, or a subclass of it.

    The process that ran the body answers this for a remote call, because a description does not show its base classes.
    The exception of a live call may be answered with `BodyRaised`.
    """

    reason: str


class BodyLost(msgspec.Struct, frozen=True):
    """The process that ran the body died, so its outcome will never be known.

    The call begins again, and uses up no retry. Three such outcomes in a row end its task as `Crashed`.
    """


class BodyCancelled(msgspec.Struct, frozen=True):
    """The body was cancelled: before it began, or by an executor that can cancel bodies under way.

    It counts like `BodyLost`, unless the run is being interrupted.
    """


Outcome: TypeAlias = BodyReturned | BodyRaised | BodySkipped | BodyLost | BodyCancelled


class Executor(Protocol):
    """Runs bodies off the event loop: in threads, in other processes, on other machines.

    Every call that was submitted is answered once, with one outcome, until the executor is closed. An executor never
    repeats a call: a retry is decided by the runner and is an event. An answer that is no outcome fails the attempt.
    """

    @property
    def in_process(self) -> bool:
        """Whether it is given live calls; if not, it is given `RemoteCall`s and needs no memory of this process.

        If not, a flow with a plain function that another process cannot import is refused before anything runs.
        """
        ...

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
        """Give back `count` lanes that were claimed and are not needed; never more than are claimed at the moment."""
        ...

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Run `call`, then `done(outcome)` on the event loop; many outcomes may arrive at once.

        It begins at once if a lane was claimed for it, and otherwise waits for one. A live call runs in a copy of the
        submitter's context variables. Raises `RuntimeError` when the executor is closed. If it raises any exception,
        the attempt has failed, `done` is never called, and the lane is still claimed until it is given up.
        """
        ...

    def cancel_queued(self) -> None:
        """Answer the calls that have not begun with `BodyCancelled`, and give back all claims."""
        ...

    def close(self) -> None:
        """Give back everything that is not in use; calls under way are not answered any more. May be called twice."""
        ...


class Body(msgspec.Struct, frozen=True):
    """The live side of one `TaskDef`: code and serializers, which the graph, being data, cannot hold."""

    call: Callable[..., Any]
    is_async: bool
    serializer: ResultSerializer
    """Bound to the declared type of the result."""
    constant: Callable[[str, tuple[Subscript, ...], Const], Any]
    """Opens a constant of the graph: argument name, path to it in nested lists and dicts, the constant."""
    delay: Callable[[int], float] | None = None
    """`retry_delay` given as a callable: number of failures so far → seconds."""
    cache_key: Callable[..., Any] | None = None
    """Takes the task's arguments by name; its result counts in the key."""
    digests: Callable[[], tuple[bytes, bytes]] | None = None
    """Digests of the code and of the code of `cache_key`, as they are at the moment; None where they cannot change."""


Bindings: TypeAlias = Mapping[str, Body]
"""Task name → its live side."""
