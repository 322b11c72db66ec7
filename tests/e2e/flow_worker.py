"""A process that runs flows on a SQLite log until they are done, or until it is killed or told to stop.

`python -m tests.e2e.flow_worker ACTION LOG COUNTS [ARGUMENT …]`; every body appends its name to the file
COUNTS, and what the process reports is one JSON document a line, flushed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

from eventflow import Flow, State, context, flow, task
from eventflow.demo.workload import Workload, job_digest
from eventflow.logs.sqlite import SQLiteLog
from eventflow.ports import Durability
from tests.recorded import load

__all__ = ["SHARED", "padding", "workload_flow"]

SHARED = 10
"""Runs of `many` that all processes ask for."""
LINK_S = 0.4
"""How long a link of `chain` takes."""
LARGEST = 20_000


def tell(report: object) -> None:
    """Report to the test."""
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


def note(counts: Path, name: str) -> None:
    """Say, outside the engine, that a body was entered; one write, so also whole when killed."""
    descriptor = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{name}\n".encode())
    os.close(descriptor)


def summary(state: State) -> dict[str, Any]:
    """A final State as plain data."""
    return {
        "state": type(state).__name__,
        "values": {name: state.result[name].result for name in state.result},
    }


# ── recorded workloads ───────────────────────────────────────────────────────────────────────────────────


def padding(output_bytes: int) -> str:
    """What makes a job's result large when the recorded one was: some results lie beside their events."""
    return "." * min(output_bytes, LARGEST)


def workload_flow(workload: Workload, counts: Path, scale: float) -> Flow[..., Any]:
    """One task for each job, every third one a plain function; recorded seconds are multiplied by `scale`."""

    def give(id_: str, output_bytes: int, parents: list[str]) -> list[str]:
        return [job_digest(id_, parents), padding(output_bytes)]

    @task(version="1")
    async def job(id_: str, seconds: float, output_bytes: int, parents: list[str]) -> list[str]:
        note(counts, context.task)
        await asyncio.sleep(seconds)
        return give(id_, output_bytes, parents)

    @task(version="1")
    def plain_job(id_: str, seconds: float, output_bytes: int, parents: list[str]) -> list[str]:
        note(counts, context.task)
        time.sleep(seconds)
        return give(id_, output_bytes, parents)

    nodes: dict[str, Any] = {}
    with Flow(workload.name) as made:
        for number, part in enumerate(workload.tasks):
            parents = [nodes[up][0] for up in part.parents]
            kind = job if number % 3 else plain_job
            nodes[part.id] = kind.named(part.id)(part.id, part.runtime_s * scale, part.output_bytes, parents)
    return made


async def workload(log: Path, counts: Path, name: str, scale: str, run_id: str, durability: str) -> None:
    """Run a workload, and report its end."""
    made = workload_flow(load(name), counts, float(scale))
    async with SQLiteLog(log) as opened:
        state = await made.options(log=opened, run_id=run_id, durability=cast(Durability, durability)).run()
    tell(summary(state))


# ── a chain, for two processes ───────────────────────────────────────────────────────────────────────────


def chain_flow(counts: Path, seconds: float) -> Flow[..., Any]:
    """Four tasks in a row with large results."""

    @task(version="1")
    async def link(text: str) -> str:
        note(counts, context.task)
        await asyncio.sleep(seconds)
        return text + "." * 600

    with Flow("chain") as made:
        link(link(link(link(""))))
    return made


async def chain(log: Path, counts: Path, wait: str = "wait") -> None:
    """Run the chain as run `r`, and report its end."""
    async with SQLiteLog(log) as opened:
        tell("begun")
        options = chain_flow(counts, LINK_S).options(log=opened, run_id="r", wait=wait == "wait")
        state = await options.run()
        names = state.result
        tell(
            {
                "state": type(state).__name__,
                "tasks": {name: type(names[name]).__name__ for name in names},
                "done": {name: names[name].result for name in names if names[name].is_successful()},
            }
        )


# ── many small flows ─────────────────────────────────────────────────────────────────────────────────────


async def many(log: Path, counts: Path, process: str, runs: str) -> None:
    """Run small flows, a few at a time; the last ones are those that all processes run."""

    @task(version="1")
    async def double(number: int) -> int:
        note(counts, f"{context.run}:{context.task}")
        return number * 2

    @flow
    def small(number: int) -> int:
        return double(double(number))

    gate = asyncio.Semaphore(8)

    async def one(opened: SQLiteLog, run_id: str, number: int) -> int:
        async with gate:
            return await small.options(log=opened, run_id=run_id).value(number)

    own = int(runs) - SHARED
    ids = [f"{process}-{number}" for number in range(own)] + [f"all-{number}" for number in range(SHARED)]
    async with SQLiteLog(log) as opened:
        values = await asyncio.gather(*(one(opened, run_id, n) for n, run_id in enumerate(ids)))
    assert values == [number * 4 for number in range(len(ids))], values
    tell("done")


# ── ends of all kinds ────────────────────────────────────────────────────────────────────────────────────


async def fail(log: Path, counts: Path) -> None:
    """Fail with a run under way and the log open."""
    opened = await SQLiteLog.open(log)
    under_way = asyncio.ensure_future(chain_flow(counts, 60).options(log=opened, run_id="r").run())
    while not os.path.exists(counts):  # noqa: ASYNC110, ASYNC240, PTH110 - a file has no event
        await asyncio.sleep(0.01)
    raise RuntimeError(f"on purpose, with {under_way.get_name()}")


async def forget(log: Path, counts: Path) -> None:
    """Run the chain, and forget to close the log."""
    state = await chain_flow(counts, 0).options(log=await SQLiteLog.open(log), run_id="r").run()
    tell(summary(state))


async def leave(log: Path, counts: Path) -> None:
    """Leave the process from within a body, as a crash in native code does."""

    @task(version="1")
    async def crash() -> int:
        note(counts, context.task)
        os._exit(3)

    with Flow("crash") as made:
        crash()
    async with SQLiteLog(log) as opened:
        await made.options(log=opened, run_id="r").run()


async def stubborn(log: Path, counts: Path) -> None:
    """Run a quick task, and a plain one beside it that nobody can stop for a minute."""

    @task(version="1")
    async def quick() -> str:
        note(counts, context.task)
        return "." * 1000

    @task(version="1")
    def slow(text: str) -> int:
        note(counts, context.task)
        time.sleep(60)
        return len(text)

    with Flow("stubborn") as made:
        slow(quick())
    async with SQLiteLog(log) as opened:
        await made.options(log=opened, run_id="r").run()


ACTIONS = (workload, chain, many, fail, forget, leave, stubborn)

if __name__ == "__main__":
    _, action, log_file, counting_file, *arguments = sys.argv
    asyncio.run(
        {each.__name__: each for each in ACTIONS}[action](Path(log_file), Path(counting_file), *arguments)
    )
