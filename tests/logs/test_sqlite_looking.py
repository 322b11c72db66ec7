"""Looking at a log: nothing is written, locked or made, and nothing that lies beside it is obeyed."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventflow import Runs, flow, task
from eventflow.logs.open import open_log
from eventflow.logs.sqlite import LogUnusable, SQLiteLog
from eventflow.logs.sqlite.files import is_unborn
from eventflow.ports import LogClosed, Value
from eventflow.read_models import ReadModel
from eventflow.records import LogDamaged
from eventflow.testing.conformance.hooks import collect, stored, value, write
from tests.logs import breaking_sqlite as breaking

ROOT = Path(__file__).parents[2]
LARGE = value(b"large" * 40_000)
KILLED = """
import asyncio, os, sys
from pathlib import Path
from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import write

async def main():
    log = await SQLiteLog.open(sys.argv[1])
    await log.append(write("run/b", 0, *range(50)))
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@task
async def one() -> int:
    """A step."""
    return 1


@flow
def ones() -> int:
    """A run."""
    return one()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a log, in a folder of its own."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "log.db"


def remove(path: Path, ending: str) -> None:
    """Take a file away that lies beside a log."""
    Path(f"{path}{ending}").unlink()


def protect(path: Path) -> None:
    """Make a log and its folder read-only."""
    path.chmod(0o444)
    path.parent.chmod(0o555)


def read(path: Path) -> bytes:
    """What a file holds."""
    return path.read_bytes()


def traces(folder: Path, *but: str) -> dict[str, object]:
    """All that is in a folder, with bytes, modes and times."""
    found: dict[str, object] = {"": folder.stat().st_mtime_ns}
    for each in folder.rglob("*"):
        if each.name not in but:
            status = each.lstat()
            data = each.read_bytes() if each.is_file() else b""
            found[str(each)] = (data, status.st_mode, status.st_mtime_ns, status.st_ino)
    if but:
        del found[""]
    return found


async def make(path: Path) -> Path:
    """A closed log with records, values, a run and rows of its table."""
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0, 1, 2), values=[value(b"kept"), LARGE])
        await ones.options(log=log, run_id="r").run()
        await ReadModel.of(log, Runs())
        await ones.options(log=log, run_id="later").run()
    return path


def leave_commits(path: Path) -> None:
    """Have a process append to a log and be killed, so that commits are in the `-wal` alone."""
    subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False, timeout=30)
    assert Path(f"{path}-wal").stat().st_size


async def look(log: SQLiteLog) -> None:
    """All questions."""
    assert (await stored(log, "run/a")) == [0, 1, 2]
    assert await log.head("run/a") == 3
    assert [*await log.values([LARGE.digest])] == [LARGE.digest]
    assert log.peek(value(b"kept").digest) == value(b"kept")
    assert await log.latest(["k"]) == {}
    assert await log.snapshot("none") is None
    assert len((await log.info()).id) == 32
    assert not await log.is_live("r")
    runs = Runs.of(await (await ReadModel.of(log, Runs())).under())
    assert [run for run in runs if run != "b"] == ["a", "r", "later"]
    assert len(await collect(log.follow(), 3)) == 3


async def test_looking_leaves_no_trace(path: Path) -> None:
    """All questions are answered, a table that is kept only in part too, and not a byte or time has changed."""
    await make(path)
    remove(path, ".lock")
    before = traces(path.parent)
    async with SQLiteLog(path, read_only=True) as log:
        await look(log)
        assert traces(path.parent) == before
    assert traces(path.parent) == before


async def test_looking_at_commits_that_a_killed_process_left(path: Path) -> None:
    """They are seen, and neither the database nor the `-wal` is written to: that is for the next writer."""
    leave_commits(await make(path))
    before = traces(path.parent, "log.db-shm")
    async with SQLiteLog(path, read_only=True) as log:
        await look(log)
        assert len(await stored(log, "run/b")) == 50
    assert traces(path.parent, "log.db-shm") == before
    remove(path, "-shm")  # which SQLite makes again to read them: the one file that looking may create
    async with SQLiteLog(path, read_only=True) as log:
        assert len(await stored(log, "run/b")) == 50
    assert traces(path.parent, "log.db-shm") == before


async def test_a_read_only_folder(path: Path) -> None:
    """A file and a folder that are read-only can be looked at."""
    await make(path)
    protect(path)
    before = traces(path.parent)
    try:
        async with open_log(f"sqlite:///{path}", read_only=True) as log:
            assert isinstance(log, SQLiteLog)
            await look(log)
        with pytest.raises(LogUnusable, match="read-only"):
            await SQLiteLog.open(path)
        assert traces(path.parent) == before
    finally:
        path.parent.chmod(0o755)


