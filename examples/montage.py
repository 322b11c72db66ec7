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
from typing import Any

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eventflow import Flow, MemoryLog, RunView, Timeline, follow, replay, task
from eventflow.events import FlowDefined, Record, RunFinished, TaskStarted, TaskSucceeded
from eventflow.graph import TaskNode
from examples.workload import Workload, expected_digest, job_digest, load

RUN_ID = "montage"
STREAM = f"run/{RUN_ID}"


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
    """One bar for the run, and one for each kind."""
    table = Table.grid(padding=(0, 2))
    rows = [("montage", sum(counts.total.values()), counts.begun.total(), counts.done.total())]
    rows += [(f"  {kind}", n, counts.begun[kind], counts.done[kind]) for kind, n in counts.total.items()]
    for name, total, begun, done in rows:
        running = f"{begun - done} running" if begun > done else ""
        bar = ProgressBar(total=max(total, 1), completed=done, width=32)
        table.add_row(name, bar, Text(f"{done}/{total}", justify="right"), Text(running, style="cyan"))
    return table


async def show_progress(log: MemoryLog, console: Console) -> None:
    """Follow the log until the run is over."""
    with Live(console=console, refresh_per_second=10, auto_refresh=console.is_terminal) as live:
        async for fold in follow(log, Progress()):
            live.update(progress_table(fold.state))
            if fold.state.over:
                return


async def show_moment(log: MemoryLog, console: Console, version: int) -> None:
    """The run as it stood right after one of its events, folded from the log alone."""
    view = await RunView.of(log, RUN_ID)
    position = next(r.position for r in await records(log) if r.version == version)
    past = view.picture((await replay(log, view, stream=STREAM, until=position)).state)
    states = {name: past[name] for name in past}
    counts = Counter(type(state).__name__ for state in states.values())
    last = await log.head(STREAM)
    console.print(f"\n[bold]as of event {version} of {last}[/bold]: ", end="")
    console.print(", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    running = [name for name, state in states.items() if state.is_running()]
    console.print(f"  running then: {', '.join(running[:4])}" + (" …" if len(running) > 4 else ""))


async def show_states(log: MemoryLog, console: Console) -> None:
    """What became of the tasks, by kind, and how long their bodies took."""
    view = await RunView.of(log, RUN_ID)
    picture = view.picture((await replay(log, view, stream=STREAM)).state)
    timeline = (await replay(log, Timeline(), stream=STREAM)).state
    table = Table(title="\nstates", title_justify="left", title_style="bold", box=None, padding=(0, 2))
    table.add_column("task")
    for heading in ("tasks", "state", "median ms", "longest ms"):
        table.add_column(heading, justify="right")
    graph = view.plan.graph
    for kind in dict.fromkeys(graph.task_of(i).name for i in range(len(graph.nodes))):
        mine = [i for i in range(len(graph.nodes)) if graph.task_of(i).name == kind]
        states = Counter(type(picture[graph.nodes[i].name]).__name__ for i in mine)
        spans = sorted(
            (attempt.ended_us - attempt.started_us) / 1000
            for i in mine
            for attempt in timeline.tasks[str(i)].attempts
            if attempt.ended_us is not None
        )
        said = ", ".join(f"{n} {state}" for state, n in states.items())
        table.add_row(kind, str(len(mine)), said, f"{spans[len(spans) // 2]:.0f}", f"{spans[-1]:.0f}")
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
        tasks.create_task(show_progress(log, console))
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
