"""eventflow's own runs: the workloads on a SQLite log in a fresh folder. Caching is off but for W4 and cached.

    python -m benchmarks.eventflow_bench WORKLOAD [--n N] [--durability full|normal|pipelined]
                                         [--bodies async|plain] [--log sqlite|memory]

    W1 W2 W3 W4 W5 W6 W7 W8 W9    as everywhere
    cached     W1 with every task cached and none in the log yet, beside W1
    replay     a log of n events: replayed into a RunView, beside a bare fold of the same file
    bitbake    a recorded build (836 tasks, 114 levels), beside W3
    build      a flow of n distinct tasks made in a loop: decorated and built, not run; beside n calls of one task

Building the flow is inside the time (but for W8: one flow, many runs); `build_s` says how much of it.  What
stands beside (`baseline_s`) is measured in the same process, by turns.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sqlite3
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from benchmarks.common import (
    BESIDE,
    LAYERS,
    WIDTH,
    Meter,
    Usage,
    ask,
    asmall,
    big,
    cold,
    crash_resume,
    deps,
    emit,
    main_module,
    small,
)
from eventflow import Flow, MemoryLog, Parameter, RunStates, inputs, open_run, task
from eventflow.demo.workload import Workload, load
from eventflow.events import TaskStarted, TaskSucceeded
from eventflow.logs.sqlite import SQLiteLog
from eventflow.ports import EventLog
from eventflow.projections import Fold, replay
from eventflow.records import decode
from eventflow.result import Inline

AnyFlow: TypeAlias = Flow[..., Any]

RECORDED: Final = Path(__file__).parents[1] / "workloads"
"""Recorded workflows."""

TURNS: Final = 3
"""How often the two sides of `replay` and `bitbake` take turns; their medians count."""

_PAGE: Final = 512
_DURABLE: Final = {
    "full": "SQLite WAL, synced before a value is handed on",
    "normal": "SQLite WAL, committed before a value is handed on",
    "pipelined": "SQLite WAL, handed on at once, the end waits for the last commit",
}


# ── the tasks ────────────────────────────────────────────────────────────────────────────────────────────────


@task
async def source() -> int:
    """Where a fan-out begins."""
    return 0


@task
async def sink(values: list[Any]) -> int:
    """Where it ends."""
    return len(values)


@task(name="work")
async def async_work(before: Any, i: int) -> dict[str, Any]:
    """A body on the event loop."""
    return await asmall(i)


@task(name="work")
def plain_work(before: Any, i: int) -> dict[str, Any]:
    """A body in a worker thread."""
    return small(i)


@task(name="source", cache_on=inputs())
async def cached_source() -> int:
    """Where a cached fan-out begins."""
    return 0


@task(name="work", cache_on=inputs())
async def cached_work(before: Any, i: int) -> dict[str, Any]:
    """A body whose result is taken again."""
    return await asmall(i)


@task(name="sink", cache_on=inputs())
async def cached_sink(values: list[Any]) -> int:
    """Where a cached fan-out ends."""
    return len(values)


@task(name="work")
async def async_big(before: Any, i: int) -> dict[str, Any]:
    """A large result, from the event loop."""
    return big(i)


@task(name="work")
def plain_big(before: Any, i: int) -> dict[str, Any]:
    """A large result, from a worker thread."""
    return big(i)


@task(name="step")
async def async_step(before: Any, k: int, j: int) -> dict[str, Any]:
    """Step j of flow k, on the event loop."""
    return small(k * 5 + j)


@task(name="step")
def plain_step(before: Any, k: int, j: int) -> dict[str, Any]:
    """Step j of flow k, in a worker thread."""
    return small(k * 5 + j)


# ── the flows ────────────────────────────────────────────────────────────────────────────────────────────────


def chain(n: int, work: Any) -> AnyFlow:
    """Tasks one after the other."""
    with Flow(f"chain-{n}") as flow:
        before: Any = None
        for i in range(n):
            before = work(before, i)
    return flow


def fan(n: int, work: Any) -> AnyFlow:
    """1 → n → 1."""
    with Flow(f"fan-{n}") as flow:
        first = source()
        sink([work(first, i) for i in range(n)])
    return flow


def cached_fan(n: int) -> AnyFlow:
    """1 → n → 1, every task cached."""
    with Flow(f"cached-fan-{n}") as flow:
        first = cached_source()
        cached_sink([cached_work(first, i) for i in range(n)])
    return flow


def layered(work: Any) -> AnyFlow:
    """Twenty layers of fifty tasks; each depends on three of the former layer."""
    with Flow("layered") as flow:
        before: list[Any] = []
        for layer in range(LAYERS):
            first = layer * WIDTH
            before = [work([before[k] for k in deps(layer, j)], first + j) for j in range(WIDTH)]
    return flow


def five(step: Any) -> AnyFlow:
    """Five tasks, one after the other, with a parameter."""
    with Flow("five") as flow:
        k = Parameter("k", type=int)
        before: Any = None
        for j in range(5):
            before = step(before, k, j)
    return flow


@cache
def _read_recording() -> Workload:
    """Read the file once, outside the time."""
    return load("bitbake-mylayer", RECORDED)


def recorded(work: Any) -> AnyFlow:
    """The recorded build: its edges, and bodies that only build a small dict."""
    with Flow("bitbake") as flow:
        nodes: dict[str, Any] = {}
        for i, job in enumerate(_read_recording().tasks):
            nodes[job.id] = work([nodes[parent] for parent in job.parents], i)
    return flow


def distinct(n: int) -> AnyFlow:
    """Tasks of their own, all made from one source by a closure."""

    def make(i: int) -> Any:
        @task(name=f"work-{i}")
        async def work(before: Any) -> dict[str, Any]:
            return small(i)

        return work

    works = [make(i) for i in range(n)]
    with Flow(f"distinct-{n}") as flow:
        for work in works:
            work(None)
    return flow


# ── the workloads ────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """One measurement: what was asked, and the log that it goes to."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.path: Path = asked.dir / "log.db"
        plain = asked.bodies == "plain"
        self.work = plain_work if plain else async_work
        self.big = plain_big if plain else async_big
        self.step = plain_step if plain else async_step
        self.system = f"eventflow-{'memory' if asked.log == 'memory' else asked.durability}"
        if plain:
            self.system += "-plain"

    def log(self) -> EventLog:
        """A handle on the log."""
        return MemoryLog() if self.asked.log == "memory" else SQLiteLog(self.path)

    async def run(self, log: EventLog, flow: AnyFlow, run_id: str | None = None, **parameters: Any) -> None:
        """Run a flow to its end, which must be a success."""
        launch = flow.options(log=log, durability=self.asked.durability, run_id=run_id)
        state = await launch.run(**parameters)
        assert state.is_successful(), state

    def emit(self, n: int, usage: Usage, **extra: Any) -> None:
        """Print the line."""
        durable = "memory" if self.asked.log == "memory" else _DURABLE[self.asked.durability]
        emit(self.system, self.asked.workload, n, usage, durable, bodies=self.asked.bodies, **extra)

    async def warmed(self, measure: Callable[[EventLog], Awaitable[None]]) -> None:
        """Run a flow of one task, then measure on the same log."""
        log = self.log()
        try:
            await self.run(log, chain(1, self.work))
            await measure(log)
        finally:
            await log.aclose()

    async def timed(self, log: EventLog, build: Callable[[], AnyFlow]) -> tuple[Usage, float]:
        """Build a flow and run it; gives the usage, and the seconds of building within it."""
        with Meter() as meter:
            start = time.perf_counter()
            flow = build()
            build_s = time.perf_counter() - start
            await self.run(log, flow)
        return meter.usage, build_s

    async def simple(self, log: EventLog) -> None:
        """W1, W2, W3, W7."""
        n = self.asked.n
        build: Callable[[], AnyFlow] = {
            "W1": lambda: chain(n, self.work),
            "W2": lambda: fan(n, self.work),
            "W3": lambda: layered(self.work),
            "W7": lambda: fan(n, self.big),
        }[self.asked.workload]
        before = await log.head()
        usage, build_s = await self.timed(log, build)
        events = await log.head() - before
        self.emit(n, usage, build_s=round(build_s, 5), events=events)

    async def many(self, log: EventLog) -> None:
        """W8: one flow, n runs, some of them at a time."""

        async def one(k: int) -> None:
            async with beside:
                await self.run(log, flow, k=k)

        beside = asyncio.Semaphore(BESIDE)
        with Meter() as meter:
            flow = five(self.step)
            await asyncio.gather(*(one(k) for k in range(self.asked.n)))
        self.emit(self.asked.n * 5, meter.usage, flows=self.asked.n)

    async def history(self) -> None:
        """W6: the state of a run that is on disk."""
        n = self.asked.n
        async with SQLiteLog(self.path) as log:
            await self.run(log, fan(n, self.work), "w6")
        with Meter() as meter:
            async with SQLiteLog(self.path) as log:
                view = await open_run(log, "w6")
                fold = await replay(log, view, stream=view.stream)
        state = RunStates(view, fold.state).state
        assert state.is_successful(), state
        self.emit(n, meter.usage, rows=fold.position)

    async def replayed(self) -> None:
        """A RunView of n events beside a bare fold of the same file."""
        tasks = self.asked.n // 2  # one starts, one succeeds
        async with SQLiteLog(self.path) as log:
            await self.run(log, fan(tasks, self.work), "replay")
            ours: list[Usage] = []
            bare: list[float] = []
            events = 0
            start = time.perf_counter()
            view = await open_run(log, "replay")
            view_s = time.perf_counter() - start
            for _ in range(TURNS):
                with Meter() as meter:
                    fold = await replay(log, view, stream=view.stream, start=Fold.start(view))
                assert RunStates(view, fold.state).state.is_successful()
                del fold
                ours.append(meter.usage)
                start = time.perf_counter()
                events = bare_fold(self.path)
                bare.append(time.perf_counter() - start)
        self.emit(
            events,
            statistics.median_low(ours),
            baseline_s=round(statistics.median(bare), 5),
            view_s=round(view_s, 5),
            turns=TURNS,
        )

    async def bitbake(self, log: EventLog) -> None:
        """A deep and narrow graph, beside W3's cost for as many tasks."""
        tasks = len(recorded(self.work).plan.nodes)
        ours, beside, build = [], [], 0.0
        for _ in range(TURNS):
            usage, build = await self.timed(log, lambda: recorded(self.work))
            ours.append(usage)
            beside.append((await self.timed(log, lambda: layered(self.work)))[0].wall)
        baseline = statistics.median(beside) / (LAYERS * WIDTH) * tasks
        self.emit(
            tasks,
            statistics.median_low(ours),
            baseline_s=round(baseline, 5),
            build_s=round(build, 5),
            turns=TURNS,
        )

    async def building(self, _log: EventLog) -> None:
        """A flow of distinct tasks, beside one of as many calls of a single task. Nothing is run."""
        n = self.asked.n
        ours, beside = [], []
        for _ in range(TURNS):
            with Meter() as meter:
                flow = distinct(n)
            ours.append(meter.usage)
            with Meter() as meter:
                baseline = chain(n, self.work)
            beside.append(meter.usage.wall)
            assert len(flow.graph.nodes) == len(baseline.graph.nodes) == n
            del flow, baseline  # outside the time
        self.emit(n, statistics.median_low(ours), baseline_s=round(statistics.median(beside), 5), turns=TURNS)

    async def taken(self) -> None:
        """W4: another process has run every task; this one takes the results."""
        n = self.asked.n
        async with SQLiteLog(self.path) as log:
            await self.run(log, chain(1, self.work))
            before = await log.head()
            usage, build_s = await self.timed(log, lambda: cached_fan(n))
            events = await log.head() - before
            executed = sum([isinstance(r.event, TaskStarted) async for r in log.read(after=before)])
        assert not executed, f"{executed} bodies ran"
        self.emit(n, usage, build_s=round(build_s, 5), events=events, executed=executed)

    async def fill(self) -> None:
        """A child of W4."""
        async with SQLiteLog(self.path) as log:
            await self.run(log, cached_fan(self.asked.n))

    async def cached(self, log: EventLog) -> None:
        """A chain that asks the cache at each step, beside one that does not."""
        n = self.asked.n
        ours, beside = [], []
        for turn in range(TURNS):
            with Flow(f"cached-chain-{turn}") as flow:
                before: Any = turn
                for i in range(n):
                    before = cached_work(before, turn * n + i)
            ours.append((await self.timed(log, lambda flow=flow: flow))[0])  # type: ignore[misc]
            beside.append((await self.timed(log, lambda: chain(n, self.work)))[0].wall)
        self.emit(n, statistics.median_low(ours), baseline_s=round(statistics.median(beside), 5), turns=TURNS)

    async def phase(self) -> None:
        """A child of W5: begin the run, or resume it."""
        async with SQLiteLog(self.path) as log:
            await self.run(log, fan(self.asked.n, self.work), "w5")

    async def one_task(self) -> None:
        """A child of W9."""
        async with SQLiteLog(self.path) as log:
            await self.run(log, chain(1, self.work))

    def finished(self) -> set[int]:
        """W5: indices of the tasks whose success is in the log; looked up in a copy of what the crash left."""

        async def look(path: Path) -> set[int]:
            async with SQLiteLog(path) as log:
                successes = [
                    record.event
                    async for record in log.read(stream="run/w5")
                    if isinstance(record.event, TaskSucceeded)
                ]
            results = [
                msgspec.msgpack.decode(e.result.data) for e in successes if isinstance(e.result, Inline)
            ]
            return {found["i"] for found in results if isinstance(found, dict)}

        copy = self.path.parent / "copy"
        copy.mkdir()
        for part in self.path.parent.glob("log.db*"):
            shutil.copy(part, copy)
        return asyncio.run(look(copy / self.path.name))


