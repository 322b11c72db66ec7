"""The handle: `SQLiteLog`, an `EventLog` in one SQLite file that several processes may share.

    files         what may be a log file, how it is born, and the settings of its connections
    locks         what processes agree on: who appends, which runs are alive
    places        whether the open files are still those at their paths
    process       what is open in this process, and what becomes of that in a forked child
    connection    one hop to aiosqlite's thread
    opening       what a handle has while it is open
    committing    many appends, one commit      (event loop)
    transaction   what is stored                (writer's thread)
    packs         large values, in files beside the database
    reading       pages, and what they must hold
    looking       reading without leaving a trace
    keys          signing keys

A handle has one connection that writes, opened first, and a few that read, opened when needed.  It belongs to the
event loop that uses it, until that is closed, and does not outlive a fork.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled

from eventflow.events import Record
from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.checksums import sum_of
from eventflow.logs.sqlite.connection import Connection, open_here
from eventflow.logs.sqlite.errors import explain
from eventflow.logs.sqlite.files import FORMAT, prepare_reader
from eventflow.logs.sqlite.group_commit import Submitted
from eventflow.logs.sqlite.locks import is_live
from eventflow.logs.sqlite.packs import PackReader
from eventflow.logs.sqlite.patience import outlast
from eventflow.logs.sqlite.process import inside
from eventflow.logs.sqlite.read_only import Looker
from eventflow.logs.sqlite.reads import (
    Page,
    find_head,
    find_info,
    find_latest,
    find_snapshot,
    find_span,
    find_values,
)
from eventflow.logs.sqlite.schema import BLOB_MAX
from eventflow.logs.sqlite.signing_key import LogKeyring, LogKeys
from eventflow.logs.sqlite.tables import find_rows_of, write_rows
from eventflow.logs.sqlite.transaction import Append, Ledger, stage
from eventflow.logs.sqlite.writable import POLL_S, Opened, open_for_writing
from eventflow.ports import (
    Checkpoint,
    Durability,
    Keyring,
    LogClosed,
    LogForked,
    LogOfAnotherLoop,
    LogUnusable,
    RowsFound,
    Ticket,
    Value,
    Write,
)

__all__ = ["LogInfo", "SQLiteLog"]

T = TypeVar("T")

AT_ONCE_MAX: Final = 8
"""Keys that are looked up without a thread."""
_NAMES_MAX: Final = 10_000
_DRAFT_BYTES: Final = 64
"""What a row costs beside its body, roughly: for the bounds of a batch."""


class LogInfo(msgspec.Struct, frozen=True):
    """What a log says of itself."""

    id: str
    """Made with the file; copies have the same."""
    format: int
    created: int
    """Microseconds UTC."""
    keys: tuple[str, ...]
    """Ids of the keys that have signed, or may have."""


class SQLiteLog:
    """An `EventLog` in one SQLite file, which is made if it is not there.

    Opened by `async with`, by `await SQLiteLog.open(path)`, or at its first use; raises `LogUnusable` or
    `LogDamaged` then. Any number of handles and processes may share the file. Beside it lie `<file>-wal`
    and `<file>-shm` (SQLite's), `<file>.lock`, and `<file>.key` (keep that secret, and keep it). Values
    larger than 64 KiB are in the folder `<file>.packs`. To copy a log that nobody uses is to copy `<file>`,
    `<file>.packs` and `<file>.key`; of one in use, the database first (`sqlite3 <file> .backup`).

    With `read_only` nothing is written, locked or made, and the file and its folder may be read-only; what
    would write raises `LogUnusable`.

    A relative path is that of the moment. A handle is used by one event loop: another one that calls it before the
    first is closed gets `LogOfAnotherLoop`, and a process that was forked meanwhile `LogForked`. After a
    `LogReplaced`, which says that the files are not at their paths any more, it stores nothing.

    `pipelined` appends are those of `normal`; `submit` does not wait for them.
    """

    __module__ = "eventflow"  # as `eventflow._pin_names` does for names that are imported at once

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path).absolute()
        self._read_only = read_only
        self._open: Opened | None = None
        self._opening = anyio.Lock()
        self._closed = False
        self._process = process.mark()
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = _no_loop
        """A weak reference to the one that uses it."""
        self._names: dict[int, str] = {}
        self._ledger = Ledger()
        self._keyring: Keyring | None = None
        self._peeking = threading.Lock()
        self._peeker: Connection | None = None
        self._looker = Looker(self.path)
        self._peeked = PackReader(self.path)

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Self:
        """Open a log; to be closed by `aclose`."""
        log = cls(path, read_only=read_only)
        await log._begin()
        return log

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- opening and closing ----------------------------------------------------------------------

    async def _begin(self) -> None:
        """Have it say at once that it cannot be used."""
        if self._read_only:
            await self.head()
        else:
            await self._ready()

    @property
    def is_lost(self) -> bool:
        """Whether its files were found not to be at their paths any more, so that it stores nothing."""
        return self._open is not None and self._open.lost is not None

    def _check_here(self) -> None:
        """Raise unless it may be used by this process and this event loop."""
        self._check_process()
        loop = asyncio.get_running_loop()
        mine = self._loop()
        if loop is mine:
            return
        if mine is not None and not mine.is_closed():
            raise LogOfAnotherLoop(
                f"the log {self.path} is used by another event loop, perhaps of another thread: give this one a log "
                "object of its own, or the log's URL; any number of them may share the file"
            )
        self._loop = weakref.ref(loop)

    def _check_process(self) -> None:
        if self._process is not process.mark():
            if self._open is not None or self._peeker is not None:
                raise LogForked(
                    f"the log {self.path} was opened before this process was forked, and SQLite does not survive "
                    "that: start the process by `spawn` or `forkserver`, and open the log there"
                )
            self._process = process.mark()
            self._peeking = threading.Lock()  # a thread of the parent may have held it
            self._looker, self._peeked = Looker(self.path), PackReader(self.path)

    def _at_hand(self) -> Opened | None:
        """What `_ready` gives where nothing has changed since it gave that, without an `await`."""
        if self._process is process.mark() and self._loop() is asyncio.get_running_loop():
            return self._open
        return None

    async def _ready(self) -> Opened:
        """Open it for writing, if it is not; raises what keeps it from being used."""
        self._check_here()
        if self._closed:
            raise LogClosed(f"the log {self.path} was closed; open it again")
        if self._read_only:
            raise LogUnusable(
                f"the log {self.path} was opened to be looked at: open it without read_only=True"
            )
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    self._open = await open_for_writing(self.path, self._ledger)
        return self._open

    async def aclose(self) -> None:
        """Finish what was taken up and close; later calls, but `peek`, raise `LogClosed`.

        Threads that are busy are waited for five seconds; what they hold stays open then, until the process ends.
        Cancelled, it goes on for as long, and raises that afterwards.
        """
        if self._process is not process.mark():  # what is open is the parent's to close
            self._closed = True
            return
        self._check_here()
        self._closed = True
        closing = asyncio.ensure_future(self._close())  # which no cancellation of the caller reaches
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            try:
                await outlast(closing)
            finally:
                if closing.cancelled():  # with every task of a loop that ends, and perhaps before it began
                    await outlast(asyncio.ensure_future(self._close()))
            raise

    async def _close(self) -> None:
        async with self._opening:
            opened, self._open = self._open, None
            with self._peeking:
                self._stop_peeking()
            if opened is None:
                return
            opened.locks.nudge()
            try:
                await opened.commits.close()
            finally:
                await opened.close()

    # -- appending --------------------------------------------------------------------------------

    async def append(
        self, *writes: Write, values: Iterable[Value] = (), durability: Durability = "full"
    ) -> Sequence[Record]:
        """Store all drafts of all writes, and all values, or nothing; see `EventLog.append`.

        Raises `LogWriteFailed` when the disk is full or fails: nothing of the append stands then, what
        was acknowledged does, and the log can be used again once the cause is gone. A cancelled caller
        waits five seconds for the outcome, then gets `OutcomeUnknown`.
        """
        await checkpoint_if_cancelled()
        opened = self._at_hand() or await self._ready()
        return await opened.commits.append(_stage(writes, values, durability))

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Take an append up and go on; see `EventLog.submit`."""
        opened = self._at_hand() or await self._ready()
        append = _stage(writes, values, "pipelined")
        if after is not None:
            assert isinstance(after, Submitted), "a ticket of this log"
            append.after = after.append
        return await opened.commits.submit(append)

    @property
    def keyring(self) -> Keyring:
        """The log's signing keys, which are looked for when one is needed; that raises `KeyUnavailable`."""
        if self._keyring is None:
            self._keyring = LogKeyring(LogKeys(self.path, self._known_keys, self._ledger.note_keys))
        return self._keyring

    def _known_keys(self) -> Sequence[str]:
        return self._peek_at(find_keys) or ()

    # -- reading ----------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if not self._read_only:
            opened = await self._ready()
            return await opened.readers.ask(question)
        self._check_here()
        if self._closed:
            raise LogClosed(f"the log {self.path} was closed; open it again")
        return await anyio.to_thread.run_sync(self._look, question)

    def _look(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Have a function answered by a connection that leaves no trace."""
        with self._peeking:
            try:
                return self._looker.ask(question)
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
            finally:
                if self._closed or not self._read_only:
                    self._looker.close()

    async def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Give records in order; see `EventLog.read`. Ends with what stood when it began."""
        if len(self._names) > _NAMES_MAX:
            self._names = {}
        span = await self._ask(lambda connection: find_span(connection, stream, after, until))
        if span is None:
            return
        while not span.is_empty:
            page = await self._ask(partial(Page.find, span=span, names=self._names, backwards=backwards))
            for record in page.records():
                yield record
            span = page.rest

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """For each key, its last record up to `until`; a few keys are looked up at once, in the event loop.

        To hand a question to a thread and back costs several times what a look-up in an index does.
        """
        if self._read_only or len(keys) > AT_ONCE_MAX:
            return await self._ask(lambda connection: find_latest(connection, keys, until))
        await self._ready()
        return self._peek_at(lambda connection: find_latest(connection, keys, until)) or {}

    async def head(self, stream: str | None = None) -> int:
        """The last position of the log, or the last version of a stream."""
        return await self._ask(lambda connection: find_head(connection, stream))

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """The values that are there; one whose bytes are lost or have changed raises `LogDamaged`."""
        wanted = tuple(digests)
        packs = self._peeked if self._read_only else (await self._ready()).packs
        return await self._ask(lambda connection: find_values(connection, packs, wanted))

    async def info(self) -> LogInfo:
        """What the log says of itself."""
        rows = await self._ask(find_info)
        return LogInfo(rows["id"], FORMAT, int(rows["created"]), keys_in(rows))

    async def snapshot(self, name: str) -> bytes | None:
        """What was kept under a name, if it still is."""
        return await self._ask(lambda connection: find_snapshot(connection, name))

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Keep it, in place of what had that name. Raises `LogWriteFailed`, as `append` does."""
        if len(data) + len(name) + 64 > BLOB_MAX:
            return  # it may be forgotten at any time
        row = (name, data, sum_of(name, data))

        def write(connection: Connection) -> None:
            connection.execute("REPLACE INTO snapshot (name, data, crc) VALUES (?, ?, ?)", row)

        await self._write_aside(write, len(data))

    async def _write_aside(self, write: Callable[[Connection], object], size_bytes: int) -> None:
        """Write something that is no event, in a transaction of those that are."""
        opened = await self._ready()
        await opened.commits.append(Append((), (), full=False, rows=1, size_bytes=size_bytes, aside=write))

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """Rows of a table; see `EventLog.rows`."""
        return await self._ask(lambda connection: find_rows_of(connection, table, names, prefix))

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """Move a table's checkpoint and write rows with it; see `EventLog.keep_rows`."""
        moved = False

        def write(connection: Connection) -> None:
            nonlocal moved
            moved = write_rows(connection, table, was, now, rows)

        await self._write_aside(write, sum(len(data or b"") for data in rows.values()))
        return moved

    def peek(self, digest: bytes) -> Value | None:
        """One value, at once and from any thread; works after `aclose` too."""
        return self._peek_at(lambda connection: find_values(connection, self._peeked, (digest,)).get(digest))

    def _peek_at(self, question: Callable[[sqlite3.Connection], T]) -> T | None:
        """Have a function answered here and now; None where there is no file."""
        self._check_process()
        if self._open is None:
            try:
                return self._look(question) if self.path.exists() else None
            finally:
                self._peeked.close()
        with self._peeking:
            try:
                if self._peeker is None:
                    self._peeker = open_here(self.path, "ro")
                    self._open.check_reader(self._peeker)
                    prepare_reader(self._peeker, self.path)
                with inside:
                    return question(self._peeker)
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
            finally:
                if self._closed:
                    self._stop_peeking()

    def _stop_peeking(self) -> None:
        """To be called by who has `_peeking`."""
        if self._peeker is not None:
            self._peeker.close()
            self._peeker = None
        self._looker.close()
        self._peeked.close()

    async def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Give every record after a position, then whatever comes; see `EventLog.follow`."""
        while True:
            async for record in self.read(after=after):
                yield record
                after = record.position
            await self._wait_for_more(after)

    async def _wait_for_more(self, after: int) -> None:
        """Wait for a record after a position: nudged by this process, polling for the others."""
        if self._read_only:
            while await self.head() <= after:  # noqa: ASYNC110 - of other processes nothing else tells
                await anyio.sleep(POLL_S)
            return
        opened = await self._ready()
        news = asyncio.Event()
        loop = asyncio.get_running_loop()
        with opened.locks.listening(lambda: loop.call_soon_threadsafe(news.set)):
            while await self.head() <= after:
                with anyio.move_on_after(POLL_S):
                    await news.wait()
                news.clear()

    # -- being alive ------------------------------------------------------------------------------

    @asynccontextmanager
    async def hold(self, run: str) -> AsyncIterator[bool]:
        """Try to be the one live runner of a run, among all processes; freed by the kernel at death."""
        opened = await self._ready()
        with opened.locks.hold(run) as mine:
            yield mine
        if mine and self._open is opened:
            opened.check_places()  # the files may have gone during the last commit

    async def is_live(self, run: str) -> bool:
        """Whether any process holds a run; only asks, and takes no lock."""
        self._check_here()
        if self._closed:
            raise LogClosed(f"the log {self.path} was closed; open it again")
        return is_live(self.path, run)


def _no_loop() -> None:
    """Stand for the reference to a loop where there is none."""


def keys_in(rows: Iterable[str]) -> tuple[str, ...]:
    """The ids of signing keys among the names in `info`."""
    return tuple(name.removeprefix("key:") for name in rows if name.startswith("key:"))


def find_keys(connection: sqlite3.Connection) -> tuple[str, ...]:
    """The ids of the keys that have signed, or may have."""
    return keys_in(find_info(connection))


def _stage(writes: Iterable[Write], values: Iterable[Value], durability: Durability) -> Append:
    """An append as the writer's thread takes it, encoded; raises what encoding raises."""
    staged = [stage(write) for write in writes]
    kept = list(values)
    rows = size = 0
    for write in staged:
        rows += len(write.bodies)
        for body in write.bodies:
            size += len(body)
    for value in kept:
        size += len(value.data)
    size += _DRAFT_BYTES * (rows + len(kept))
    return Append(staged, kept, durability == "full", rows, size)
