"""The files under an open log: deleted, moved or replaced, nothing is acknowledged any more, and nothing is harmed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventflow import flow, task
from eventflow.logs.open import open_log, shared_log
from eventflow.logs.sqlite import LogOfAnotherLoop, LogReplaced, LogUnusable, SQLiteLog
from eventflow.logs.sqlite.process import has_open, identity_of
from eventflow.testing.conformance.hooks import stored, value, write

ROOT = Path(__file__).parents[2]
LIMIT_S = 30
LARGE = value(b"large" * 40_000)


def elsewhere(code: str, path: Path) -> str:
    """Have another process use the log; what it prints."""
    lines = "\n".join(f"        {line}" for line in code.splitlines())
    script = (
        "import asyncio, os, sys\n"
        "from eventflow.logs.sqlite import SQLiteLog\n"
        "from eventflow.testing.conformance.hooks import stored, write\n"
        "async def main():\n"
        "    async with SQLiteLog(sys.argv[1]) as log:\n"
        f"{lines}\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    return done.stdout


def beside(path: Path, ending: str) -> Path:
    """A file beside a log."""
    return Path(f"{path}{ending}")


def contents(path: Path) -> tuple[bytes, bytes]:
    """What stands in the database, and what is committed beside it."""
    return path.read_bytes(), beside(path, "-wal").read_bytes()


def deleted(path: Path) -> None:
    """The database is deleted."""
    path.unlink()


def moved(path: Path) -> None:
    """The database is renamed."""
    path.rename(path.with_name("moved.db"))


def replaced(path: Path) -> None:
    """A copy takes its place."""
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


def wal_deleted(path: Path) -> None:
    """What was committed last is deleted."""
    beside(path, "-wal").unlink()


def wal_replaced(path: Path) -> None:
    """A copy of it takes its place."""
    shutil.copy(beside(path, "-wal"), path.with_name("copy"))
    path.with_name("copy").replace(beside(path, "-wal"))


def lock_deleted(path: Path) -> None:
    """The file by which processes take turns is deleted."""
    beside(path, ".lock").unlink()


def folder_moved(path: Path) -> None:
    """All of it is elsewhere."""
    path.parent.rename(path.parent.with_name("elsewhere"))


WAYS = [deleted, moved, replaced, wal_deleted, wal_replaced, lock_deleted, folder_moved]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a log, in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "log.db"


@pytest.mark.parametrize("exchange", WAYS)
async def test_nothing_is_acknowledged_after_files_were_exchanged(
    path: Path, exchange: Callable[[Path], None]
) -> None:
    """Every append after it, of whatever kind and number, raises the named error at once; closing works."""
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, 0, 1), values=[value(b"kept")])
    exchange(path)
    for _ in range(2):
        with pytest.raises(LogReplaced, match=str(path)):
            await log.append(write("run/a", 2, 2))
    many = await asyncio.gather(
        *(log.append(write(f"run/{n}", 0, n)) for n in range(4)), return_exceptions=True
    )
    assert [type(error) for error in many] == [LogReplaced] * 4
    ticket = await log.submit(write("run/t", 0, 0))
    with pytest.raises(LogReplaced):
        await ticket.wait()
    with pytest.raises(LogReplaced):
        await log.keep_snapshot("s", b"")
    assert log.is_lost
    await log.aclose()


@pytest.mark.parametrize("exchange", WAYS)
async def test_a_run_ends_when_its_log_is_exchanged(path: Path, exchange: Callable[[Path], None]) -> None:
    """A body that does so ends its run with the named error; no later body runs, and no success is told."""
    ran = []

    @task
    async def first() -> int:
        exchange(path)
        return 1

    @task
    async def second(n: int) -> int:
        ran.append(n)
        return n

    @flow
    def both() -> int:
        return second(first())

    with pytest.raises(LogReplaced):
        await both.options(log=f"sqlite:///{path}", run_id="r").run()
    assert ran == []


async def test_a_lost_handle_is_not_shared_any_further(path: Path) -> None:
    """Later runs of the same loop, which name the log by its URL, get a new handle, and it works."""
    url = f"sqlite:///{path}"
    first = await shared_log(url)
    await first.append(write("run/a", 0, 0))
    beside(path, "-wal").unlink()
    with pytest.raises(LogReplaced):
        await first.append(write("run/a", 1, 1))
    second = await shared_log(url)
    assert second is not first
    await second.append(write("run/b", 0, 7))
    assert await stored(second, "run/b") == [7]
    assert await shared_log(url) is second


async def test_other_handles_of_the_process_are_lost_with_it(path: Path) -> None:
    """None of them stores anything; a new one is refused until all are closed, since SQLite shares what is broken."""
    async with SQLiteLog(path) as one, SQLiteLog(path) as two:
        await one.append(write("run/a", 0, 0))
        beside(path, "-wal").unlink()
        for log in (one, two):
            with pytest.raises(LogReplaced):
                await log.append(write("run/a", 1, 1))
        with pytest.raises(LogReplaced, match="close all logs on it first"):
            await SQLiteLog.open(path)
    async with SQLiteLog(path) as log:
        await log.append(write("run/b", 0, 0))


async def test_a_reader_that_opens_another_file_is_refused(path: Path) -> None:
    """What is read after an exchange is of the writer's file, or an error; never of the file that came instead."""
    other = path.with_name("other.db")
    elsewhere("await log.append(write('run/foreign', 0, 9))", other)
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, 0))
    other.replace(path)
    with pytest.raises(LogReplaced):
        await stored(log)
    with pytest.raises(LogReplaced):
        log.peek(b"?" * 16)
    await log.aclose()


