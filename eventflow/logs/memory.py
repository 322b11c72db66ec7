"""The log in this process's memory: the reference implementation of `EventLog`.

Like every log, it stores encoded bytes with a checksum.  So each record that is read has passed `decode`, and a
test of this log also says something about the others.

    _Store       the records, indexes, values and holds; plain data, never waits
    MemoryLog    a handle on a store; two handles are like two processes that use one file

An append can be cancelled at one moment only, before anything is checked.  After it there is no `await`.  The store
checks all writes, encodes all drafts, and only then changes anything, in steps that cannot fail.  So an append is
stored as a whole or not at all, and a reader never sees half of it.

**Three cases of a write.**  If its stream ends at `expect`, the write is new.  If its drafts (without `at`) are already
stored right after `expect`, the write is satisfied, also when later records follow.  Every other case is a
`Conflict`, which ends the whole append.  Each write is judged alone, so an append may contain satisfied and new writes.
For example, a new run and its graph share an append, and another run may have stored the graph already.
"""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from operator import attrgetter
from secrets import token_bytes, token_hex
from typing import Final

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from eventflow.events import Draft, Record
from eventflow.ports import (
    Checkpoint,
    Conflict,
    Durability,
    Keyring,
    LogClosed,
    RowsFound,
    Ticket,
    Value,
    Write,
)
from eventflow.records import LogDamaged, checksum, decode, encode
from eventflow.serializers import has_digest

__all__ = ["MemoryLog"]

RECORDS_AT_ONCE: Final = 512
"""Number of records that are read before other tasks may run."""

_position: Final[Callable[[_Row], int]] = attrgetter("position")


class _Row(msgspec.Struct, gc=False):
    """One record as stored."""

    position: int
    stream: str
    version: int
    check: int
    body: bytes


class _Stream(msgspec.Struct):
    """The rows of one stream, oldest first, and the time of the last one."""

    rows: list[_Row]
    at: int


