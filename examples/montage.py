"""The demo: a recorded astronomy workflow, run live and then looked at in its past.

Montage stitches telescope images into one mosaic.  This is one real run of it, 103 tasks, as recorded by
the WfCommons project; here each task sleeps its recorded seconds, scaled down, and gives a digest of what
it was given, so that the result can be checked against one computed without the engine.

    python -m examples.montage [--seconds 8]

What you see while it runs is a projection that follows the log, and so is everything printed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from statistics import median
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eventflow import Flow, MemoryLog, RunView, Timeline, follow, replay, task
from eventflow.events import FlowDefined, Record, RunFinished, TaskStarted, TaskSucceeded
from eventflow.graph import TaskNode
from examples.workload import Workload, expected_digest, job_digest, load

RUN_ID = "montage"
STREAM = f"run/{RUN_ID}"
SHOWN = ("Success", "Running", "Pending")
"""States that a task of this flow can be in before it fails, which it does not."""


async def work(job: str, seconds: float, parents: list[str]) -> str:
    """Every task's body: take as long as the recorded one did, scaled, and prove what was received."""
    await asyncio.sleep(seconds)
    return job_digest(job, parents)


def critical_path_s(workload: Workload) -> float:
    """Seconds that the recorded tasks take when nothing but their order holds them up."""
    ends: dict[str, float] = {}
    for job in workload.tasks:
        ends[job.id] = job.runtime_s + max((ends[parent] for parent in job.parents), default=0.0)
    return max(ends.values())


def build(workload: Workload, seconds: float) -> Flow[..., Any]:
    """The workload as a flow: one task function for each kind of job, one node for each job."""
    scale = seconds / critical_path_s(workload)
    kinds = {kind: task(name=kind)(work) for kind in dict.fromkeys(job.kind for job in workload.tasks)}
    nodes: dict[str, str] = {}
    with Flow("montage") as flow:
        for job in workload.tasks:
            parents = [nodes[parent] for parent in job.parents]
            nodes[job.id] = kinds[job.kind].named(job.id)(job.id, job.runtime_s * scale, parents)
    return flow


class Counts(msgspec.Struct):
    """How many tasks of each kind there are, have begun and are done."""

    kind_of: list[str] = []
    total: Counter[str] = msgspec.field(default_factory=Counter)
    begun: Counter[str] = msgspec.field(default_factory=Counter)
    done: Counter[str] = msgspec.field(default_factory=Counter)
    over: bool = False


class Progress:
    """A projection, complete: what a person wants to see of a running flow."""

    name = "progress"
    version = 1

    def initial(self) -> Counts:
        """Nothing is known yet."""
        return Counts()

    def apply(self, state: Counts, record: Record) -> Counts:
        """Count one event."""
        match record.event:
            case FlowDefined(graph=graph):
                state.kind_of = [
                    graph.task_of(i).name if isinstance(node, TaskNode) else ""
                    for i, node in enumerate(graph.nodes)
                ]
                state.total = Counter(state.kind_of)
            case TaskStarted(task=address):
                state.begun[state.kind_of[address[0]]] += 1
            case TaskSucceeded(task=address):
                state.done[state.kind_of[address[0]]] += 1
            case RunFinished():
                state.over = True
        return state


def progress_table(counts: Counts) -> Table:
    """One bar for the run, and one for each kind; a bar pulses while all of its kind is still to come."""
    table = Table.grid(padding=(0, 2))
    rows = [("montage", sum(counts.total.values()), counts.begun.total(), counts.done.total())]
    rows += [(f"  {kind}", n, counts.begun[kind], counts.done[kind]) for kind, n in counts.total.items()]
    for name, total, begun, done in rows:
        running = f"{begun - done} running" if begun > done else ""
        bar = ProgressBar(total=max(total, 1), completed=done, width=32, pulse=bool(running) and not done)
        table.add_row(name, bar, Text(f"{done}/{total}", justify="right"), Text(running, style="cyan"))
    return table


async def show_bars(log: MemoryLog, console: Console) -> None:
    """Follow the log until the run is over, on a terminal."""
    with Live(console=console, refresh_per_second=10) as live:
        async for fold in follow(log, Progress()):
            live.update(progress_table(fold.state))
            if fold.state.over:
                return


