"""Group commit: appends that arrive during a commit share the next one.

    append, submit ──► queue ──► batch ──► one transaction ──► each append of the batch gets its outcome
      (event loop)               (writer's thread)                      (event loop)

The writer's thread is in one long call: it takes all queued appends, commits them, and repeats.  No task, timer or
delay comes between an append and its commit, and the event loop is woken once per batch.  Callers never touch the
connection.  If a caller is cancelled, an append that is still queued is withdrawn.  If it is in a batch, the caller
waits for its outcome first, for at most `SHIELD_S`.

This thread waits for a busy database without limit.  SQLite's own wait is limited, so that the thread can check for
the end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

import anyio

from eventflow.events import Record
from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.connection import Connection, hold_clock
from eventflow.logs.sqlite.errors import is_busy
from eventflow.logs.sqlite.shield import SHIELD_S, wait_shielded
from eventflow.logs.sqlite.transaction import Append
from eventflow.ports import LogClosed, OutcomeUnknown

__all__ = ["GroupCommit", "Submitted"]

BATCH_ROWS_MAX: Final = 8_192
BATCH_BYTES_MAX: Final = 8 << 20
BACKLOG_ROWS_MAX: Final = 65_536
BACKLOG_BYTES_MAX: Final = 32 << 20
_BUSY_PAUSE_S: Final = 0.02
"""Pause before a retry, for locks that SQLite does not wait for by itself."""


class Submitted:
    """A pending append: a `Ticket`."""

    __slots__ = ("_waiting", "append", "settled", "taken", "withdrawn")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.taken = False
        """It is in a batch."""
        self.withdrawn = False
        """It was withdrawn."""
        self.settled = False
        """Its outcome is known."""
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def error(self) -> BaseException | None:
        """The reason why it was not stored, when that is known."""
        return self.append.error if self.settled else None

    async def wait(self) -> Sequence[Record]:
        """Wait for the commit, or raise its error. If cancelled, return at once; the append continues."""
        with hold_clock():
            return await self.result()

    async def result(self) -> Sequence[Record]:
        """Wait as `wait` does, for a caller that holds the clock already."""
        if not self.settled:
            await self.outcome()
        if self.append.error is not None:
            raise self.append.error
        return self.append.records

    def outcome(self) -> asyncio.Future[None]:
        """Return a future that is done when the outcome is known."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def settle(self) -> None:
        """Wake the waiting callers."""
        self.settled = True
        self.append.after = None  # no longer needed, and it would keep all earlier tickets alive
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