async def test_a_read_only_folder_with_commits_beside(path: Path) -> None:
    """What cannot be read there is said, with what to do; it is not passed over."""
    leave_commits(await make(path))
    path.parent.chmod(0o555)
    try:
        with pytest.raises(LogUnusable, match=r"commits in log\.db-wal.*copy both files"):
            await SQLiteLog.open(path, read_only=True)
    finally:
        path.parent.chmod(0o755)


async def test_what_would_write_is_refused(path: Path) -> None:
    """With an error that says how the log was opened; after closing it is `LogClosed` as ever."""
    await make(path)
    log = SQLiteLog(path, read_only=True)
    for ask in (
        lambda: log.append(write("run/a", 3, 3)),
        lambda: log.submit(write("run/a", 3, 3)),
        lambda: log.keep_snapshot("s", b""),
        lambda: log.hold("r").__aenter__(),
    ):
        with pytest.raises(LogUnusable, match="opened to be looked at"):
            await ask()
    await log.aclose()
    with pytest.raises(LogClosed):
        await log.head()
    with pytest.raises(LogClosed):
        await log.is_live("r")


async def test_looking_while_others_write(path: Path) -> None:
    """Whoever looks sees what is appended, who is alive, and hinders neither; a file seen as closed is opened anew."""
    await make(path)
    async with SQLiteLog(path, read_only=True) as looking:
        head = await looking.head()
        for turn in range(3):
            async with SQLiteLog(path) as log:
                assert not await looking.is_live("x")
                async with log.hold("x") as mine:
                    assert mine
                    assert await looking.is_live("x")
                    await log.append(write("run/x", turn * 100, *range(100)))
                    assert await looking.head() == head + (turn + 1) * 100
                    assert len(await stored(looking, "run/x")) == (turn + 1) * 100
            assert await looking.head() == head + (turn + 1) * 100


async def test_looking_follows(path: Path) -> None:
    """A follower that only looks gets what comes."""
    await make(path)
    async with SQLiteLog(path, read_only=True) as looking, SQLiteLog(path) as log:
        head = await looking.head()
        following = asyncio.ensure_future(collect(looking.follow(after=head), 2))
        await log.append(write("run/x", 0, 0))
        await log.append(write("run/x", 1, 1))
        assert [record.version for record in await asyncio.wait_for(following, 10)] == [1, 2]


async def test_values_are_read_after_the_log_was_closed_and_leave_no_trace(path: Path) -> None:
    """A result that is asked for after the loop's end is read from a closed file without making others."""
    await make(path)
    log = await SQLiteLog.open(path)
    await log.aclose()
    before = traces(path.parent)
    for kept in (LARGE, value(b"kept")):
        assert log.peek(kept.digest) == kept
    assert traces(path.parent) == before


def nothing(path: Path) -> None:
    """No file at all."""


def empty(path: Path) -> None:
    """A file without content."""
    path.touch()


