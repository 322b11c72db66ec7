"""The SQLite log and the death of processes: nothing acknowledged is lost, nothing hangs, nobody is in the way."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import collect, stored, value, write
from tests.e2e import sqlite_worker
from tests.e2e.evidence import assert_quiet

ROOT = Path(__file__).parents[2]
LIMIT_S = 20
"""Only a process that hangs reaches it."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a worker; whatever is left of them is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(action: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.e2e.sqlite_worker", action, *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    """The test's own handle."""
    async with SQLiteLog(tmp_path / "log.db") as log:
        yield log


def read_line(process: subprocess.Popen[str]) -> str:
    """The next word of a worker."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def check_dense(log: SQLiteLog) -> int:
    """Read everything, which asserts density and checksums; gives the head."""
    records = await collect(log.read())
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    for stream in {record.stream for record in records}:
        of_it = [record for record in records if record.stream == stream]
        assert await collect(log.read(stream=stream)) == of_it
    return len(records)


async def test_killed_while_writing(tmp_path: Path, start: Start) -> None:
    """Writers killed at random moments: each acknowledged append stands, whole, and the next one goes on."""
    path = tmp_path / "log.db"
    acknowledged = {"run/a": 0, "run/b": 0}
    for turn in range(4):
        writers = {stream: start("append_for_ever", path, stream) for stream in acknowledged}
        wanted = random.randrange(1, 60)
        for _ in range(wanted):
            read_line(writers["run/a"])
        for stream, process in writers.items():
            process.send_signal(signal.SIGKILL)
            told = process.communicate()[0].split()
            acknowledged[stream] = max(acknowledged[stream], *map(int, told[:-1]), 0)
        async with SQLiteLog(path) as log:
            for stream, least in acknowledged.items():
                numbers = await stored(log, stream)
                assert len(numbers) >= least, turn
                assert numbers == list(range(len(numbers)))
                kept = [value(b"%d" % version * 1000) for version in range(0, len(numbers), 2)]
                assert await log.values(v.digest for v in kept) == {v.digest: v for v in kept}
            await check_dense(log)


async def test_many_processes_append(tmp_path: Path, start: Start) -> None:
    """Eight processes on a new file: nobody meets a lock error, nothing is lost, positions are dense."""
    path = tmp_path / "log.db"
    workers = [start("append_some", path, f"run/{n}", n * 25, 25) for n in range(8)]
    for worker in workers:
        out, err = worker.communicate(timeout=LIMIT_S)
        assert (out, worker.returncode) == ("done\n", 0), err
    async with SQLiteLog(path) as log:
        assert await check_dense(log) == 8 * 25 * 2
        for n in range(8):
            assert await stored(log, f"run/{n}") == list(range(n * 25, n * 25 + 25))
        assert sorted(await stored(log, "run/shared")) == list(range(200))


async def test_following_another_process(log: SQLiteLog, start: Start) -> None:
    """A follower gets what another process appends."""
    worker = start("append_for_ever", log.path, "run/a")
    async with asyncio.timeout(LIMIT_S):
        records = await collect(log.follow(), 40)
    assert [record.position for record in records] == list(range(1, 41))
    worker.kill()


async def test_a_hold_ends_with_its_process(log: SQLiteLog, start: Start) -> None:
    """A stopped holder keeps its run, a killed one frees it at once; one process does not disturb another."""
    holder = start("hold", log.path, "a")
    assert read_line(holder) == "True"
    async with log.hold("a") as mine, log.hold("b") as other:
        assert (mine, other) == (False, True)
        second = start("hold", log.path, "b")
        assert read_line(second) == "False"
    holder.send_signal(signal.SIGSTOP)
    async with SQLiteLog(log.path) as another, another.hold("a") as mine:
        assert not mine
    await log.append(write("run/a", 0, 1))  # a stopped process is in nobody's way
    holder.kill()
    holder.wait(LIMIT_S)
    async with log.hold("a") as mine:
        assert mine
        third = start("hold", log.path, "a")
        assert read_line(third) == "False"


async def test_other_handles_do_not_end_a_hold(log: SQLiteLog, start: Start) -> None:
    """Opening and closing handles beside it, or the one it came from, does not free a run for others."""
    async with SQLiteLog(log.path) as other, other.hold("a") as mine:
        assert mine
        async with SQLiteLog(log.path) as third:
            await third.append(write("run/a", 0, 1))
        other.peek(b"?" * 16)
        await other.aclose()
        await log.aclose()
        assert read_line(start("hold", log.path, "a")) == "False"
    assert read_line(start("hold", log.path, "a")) == "True"


@pytest.mark.parametrize("action", ["fail", "leave"])
async def test_a_log_left_open_does_not_hang(tmp_path: Path, start: Start, action: str) -> None:
    """A process that leaves a log open ends, with its own error and no other; what it stored stands."""
    worker = start(action, tmp_path / "log.db")
    _, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == (action == "fail")
    assert ("on purpose" in err) == (action == "fail")
    assert_quiet(err)
    async with SQLiteLog(tmp_path / "log.db") as log:
        assert (await stored(log))[:1] == [1]


async def test_files_that_may_not_grow(tmp_path: Path, start: Start) -> None:
    """At the limit of file sizes: a clear error, nothing acknowledged lost, and it goes on afterwards."""
    worker = start("outgrow", tmp_path / "log.db")
    out, err = worker.communicate(timeout=LIMIT_S)
    assert worker.returncode == 0, err
    told, last = out.splitlines()
    version, _, message = told.partition(" ")
    assert str(tmp_path / "log.db") in message
    assert last == "again"
    async with SQLiteLog(tmp_path / "log.db") as log:
        assert await log.head("run/a") == int(version) + 1
        await check_dense(log)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for very little."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or mount is None or umount is None:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("this machine does not let root mount a file system")
    yield folder
    subprocess.run([umount, "-l", folder], check=True)


async def test_a_full_disk(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk: an error that says so, nothing acknowledged lost, and it goes on when there is room."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"." * 500_000)
    async with SQLiteLog(small_disk / "log.db") as log:
        version = await sqlite_worker.fill(log)
        assert "full disk" in capsys.readouterr().out
        assert await check_dense(log) == version
        ballast.unlink()
        await log.append(write("run/a", version, version))
    async with SQLiteLog(small_disk / "log.db") as log:
        assert await check_dense(log) == version + 1


STUCK = """
import asyncio, sqlite3, sys, warnings
from eventflow import flow, task
from eventflow.logs.sqlite import SQLiteLog, group_commit, shield
group_commit.SHIELD_S = shield.SHIELD_S = 0.2
other = sqlite3.connect(sys.argv[1], isolation_level=None)

@task
async def one() -> int:
    if sys.argv[2] == "round":
        other.execute("BEGIN IMMEDIATE")
    return 1

@flow
def ones() -> int:
    return one.after(one())()

async def main():
    log = await SQLiteLog.open(sys.argv[1])
    if sys.argv[2] == "birth":
        other.execute("BEGIN IMMEDIATE")
    running = asyncio.ensure_future(ones.options(log=log).run())
    await asyncio.sleep(0.3)
    assert not running.done()
    raise SystemExit(7)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["birth", "round"])
def test_a_loop_ends_although_the_file_is_held_by_another_program(tmp_path: Path, moment: str) -> None:
    """An append that can neither end nor be withdrawn keeps no process alive, and swallows no cancellation."""
    script = [sys.executable, "-c", STUCK, str(tmp_path / "log.db"), moment]
    done = subprocess.run(script, timeout=30, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