async def print_lines(log: MemoryLog, console: Console) -> None:
    """Follow the log until the run is over, into a pipe or a file: a line for each kind that is done."""
    told: set[str] = set()
    async for fold in follow(log, Progress()):
        counts = fold.state
        for kind, total in counts.total.items():
            if counts.done[kind] == total and kind not in told:
                told.add(kind)
                console.print(f"{counts.done.total():>3} of {counts.total.total()} done, all of {kind}")
        if counts.over:
            return


def tasks_by_kind(view: RunView) -> dict[str, dict[int, str]]:
    """Index and name of every task, by the name of its function."""
    found: dict[str, dict[int, str]] = {}
    for i, node in enumerate(view.plan.graph.nodes):
        found.setdefault(view.plan.graph.task_of(i).name, {})[i] = node.name
    return found


async def show_moment(log: MemoryLog, console: Console, version: int) -> None:
    """The run as it stood right after one of its events, folded from the log alone."""
    view = await RunView.of(log, RUN_ID)
    position = next(r.position for r in await records(log) if r.version == version)
    past = view.picture((await replay(log, view, stream=STREAM, until=position)).state)
    table = Table.grid(padding=(0, 2))
    for kind, tasks in tasks_by_kind(view).items():
        states = Counter(type(past[name]).__name__ for name in tasks.values())
        seen = (f"{states[name]:>2} {name}" if states[name] else "" for name in SHOWN)
        table.add_row(f"  {kind}", *seen)
    running = [name for name in past if past[name].is_running()]
    console.print(f"\n[bold]as of event {version} of {await log.head(STREAM)}[/bold]")
    console.print(table)
    console.print(Padding(f"running then: {', '.join(running)}", (0, 2)))


async def show_states(log: MemoryLog, console: Console) -> None:
    """What became of the tasks, by kind, and how long they took."""
    view = await RunView.of(log, RUN_ID)
    picture = view.picture((await replay(log, view, stream=STREAM)).state)
    timeline = (await replay(log, Timeline(), stream=STREAM)).state
    table = Table.grid(padding=(0, 2))
    table.add_row("[bold]states", "", "[bold]median ms", "[bold]longest ms")
    for column in table.columns[2:]:
        column.justify = "right"
    for kind, tasks in tasks_by_kind(view).items():
        states = Counter(type(picture[name]).__name__ for name in tasks.values())
        attempts = [attempt for i in tasks for attempt in timeline.tasks[str(i)].attempts]
        spans_ms = [(a.ended_us - a.started_us) / 1000 for a in attempts if a.ended_us is not None]
        became = ", ".join(f"{n:>2} {state}" for state, n in states.items())
        table.add_row(f"  {kind}", became, f"{median(spans_ms):.0f}", f"{max(spans_ms):.0f}")
    console.print()
    console.print(table)


async def records(log: MemoryLog) -> list[Record]:
    """All records of the run."""
    return [record async for record in log.read(stream=STREAM)]


async def main(seconds: float) -> None:
    """Run, watch, check, look back."""
    console = Console(highlight=False)
    workload = load("montage-chameleon-2mass-01d-001")
    flow, log = build(workload, seconds), MemoryLog()
    async with asyncio.TaskGroup() as tasks:
        show = show_bars if console.is_terminal else print_lines
        tasks.create_task(show(log, console))
        running = tasks.create_task(flow.options(run_id=RUN_ID, log=log).run())
    state = running.result()

    expected = expected_digest(workload)
    same = sum(state.result[job].result == digest for job, digest in expected.items())
    console.print(f"\n[bold]{type(state).__name__}[/bold]: {state.message}")
    console.print(f"  {same} of {len(expected)} results equal those computed without the engine")
    console.print(f"  {await log.head()} events say all of it")
    await show_moment(log, console, version=len(await records(log)) // 2)
    await show_states(log, console)
    if not state.is_successful() or same != len(expected):
        raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the run should take")
    asyncio.run(main(parser.parse_args().seconds))
