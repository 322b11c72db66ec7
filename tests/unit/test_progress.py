"""The progress of a run: tasks are counted by definition, and each piece of news is one line."""

from __future__ import annotations

from collections import Counter
from typing import Any

from eventflow import Flow, MemoryLog, Skip, task
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
    assert [line.partition("done, ")[2] for line in counts.news if "done, " in line] == [
        "all of numbers",
        "of third 1 failed",
        "of last 1 not run",
    ]
