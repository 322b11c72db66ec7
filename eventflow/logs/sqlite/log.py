"""The handle: `SQLiteLog`, an `EventLog` in one SQLite file that several processes may share.

    files         what may be a log file, and the settings of its connections
    locks         what processes agree on: who appends, which runs are alive
    connection    one hop to aiosqlite's thread
    committing    many appends, one commit      (event loop)
    transaction   what is stored                (writer's thread)
    packs         large values, in files beside the database
    reading       pages, and what they must hold
    keys          signing keys

A handle has one connection that writes, opened first, and a few that read, opened when needed.  It is
used from one event loop at a time.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled

from eventflow.events import Record
from eventflow.logs.sqlite.committing import GroupCommit, Submitted
from eventflow.logs.sqlite.connection import BUSY_S, Connection, Link, call, connect, uri
from eventflow.logs.sqlite.errors import LogWriteFailed, explain, is_busy
from eventflow.logs.sqlite.files import FORMAT, check_place, check_sqlite, prepare, prepare_reader
from eventflow.logs.sqlite.keys import load_keyring
from eventflow.logs.sqlite.locks import LockFile
from eventflow.logs.sqlite.packs import PackReader, PackWriter
from eventflow.logs.sqlite.patience import PATIENCE_S, outlast
from eventflow.logs.sqlite.reading import (
    Page,
    Readers,
    find_head,
    find_latest,
    find_snapshot,
    find_span,
    find_values,
)
from eventflow.logs.sqlite.tables import find_rows_of, write_rows
from eventflow.logs.sqlite.transaction import Append, Ledger, stage, store
from eventflow.ports import Checkpoint, Durability, Keyring, LogClosed, RowsFound, Ticket, Value, Write

__all__ = ["LogInfo", "SQLiteLog"]

T = TypeVar("T")

POLL_S: Final = 0.05
"""How often one who follows looks for what other processes have appended."""

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


class _Open:
    """What a handle has while it is open."""

    def __init__(self, path: Path, link: Link, locks: LockFile, ledger: Ledger) -> None:
        self.readers = Readers(path)
        self.commits = GroupCommit(self._store, partial(call, link))
        self.locks = locks
        self.packs = PackReader(path)
        self._writing = PackWriter(path)
        self._path = path
        self._link = link
        self._ledger = ledger

    def _store(self, connection: Connection, appends: Sequence[Append]) -> None:
        """Store a batch; on the writer's thread."""
        try:
            with self.locks.appending():
                store(connection, self._ledger, self._writing, appends)
        except sqlite3.Error as error:
            if is_busy(error):
                raise
            raise explain(error, self._path, LogWriteFailed) from error
        if any(append.stored for append in appends):
            self.locks.nudge()

    async def close(self) -> None:
        """Close all connections, the writer's last: closing the last one folds the WAL into the file."""
        with anyio.move_on_after(PATIENCE_S, shield=True) as scope:
            await self.readers.close()
            await call(self._link, lambda _: self._writing.close())
            await self._link.close()
        if not scope.cancelled_caught:  # a thread that is still waiting needs the files
            self.packs.close()
            self.locks.close()


async def _give_back(link: Link | None, locks: LockFile) -> None:
    if link is not None:
        await link.close()
    locks.close()  # only then: a thread that still waits for its turn needs it