def copy_folder(path: Path) -> None:
    """As a body does that takes a backup: it opens and closes all files, and all POSIX locks are gone."""
    shutil.copytree(path.parent, path.parent.with_name("backup"))


async def test_a_body_that_copies_the_folder(path: Path) -> None:
    """When another process tidies up behind the locks that this dropped, nothing acknowledged is lost by either.

    The copy takes SQLite's locks away; the other process, which sees nobody, is the last one, and deletes the `-wal`.
    """
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, *range(50)))
    copy_folder(path)
    assert elsewhere("await log.append(write('run/b', 0, *range(1500)))", path) == ""
    assert not beside(path, "-wal").exists()
    with pytest.raises(LogReplaced, match="-wal"):
        await log.append(write("run/a", 50, 50))
    await log.aclose()
    said = elsewhere("print(len(await stored(log, 'run/a')), len(await stored(log, 'run/b')))", path)
    assert said.split() == ["50", "1500"]


async def test_a_copied_folder_frees_no_run(path: Path) -> None:
    """A run that is being run stays its owner's, and turns stay turns, whatever files a body opens and closes.

    SQLite's own locks do not survive that: the other process has removed the `-wal`, and the owner is told so.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux has locks that closing another descriptor does not drop")
    async with SQLiteLog(path) as log:
        with pytest.raises(LogReplaced):  # noqa: PT012 - leaving the block is what raises
            async with log.hold("r") as mine:
                assert mine
                copy_folder(path)
                said = elsewhere(
                    "async with log.hold('r') as mine:\n    print(mine, await log.is_live('r'))", path
                )
                assert said.split() == ["False", "True"]


@pytest.mark.parametrize("gone", ["", "-wal", ".lock"])
async def test_files_that_went_during_the_last_commit_are_missed_at_the_end(path: Path, gone: str) -> None:
    """No later append finds it out, so whoever ran a run is told before it counts as ended."""
    async with SQLiteLog(path) as log:
        with pytest.raises(LogReplaced, match=r"deleted, moved, replaced or cut off|deleted or replaced"):  # noqa: PT012 - leaving the block is what raises
            async with log.hold("r"):
                await log.append(write("run/r", 0, 1))
                os.unlink(f"{path}{gone}")  # noqa: PTH108 - in an async function
        with pytest.raises(LogReplaced):
            await log.append(write("run/r", 1, 2))


@pytest.mark.parametrize("append_first", [True, False])
async def test_closing_a_lost_log_changes_nothing(path: Path, append_first: bool) -> None:
    """A lost handle leaves alone what has gone on since, whether it finds out by appending or by closing.

    Another process has committed and was killed, so its commits are in a new `-wal` only, which the closing of the
    last connection would delete.
    """
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, *range(300)))
    copy_folder(path)
    elsewhere("await log.append(write('run/b', 0, *range(3000)))", path)
    with pytest.raises(subprocess.CalledProcessError):
        elsewhere("await log.append(write('run/c', 0, *range(100)))\nos.kill(os.getpid(), 9)", path)
    before = contents(path)
    if append_first:
        with pytest.raises(LogReplaced):
            await log.append(write("run/a", 300, 300))
    await log.aclose()
    assert contents(path) == before
    async with SQLiteLog(path) as log:
        assert [len(await stored(log, f"run/{name}")) for name in "abc"] == [300, 3000, 100]


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_a_pack_that_is_taken_away(
    path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large values whose pack is gone by the time of the commit are not acknowledged."""
    pack = path.with_name("log.db.packs") / "000001.pack"
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0), values=[LARGE])
        writer = log._open._pack_writer  # type: ignore[union-attr]
        keep = writer.keep

        def keep_and_lose(*given: object, **more: object) -> object:
            rows = keep(*given, **more)  # type: ignore[arg-type]
            pack.unlink()
            return rows

        monkeypatch.setattr(writer, "keep", keep_and_lose)
        with pytest.raises(LogReplaced, match=r"000001\.pack"):
            await log.append(write("run/a", 1, 1), values=[value(b"other" * 40_000)], durability=durability)  # type: ignore[arg-type]
        assert log.is_lost


