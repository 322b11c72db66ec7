"""Forks while a log is open: the child is told at once and harms nothing; pools that only compute go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import stored

ROOT = Path(__file__).parents[2]
LIMIT_S = 40
"""Only a process that hangs reaches it."""

HEAD = """
import asyncio, os, signal, sqlite3, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from eventflow import flow, task
from eventflow.logs.sqlite import LogForked, SQLiteLog
from eventflow.logs.open import open_log, shared_log
from eventflow.testing.conformance.hooks import stored, value, write

path, url = Path(sys.argv[1]), f"sqlite:///{sys.argv[1]}"

def in_child(work):
    # What a child says of itself: nothing is wrong, or what it raised; a child that hangs is killed.
    into, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            os.write(out, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(out)
    with os.fdopen(into) as said:
        found = said.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, (status, found)
    return found

def refuses(ask):
    # Whether it is the named error, and comes at once.
    began = time.monotonic()
    try:
        asyncio.run(ask())
    except LogForked as error:
        assert str(path) in str(error), error
        assert time.monotonic() - began < 5
    else:
        raise AssertionError("it was not refused")
"""


def run(code: str, *arguments: object) -> str:
    """Run a script that forks; gives what it prints."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-W",
            "ignore:.*fork.*:DeprecationWarning",
            "-c",
            HEAD + code,
            *map(str, arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a log."""
    return tmp_path / "log.db"


def test_an_open_log_is_refused_in_the_child(path: Path) -> None:
    """Whatever a child asks of an inherited log object is the named error at once; closing it says nothing."""
    run(
        """
async def main():
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, 0), values=[value(b"kept")])
    assert log.peek(value(b"kept").digest)

    async def follow():
        async for _ in log.follow():
            pass

    def child():
        for ask in (
            lambda: log.append(write("run/a", 1, 1)),
            lambda: log.submit(write("run/a", 1, 1)),
            lambda: log.head(),
            lambda: stored(log),
            lambda: log.values([b"?" * 16]),
            lambda: log.latest(["k"]),
            lambda: log.hold("r").__aenter__(),
            lambda: log.is_live("r"),
            lambda: log.keep_snapshot("s", b""),
            follow,
        ):
            refuses(ask)
        try:
            log.peek(value(b"kept").digest)
        except LogForked:
            pass
        else:
            raise AssertionError("peek was not refused")
        asyncio.run(log.aclose())

    assert in_child(child) == ""
    await log.append(write("run/a", 1, 1))
    assert await stored(log) == [0, 1]
    await log.aclose()

asyncio.run(main())
""",
        path,
    )


def test_the_same_file_is_refused_in_the_child(path: Path) -> None:
    """By whatever name and way it is opened, also in a child of the child; another file works there."""
    run(
        """
async def use(log):
    async with log:
        await log.head()

async def shared():
    await (await shared_log(url)).head()

async def opened():
    async with open_log(url) as log:
        await log.head()

@task
async def one() -> int:
    return 1

@flow
def ones() -> int:
    return one()

def child():
    os.symlink(path, f"{path}.link")
    os.link(path, f"{path}.hard")
    for name in (path, f"{path}.link"):
        refuses(lambda: use(SQLiteLog(name)))
        refuses(lambda: use(SQLiteLog(name, read_only=True)))
    try:
        asyncio.run(use(SQLiteLog(f"{path}.hard")))
    except LogForked:
        pass
    else:
        raise AssertionError("a hard link was not refused")
    refuses(shared)
    refuses(opened)
    refuses(lambda: ones.options(log=url).run())
    refuses(lambda: ones.options(log=url, durability="pipelined").run())
    other = ones.options(log=f"{url}.other", run_id="r")
    assert asyncio.run(other.run()).is_successful()

def grandchild():
    assert in_child(child) == ""

async def parent():
    await ones.options(log=url, run_id="parent").run()
    said = in_child(grandchild)
    assert said == "", said
    assert (await ones.options(log=url, run_id="after").run()).is_successful()

asyncio.run(parent())
""",
        path,
    )


def test_a_log_that_was_closed_before_the_fork(path: Path) -> None:
    """Nothing is inherited of it, so the child may open it, and so may the parent again."""
    run(
        """
async def append(number):
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", number, number))

asyncio.run(append(0))
assert in_child(lambda: asyncio.run(append(1))) == ""
asyncio.run(append(2))
""",
        path,
    )


def test_a_log_object_that_was_never_opened(path: Path) -> None:
    """It holds nothing yet, so the child may use it."""
    run(
        """
log = SQLiteLog(path)

async def append():
    async with log:
        await log.append(write("run/a", 0, 0))

assert in_child(lambda: asyncio.run(append())) == ""
""",
        path,
    )


POOLS = """
def compute(n):
    # Also with SQLite, which a fork in the middle of a commit would leave locked for ever.
    connection = sqlite3.connect(":memory:")
    (found,) = connection.execute("SELECT ?", (n,)).fetchone()
    connection.close()
    return found * 2

async def nested(n):
    return (await inner.options(log=url, run_id=f"in-{n}").run()).is_successful()

def run_flow(n):
    try:
        return asyncio.run(asyncio.wait_for(nested(n), 10))
    except LogForked:
        return "refused"

@task
async def one() -> int:
    return 1

@flow
def inner() -> int:
    return one()