def bare_fold(path: Path) -> int:
    """Decode every record and put its event into a dict by task; gives the number of records."""
    connection = sqlite3.connect(path)
    (head,) = connection.execute("SELECT max(position) FROM event").fetchone()
    names = dict(connection.execute("SELECT id, name FROM stream"))
    tasks: dict[Any, Any] = {}
    for low in range(0, head, _PAGE):
        rows = connection.execute(
            "SELECT position, stream, body FROM event WHERE position > ? AND position <= ? ORDER BY position",
            (low, low + _PAGE),
        ).fetchall()
        for position, stream, body in rows:
            event = decode(position, names[stream], body).event
            if isinstance(event, TaskStarted | TaskSucceeded):
                tasks[event.task] = event
    connection.close()
    return int(head)


def main() -> None:
    """Measure one workload."""
    asked = ask(
        __doc__,
        durability=("full", "normal", "pipelined"),
        bodies=("async", "plain"),
        log=("sqlite", "memory"),
    )
    bench = Bench(asked)
    durability = ("--durability", asked.durability)
    alone = {"W6": bench.history, "replay": bench.replayed, "W9run": bench.one_task}
    alone |= {"W4": bench.taken, "W4fill": bench.fill}
    warmed = dict.fromkeys(("W1", "W2", "W3", "W7"), bench.simple)
    warmed |= {"W8": bench.many, "bitbake": bench.bitbake, "cached": bench.cached}
    warmed["build"] = bench.building
    if asked.workload in warmed:
        asyncio.run(bench.warmed(warmed[asked.workload]))
    elif asked.log == "memory":
        raise SystemExit(f"{asked.workload} needs a log on disk")
    elif asked.workload == "W5" and asked.bodies == "plain":
        raise SystemExit("W5 ends a thousand bodies one after the other; plain ones would block the threads")
    elif asked.workload == "W5" and asked.phase:
        asyncio.run(bench.phase())
    elif asked.workload == "W5":
        crash_resume(bench.system, asked, _DURABLE[asked.durability], *durability, recorded=bench.finished)
    elif asked.workload == "W9":
        cold(bench.system, main_module("W9run", *durability), _DURABLE[asked.durability])
    elif asked.workload in alone:
        if asked.workload == "W4":
            options = ("--n", str(asked.n), "--dir", str(asked.dir), *durability)
            subprocess.run(main_module("W4fill", *options), check=True)
        asyncio.run(alone[asked.workload]())
    else:
        raise SystemExit(f"no workload {asked.workload!r}; see --help")


if __name__ == "__main__":
    main()