class _Store:
    """The data that all handles of one log share."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.streams: dict[str, _Stream] = {}
        self.keys: dict[str, list[_Row]] = {}
        self.values: dict[bytes, Value] = {}
        self.snapshots: dict[str, bytes] = {}
        self.tables: dict[str, tuple[Checkpoint | None, dict[str, bytes]]] = {}
        self.holds: set[str] = set()
        self.waiting: set[Callable[[], object]] = set()
        """Callbacks that wake followers after an append."""
        self.guard = threading.Lock()
        """Held during an append, since event loops in several threads may use the log."""
        self.keyring = Keyring({token_hex(4): token_bytes(32)})

    def append(self, writes: Sequence[Write], values: Iterable[Value]) -> list[Record]:
        """Store everything, or raise and change nothing; return a record for each draft, new or already stored."""
        with self.guard:
            batch = _Batch(self)
            for write in writes:
                batch.add(write)
            arrived = [(value.digest, value) for value in values]
            batch.commit()
            for digest, value in arrived:
                stored = self.values.get(digest)
                if stored is None or stored.data != value.data:  # damaged; these are the right bytes
                    self.values[digest] = value
        if batch.rows:
            self.nudge()
        return batch.records

    def already_stored(self, write: Write, version: int) -> list[Record]:
        """Return the stored records that equal the drafts of `write`; raise `Conflict` if there are none."""
        stream = self.streams.get(write.stream)
        first = write.expect
        if stream is None or not 0 <= first <= len(stream.rows) - len(write.drafts):
            raise Conflict(write.stream, first, version)
        records = []
        for draft, row in zip(write.drafts, stream.rows[first:], strict=False):
            record = _record_of(row)
            if encode(write.stream, row.version, Draft(record.at, draft.event, draft.key)) != row.body:
                raise Conflict(write.stream, first, version)
            records.append(record)
        return records

    def value(self, digest: bytes) -> Value | None:
        """Return the value of a digest, after comparing the digest with its bytes."""
        value = self.values.get(digest)
        if value is not None and not has_digest(value.data, digest):
            raise LogDamaged(f"the value {digest.hex()} does not have its bytes any more; run its task again")
        return value

    def nudge(self) -> None:
        """Wake the followers."""
        for wake in tuple(self.waiting):
            wake()


class _Batch:
    """An append while it is checked: its rows and records, not yet in the store."""

    def __init__(self, store: _Store) -> None:
        self.store = store
        self.records: list[Record] = []
        self.rows: list[_Row] = []
        self.keyed: list[tuple[str, _Row]] = []
        self.ends: dict[str, tuple[int, int]] = {}
        """Stream → its version and last time after the writes so far."""
        self.parts: list[tuple[str, int, int]] = []
        """Streams, each with the indices of its rows in `rows`."""

    def add(self, write: Write) -> None:
        """Add one write; raise `Conflict` or an error of encoding, with the store unchanged."""
        version, at = self._end_of(write.stream)
        if write.expect != version:
            self.records += self.store.already_stored(write, version)
            return
        start = len(self.rows)
        self.ends[write.stream] = self._stage(write, version, at)
        self.parts.append((write.stream, start, len(self.rows)))

    def _end_of(self, name: str) -> tuple[int, int]:
        """Return the version and the last time of a stream after the writes so far."""
        if name in self.ends:
            return self.ends[name]
        stream = self.store.streams.get(name)
        if stream is None:
            return 0, 0
        return len(stream.rows), stream.at

    def _stage(self, write: Write, version: int, at: int) -> tuple[int, int]:
        stream, rows, records = write.stream, self.rows, self.records
        position = len(self.store.rows) + len(rows)
        for draft in write.drafts:
            if draft.at >= at:
                at = draft.at
            else:
                draft = Draft(at, draft.event, draft.key)  # noqa: PLW2901 - the same fact, not before its past
            position += 1
            version += 1
            body = encode(stream, version, draft)
            row = _Row(position, stream, version, checksum(body, position), body)
            rows.append(row)
            records.append(Record(position, stream, version, at, draft.key, draft.event))
            if draft.key is not None:
                self.keyed.append((draft.key, row))
        return version, at

    def commit(self) -> None:
        """Move everything into the store; nothing here can fail."""
        store = self.store
        store.rows += self.rows
        for name, start, stop in self.parts:
            if start < stop:
                stream = store.streams.setdefault(name, _Stream([], 0))
                stream.rows += self.rows[start:stop]
                _, stream.at = self.ends[name]
        for key, row in self.keyed:
            store.keys.setdefault(key, []).append(row)


def _record_of(row: _Row) -> Record:
    """Return the record of a row, after checking its bytes."""
    if checksum(row.body, row.position) != row.check:
        raise LogDamaged(
            f"record {row.position} (version {row.version} of {row.stream!r}) fails its checksum"
        )
    record = decode(row.position, row.stream, row.body)
    if record.version != row.version:
        raise LogDamaged(
            f"record {row.position} of {row.stream!r} is stored as version {row.version} and says that it is version {record.version}"
        )
    return record


class Settled:
    """The ticket of an append whose outcome is known."""

    def __init__(self) -> None:
        self.records: Sequence[Record] = ()
        self.error: BaseException | None = None

    async def wait(self) -> Sequence[Record]:
        """Return the records, or raise."""
        if self.error is not None:
            raise self.error
        return self.records


class MemoryLog:
    """An `EventLog` in memory; its records end with the process.

    All durability levels are the same here. Use it in one event loop at a time.

    ```python
    from eventflow import MemoryLog, flow, task

    @task
    async def answer() -> int:
        return 42

    @flow
    def question() -> int:
        return answer()

    log = MemoryLog()
    await question.options(log=log, run_id="monday").run()
    print(await log.head(), await log.head("run/monday"))
    await log.aclose()
    ```
    ```text
    6 5
    ```
    """

    def __init__(self) -> None:
        self._store = _Store()
        self._closed = False

    def reopen(self) -> MemoryLog:
        """Return a second handle on the same records, values and holds, as another process would have.

        It is closed separately, and also works after this one was closed.

        ```python
        from eventflow import MemoryLog

        log = MemoryLog()
        other = log.reopen()
        await log.aclose()
        print(await other.head())
        ```
        ```text
        0
        ```
        """
        other = MemoryLog()
        other._store = self._store
        return other

    @property
    def keyring(self) -> Keyring:
        """One random key per log, which ends with the log."""
        return self._store.keyring

    async def append(
        self,
        *writes: Write,
        values: Iterable[Value] = (),
        durability: Durability = "full",  # noqa: ARG002 - see the class
    ) -> Sequence[Record]:
        """Store all drafts of all writes, and all values, or nothing; see `EventLog.append`."""
        await checkpoint()  # the only moment at which it can be cancelled
        self._check_open()
        return self._store.append(writes, values)

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Append at once; see `EventLog.submit`."""
        ticket = Settled()
        if after is not None and after.error is not None:
            ticket.error = after.error
            return ticket
        try:
            ticket.records = await self.append(*writes, values=values)
        except Conflict as error:
            ticket.error = error
        return ticket

    async def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Yield records in order, up to the head at the start of reading; see `EventLog.read`."""
        self._check_open()
        rows = self._rows(stream)
        whole = stream is None
        low, high = bisect_right(rows, after, key=_position), len(rows)
        if until is not None:
            high = bisect_right(rows, until, key=_position)
        indices = range(low, high)
        if backwards:
            indices = indices[::-1]
        for start in range(0, len(indices), RECORDS_AT_ONCE):
            await checkpoint()
            self._check_open()
            for index in indices[start : start + RECORDS_AT_ONCE]:
                row = rows[index]
                number = row.position if whole else row.version
                if number != index + 1:
                    raise LogDamaged(_gap(row, index + 1, whole=whole))
                yield _record_of(row)

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """Return the last record of each key, up to `until`."""
        await checkpoint()
        self._check_open()
        latest = {}
        for key in keys:
            rows = self._store.keys.get(key, ())
            count = len(rows)
            if until is not None:
                count = bisect_right(rows, until, key=_position)
            if count:
                latest[key] = _record_of(rows[count - 1])
        return latest

    async def head(self, stream: str | None = None) -> int:
        """Return the last position of the log, or the last version of a stream."""
        await checkpoint()
        self._check_open()
        return len(self._rows(stream))

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """Return the stored values of digests; raise `LogDamaged` if bytes have changed."""
        await checkpoint()
        self._check_open()
        values = {}
        for digest in digests:
            value = self._store.value(digest)
            if value is not None:
                values[digest] = value
        return values

    def peek(self, digest: bytes) -> Value | None:
        """Return one value without waiting; works after `aclose`, too."""
        return self._store.value(digest)

    async def snapshot(self, name: str) -> bytes | None:
        """Return the snapshot with a name, or None."""
        self._check_open()
        await checkpoint()
        return self._store.snapshots.get(name)

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Store a snapshot, and replace the one with that name."""
        self._check_open()
        await checkpoint()
        self._store.snapshots[name] = data

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """Return rows of a read model; see `EventLog.rows`."""
        self._check_open()
        await checkpoint()
        checkpoint_of_rows, rows = self._store.tables.get(table, (None, {}))
        if names is None:
            names = [name for name in rows if name.startswith(prefix)]
        return RowsFound(checkpoint_of_rows, {name: rows[name] for name in sorted(names) if name in rows})

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """Write rows of a read model together with its checkpoint; see `EventLog.keep_rows`."""
        self._check_open()
        await checkpoint()
        checkpoint_of_rows, stored = self._store.tables.get(table, (None, {}))
        if checkpoint_of_rows != was:
            return False
        if was is None or was.code != now.code:
            stored = {}
        for name, data in rows.items():
            if data is None:
                stored.pop(name, None)
            else:
                stored[name] = data
        self._store.tables[table] = (now, stored)
        return True

    async def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield every record after a position, then each new one; woken by appends, never polling."""
        while True:
            async for record in self.read(after=after):
                yield record
                after = record.position
            if after < len(self._store.rows):
                continue
            news = anyio.Event()
            wake = partial(_wake, asyncio.get_running_loop(), news)
            self._store.waiting.add(wake)
            try:
                # Another thread may have appended before `wake` was registered.
                if after >= len(self._store.rows) and not self._closed:
                    await news.wait()
            finally:
                self._store.waiting.discard(wake)

    @asynccontextmanager
    async def hold(self, run: str) -> AsyncIterator[bool]:
        """Try to become the only live runner of a run, among all handles on this log."""
        self._check_open()
        holds = self._store.holds
        with self._store.guard:
            mine = run not in holds
            if mine:
                holds.add(run)
        if not mine:
            yield False
            return
        try:
            yield True
        finally:
            holds.discard(run)
            self._store.nudge()

    async def is_live(self, run: str) -> bool:
        """Return whether any handle on this log holds a run."""
        self._check_open()
        return run in self._store.holds

    async def aclose(self) -> None:
        """Close this handle: after that, every call except `peek` raises `LogClosed`."""
        self._closed = True
        self._store.nudge()

    def _rows(self, stream: str | None) -> list[_Row]:
        if stream is None:
            return self._store.rows
        if stream not in self._store.streams:
            return []
        return self._store.streams[stream].rows

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("this memory log was closed; `reopen()` gives another handle on it")


def _wake(loop: asyncio.AbstractEventLoop, news: anyio.Event) -> None:
    """Set an event of another loop, from any thread."""
    try:
        is_here = asyncio.get_running_loop() is loop
    except RuntimeError:
        is_here = False
    if is_here:
        news.set()
    else:
        with suppress(RuntimeError):  # the loop is closed, with all its waiting tasks
            loop.call_soon_threadsafe(news.set)


def _gap(row: _Row, expected: int, *, whole: bool) -> str:
    if whole:
        return f"position {expected} is missing: position {row.position} ({row.stream!r}) is in its place"
    return f"version {expected} of {row.stream!r} is missing: version {row.version} is in its place"
