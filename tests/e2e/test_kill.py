"""`kill -9`, Ctrl-C and failures, to real processes: nothing finished is repeated, and nothing ever hangs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventflow.demo.workload import expected_digest
from eventflow.logs.sqlite import SQLiteLog
from tests.e2e.evidence import (
    LIMIT_S,
    Start,
    account_of,
    assert_quiet,
    await_count,
    check_file,
    counted,
    end,
    kill,
    launch,
)
from tests.e2e.flow_worker import SHARED, padding
from tests.recorded import load

KILLS = 2
"""Of each run: a third one in the same long task would make that task `Crashed`."""
SECONDS = 0.8
"""What a workload's critical path takes here."""
PROCESSES = 8
RUNS = int(os.environ.get("EVENTFLOW_TEST_RUNS", "200"))
"""Small flows of each process."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a worker; whatever is left of them is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(action: str, *arguments: object) -> subprocess.Popen[str]:
        started.append(launch(action, *arguments))
        return started[-1]

    yield start
    kill(started)


@pytest.mark.parametrize("durability", ["full", "normal"])
@pytest.mark.parametrize(
    ("name", "critical_s"),
    [
        ("montage-chameleon-2mass-01d-001", 21.1),
        ("1000genome-chameleon-10ch-250k-001", 358.9),
        ("airrflow-dirt02-001", 438.1),
    ],
)
async def test_killed_at_random_moments(
    tmp_path: Path, start: Start, name: str, critical_s: float, durability: str
) -> None:
    """Recorded workloads, killed twice on their way: they come to the digests of undisturbed runs.

    Nothing that had succeeded in the log is executed again, and no more is repeated than was in flight.
    """
    workload = load(name)
    digests = expected_digest(workload)
    values = {job.id: [digests[job.id], padding(job.output_bytes)] for job in workload.tasks}
    path, scale = tmp_path / "log.db", SECONDS / critical_s
    for run in ("a", "b"):
        chance = random.Random(f"{name} {durability} {run}")
        counts = tmp_path / run
        command = ("workload", path, counts, name, scale, run, durability)
        finished: dict[str, int] = {}
        in_flight = 0
        for target in sorted(chance.sample(range(1, len(values) * 9 // 10), KILLS)):
            worker = start(*command)
            await_count(counts, target, worker)
            await asyncio.sleep(chance.uniform(0, 0.02))
            worker.kill()
            worker.communicate()
            assert worker.returncode == -signal.SIGKILL, "it was over before it could be killed"
            entered = counted(counts)
            async with SQLiteLog(path) as log:
                account = await account_of(log, run)
                await check_file(log)
            assert entered <= account.started, "a body ran whose start is not in the log"
            assert all(entered[task] == count for task, count in finished.items()), "finished work ran again"
            finished = {task: entered[task] for task in account.succeeded}
            in_flight += len(account.in_flight)
        report = json.loads(end(start(*command)))
        assert report == {"state": "Success", "values": values}
        entered = counted(counts)
        assert all(entered[task] == count for task, count in finished.items()), "finished work ran again"
        assert len(values) <= entered.total() <= len(values) + in_flight
        async with SQLiteLog(path) as log:
            account = await account_of(log, run)
            await check_file(log)
        assert account.finished
        assert account.succeeded == dict.fromkeys(values, 1)
        assert entered <= account.started


async def test_many_processes_run_flows_on_one_file(tmp_path: Path, start: Start) -> None:
    """Eight processes, 200 flows each, some of them the same: no lock error, no run lost, no body run twice."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    workers = [start("many", path, counts, process, RUNS) for process in range(PROCESSES)]
    for worker in workers:
        end(worker)
    own = [f"{process}-{number}" for process in range(PROCESSES) for number in range(RUNS - SHARED)]
    runs = own + [f"all-{number}" for number in range(SHARED)]
    assert counted(counts) == {f"{run}:{task}": 1 for run in runs for task in ("double", "double-2")}
    async with SQLiteLog(path) as log:
        await check_file(log)
        for run in runs[:: len(runs) // 100] + runs[-SHARED:]:
            account = await account_of(log, run)
            assert account.finished
            assert account.succeeded == {"double": 1, "double-2": 1}


async def test_an_uncaught_exception_ends_the_process(tmp_path: Path, start: Start) -> None:
    """It ends with its own error, though a run is under way and the log open; the run can be resumed."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    worker = start("fail", path, counts)
    _, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == 1
    assert "on purpose" in err
    assert_quiet(err)
    await resumes(path, counts, start)


async def test_a_log_that_nobody_closes(tmp_path: Path, start: Start) -> None:
    """A script that forgets to close its log ends all the same, and its run is there."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    assert json.loads(end(start("forget", path, counts)))["state"] == "Success"
    async with SQLiteLog(path) as log:
        assert (await account_of(log, "r")).finished
        await check_file(log)


async def test_a_body_that_takes_the_process_with_it(tmp_path: Path, start: Start) -> None:
    """A crash within a body leaves its start in the log, and lets go of the run; nothing hangs."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    end(start("leave", path, counts), code=3)
    async with SQLiteLog(path) as log:
        account = await account_of(log, "r")
        assert account.in_flight == {"crash"}
        async with log.hold("r") as mine:
            assert mine


@pytest.mark.parametrize("entered", [0, 1, 2, 3])
async def test_ctrl_c(tmp_path: Path, start: Start, entered: int) -> None:
    """SIGINT ends the process in good order, whenever it comes; called again, the run goes on."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    worker = start("chain", path, counts)
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline()) == "begun"
    await_count(counts, entered)
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == -signal.SIGINT, err
    assert "KeyboardInterrupt" in err
    assert "Exception ignored" not in err
    if entered:
        async with SQLiteLog(path) as log:
            account = await account_of(log, "r")
            assert not account.in_flight, "what was interrupted is written down"
            assert account.claims == 1
    await resumes(path, counts, start)


async def test_ctrl_c_with_a_body_that_cannot_be_stopped(tmp_path: Path, start: Start) -> None:
    """A plain body in mid-sleep is waited for a few seconds and not for the minute that it takes."""
    path, counts = tmp_path / "log.db", tmp_path / "counts"
    worker = start("stubborn", path, counts)
    await_count(counts, 2)
    since = time.monotonic()
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == -signal.SIGINT, err
    assert time.monotonic() - since < 30
    async with SQLiteLog(path) as log:
        account = await account_of(log, "r")
        await check_file(log)
    assert account.succeeded == {"quick": 1}
    assert not account.in_flight


async def resumes(path: Path, counts: Path, start: Start) -> None:
    """A chain that was left goes on in another process, which repeats nothing that had succeeded."""
    async with SQLiteLog(path) as log:
        before = await account_of(log, "r")
        await check_file(log)
    entered = counted(counts)
    report = json.loads(end(start("chain", path, counts)).splitlines()[-1])
    assert report["state"] == "Success"
    assert len(report["done"]["link-4"]) == 4 * 600
    after = counted(counts)
    assert all(after[task] == entered[task] for task in before.succeeded)
    async with SQLiteLog(path) as log:
        account = await account_of(log, "r")
        await check_file(log)
    assert account.succeeded == dict.fromkeys(("link", "link-2", "link-3", "link-4"), 1)
