"""The progress of a run on stderr: bars on a terminal, lines elsewhere.

Bars are drawn at most ten times a second, whatever the number of events. Rich is imported for a terminal only.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from eventflow.cli.output import escaped, say, terminal
from eventflow.events import run_stream
from eventflow.graph import Graph
from eventflow.ports import EventLog
from eventflow.projections import follow
from eventflow.views.progress import Counts, Progress, ended_badly

__all__ = ["show_progress"]

_LINES = 12
_SILENCE_S = 2.0
"""Seconds without news, after which an event makes a line with the counts."""


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
        yield _Lines().show


class _Lines:
    """Writes the news line by line, and the counts if there was no news for some seconds."""

    def __init__(self) -> None:
        self._written_s = time.monotonic()

    def show(self, counts: Counts) -> None:
        """Write the news, or the counts."""
        lines = list(counts.news)
        counts.news.clear()
        if not lines and time.monotonic() >= self._written_s + _SILENCE_S:
            lines.append(f"{counts.done.total():>3} of {counts.total.total()} done")
        for line in lines:
            say(line)
            self._written_s = time.monotonic()


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
    table = Table.grid(padding=(0, 2))

    def add_row(label: str, number_in: Callable[[Counter[str]], int]) -> None:
        total, running, done = map(number_in, (counts.total, counts.running, counts.done))
        bar = ProgressBar(total=max(total, 1), completed=done, width=28)
        at_work = Text(f"{running} running", style="cyan") if running else Text()
        badly = Text(ended_badly(number_in(counts.failed), number_in(counts.blocked)), style="red")
        table.add_row(Text(escaped(label)), bar, Text(f"{done}/{total}", justify="right"), at_work, badly)

    add_row(name, Counter.total)
    for group in shown:
        add_row(f"  {group}", itemgetter(group))
    if len(groups) > len(shown):
        table.add_row(Text(f"  +{len(groups) - len(shown)} more", style="dim"))
    return table
