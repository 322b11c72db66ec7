"""The durable floor: the least Python that appends a task's events to SQLite with group commit.

    python -m benchmarks.ideal W1|W2|W3|W6|W7|W8 [--n N] [--sync FULL|NORMAL] [--ack await|pipeline]

No graph, retries, claims, digests, checksums or cached inputs.  Every task appends three events (pending,
running, success) to one WAL log; one writer thread takes whatever has queued up as one transaction.

    --ack await     a result is handed on once its success is committed
    --ack pipeline  it is handed on at once, and the end waits for the last commit: a crash loses a suffix
                    of the log, never a hole
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from benchmarks.common import BESIDE, LAYERS, WIDTH, Meter, ask, big, deps, emit, small

SCHEMA: Final = "CREATE TABLE event (seq INTEGER PRIMARY KEY, stream TEXT, version INTEGER, data BLOB, UNIQUE(stream, version))"


class Pending(msgspec.Struct, tag="P", array_like=True):
    """Known."""


class Running(msgspec.Struct, tag="R", array_like=True):
    """Its body runs."""

    attempt: int = 1


class Success(msgspec.Struct, tag="S", array_like=True):
    """Its body returned."""

    result: dict[str, Any]


class Event(msgspec.Struct, tag="E", array_like=True):
    """A task's new state."""

    flow: str
    task: int
    name: str
    at: float
    key: str
    state: Pending | Running | Success


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Event).decode


class Log:
    """One SQLite file and its writer thread."""

    def __init__(self, path: Path, sync: str) -> None:
        self.path = path
        self.commits = 0
        self._sync = sync
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._waiting: list[bytes] = []
        self._committed: asyncio.Future[None] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={self._sync}")
        connection.execute(SCHEMA)
        version = 0
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:  # events and the future that waits for them are taken together
                batch, self._waiting = self._waiting, []
                committed, self._committed = self._committed, None
            if batch:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO event(stream, version, data) VALUES ('s', ?, ?)", enumerate(batch, version)
                )
                connection.execute("COMMIT")
                version += len(batch)
                self.commits += 1
            if committed:
                self._loop.call_soon_threadsafe(committed.set_result, None)
            if self._stopping and not self._waiting:
                connection.close()
                return

    def add(self, flow: str, task: int, state: Pending | Running | Success) -> None:
        """Queue an event."""
        body = encode(Event(flow, task, "flow.t", time.time(), "k", state))
        with self._lock:
            self._waiting.append(body)

    async def commit(self) -> None:
        """Return once everything that was queued is committed."""
        with self._lock:
            committed = self._committed
            if committed is None:
                committed = self._committed = self._loop.create_future()
        self._wake.set()
        await committed

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()


Body: TypeAlias = Callable[[int], dict[str, Any]]


class Floor:
    """The workloads on a log."""

    def __init__(self, log: Log, *, waits: bool) -> None:
        self.log = log
        self._waits = waits

    async def task(self, flow: str, i: int, fn: Body = small) -> dict[str, Any]:
        """One task: three events around a body."""
        self.log.add(flow, i, Pending())
        self.log.add(flow, i, Running())
        result = fn(i)
        self.log.add(flow, i, Success(result))
        if self._waits:
            await self.log.commit()
        return result

    async def gather(self, flow: str, indices: Iterable[int], fn: Body = small) -> None:
        """Tasks side by side."""
        async with asyncio.TaskGroup() as group:
            spawned = [group.create_task(self.task(flow, i, fn)) for i in indices]
        assert spawned, "results are kept until all are there, as an engine would"

    async def layered(self) -> None:
        """W3."""

        async def node(layer: int, place: int) -> dict[str, Any]:
            for before in deps(layer, place):
                await nodes[layer - 1, before]
            return await self.task("f", layer * WIDTH + place)

        nodes: dict[tuple[int, int], asyncio.Task[Any]] = {}
        async with asyncio.TaskGroup() as group:
            for layer in range(LAYERS):
                for place in range(WIDTH):
                    nodes[layer, place] = group.create_task(node(layer, place))

    async def flows(self, n: int) -> None:
        """W8."""

        async def five(k: int) -> None:
            async with beside:
                for j in range(5):
                    await self.gather(f"f{k}", [j])

        beside = asyncio.Semaphore(BESIDE)
        await asyncio.gather(*(five(k) for k in range(n)))

    async def work(self, workload: str, n: int) -> None:
        """One workload, to its last commit."""
        match workload:
            case "W1":
                for i in range(n):
                    await self.gather("f", [i])
            case "W2" | "W6":
                await self.gather("f", range(n))
            case "W3":
                await self.layered()
            case "W7":
                await self.gather("f", range(n), big)
            case "W8":
                await self.flows(n)
            case _:
                raise SystemExit(f"ideal: no workload {workload!r}; there are W1, W2, W3, W6, W7 and W8")
        await self.log.commit()


def load(path: Path) -> int:
    """W6: the last state of every task, from the file; gives the number of events."""
    connection = sqlite3.connect(path)
    states: dict[tuple[str, int], Pending | Running | Success] = {}
    rows = 0
    for (body,) in connection.execute("SELECT data FROM event ORDER BY seq"):
        event = decode(body)
        states[event.flow, event.task] = event.state
        rows += 1
    connection.close()
    return rows


async def main() -> None:
    """Measure one workload."""
    asked = ask(__doc__, sync=("FULL", "NORMAL"), ack=("await", "pipeline"))
    log = Log(asked.dir / "log.db", asked.sync)
    floor = Floor(log, waits=asked.ack == "await")
    await floor.gather("warm", [0])
    await log.commit()
    commits = log.commits
    with Meter() as meter:
        await floor.work(asked.workload, asked.n)
    extra = {"commits": log.commits - commits}
    log.close()
    if asked.workload == "W6":
        with Meter() as meter:
            extra = {"rows": load(log.path)}
    emit(
        f"ideal-{asked.sync.lower()}-{asked.ack}",
        asked.workload,
        asked.n * 5 if asked.workload == "W8" else asked.n,
        meter.usage,
        f"SQLite WAL, synchronous={asked.sync}, group commit, {asked.ack}",
        **extra,
    )


if __name__ == "__main__":
    asyncio.run(main())