class GroupCommit:
    """The pending appends of one handle."""

    def __init__(
        self,
        store: Callable[[Connection, Sequence[Append]], None],
        in_thread: Callable[[Callable[[Connection], None]], Awaitable[None]],
    ) -> None:
        """Commit batches with `store`; `in_thread` runs a function on the writer's thread."""
        self._store = store
        self._in_thread = in_thread
        self._process = process.mark()
        self._loop = asyncio.get_running_loop()
        """The loop of the last call; a handle may outlive a loop."""
        self._queue: SimpleQueue[Submitted | None] = SimpleQueue()
        self._left_over: Submitted | None = None
        """Taken from the queue, but too large for the previous batch."""
        self._deciding = threading.Lock()
        """Held while a caller withdraws an append, or the thread takes one."""
        self._done: deque[Sequence[Submitted]] = deque()
        """Batches whose callers are not woken yet."""
        self._rows = 0
        self._bytes = 0
        self._room = anyio.Event()
        self._closed = False
        self._serving: asyncio.Task[None] | None = None

    # -- event loop -------------------------------------------------------------------------------

    async def append(self, append: Append) -> Sequence[Record]:
        """Append and wait for the outcome; raise its error."""
        with hold_clock():
            submitted = await self.submit(append)
            try:
                return await submitted.result()
            except asyncio.CancelledError:
                is_known = submitted.settled or self._withdraw(submitted)
                if not is_known and not await wait_shielded(submitted.outcome()):
                    raise OutcomeUnknown(
                        f"the append was cancelled and its commit did not end in {SHIELD_S:g} s: "
                        "read the stream to know"
                    ) from None
                raise

    async def submit(self, append: Append) -> Submitted:
        """Accept an append. If cancelled while waiting for room, nothing is accepted."""
        self._enter_loop()
        while self._rows and (self._rows > BACKLOG_ROWS_MAX or self._bytes > BACKLOG_BYTES_MAX):
            await self._room.wait()
            if self._closed:
                raise LogClosed("the log was closed while an append waited for room; open it again")
        submitted = Submitted(append)
        self._count(append, 1)
        self._queue.put(submitted)
        return submitted

    async def close(self) -> None:
        """Accept nothing more, and wait until all accepted appends are stored or refused."""
        self._closed = True
        self._enter_loop()
        self._room.set()
        self._queue.put(None)
        assert self._serving is not None, "begun with the loop"
        if self._serving.get_loop() is self._loop:
            with hold_clock():
                await asyncio.wait({self._serving})
        while self._rows:  # noqa: ASYNC110 - if a loop was closed without notice, only the counts show it
            await asyncio.sleep(_BUSY_PAUSE_S)

    def _withdraw(self, submitted: Submitted) -> bool:
        """Withdraw an append unless it is in a batch; return whether it was withdrawn."""
        with self._deciding:
            if submitted.taken:
                return False
            submitted.withdrawn = True
        self._count(submitted.append, -1)
        return True

    def _count(self, append: Append, sign: int) -> None:
        self._rows += sign * append.rows
        self._bytes += sign * append.size_bytes

    def _enter_loop(self) -> None:
        """Use the running loop for wake-ups."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._settle()
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._have_served())

    async def _have_served(self) -> None:
        """Start the thread's service, until the log is closed or this loop ends."""
        try:
            while True:
                await self._in_thread(self._serve)
                if self._closed:
                    return
        except asyncio.CancelledError:
            if self._process is not process.mark():
                raise  # in a forked child, which does not have the thread
            self._queue.put(None)
            with anyio.move_on_after(SHIELD_S, shield=True), hold_clock():
                await self._in_thread(
                    _nothing
                )  # until the thread has returned: later there is no loop to wake
            raise

    def _settle(self) -> None:
        while self._done:
            for submitted in self._done.popleft():
                self._count(submitted.append, -1)
                submitted.settle()
        if self._room.statistics().tasks_waiting:
            self._room.set()
            self._room = anyio.Event()

    # -- writer's thread --------------------------------------------------------------------------

    def _serve(self, connection: Connection) -> None:
        while batch := self._take():
            self._commit(connection, batch)
            self._done.append(batch)
            with suppress(RuntimeError):  # the loop is gone, with all its waiting tasks
                self._loop.call_soon_threadsafe(self._settle)

    def _take(self) -> list[Submitted]:
        """Wait for an append and take all queued ones; return nothing at a stop."""
        batch: list[Submitted] = []
        rows = size = 0
        while True:
            try:
                submitted = self._left_over or self._queue.get(block=not batch)
            except Empty:
                return batch
            self._left_over = None
            if submitted is None:
                if batch:
                    self._queue.put(None)  # for the next batch
                return batch
            rows += submitted.append.rows
            size += submitted.append.size_bytes
            if batch and (rows > BATCH_ROWS_MAX or size > BATCH_BYTES_MAX):
                self._left_over = submitted
                return batch
            with self._deciding:
                submitted.taken = not submitted.withdrawn
            if not submitted.withdrawn:
                batch.append(submitted)

    def _commit(self, connection: Connection, batch: Sequence[Submitted]) -> None:
        while True:
            try:
                return self._store(connection, [submitted.append for submitted in batch])
            except BaseException as error:  # noqa: BLE001 - it is the append's error
                if is_busy(error):
                    time.sleep(_BUSY_PAUSE_S)
                    continue
                if len(batch) == 1:
                    batch[0].append.error = error
                    return None
            for submitted in batch:  # find the append at fault
                self._commit(connection, [submitted])
            return None


def _nothing(_connection: Connection) -> None:
    """Nothing to store; only something to wait for."""
