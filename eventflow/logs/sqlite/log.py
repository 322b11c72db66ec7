"""The handle: `SQLiteLog`, an `EventLog` in one SQLite file that several processes may share.

    files, schema   checks of a log file and its tables, its creation, the settings of its connections
    locks           locks between processes: the append lock, and a lock for each live run
    open_files      checks that the open files are still at their paths
    process         the files that are open in this process, and their end in a forked child
    writable        the parts of an open handle; `connection` is one hop to aiosqlite's thread
    group_commit    many appends, one commit      (event loop)
    transaction     one transaction of a batch    (writer's thread)
    lookups         two lookups for each fact
    packs           large values, in files next to the database
    readers, reads  connections that read; pages of records.  `read_model_rows`: read models
    read_only       a connection without locks and without writing

A handle has one connection that writes, opened first, and a few that read, opened when needed.
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
from eventflow.logs.sqlite.connection import Connection, hold_clock, open_here
from eventflow.logs.sqlite.errors import explain_error
from eventflow.logs.sqlite.files import FORMAT, prepare_reader
from eventflow.logs.sqlite.group_commit import Submitted
from eventflow.logs.sqlite.locks import is_live
from eventflow.logs.sqlite.packs import PackReader
from eventflow.logs.sqlite.process import inside
from eventflow.logs.sqlite.read_model_rows import find_model_rows, write_model_rows
from eventflow.logs.sqlite.read_only import ReadOnlyConnection
from eventflow.logs.sqlite.reads import (
    Page,
    find_head,
    find_info,
    find_keys,
    find_latest,
    find_snapshot,
    find_span,
    find_values,
    keys_in,
)
from eventflow.logs.sqlite.schema import BLOB_MAX
from eventflow.logs.sqlite.shield import wait_shielded
from eventflow.logs.sqlite.signing_key import LogKeyring, LogKeys
from eventflow.logs.sqlite.transaction import Append, Ledger, stage
from eventflow.logs.sqlite.writable import POLL_S, WriteHandle, open_for_writing
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
"""Number of keys that are looked up without a thread."""
_NAMES_MAX: Final = 10_000
_DRAFT_BYTES: Final = 64
"""Rough cost of a row in addition to its body, in bytes, for the limits of a batch."""


class LogInfo(msgspec.Struct, frozen=True):
    """The log's own description of itself."""

    id: str
    """The log's id, made with the file; a copy has the same id."""
    format: int
    created: int
    """Microseconds UTC."""
    keys: tuple[str, ...]
    """Ids of the keys that signed, or may have signed."""