async def test_a_pack_that_was_deleted_is_not_relied_on(path: Path) -> None:
    """A value that was stored before is stored again when its pack is gone, though a descriptor still has it."""
    pack = path.with_name("log.db.packs") / "000001.pack"
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0), values=[LARGE])
        await log.append(write("run/a", 1, 1), values=[LARGE])
        pack.unlink()
        await log.append(write("run/a", 2, 2), values=[LARGE])
    async with SQLiteLog(path) as log:
        assert (await log.values([LARGE.digest]))[LARGE.digest] == LARGE


async def test_a_changed_folder_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of the moment when the log object was made: packs, key and locks stay together."""
    monkeypatch.chdir(path.parent)
    log = SQLiteLog("log.db")
    there = path.parent.with_name("there")
    there.mkdir()
    os.chdir(there)
    async with log, open_log(f"sqlite:///{path}") as same:
        assert log.path == path
        await log.append(write("run/a", 0, 0), values=[LARGE])
        assert log.peek(LARGE.digest) == LARGE
        assert list(log.keyring.keys) == list(same.keyring.keys)
        async with log.hold("r"):
            assert await same.is_live("r")
    assert list(there.iterdir()) == []
    assert sorted(found.name for found in path.parent.iterdir()) == [
        "log.db",
        "log.db.key",
        "log.db.lock",
        "log.db.packs",
    ]


def test_which_file_is_open(tmp_path: Path) -> None:
    """A file is known by what the process has open, not by its name."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()
    with one.open():
        one.rename(tmp_path / "three")
        first, second = identity_of(tmp_path / "three"), identity_of(two)
        assert first is not None
        assert second is not None
        assert has_open(first)
        assert not has_open(second)
    assert not has_open(first)
    assert identity_of(one) is None


def test_another_thread_is_told_at_once(path: Path) -> None:
    """A log object whose loop lives raises in another thread's loop, whatever is asked; the first one goes on."""

    async def use(log: SQLiteLog) -> list[str]:
        told = []
        for ask in (
            lambda: log.append(write("run/b", 0, 0)),
            lambda: log.submit(write("run/b", 0, 0)),
            log.head,
            lambda: log.values([]),
            lambda: log.latest(["k"]),
            lambda: log.hold("r").__aenter__(),
            lambda: log.is_live("r"),
            lambda: log.keep_snapshot("s", b""),
            log.aclose,
        ):
            with pytest.raises(LogOfAnotherLoop, match=str(path)) as caught:
                await asyncio.wait_for(ask(), 5)
            told.append(str(caught.value))
        return told

    async def main() -> None:
        async with SQLiteLog(path) as log:
            await log.append(write("run/a", 0, 0))
            told = await asyncio.to_thread(lambda: asyncio.run(use(log)))
            assert len(set(told)) == 1
            await log.append(write("run/a", 1, 1))
            assert await stored(log) == [0, 1]

    asyncio.run(main())


def test_a_loop_after_the_other_may_go_on(path: Path) -> None:
    """A log object outlives its loop: the next one that uses it has it."""
    log = SQLiteLog(path)
    asyncio.run(_append(log, 0))
    asyncio.run(_append(log, 1))
    asyncio.run(log.aclose())
    with pytest.raises(LogUnusable):
        asyncio.run(_append(SQLiteLog(path.with_name("no") / "log.db"), 0))


async def _append(log: SQLiteLog, number: int) -> None:
    await log.append(write("run/a", number, number))
    assert await log.head() == number + 1


async def test_a_database_that_was_cut_off_is_missed(path: Path) -> None:
    """It is the same file, and what was in it is gone: nothing is acknowledged after that."""
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, *range(300)))
    await log.append(write("run/a", 300, *range(300)))
    os.truncate(path, 0)
    with pytest.raises(LogReplaced, match="cut off"):
        await log.append(write("run/a", 600, 1))
    with pytest.raises(LogReplaced):
        await log.append(write("run/a", 600, 1))
    await log.aclose()
