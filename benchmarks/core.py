"""What a task costs: eventflow on the memory log beside the bare floor, in interleaved runs.

    python benchmarks/core.py [--rounds 5] [--n 10000] [--workloads W1,W2]

Every measurement is a fresh process; the systems take turns, round by round, because machines drift; the
table shows medians, and ratios to the first system.  A task's body only builds a small dict.

    W1   a chain: n tasks, one after the other
    W2   fan-out and fan-in: 1 → n → 1

    asyncio        asyncio.TaskGroup, a task each: no graph, no log, nothing survives
    anyio          the same with anyio's task group
    eventflow      async bodies, memory log; building the flow is inside the time
    eventflow run  the same without building
    threads        plain bodies in worker threads, memory log
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from eventflow import Flow, MemoryLog, task

SYSTEMS = ("asyncio", "anyio", "eventflow", "eventflow run", "threads")


def small(i: int) -> dict[str, Any]:
    """The body: only the engine's overhead should count."""
    return {"i": i, "ok": True}


async def asyncio_floor(workload: str, n: int) -> float:
    """Plain asyncio, every task spawned, also in a chain, as an engine would."""

    async def body(i: int) -> dict[str, Any]:
        return small(i)

    async def gather(indices: range) -> None:
        async with asyncio.TaskGroup() as tasks:
            for i in indices:
                tasks.create_task(body(i))

    await gather(range(1))
    start = time.perf_counter()
    for chunk in [range(i, i + 1) for i in range(n)] if workload == "W1" else [range(n)]:
        await gather(chunk)
    return time.perf_counter() - start


async def anyio_floor(workload: str, n: int) -> float:
    """The same with anyio's structure."""

    async def body(i: int) -> None:
        small(i)

    async def gather(indices: range) -> None:
        async with anyio.create_task_group() as tasks:
            for i in indices:
                tasks.start_soon(body, i)

    await gather(range(1))
    start = time.perf_counter()
    for chunk in [range(i, i + 1) for i in range(n)] if workload == "W1" else [range(n)]:
        await gather(chunk)
    return time.perf_counter() - start


def flow_of(workload: str, n: int, *, threads: bool) -> Flow[..., Any]:
    """The workload as a flow."""

    @task
    async def source() -> int:
        return 0

    @task
    async def body(before: Any, i: int) -> dict[str, Any]:
        return small(i)

    @task
    def plain(before: Any, i: int) -> dict[str, Any]:
        return small(i)

    @task
    async def sink(values: list[Any]) -> int:
        return len(values)

    work = plain if threads else body
    with Flow(f"{workload}-{n}") as flow:
        before: Any = source()
        if workload == "W1":
            for i in range(n):
                before = work(before, i)
        else:
            sink([work(before, i) for i in range(n)])
    return flow


async def eventflow_cost(workload: str, n: int, system: str) -> float:
    """The engine on the memory log."""
    threads = system == "threads"
    await flow_of(workload, 10, threads=threads).options(log=MemoryLog()).run()
    start = time.perf_counter()
    flow = flow_of(workload, n, threads=threads)
    assert flow.plan.nodes
    if system == "eventflow run":
        start = time.perf_counter()
    state = await flow.options(log=MemoryLog()).run()
    elapsed = time.perf_counter() - start
    assert state.is_successful(), state
    return elapsed


async def measure(system: str, workload: str, n: int) -> float:
    """Seconds for one system and workload, in this process."""
    floors: dict[str, Callable[[str, int], Awaitable[float]]] = {
        "asyncio": asyncio_floor,
        "anyio": anyio_floor,
    }
    if system in floors:
        return await floors[system](workload, n)
    return await eventflow_cost(workload, n, system)


def one(system: str, workload: str, n: int) -> dict[str, float]:
    """One fresh process."""
    command = [sys.executable, str(Path(__file__)), "--one", system, "--workloads", workload, "--n", str(n)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--workloads", default="W1,W2")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        seconds = asyncio.run(measure(asked.one, asked.workloads, asked.n))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"us": seconds / asked.n * 1e6, "peak_mb": peak_mb}))
        return
    for workload in asked.workloads.split(","):
        runs: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
        for _ in range(asked.rounds):
            for system in SYSTEMS:
                runs[system].append(one(system, workload, asked.n))
        print(f"{workload}, n = {asked.n}, {asked.rounds} interleaved rounds")
        print(f"  {'system':<16}{'µs a task':>10}{'min … max':>16}{'× asyncio':>11}{'peak MB':>9}")
        base = statistics.median(run["us"] for run in runs["asyncio"])
        for system, found in runs.items():
            us = sorted(run["us"] for run in found)
            middle, peak = statistics.median(us), statistics.median(run["peak_mb"] for run in found)
            span = f"{us[0]:.1f} … {us[-1]:.1f}"
            print(f"  {system:<16}{middle:>10.1f}{span:>16}{middle / base:>11.2f}{peak:>9.0f}")


if __name__ == "__main__":
    main()
