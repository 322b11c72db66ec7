"""Group commit: appends that come while a commit is under way share the next one.

    append ──► waiting ──► batch ──► one hop, one transaction ──► all of the batch learn what came of it

There is one task that writes, and only while there is something to write; no timer, no delay: while one
batch is committed the next one collects itself.  Callers never touch the connection.  One that is
cancelled withdraws an append that is still waiting; once it is in a batch, the caller learns its outcome
first, for at most `PATIENCE_S`.

A busy database is waited for without end, here: SQLite's own wait is bounded so that the loop sees it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio

from eventflow.events import Record
from eventflow.logs.sqlite.errors import is_busy
from eventflow.logs.sqlite.transaction import Append
from eventflow.ports import LogClosed, OutcomeUnknown

__all__ = ["PATIENCE_S", "GroupCommit"]

PATIENCE_S: Final = 5.0
"""How long a cancelled caller waits to learn what became of its append."""

BATCH_ROWS_MAX: Final = 8_192
BATCH_BYTES_MAX: Final = 8 << 20
BACKLOG_ROWS_MAX: Final = 65_536
BACKLOG_BYTES_MAX: Final = 32 << 20
_BUSY_PAUSE_S: Final = 0.02
"""Some locks SQLite does not wait for by itself."""

Commit = Callable[[Sequence[Append]], Awaitable[None]]
"""Stores a batch or raises; cancelled, it ends before it passes that on."""


class _Waiter:
    """An append and who waits for it."""

    def __init__(self, append: Append) -> None:
        self.append = append
        self.settled = False
        self.done = asyncio.get_running_loop().create_future()

    def settle(self) -> None:
        self.settled = True
        if not self.done.done():
            self.done.set_result(None)


class GroupCommit:
    """The appends of one handle, on their way into the file."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._waiting: deque[_Waiter] = deque()
        self._rows = 0
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._room = anyio.Event()
        self._closed = False

    async def append(self, append: Append) -> Sequence[Record]:
        """See an append through; raises what came of it."""
        while self._waiting and (self._rows > BACKLOG_ROWS_MAX or self._bytes > BACKLOG_BYTES_MAX):
            await self._room.wait()
            if self._closed:
                raise LogClosed("the log was closed while an append waited for room; open it again")
        waiter = _Waiter(append)
        self._count(append, 1)
        self._waiting.append(waiter)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._write())
        try:
            await waiter.done
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._count(append, -1)
            else:
                await _learn(waiter)
            raise
        if append.error is not None:
            raise append.error
        return append.records

    async def close(self) -> None:
        """Take nothing more, and wait until nothing is waiting or under way."""
        self._closed = True
        self._room.set()
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _write(self) -> None:
        batch: list[_Waiter] = []
        try:
            while self._waiting:
                batch = self._take()
                await self._store(batch)
        except asyncio.CancelledError:  # the event loop ends; what was not stored will not be
            for waiter in (*batch, *self._waiting):
                if not waiter.settled:
                    waiter.append.error = OutcomeUnknown("the event loop ended before the append was stored")
                    waiter.settle()
            self._waiting.clear()
            self._rows = self._bytes = 0
            raise
        finally:
            self._task = None

    def _take(self) -> list[_Waiter]:
        batch: list[_Waiter] = []
        rows = size = 0
        while self._waiting:
            append = self._waiting[0].append
            rows, size = rows + append.rows, size + append.size_bytes
            if batch and (rows > BATCH_ROWS_MAX or size > BATCH_BYTES_MAX):
                break
            batch.append(self._waiting.popleft())
            self._count(append, -1)
        self._room.set()
        self._room = anyio.Event()
        return batch

    def _count(self, append: Append, sign: int) -> None:
        self._rows += sign * append.rows
        self._bytes += sign * append.size_bytes

    async def _store(self, batch: Sequence[_Waiter]) -> None:
        while True:
            try:
                await self._commit([waiter.append for waiter in batch])
                break
            except Exception as error:  # noqa: BLE001 - it is the append's error
                if is_busy(error):
                    await asyncio.sleep(_BUSY_PAUSE_S)
                    continue
                if len(batch) > 1:  # find out whose fault it is
                    for waiter in batch:
                        await self._store([waiter])
                    return
                batch[0].append.error = error
                break
        for waiter in batch:
            waiter.settle()


async def _learn(waiter: _Waiter) -> None:
    """Wait for the outcome, whatever else cancels the caller meanwhile; `OutcomeUnknown` after a while."""
    with anyio.move_on_after(PATIENCE_S, shield=True) as scope:
        while not waiter.settled:
            waiter.done = asyncio.get_running_loop().create_future()
            try:
                await waiter.done
            except asyncio.CancelledError:
                if scope.cancel_called:
                    raise
    if not waiter.settled:
        raise OutcomeUnknown(
            f"the append was cancelled and its commit did not end in {PATIENCE_S:g} s: read the stream to know"
        )