@task
async def in_a_pool(work: str, n: int) -> list[object]:
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        calls = [loop.run_in_executor(pool, globals()[work], n * 10 + k) for k in range(4)]
        return list(await asyncio.gather(*calls))

@task
async def busy(n: int) -> int:
    return n

@flow
def pools(work: str, numbers: list[int], more: list[int]) -> list[list[object]]:
    busy.map(more)  # commits are under way while processes fork
    return in_a_pool.map(unmapped(work), numbers)

async def main():
    state = await pools.options(log=url, run_id="pools").run(work=sys.argv[2], numbers=[0, 1, 2], more=list(range(300)))
    assert state.is_successful(), state.message
    print(await pools.options(log=url, run_id="pools").value())

from eventflow import unmapped
asyncio.run(main())
"""


def test_pools_that_compute(path: Path) -> None:
    """Forked workers of a pool compute while the parent commits: none hangs, and all is in the log."""
    said = run(POOLS, path, "compute")
    assert said.strip() == str([[2 * (n * 10 + k) for k in range(4)] for n in range(3)])


async def test_pools_that_run_flows(path: Path) -> None:
    """Forked workers that run flows on the parent's log are refused, each at once; none is told of a success.

    What the parent was told stands.
    """
    said = run(POOLS, path, "run_flow")
    assert said.strip() == str([["refused"] * 4] * 3)
    async with SQLiteLog(path) as log:
        streams = {record.stream async for record in log.read()}
        assert {name for name in streams if name.startswith("run/")} == {"run/pools"}


async def test_forked_runs_lose_nothing(path: Path) -> None:
    """Of parents and children that run flows on one file at once, every run that was told as a success stands."""
    said = run(
        """
@task
async def one(n: int) -> int:
    return n

@flow
def ones(n: int) -> int:
    return one(one(n))

async def some(name, count):
    told = []
    for k in range(count):
        state = await ones.options(log=url, run_id=f"{name}-{k}").run(n=k)
        assert state.is_successful()
        told.append(f"{name}-{k}")
    return told

def child(name):
    try:
        print(*asyncio.run(some(name, 5)), flush=True)
    except LogForked:
        print("refused", flush=True)
    os._exit(0)

async def main():
    told = await some("before", 2)
    pids = []
    for n in range(6):
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            child(f"child{n}")
        pids.append(pid)
        told += await some(f"parent{n}", 5)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    print(*told, flush=True)

asyncio.run(main())
""",
        path,
    )
    told = [word for word in said.split() if word != "refused"]
    assert said.split().count("refused") == 6
    assert len(told) == 32
    async with SQLiteLog(path) as log:
        for run_id in told:
            assert (await stored_kinds(log, run_id))[-1] == "run_finished"


async def stored_kinds(log: SQLiteLog, run_id: str) -> list[str]:
    """The kinds of a run's events."""
    from eventflow.events import kind_of

    return [kind_of(record.event) async for record in log.read(stream=f"run/{run_id}")]


def test_an_idle_child_keeps_no_run_alive(path: Path) -> None:
    """A parent is killed that has an idle forked child: its run is free at once, and its log can be written."""
    run(
        """
parent = '''
import asyncio, os, sys, time
from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import write

async def main():
    async with SQLiteLog(sys.argv[1]) as log, log.hold("r") as mine:
        await log.append(write("run/a", 0, 0))
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        print(mine, pid, flush=True)
        time.sleep(30)

asyncio.run(main())
'''

async def main():
    process = subprocess.Popen([sys.executable, "-c", parent, path], stdout=subprocess.PIPE, text=True)
    mine, child = process.stdout.readline().split()
    assert mine == "True"
    async with SQLiteLog(path) as log:
        assert await log.is_live("r")
        process.kill()
        process.wait()
        try:
            assert not await log.is_live("r")
            async with log.hold("r") as mine:
                assert mine
            await asyncio.wait_for(log.append(write("run/a", 1, 1)), 5)
        finally:
            os.kill(int(child), signal.SIGKILL)
    process.stdout.close()

asyncio.run(main())
""",
        path,
    )


async def test_a_child_that_ends_tidies_nothing_up(path: Path) -> None:
    """A child closes inherited connections as it ends, when nobody else has the file open: no commit is lost.

    Meanwhile another process has committed and was killed, so its commits are in the `-wal` alone, which SQLite's
    closing of the last connection would delete.
    """
    run(
        """
other = '''
import asyncio, os, signal, sys
from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import write

async def main():
    log = await SQLiteLog.open(sys.argv[1])
    await log.append(write("run/b", 0, *range(200)))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
'''

async def main():
    global log
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, *range(200)))
    log.peek(b"?" * 16)
    into, out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(into, 1)  # until the parent is done with it
        sys.exit(0)  # through all finalizers
    await log.aclose()
    subprocess.run([sys.executable, "-c", other, path])
    wal = Path(f"{path}-wal").read_bytes()
    assert wal
    os.write(out, b"!")
    assert os.waitpid(pid, 0)[1] == 0
    assert Path(f"{path}-wal").read_bytes() == wal

try:
    asyncio.run(main())
except SystemExit:
    import gc
    import warnings
    warnings.simplefilter("ignore")
    for connection in [c for c in gc.get_objects() if isinstance(c, sqlite3.Connection)]:
        connection.close()
    del log
    gc.collect()
    raise
""",
        path,
    )
    async with SQLiteLog(path) as log:
        assert await stored(log, "run/a") == list(range(200))
        assert await stored(log, "run/b") == list(range(200))