class SQLiteLog:
    """An `EventLog` in one SQLite file, which is created if it does not exist.

    Open it with `async with` or `await SQLiteLog.open(path)`; otherwise its first use opens it. Opening raises
    `LogUnusable` or `LogDamaged`. Any number of handles and processes may share the file. `docs/logs.md` lists the
    files next to it, and how to copy them; `<file>.key` is secret. Values larger than 64 KiB are in `<file>.packs`.

    With `read_only`, nothing of the log is written, locked or created (SQLite may write its `-shm`, see `read_only`).
    The file and its folder may be read-only, and a write raises `LogUnusable`.

    A relative path is resolved when the handle is made. A handle belongs to one event loop: if another loop calls it
    before the first is closed, it raises `LogOfAnotherLoop`; in a forked child it raises `LogForked`. After a
    `LogReplaced` (the files are no longer at their paths), it stores nothing.

    A `pipelined` append is stored like a `normal` one; `submit` does not wait for it.

    ```python
    from eventflow import SQLiteLog

    log = await SQLiteLog.open("runs.db")
    print(await log.head(), (await log.info()).keys)
    await log.aclose()
    ```
    ```text
    0 ()
    ```
    """

    __module__ = "eventflow"  # as `eventflow._pin_names` does for names that are imported at once

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.path = Path(path).absolute()
        self._read_only = read_only
        self._open: WriteHandle | None = None
        self._opening = anyio.Lock()
        self._closed = False
        self._process = process.mark()
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = _no_loop
        """A weak reference to the loop that uses it."""
        self._names: dict[int, str] = {}
        self._ledger = Ledger()
        self._keyring: Keyring | None = None
        self._peeking = threading.Lock()
        self._peeker: Connection | None = None
        self._viewer = ReadOnlyConnection(self.path)
        self._peeked = PackReader(self.path)

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, read_only: bool = False) -> Self:
        """Open a log; close it with `aclose`."""
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
        """Open the log now, so that an error is raised here."""
        if self._read_only:
            await self.head()
        else:
            await self._ready()

    @property
    def is_lost(self) -> bool:
        """Whether its files are no longer at their paths, so that it stores nothing."""
        return self._open is not None and self._open.lost is not None

    def _check_here(self) -> None:
        """Raise unless this process and this event loop may use it."""
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
            self._peeking = threading.Lock()  # a thread of the parent may have had it
            self._viewer, self._peeked = ReadOnlyConnection(self.path), PackReader(self.path)

    def _at_hand(self) -> WriteHandle | None:
        """Return the same as `_ready`, without an `await`, if nothing has changed since; else None."""
        if self._process is process.mark() and self._loop() is asyncio.get_running_loop():
            return self._open
        return None

    async def _ready(self) -> WriteHandle:
        """Open it for writing, unless it is open; raise the reason if it cannot be used."""
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
        """Finish the accepted appends and close; later calls, except `peek`, raise `LogClosed`.

        It waits five seconds for busy threads. After that, their connections stay open until the process ends. If
        cancelled, it still closes, and raises the cancellation afterwards.
        """
        if self._process is not process.mark():  # the parent closes its own files
            self._closed = True
            return
        self._check_here()
        self._closed = True
        closing = asyncio.ensure_future(self._close())  # a cancellation of the caller does not reach it
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            try:
                await wait_shielded(closing)
            finally:
                if (
                    closing.cancelled()
                ):  # cancelled with all tasks of a loop that ends, perhaps before it began
                    await wait_shielded(asyncio.ensure_future(self._close()))
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

        Raises `LogWriteFailed` if the disk is full or fails. Then nothing of the append is stored, acknowledged
        appends are safe, and the log works again when the cause is gone. A cancelled caller waits five seconds for
        the outcome, then `OutcomeUnknown` is raised.
        """
        await checkpoint_if_cancelled()
        opened = self._at_hand() or await self._ready()
        return await opened.commits.append(_stage(writes, values, durability))

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Accept an append and return; see `EventLog.submit`."""
        opened = self._at_hand() or await self._ready()
        append = _stage(writes, values, "pipelined")
        if after is not None:
            assert isinstance(after, Submitted), "a ticket of this log"
            append.after = after.append
        return await opened.commits.submit(append)

    @property
    def keyring(self) -> Keyring:
        """The log's signing keys, looked up when one is needed; that may raise `KeyUnavailable`."""
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
        with hold_clock():
            return await anyio.to_thread.run_sync(self._look, question)

    def _look(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on a read-only connection."""
        with self._peeking:
            try:
                return self._viewer.ask(question)
            except sqlite3.Error as error:
                raise explain_error(error, self.path) from error
            finally:
                if self._closed or not self._read_only:
                    self._viewer.close()

    async def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Yield records in order, up to the head at the start of reading; see `EventLog.read`."""
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
        """Return the last record of each key, up to `until`; look up a few keys directly in the event loop.

        Handing a query to a thread and back costs several times as much as a lookup in an index.
        """
        if self._read_only or len(keys) > AT_ONCE_MAX:
            return await self._ask(lambda connection: find_latest(connection, keys, until))
        await self._ready()
        return self._peek_at(lambda connection: find_latest(connection, keys, until)) or {}

    async def head(self, stream: str | None = None) -> int:
        """Return the last position of the log, or the last version of a stream."""
        return await self._ask(lambda connection: find_head(connection, stream))

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """Return the stored values of digests; raise `LogDamaged` if bytes are lost or have changed."""
        wanted = tuple(digests)
        packs = self._peeked if self._read_only else (await self._ready()).packs
        return await self._ask(lambda connection: find_values(connection, packs, wanted))

    async def info(self) -> LogInfo:
        """Return the log's description of itself."""
        rows = await self._ask(find_info)
        return LogInfo(rows["id"], FORMAT, int(rows["created"]), keys_in(rows))

    async def snapshot(self, name: str) -> bytes | None:
        """Return the snapshot with a name, or None."""
        return await self._ask(lambda connection: find_snapshot(connection, name))

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """Store a snapshot, and replace the one with that name. Raises `LogWriteFailed`, as `append` does."""
        if len(data) + len(name) + 64 > BLOB_MAX:
            return  # a snapshot may be lost at any time
        row = (name, data, sum_of(name, data))

        def write(connection: Connection) -> None:
            connection.execute("REPLACE INTO snapshot (name, data, crc) VALUES (?, ?, ?)", row)

        await self._write_aside(write, len(data))

    async def _write_aside(self, write: Callable[[Connection], object], size_bytes: int) -> None:
        """Write data that is not an event, in a transaction of appends."""
        opened = await self._ready()
        await opened.commits.append(Append((), (), full=False, rows=1, size_bytes=size_bytes, aside=write))

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """Return rows of a read model; see `EventLog.rows`."""
        return await self._ask(lambda connection: find_model_rows(connection, table, names, prefix))

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """Write rows of a read model together with its checkpoint; see `EventLog.keep_rows`."""
        moved = False

        def write(connection: Connection) -> None:
            nonlocal moved
            moved = write_model_rows(connection, table, was, now, rows)

        await self._write_aside(write, sum(len(data or b"") for data in rows.values()))
        return moved

    def peek(self, digest: bytes) -> Value | None:
        """Return one value without waiting, from any thread; works after `aclose`, too."""
        return self._peek_at(lambda connection: find_values(connection, self._peeked, (digest,)).get(digest))

    def _peek_at(self, question: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a query in this thread; return None if there is no file."""
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
                raise explain_error(error, self.path) from error
            finally:
                if self._closed:
                    self._stop_peeking()

    def _stop_peeking(self) -> None:
        """Close the connection of `peek`; call it with `_peeking` held."""
        if self._peeker is not None:
            self._peeker.close()
            self._peeker = None
        self._viewer.close()
        self._peeked.close()

    async def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Yield every record after a position, then each new one; see `EventLog.follow`."""
        while True:
            async for record in self.read(after=after):
                yield record
                after = record.position
            await self._wait_for_more(after)

    async def _wait_for_more(self, after: int) -> None:
        """Wait for a record after a position: woken by this process, and polling for other processes."""
        if self._read_only:
            while await self.head() <= after:  # noqa: ASYNC110 - there is no other way to notice other processes
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
        """Try to become the only live runner of a run, among all processes; the kernel releases it at death."""
        opened = await self._ready()
        with opened.locks.hold(run) as mine:
            yield mine
        if mine and self._open is opened:
            opened.check_files()  # the files may have been removed during the last commit

    async def is_live(self, run: str) -> bool:
        """Return whether any process holds a run; takes no lock."""
        self._check_here()
        if self._closed:
            raise LogClosed(f"the log {self.path} was closed; open it again")
        return is_live(self.path, run)


def _no_loop() -> None:
    """The reference to a loop if there is none."""


def _stage(writes: Iterable[Write], values: Iterable[Value], durability: Durability) -> Append:
    """Return an encoded append for the writer's thread; raise any error of encoding."""
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
