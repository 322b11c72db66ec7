"""Runs at durability `pipelined`: results are handed on at once, and the log is a prefix of what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import anyio
import pytest

from eventflow import Flow, MemoryLog, RunStates, SQLiteLog, open_run, replay, task
from eventflow.events import Draft, RunClaimed, RunFinished, TaskSucceeded
from eventflow.logs.sqlite import LogWriteFailed
from eventflow.ports import EventLog, Write
from eventflow.testing import Crash, CrashingLog
from eventflow.testing.conformance.hooks import collect

ran: Counter[int] = Counter()


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    """Count anew."""
    ran.clear()


@task
async def step(number: int, before: list[int]) -> int:
    """Count, so that all that came before shows in the end."""
    ran[number] += 1
    return number + sum(before)


def diamond() -> Flow[..., int]:
    """A chain, a fan and a join: 9 tasks."""
    with Flow("diamond") as flow:
        first = step(2, [step(1, [step(0, [])])])
        step(8, [step(number, [first]) for number in range(3, 8)])
    return flow


EXPECTED = 8 + 5 * 3 + sum(range(3, 8))


async def states(log: EventLog) -> list[int]:
    """The tasks whose success is in the log; folding it asserts that it has no hole."""
    view = await open_run(log, "r")
    await replay(log, view, stream=view.stream)
    records = await collect(log.read(stream="run/r"))
    return [record.event.task[0] for record in records if isinstance(record.event, TaskSucceeded)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("lag", [0, 1, 3, 100])
async def test_a_crash_loses_a_suffix_and_the_rest_is_not_repeated(
    lag: int, when: Literal["before", "after"]
) -> None:
    """Whatever was under way at the crash is done again; what the log has is not."""
    crash_at, died = 1, True
    while died:
        inside = MemoryLog()
        ran.clear()
        crashing = CrashingLog(inside, crash_at=crash_at, when=when, lag=lag)
        try:
            await diamond().options(log=crashing, run_id="r", durability="pipelined").run()
            died = False
        except Crash:
            crash_at += 1
        done = await states(inside) if await inside.head() else []
        before = ran.copy()
        state = await diamond().options(log=inside, run_id="r", durability="pipelined").run()
        assert state.result["step-9"].result == EXPECTED
        assert all(ran[number] == before[number] for number in done)
        assert set(ran.values()) <= {1, 2}
        assert (await collect(inside.read(stream="run/r")))[-1].event.__class__ is RunFinished
    assert crash_at > 5


async def test_the_end_of_a_run_waits_for_its_last_commit() -> None:
    """When `run` returns all of it is stored, however far the log lagged behind."""
    inside = MemoryLog()
    log = CrashingLog(inside, lag=100)
    await diamond().options(log=log, run_id="r", durability="pipelined").run()
    assert len(await states(inside)) == 9
    assert log.appends < 12


async def test_an_interrupted_run_records_what_was_submitted() -> None:
    """A cancelled run leaves all rounds before it in the log."""

    @task
    async def stop(before: int) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    with Flow("stopped") as flow:
        stop(step(1, [step(0, [])]))
    inside = MemoryLog()
    log = CrashingLog(inside, lag=100)
    with anyio.CancelScope() as scope:
        await flow.options(log=log, run_id="r", durability="pipelined").run()
    assert len(await states(inside)) == 2
    state = await open_run(inside, "r")
    fold = await replay(inside, state, stream=state.stream)
    assert RunStates(state, fold.state)["stop"].is_pending()


async def test_a_runner_whose_round_was_refused_begins_again_from_the_log() -> None:
    """Somebody wrote in between: bodies went on from what never stood, so the run is opened anew."""
    log = MemoryLog()

    @task
    async def meddle(before: int) -> int:
        if not ran[100]:
            ran[100] = 1
            head = await log.head("run/r")
            claim = RunClaimed(owner="another", environment={}, flow=flow.graph.digest)
            await log.append(Write("run/r", head, [Draft(0, claim)]))
        return before

    with Flow("meddled") as flow:
        last = step(2, [step(1, [meddle(step(0, []))])])
    state = await flow.options(log=log, run_id="r", durability="pipelined").run()
    assert state.result[last].result == 3
    assert ran[0] == 1
    assert len(await states(log)) == 4


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    """A log on disk."""
    async with SQLiteLog(tmp_path / "log.db") as log:
        yield log


async def test_on_disk_a_chain_takes_few_commits(file: SQLiteLog) -> None:
    """Rounds do not wait for each other's commits, so many share one."""
    with Flow("chain") as flow:
        node = step(0, [])
        for number in range(1, 300):
            node = step(number, [node])
    batches: list[int] = []
    await file.head()
    assert file._open is not None
    commits = file._open.commits
    store = commits._store

    def counted(connection: object, appends: list[object]) -> None:
        batches.append(len(appends))
        store(connection, appends)

    commits._store = counted
    state = await flow.options(log=file, run_id="r", durability="pipelined").run()
    assert state.result[node].result == sum(range(300))
    assert sum(batches) == 301
    assert len(batches) < 100
    assert len(await states(file)) == 300


async def test_a_write_that_fails_ends_the_run(file: SQLiteLog) -> None:
    """A round that could not be stored is an error of the run, none of its successors is stored, and it resumes."""
    assert await file.head() == 0
    assert file._open is not None
    commits = file._open.commits
    store = commits._store
    stored = [0]

    def failing(connection: object, appends: list[object]) -> None:
        stored[0] += len(appends)
        if 20 < stored[0] < 10_000:
            raise LogWriteFailed("the disk is full")
        store(connection, appends)

    @task
    async def slow(number: int, before: int) -> int:
        ran[number] += 1
        await file.head()  # the commits get their turn
        return number

    with Flow("chain") as flow:
        node = slow(0, 0)
        for number in range(1, 50):
            node = slow(number, node)
    commits._store = failing
    with pytest.raises(LogWriteFailed):
        await flow.options(log=file, run_id="r", durability="pipelined").run()
    assert sum(ran.values()) < 50
    stored[0] = 10_000
    done = await states(file)
    before = ran.copy()
    state = await flow.options(log=file, run_id="r", durability="pipelined").run()
    assert state.is_successful()
    assert all(ran[number] == before[number] for number in range(len(done)))