def half_born(path: Path) -> None:
    """A file whose making was cut short, with the journal of that."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    Path(f"{path}-journal").write_bytes(b"\x00" * 512)


def unborn(path: Path) -> None:
    """A file whose making was cut short before its first byte."""
    path.touch()
    Path(f"{path}-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\x00" * 504)


def torn(path: Path) -> None:
    """A file whose first page was lost in a power cut."""
    path.write_bytes(b"\x00" * 4096)
    Path(f"{path}-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\x00" * 504)


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def pipe(path: Path) -> None:
    """Something that would be waited for."""
    os.mkfifo(path)


def another(path: Path) -> None:
    """A database of another program."""
    breaking.execute_plain(path, "CREATE TABLE cats (name TEXT)")


def text(path: Path) -> None:
    """No database."""
    path.write_text("Dear diary, " * 100)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nothing, "no log"),
        (empty, "not yet a log"),
        (half_born, "not yet a log"),
        (unborn, "not yet a log"),
        (torn, "not yet a log"),
        (folder, "is a folder"),
        (pipe, "no regular file"),
        (another, "another program"),
        (text, "no SQLite file"),
    ],
)
async def test_what_is_no_log_to_look_at(path: Path, spoil: Callable[[Path], None], message: str) -> None:
    """It is said what it is, and it stays as it was."""
    spoil(path)
    before = traces(path.parent)
    with pytest.raises(LogUnusable, match=message) as caught:
        await SQLiteLog.open(path, read_only=True)
    assert str(path) in str(caught.value)
    assert traces(path.parent) == before


@pytest.mark.parametrize("spoil", [empty, half_born, unborn, torn])
async def test_a_birth_that_was_cut_short_is_completed(path: Path, spoil: Callable[[Path], None]) -> None:
    """A writer makes a sound log of it."""
    spoil(path)
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0))
    assert f"{path}-journal" not in traces(path.parent)
    async with SQLiteLog(path, read_only=True) as log:
        assert await stored(log) == [0]


def forge_journal(path: Path, victim: Path) -> None:
    """Lay a journal beside a file which has SQLite delete another one, as the superior whose work is done."""
    name = str(victim).encode()
    total = sum(struct.unpack(f"{len(name)}b", name)) & 0xFFFFFFFF
    magic = bytes.fromhex("d9d505f920a163d7")
    head = magic + struct.pack(">IIIII", 0, 0, max(1, path.stat().st_size // 4096), 512, 4096)
    lock_page = struct.pack(">I", (1 << 30) // 4096 + 1)
    tail = lock_page + name + struct.pack(">II", len(name), total) + magic
    Path(f"{path}-journal").write_bytes(head.ljust(512, b"\x00") + tail)


def test_the_forged_journal_is_one(tmp_path: Path) -> None:
    """SQLite itself obeys it: who opens the file loses the victim, so what follows is not proved of nothing."""
    path, victim = tmp_path / "file.db", tmp_path / "victim"
    breaking.execute_plain(path, "CREATE TABLE cats (name TEXT)")
    victim.write_text("precious")
    forge_journal(path, victim)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM cats").fetchall()
    assert not victim.exists()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("spoil", [make, empty, another])
async def test_a_forged_journal_is_not_obeyed(
    path: Path, spoil: Callable[[Path], object], read_only: bool, tmp_path: Path
) -> None:
    """Neither looking nor running has SQLite delete the file that it names; where there is a log, it is refused."""
    made = spoil(path)
    if asyncio.iscoroutine(made):
        await made
    victim = tmp_path / "victim"
    victim.write_text("precious")
    forge_journal(path, victim)
    if spoil is empty and not read_only:
        async with SQLiteLog(path) as log:
            await log.append(write("run/a", 0, 0))
    else:
        before = read(path)
        with pytest.raises(
            LogUnusable, match="not yet a log" if spoil is empty else "-journal is no file of a log"
        ):
            await SQLiteLog.open(path, read_only=read_only)
        assert read(path) == before
    assert victim.read_text() == "precious"


async def test_a_journal_that_comes_later_is_not_obeyed(path: Path, tmp_path: Path) -> None:
    """Readers that are opened while a log is in use do not obey one either, and values are read all the same."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    await make(path)
    async with SQLiteLog(path) as log:
        forge_journal(path, victim)
        with pytest.raises(LogUnusable, match="-journal is no file of a log"):
            await stored(log)
        await log.append(write("run/a", 3, 3))
        with pytest.raises(LogUnusable, match="-journal is no file of a log"):
            await SQLiteLog.open(path)
        with pytest.raises(LogUnusable, match="-journal is no file of a log"):
            await SQLiteLog.open(path, read_only=True)
        await log.append(write("run/a", 4, 4))
        remove(path, "-journal")
        assert await stored(log, "run/a") == [0, 1, 2, 3, 4]
    assert victim.read_text() == "precious"


def test_what_a_birth_leaves(path: Path) -> None:
    """Empty, blank, or one page without a table; nothing that somebody could miss."""
    cases: list[tuple[bytes, bool]] = [
        (b"", True),
        (b"\x00" * 4096, True),
        (b"\x00" * 70_000, False),
        (b"x", False),
    ]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    page = path.read_bytes()
    cases += [(page, True), (page + page, False), (page[:-1], False)]
    with closing(sqlite3.connect(path.with_name("other"))) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
        connection.execute("PRAGMA journal_mode = WAL")
    cases.append((path.with_name("other").read_bytes()[:4096], False))
    for number, (data, expected) in enumerate(cases):
        path.write_bytes(data)
        assert is_unborn(path) is expected, number


async def test_damage_is_named_when_looking(path: Path) -> None:
    """A damaged record is `LogDamaged`, and not mistaken for a file that is being changed."""
    await make(path)
    breaking.damage(path, 2)
    async with SQLiteLog(path, read_only=True) as log:
        with pytest.raises(LogDamaged, match="record 2"):
            await stored(log)


async def test_a_table_that_another_process_brings_up_meanwhile(path: Path) -> None:
    """Rows that were folded in memory are put over those that are kept, of the same moment, never of another."""
    await make(path)
    async with SQLiteLog(path, read_only=True) as looking:
        table = await ReadModel.of(looking, Runs())
        assert {run: row.status for run, row in Runs.of(await table.under("run/")).items()} == {
            "a": "started",
            "r": "finished",
            "later": "finished",
        }
        async with SQLiteLog(path) as log:
            await ones.options(log=log, run_id="last").run()
            await ReadModel.of(log, Runs())
        assert [*Runs.of(await table.under("run/"))] == ["a", "r", "later", "last"]
        assert [*await table.get("run/last", "run/none")] == ["run/last"]


async def test_large_values_of_a_copy(path: Path, tmp_path: Path) -> None:
    """A copy in another folder is looked at with the packs beside it."""
    await make(path)
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    async with SQLiteLog(copy / "log.db", read_only=True) as log:
        found: dict[bytes, Value] = dict(await log.values([LARGE.digest]))
        assert found[LARGE.digest] == LARGE
