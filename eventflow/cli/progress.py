"""The progress of a run on stderr: a projection that follows the log, and bars or lines that show it.

One step of the fold is a few dictionary operations. Bars are drawn at most ten times a second, whatever the number of
events. Rich is imported for a terminal only.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, assert_never

import msgspec

from eventflow.cli.output import escaped, say, terminal
from eventflow.events import (
    Address,
    FlowDefined,
    Record,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    run_stream,
)
from eventflow.graph import Graph
from eventflow.ports import EventLog
from eventflow.projections import follow
from eventflow.views.run import cut

__all__ = ["Counts", "Progress", "ended_badly", "show_progress", "task_name"]

_LINES = 12


class Counts(msgspec.Struct):
    """Numbers of tasks, by group; a group is the tasks of one definition."""

    total: Counter[str]
    running: Counter[str]
    done: Counter[str]
    """Succeeded, reused or skipped."""
    failed: Counter[str]
    blocked: Counter[str]
    """Never ran, because an upstream task failed."""
    news: list[str] = []
    """Lines that have not been shown yet."""
    outcome: str = ""
    """Of the run; empty until it has finished."""
    cached: int = 0
    """Number of tasks whose results were taken from the cache."""
    saved_us: int = 0
    """Time that these tasks took when they ran."""


def task_name(graph: Graph, address: Address) -> str:
    """Return the name of the task at an address: `enrich`, `enrich[3]`."""
    return graph.nodes[address[0]].name + "".join(f"[{step}]" for step in address[1:])


class Progress:
    """Projection: one run's stream → `Counts`."""

    name = "progress"
    version = 1

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._groups = [
            graph.task_of(i).name if i in graph.task_nodes else "" for i in range(len(graph.nodes))
        ]

    def initial(self) -> Counts:
        """Count all tasks as outstanding."""
        groups = [group for group in self._groups if group]
        # All keys exist from the start, because the thread that draws may iterate when a count changes.
        none = dict.fromkeys(groups, 0)
        return Counts(Counter(groups), Counter(none), Counter(none), Counter(none), Counter(none))

    def apply(self, state: Counts, record: Record) -> Counts:
        """Count one event."""
        event = record.event
        match event:
            case TaskStarted():
                state.running[self._groups[event.task[0]]] += 1
            case TaskSucceeded() | TaskFailed() | TaskAbandoned():
                group = self._groups[event.task[0]]
                state.running[group] = max(0, state.running[group] - 1)
                if isinstance(event, TaskFailed):
                    self._add_failure(state, record, event)
                if isinstance(event, TaskSucceeded):
                    self._end(state, state.done, group)
                elif isinstance(event, TaskFailed) and event.retry_at is None:
                    self._end(state, state.failed, group)
            case TaskReused() | TaskSkipped():
                if isinstance(event, TaskReused) and event.why == "cache":
                    state.cached += 1
                    state.saved_us += event.saved_us
                self._end(state, state.done, self._groups[event.task[0]])
            case TaskBlocked():
                self._end(state, state.blocked, self._groups[event.task[0]])
            case TaskMapped():
                state.total[self._groups[event.task[0]]] += event.width - 1  # the children, not the map
            case RunFinished():
                state.outcome = event.outcome
            case FlowDefined() | RunStarted() | RunClaimed() | RunReleased() | Unknown():
                pass
            case _:
                assert_never(event)
        return state

    def _end(self, state: Counts, counter: Counter[str], group: str) -> None:
        counter[group] += 1
        done, failed, blocked = state.done[group], state.failed[group], state.blocked[group]
        if done + failed + blocked == state.total[group]:
            rest = ended_badly(failed, blocked)
            state.news.append(
                f"{state.done.total():>3} of {state.total.total()} done, "
                + (f"of {group} {rest}" if rest else f"all of {group}")
            )

    def _add_failure(self, state: Counts, record: Record, event: TaskFailed) -> None:
        name, failure = task_name(self._graph, event.task), event.failure
        message = cut(failure.message.partition("\n")[0])
        line = f"{name}: attempt {event.attempt} failed: {short(failure.type)}: {message}"
        if event.retry_at is not None:
            line += f"; again in {max(0, event.retry_at - record.at) / 1e6:.1f} s"
        state.news.append(line)


def ended_badly(failed: int, blocked: int) -> str:
    """Return how many tasks failed and how many never ran, in words; empty if there are none."""
    counts = {"failed": failed, "not run": blocked}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def short(kind: str) -> str:
    """Return the name of an exception without its module."""
    return kind.rpartition(".")[2]


async def show_progress(log: EventLog, graph: Graph, run_id: str, *, quiet: bool) -> Counts:
    """Follow a run and show its progress until it has finished; return the final counts. Cancel it to stop earlier."""
    projection = Progress(graph)
    with _display(graph.name, quiet=quiet) as show:
        async for fold in follow(log, projection, stream=run_stream(run_id)):
            show(fold.state)
            if fold.state.outcome:
                return fold.state
    raise AssertionError("following a log ends with an exception")


@contextmanager
def _display(name: str, *, quiet: bool) -> Iterator[Callable[[Counts], None]]:
    if quiet:
        yield lambda counts: counts.news.clear()
    elif sys.stderr.isatty():
        with _bars(name) as show:
            yield show
    else:
        yield _print_news


def _print_news(counts: Counts) -> None:
    for line in counts.news:
        say(line)
    counts.news.clear()


@contextmanager
def _bars(name: str) -> Iterator[Callable[[Counts], None]]:
    """Show bars on a terminal, drawn by a thread of rich ten times a second."""
    from rich.live import Live  # noqa: PLC0415 - for a terminal only

    console = terminal(sys.stderr)
    latest: list[Counts] = []

    def draw() -> Any:
        return _table(name, latest[0]) if latest else ""

    def show(counts: Counts) -> None:
        latest[:] = [counts]
        for line in counts.news:
            if "failed:" in line:  # the bars show which groups are done
                console.print(escaped(line))
        counts.news.clear()

    with Live(
        console=console, get_renderable=draw, refresh_per_second=10, redirect_stdout=sys.stdout.isatty()
    ):
        yield show


def _table(name: str, counts: Counts) -> Any:
    """Return one bar for the run and one for each group; if there are too many, those with running tasks first."""
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - for a terminal only
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    groups = list(counts.total)
    if len(groups) > _LINES - 1:
        ended = counts.done + counts.failed + counts.blocked
        groups.sort(key=lambda group: (not counts.running[group], ended[group] >= counts.total[group]))
    shown = groups[: _LINES - 1]
    columns = (counts.total, counts.running, counts.done, counts.failed, counts.blocked)
    rows = [(name, [column.total() for column in columns])]
    rows += [(f"  {group}", [column[group] for column in columns]) for group in shown]
    table = Table.grid(padding=(0, 2))
    for label, (total, running, done, failed, blocked) in rows:
        bar = ProgressBar(total=max(total, 1), completed=done, width=28)
        at_work = Text(f"{running} running" if running else "", style="cyan")
        badly = Text(ended_badly(failed, blocked), style="red")
        table.add_row(Text(escaped(label)), bar, Text(f"{done}/{total}", justify="right"), at_work, badly)
    if len(groups) > len(shown):
        table.add_row(Text(f"  +{len(groups) - len(shown)} more", style="dim"))
    return table
