"""The progress of a run: tasks are counted by definition, and each piece of news is one line."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, Skip, task
from eventflow.cli import progress
from eventflow.testing.virtual import VirtualWorld, simulate
from eventflow.views.progress import Counts, Progress


@task(version="1")
async def numbers() -> list[int]:
    """Three numbers."""
    return [0, 1, 2]


@task(version="1", retries=1)
async def third(number: int) -> float:
    """Fails twice for 0, skips 1."""
    if number == 1:
        raise Skip("one")
    return 6 / number


@task(version="1")
async def last(number: float) -> int:
    """Runs for 2, is skipped for 1 and blocked for 0."""
    return int(number)


def counted() -> tuple[Counts, Progress]:
    """The counts of a whole run."""

    async def main(world: VirtualWorld) -> tuple[Counts, Progress]:
        with Flow("example") as example:
            last.map(third.map(numbers()))
        log: Any = MemoryLog()
        await example.options(log=log, world=world, run_id="r").run()
        progress = Progress(example.graph)
        counts = progress.initial()
        async for record in log.read(stream="run/r"):
            counts = progress.apply(counts, record)
        return counts, progress

    return simulate(main)


def test_tasks_are_counted_by_definition() -> None:
    """Children count one by one; a task that skips itself has ended well and no longer runs."""
    counts, _ = counted()
    assert counts.total == Counter(numbers=1, third=3, last=3)
    assert counts.done == Counter(numbers=1, third=2, last=2)
    assert counts.failed == Counter(third=1)
    assert counts.blocked == Counter(last=1)
    assert (counts.running.total(), counts.under_way) == (0, set())
    assert counts.outcome == "failed"


def test_news_are_failures_and_groups_that_have_ended() -> None:
    """A failure names the task, the attempt, and the error without its module; a group ends with its last task."""
    counts, _ = counted()
    failures = [line for line in counts.news if "failed:" in line]
    assert [line.partition(";")[0] for line in failures] == [
        "third[0]: attempt 1 failed: ZeroDivisionError: division by zero",
        "third[0]: attempt 2 failed: ZeroDivisionError: division by zero",
    ]
    assert "; again in " in failures[0]
    assert [line.partition("done; ")[2] for line in counts.news if "done; " in line] == [
        "numbers finished",
        "third: 1 failed",
        "last: 1 not run",
    ]


def test_lines_of_a_pipe_come_at_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without news, an event after some silence makes a line with the counts; news come at once."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    none: Counter[str] = Counter()
    counts = Counts(Counter(step=50), none, Counter(step=3), none, none)
    lines = progress._Lines()
    lines.show(counts)
    now[0] = 102.5
    lines.show(counts)
    lines.show(counts)
    counts.news.append("step[4]: attempt 1 failed")
    lines.show(counts)
    now[0] = 104.0
    lines.show(counts)
    assert capsys.readouterr().err.splitlines() == ["  3 of 50 done", "step[4]: attempt 1 failed"]