class SQLiteLog:
    """An `EventLog` in one SQLite file, which is made if it is not there.

    Opened by `async with`, by `await SQLiteLog.open(path)`, or at its first use; raises `LogUnusable` or
    `LogDamaged` then. Any number of handles and processes may share the file. Beside it lie `<file>-wal`
    and `<file>-shm` (SQLite's), `<file>.lock`, and `<file>.key` (keep that secret, and keep it). Values
    larger than 64 KiB are in the folder `<file>.packs`. To copy a log that nobody uses is to copy `<file>`,
    `<file>.packs` and `<file>.key`; of one in use, the database first (`sqlite3 <file> .backup`).

    `pipelined` appends are those of `normal`; `submit` does not wait for them.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._open: _Open | None = None
        self._opening = anyio.Lock()
        self._closed = False
        self._names: dict[int, str] = {}
        self._ledger = Ledger()
        self._keyring: Keyring | None = None
        self._peeking = threading.Lock()
        self._peeker: sqlite3.Connection | None = None
        self._peeked = PackReader(self.path)

    @classmethod
    async def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a log; to be closed by `aclose`."""
        log = cls(path)
        await log._ready()
        return log

    async def __aenter__(self) -> Self:
        await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # -- opening and closing ----------------------------------------------------------------------

    async def _ready(self) -> _Open:
        if self._closed:
            raise LogClosed(f"the log {self.path} was closed; open it again")
        if self._open is None:
            async with self._opening:
                if self._open is None:
                    self._open = await self._connect()
        return self._open

    async def _connect(self) -> _Open:
        """Open the connection that writes, on a file that is ours by then."""
        check_sqlite()
        check_place(self.path)
        locks = LockFile.of(self.path)
        link: Link | None = None

        def work(connection: Connection) -> None:
            with locks.appending():
                prepare(connection, self.path)

        try:
            link = await connect(self.path, create=True)
            await self._patiently(partial(call, link, work))
        except BaseException:
            await outlast(asyncio.ensure_future(_give_back(link, locks)))
            raise
        return _Open(self.path, link, locks, self._ledger)

    async def _patiently(self, ask: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await ask()
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise explain(error, self.path) from error
            await anyio.sleep(POLL_S)

    async def aclose(self) -> None:
        """Finish what was taken up and close; later calls, but `peek`, raise `LogClosed`.

        Threads that are busy are waited for five seconds; what they hold stays open then, until the process ends.
        Cancelled, it goes on for as long, and raises that afterwards.
        """
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
            if opened is None:
                return
            opened.locks.nudge()
            try:
                await opened.commits.close()
            finally:
                await opened.close()
                with self._peeking:
                    self._stop_peeking()

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
        opened = self._open or await self._ready()
        return await opened.commits.append(_stage(writes, values, durability))

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Take an append up and go on; see `EventLog.submit`."""
        opened = self._open or await self._ready()
        append = _stage(writes, values, "pipelined")
        if after is not None:
            assert isinstance(after, Submitted), "a ticket of this log"
            append.after = after.append
        return await opened.commits.submit(append)

    @property
    def keyring(self) -> Keyring:
        """The log's signing keys; the file of the key is made when it is first asked for.

        Raises `SignatureError` when there is no sound and secret key.
        """
        if self._keyring is None:
            check_place(self.path)
            self._keyring = load_keyring(self.path)
            self._ledger.note_keys(self._keyring.keys)
        return self._keyring

    # -- reading ----------------------------------------------------------------------------------

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        opened = await self._ready()
        return await opened.readers.ask(question)

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
        for part in span.pages(backwards=backwards):
            page = await self._ask(partial(Page.find, span=part, names=self._names))
            for record in page.records(backwards=backwards):
                yield record

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """For each key, its last record up to `until`; a few keys are looked up at once, in the event loop.

        To hand a question to a thread and back costs several times what a look-up in an index does.
        """
        if len(keys) > AT_ONCE_MAX:
            return await self._ask(lambda connection: find_latest(connection, keys, until))
        await self._ready()
        return self._peek_at(lambda connection: find_latest(connection, keys, until)) or {}

    async def head(self, stream: str | None = None) -> int:
        """The last position of the log, or the last version of a stream."""
        return await self._ask(lambda connection: find_head(connection, stream))

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """The values that are there; one whose bytes are lost or have changed raises `LogDamaged`."""
        wanted, packs = tuple(digests), (await self._ready()).packs
        return await self._ask(lambda connection: find_values(connection, packs, wanted))

    async def info(self) -> LogInfo:
        """What the log says of itself."""
        found = await self._ask(
            lambda connection: connection.execute("SELECT name, value FROM info").fetchall()
        )
        rows = dict(found)
        keys = tuple(name.removeprefix("key:") for name in rows if name.startswith("key:"))
        return LogInfo(rows["id"], FORMAT, int(rows["created"]), keys)

    async def snapshot(self, name: str) -> bytes | None:
        """What was kept under a name, if it still is."""
        return await self._ask(lambda connection: find_snapshot(connection, name))

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Keep it, in place of what had that name. Raises `LogWriteFailed`, as `append` does."""

        def write(connection: Connection) -> None:
            connection.execute("REPLACE INTO snapshot (name, data) VALUES (?, ?)", (name, data))

        await self._write_aside(write, len(data))

    async def _write_aside(self, write: Callable[[Connection], object], size_bytes: int) -> None:
        """Write something that is no event, in a transaction of those that are."""
        opened = self._open or await self._ready()
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
        with self._peeking:
            try:
                if self._peeker is None:
                    if not self.path.exists():
                        return None
                    self._peeker = sqlite3.connect(
                        uri(self.path),
                        uri=True,
                        isolation_level=None,
                        timeout=BUSY_S,
                        check_same_thread=False,
                    )
                    prepare_reader(self._peeker)
                return question(self._peeker)
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
            finally:
                if self._open is None:
                    self._stop_peeking()

    def _stop_peeking(self) -> None:
        if self._peeker is not None:
            self._peeker.close()
            self._peeker = None
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
