"""A log whose process dies at a chosen append, so that a test can resume from every such point.

A process can die at an append in two ways: before its records are stored, or after that but before the append
returns.  Both look the same to the writer.  They differ for the next process that opens the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from eventflow.events import Record
from eventflow.ports import Checkpoint, Durability, EventLog, Keyring, RowsFound, Ticket, Value, Write

__all__ = ["Crash", "CrashingLog"]


class Crash(BaseException):
    """The process is dead. This is not an `Exception`, so no code between the log and the test can catch it."""


class CrashingLog:
    """Wrap a log, and raise `Crash` from append number `crash_at` (from 1) on, in every call.

    Without `crash_at` it only counts appends. Held runs are released when their blocks end, as at the death of a
    process. The inner log stays as it is, for the next process.

    ```python
    from eventflow import MemoryLog, flow, task
    from eventflow.testing import Crash, CrashingLog

    @task
    async def answer() -> int:
        return 42

    @flow
    def question() -> int:
        return answer()

    log = MemoryLog()
    dying = CrashingLog(log, crash_at=2, when="after")
    try:
        await question.options(log=dying, run_id="r").run()
    except* Crash:
        print("crashed at append", dying.appends)
    print(await question.options(log=log, run_id="r").value())
    ```
    ```text
    crashed at append 2
    42
    ```
    """

    def __init__(
        self,
        log: EventLog,
        *,
        crash_at: int | None = None,
        when: Literal["before", "after"] = "before",
        lag: int = 0,
    ) -> None:
        """Wrap a log. The last `lag` submitted appends are not stored yet, so a crash loses them."""
        self.log = log
        self.appends = 0
        """Number of appends so far, including the one that crashes."""
        self.crashed = False
        self._crash_at = crash_at
        self._when = when
        self._lag = lag
        self._under_way: deque[_Lagging] = deque()

    @property
    def keyring(self) -> Keyring:
        """The keys of the inner log."""
        self._check_alive()
        return self.log.keyring

    async def append(
        self, *writes: Write, values: Iterable[Value] = (), durability: Durability = "full"
    ) -> Sequence[Record]:
        """Append, or die before or after it."""
        deadly = self._count()
        await self._store_submitted(0)
        records = await self.log.append(*writes, values=values, durability=durability)
        self.crashed = self.crashed or deadly
        self._check_alive()  # meanwhile, another task's append may have crashed
        return records

    async def submit(
        self, *writes: Write, values: Iterable[Value] = (), after: Ticket | None = None
    ) -> Ticket:
        """Submit, or die before or after it."""
        deadly = self._count()
        assert after is None or isinstance(after, _Lagging), "a ticket of this log"
        ticket = _Lagging(self, writes, tuple(values), after)
        self._under_way.append(ticket)
        await self._store_submitted(self._lag)
        self.crashed = self.crashed or deadly
        self._check_alive()
        return ticket

    def _count(self) -> bool:
        """Count an append and crash before it if needed; return whether to crash after it."""
        self._check_alive()
        self.appends += 1
        deadly = self.appends == self._crash_at
        if deadly and self._when == "before":
            self.crashed = True
        self._check_alive()
        return deadly

    async def _store_submitted(self, left: int) -> None:
        """Store the oldest submitted appends, until `left` remain."""
        while len(self._under_way) > left:
            await self._under_way.popleft().store()

    async def read(
        self,
        *,
        stream: str | None = None,
        after: int = 0,
        until: int | None = None,
        backwards: bool = False,
    ) -> AsyncIterator[Record]:
        """Read while alive."""
        self._check_alive()
        async for record in self.log.read(stream=stream, after=after, until=until, backwards=backwards):
            self._check_alive()
            yield record

    async def latest(self, keys: Sequence[str], *, until: int | None = None) -> Mapping[str, Record]:
        """As the inner log."""
        self._check_alive()
        return await self.log.latest(keys, until=until)

    async def head(self, stream: str | None = None) -> int:
        """As the inner log."""
        self._check_alive()
        return await self.log.head(stream)

    async def values(self, digests: Iterable[bytes]) -> Mapping[bytes, Value]:
        """As the inner log."""
        self._check_alive()
        return await self.log.values(digests)

    def peek(self, digest: bytes) -> Value | None:
        """As the inner log."""
        self._check_alive()
        return self.log.peek(digest)

    async def snapshot(self, name: str) -> bytes | None:
        """As the inner log."""
        self._check_alive()
        return await self.log.snapshot(name)

    async def keep_snapshot(self, name: str, data: bytes) -> None:
        """As the inner log."""
        self._check_alive()
        await self.log.keep_snapshot(name, data)

    async def rows(self, table: str, names: Sequence[str] | None = None, *, prefix: str = "") -> RowsFound:
        """As the inner log."""
        self._check_alive()
        return await self.log.rows(table, names, prefix=prefix)

    async def keep_rows(
        self, table: str, was: Checkpoint | None, now: Checkpoint, rows: Mapping[str, bytes | None]
    ) -> bool:
        """As the inner log."""
        self._check_alive()
        return await self.log.keep_rows(table, was, now, rows)

    async def follow(self, *, after: int = 0) -> AsyncIterator[Record]:
        """Follow while alive; a follower that waits during the crash raises with the next record."""
        self._check_alive()
        async for record in self.log.follow(after=after):
            self._check_alive()
            yield record

    @asynccontextmanager
    async def hold(self, run: str) -> AsyncIterator[bool]:
        """Hold while alive; release at the end of the block, dead or alive."""
        self._check_alive()
        async with self.log.hold(run) as mine:
            yield mine

    async def is_live(self, run: str) -> bool:
        """As the inner log."""
        self._check_alive()
        return await self.log.is_live(run)

    async def aclose(self) -> None:
        """Close the inner log; a dead process closes nothing."""
        self._check_alive()
        await self.log.aclose()

    def _check_alive(self) -> None:
        if self.crashed:
            raise Crash(f"the process died at append {self._crash_at} ({self._when} it was stored)")


class _Lagging:
    """The ticket of an append that is stored later."""

    def __init__(
        self, log: CrashingLog, writes: Sequence[Write], values: Sequence[Value], after: _Lagging | None
    ) -> None:
        self._log = log
        self._writes = writes
        self._values = values
        self._after = after
        self._inner: Ticket | None = None

    @property
    def error(self) -> BaseException | None:
        """The reason why it was not stored, if that was tried."""
        return self._inner.error if self._inner is not None else None

    async def store(self) -> None:
        """Submit it to the inner log."""
        before, self._after = self._after, None
        inner = before._inner if before is not None else None  # noqa: SLF001 - they are one
        self._inner = await self._log.log.submit(*self._writes, values=self._values, after=inner)

    async def wait(self) -> Sequence[Record]:
        """Wait until it and all earlier appends are stored; raise `Crash` if the process is dead by then."""
        self._log._check_alive()  # noqa: SLF001 - they are one
        while self._inner is None:
            await self._log._store_submitted(len(self._log._under_way) - 1)  # noqa: SLF001 - the oldest one
        return await self._inner.wait()
