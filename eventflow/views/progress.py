"""Counts the tasks of a run by definition, and notes its news line by line, as a screen shows a run under way."""

from __future__ import annotations

from collections import Counter
from typing import assert_never

import msgspec

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
)
from eventflow.graph import Graph
from eventflow.views.durations import duration
from eventflow.views.run import cut

__all__ = ["Counts", "Progress", "ended_badly"]


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
    under_way: set[Address] = set()
    """Tasks whose attempt has not ended."""


class Progress:
    """Projection: one run's stream → `Counts`. One step is a few operations on dictionaries.

    ```python
    from eventflow import MemoryLog, flow, follow, task
    from eventflow.views.progress import Progress


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    async for fold in follow(log, Progress(doubled.graph), stream="run/a"):
        print(fold.state.outcome, fold.state.done, fold.state.news)
        break
    ```

    ```text
    success Counter({'double': 1}) ['  1 of 1 done; double finished']
    ```
    """

    name = "progress"
    version = 1

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._groups = {node: graph.task_of(node).name for node in graph.task_nodes}

    def initial(self) -> Counts:
        """Count all tasks as outstanding."""
        groups = self._groups.values()
        # All keys exist from the start, because the thread that draws may iterate when a count changes.
        none = dict.fromkeys(groups, 0)
        return Counts(Counter(groups), Counter(none), Counter(none), Counter(none), Counter(none))

    def apply(self, state: Counts, record: Record) -> Counts:
        """Count one event."""
        event = record.event
        match event:
            case TaskStarted():
                state.under_way.add(event.task)
                state.running[self._group(event.task)] += 1
            case TaskAbandoned():
                self._stop(state, event.task)
            case TaskSucceeded() | TaskReused() | TaskSkipped():
                self._stop(state, event.task)
                self._add_saved_time(state, event)
                self._end(state, state.done, event.task)
            case TaskFailed():
                self._stop(state, event.task)
                self._add_failure(state, record, event)
            case TaskBlocked():
                self._end(state, state.blocked, event.task)
            case TaskMapped():
                state.total[self._group(event.task)] += event.width - 1  # the children, not the map
            case RunFinished():
                state.outcome = event.outcome
            case FlowDefined() | RunStarted() | RunClaimed() | RunReleased() | Unknown():
                pass
            case _:
                assert_never(event)
        return state

    def _group(self, task: Address) -> str:
        return self._groups[task[0]]

    def _stop(self, state: Counts, task: Address) -> None:
        if task in state.under_way:  # a task that is skipped or reused may not have been started
            state.under_way.remove(task)
            state.running[self._group(task)] -= 1

    def _end(self, state: Counts, counter: Counter[str], task: Address) -> None:
        group = self._group(task)
        counter[group] += 1
        done, failed, blocked = state.done[group], state.failed[group], state.blocked[group]
        if done + failed + blocked != state.total[group]:
            return
        rest = ended_badly(failed, blocked)
        ended = f"{group}: {rest}" if rest else f"{group} finished"
        state.news.append(f"{state.done.total():>3} of {state.total.total()} done; {ended}")

    def _add_saved_time(self, state: Counts, event: TaskSucceeded | TaskReused | TaskSkipped) -> None:
        if isinstance(event, TaskReused) and event.why == "cache":
            state.cached += 1
            state.saved_us += event.saved_us

    def _add_failure(self, state: Counts, record: Record, event: TaskFailed) -> None:
        name, failure = self._graph.name_at(event.task), event.failure
        error = failure.type.rpartition(".")[2]
        message = cut(failure.message.partition("\n")[0])
        line = f"{name}: attempt {event.attempt} failed: {error}: {message}"
        if event.retry_at is not None:
            line += f"; again in {duration(max(0, event.retry_at - record.at) / 1e6)}"
        state.news.append(line)
        if event.retry_at is None:
            self._end(state, state.failed, event.task)


def ended_badly(failed: int, blocked: int) -> str:
    """Return how many tasks failed and how many never ran, in words; empty if there are none."""
    counts = {"failed": failed, "not run": blocked}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)
