"""What a person sees of a run while it goes on: a projection that follows the log, drawn on stderr.

One step of the fold is a few dictionary operations; drawing happens at most ten times a second, whatever
the number of events.  Rich is imported for a terminal only.
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

__all__ = ["Counts", "Progress", "ended_badly", "task_name", "watch"]

_LINES = 12


class Counts(msgspec.Struct):
    """How many tasks of each group (task definition) there are, run now, and have ended how."""

    total: Counter[str]
    running: Counter[str]
    done: Counter[str]
    """Ended well: succeeded, taken from elsewhere, or skipped."""
    failed: Counter[str]
    blocked: Counter[str]
    """Never ran, since something they wait for failed."""
    news: list[str] = []
    """Lines worth telling, until somebody takes them."""
    outcome: str = ""
    """Of the run, once it has finished."""
    cached: int = 0
    """Tasks whose results were taken from the cache."""
    saved_us: int = 0
    """What those had taken."""


def task_name(graph: Graph, address: Address) -> str:
    """The name of a task at an address: `enrich`, `enrich[3]`."""
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
        """Everything is still to come."""
        groups = [group for group in self._groups if group]
        # All keys from the start: the thread that draws may be iterating when a count changes.
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
                    self._tell_failure(state, record, event)
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

    def _end(self, state: Counts, how: Counter[str], group: str) -> None:
        how[group] += 1
        done, failed, blocked = state.done[group], state.failed[group], state.blocked[group]
        if done + failed + blocked == state.total[group]:
            rest = ended_badly(failed, blocked)
            state.news.append(
                f"{state.done.total():>3} of {state.total.total()} done, "
                + (f"of {group} {rest}" if rest else f"all of {group}")
            )

    def _tell_failure(self, state: Counts, record: Record, event: TaskFailed) -> None:
        told = f"{task_name(self._graph, event.task)}: attempt {event.attempt} failed: {short(event.failure.type)}"
        told += f": {cut(event.failure.message.partition(chr(10))[0])}"
        if event.retry_at is not None:
            told += f"; again in {max(0, event.retry_at - record.at) / 1e6:.1f} s"
        state.news.append(told)


def ended_badly(failed: int, blocked: int) -> str:
    """How many of some tasks failed and never ran, in words; nothing if none did."""
    counts = {"failed": failed, "not run": blocked}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def short(kind: str) -> str:
    """The name of an exception without its module."""
    return kind.rpartition(".")[2]


async def watch(log: EventLog, graph: Graph, run_id: str, *, quiet: bool) -> Counts:
    """Follow a run until it has finished, showing it as the terminal allows; cancel it to stop earlier."""
    projection = Progress(graph)
    with _shown(graph.name, quiet=quiet) as show:
        async for fold in follow(log, projection, stream=run_stream(run_id)):
            show(fold.state)
            if fold.state.outcome:
                return fold.state
    raise AssertionError("following a log ends with an exception")


@contextmanager
def _shown(name: str, *, quiet: bool) -> Iterator[Callable[[Counts], None]]:
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
    """Bars on a terminal, drawn by a thread of rich's, ten times a second."""
    from rich.live import Live  # noqa: PLC0415 - for a terminal only

    console = terminal(sys.stderr)
    latest: list[Counts] = []

    def draw() -> Any:
        return _table(name, latest[0]) if latest else ""

    def show(counts: Counts) -> None:
        latest[:] = [counts]
        for line in counts.news:
            if "failed:" in line:  # that a group is done is seen
                console.print(escaped(line))
        counts.news.clear()

    with Live(
        console=console, get_renderable=draw, refresh_per_second=10, redirect_stdout=sys.stdout.isatty()
    ):
        yield show


def _table(name: str, counts: Counts) -> Any:
    """One bar for the run and one for each group, those at work first when there are too many."""
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
