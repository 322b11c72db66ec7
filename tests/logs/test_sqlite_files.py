"""What can be wrong with a log file, and its keys: one clear error each, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.logs.sqlite import LogUnusable, SQLiteLog, files
from eventflow.ports import LogClosed
from eventflow.records import LogDamaged
from eventflow.result import PickleNotTrusted
from eventflow.serializers.signed import open_pickle, sign_pickle
from eventflow.testing.conformance.hooks import collect, stored, value, write
from tests.logs import breaking_sqlite as breaking


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(found.name for found in folder.iterdir())


def link(path: Path, name: str) -> None:
    """Give a file another name."""
    Path(name).symlink_to(path)


def mode_of(path: Path, beside: str) -> int:
    """The permissions of a file beside another."""
    return Path(f"{path}{beside}").stat().st_mode & 0o777


async def make(path: Path, count: int = 3) -> Path:
    """A sound log with a few records."""
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, *range(count)), values=[value(b"kept")])
    return path


def run_sql(path: Path, *statements: str) -> None:
    """As another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def another_program(path: Path) -> None:
    """A database that is none of ours."""
    run_sql(path, "CREATE TABLE cats (name TEXT)")


def another_format(path: Path) -> None:
    """A database that says what it is."""
    run_sql(path, "PRAGMA application_id = 7")


def newer(path: Path) -> None:
    """A log of tomorrow."""
    asyncio.run(make(path))
    run_sql(path, "PRAGMA user_version = 2")


def text(path: Path) -> None:
    """No database at all."""
    path.write_text("Dear diary, " * 100)


def read_only(path: Path) -> None:
    """A log that somebody protected."""
    asyncio.run(make(path))
    path.chmod(0o444)


def folder(path: Path) -> None:
    """A folder."""
    path.mkdir()


def pipe(path: Path) -> None:
    """Something that is not there to be read twice."""
    os.mkfifo(path)


BAD: list[tuple[Callable[[Path], None], str]] = [
    (another_program, "another program"),
    (another_format, "another program"),
    (newer, "format 2.*newer eventflow"),
    (text, "no SQLite file"),
    (read_only, "read-only.*chmod"),
    (folder, "is a folder"),
    (pipe, "no regular file"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_a_file_that_is_no_log_of_ours(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    """It is refused, at opening and at first use, with its path and what to do; it stays as it was."""
    path = tmp_path / "log.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None

    async def use() -> None:
        with pytest.raises(LogUnusable, match=message) as caught:
            await SQLiteLog.open(path)
        assert str(path) in str(caught.value)
        log = SQLiteLog(path)
        with pytest.raises(LogUnusable, match=message):
            await log.head()
        await log.aclose()

    asyncio.run(use())
    assert before is None or path.read_bytes() == before


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """The error names the folder to create."""
    with pytest.raises(LogUnusable, match=f"{tmp_path / 'nowhere'}.*create it"):
        await SQLiteLog.open(tmp_path / "nowhere" / "log.db")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_systems(tmp_path: Path, kind: str) -> None:
    """A log on one is refused; the system's table of mounts says what lies where."""
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"
    line = (
        f"36 35 {os.major(device)}:{os.minor(device)} / {tmp_path} rw,noatime shared:1 - {{}} server:/x rw\n"
    )
    table.write_text("22 1 999:1 / /elsewhere rw - nfs4 other:/ rw\n" + line.format("ext4"))
    files.check_location(tmp_path / "log.db", table)
    files.check_location(tmp_path / "log.db", tmp_path / "no table")
    table.write_text(line.format(kind))
    with pytest.raises(LogUnusable, match=f"network file system .{kind}.*local disk"):
        files.check_location(tmp_path / "log.db", table)


def test_sqlite_versions() -> None:
    """Versions that are too old are refused; those with the WAL-reset bug are used without a word."""
    with pytest.raises(LogUnusable, match=r"SQLite 3\.36\.0.*3\.37"):
        files.check_sqlite((3, 36, 0))
    for version in [(3, 37, 0), (3, 44, 5), (3, 45, 0), (3, 50, 6), (3, 51, 2), (3, 51, 3), (4, 0, 0)]:
        files.check_sqlite(version)


async def test_a_file_without_content_becomes_a_log(tmp_path: Path) -> None:
    """An empty file, and one whose making was cut short before its tables, are made logs."""
    path = tmp_path / "log.db"
    path.touch()
    await make(path)
    half = tmp_path / "half.db"
    run_sql(half, "PRAGMA journal_mode = WAL")
    await make(half)
    async with SQLiteLog(half) as log, SQLiteLog(path) as other:
        assert await stored(log) == await stored(other) == [0, 1, 2]
        info, again = await log.info(), await other.info()
        assert info.id != again.id
        assert (info.format, info.keys) == (files.FORMAT, ())
        assert abs(info.created - again.created) < 10_000_000


async def test_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may hold what means something in a URI, be relative, or a link; all handles meet."""
    monkeypatch.chdir(tmp_path)
    path = Path("what? 100% #1 é.db")
    await make(path)
    link(path, "link.db")
    async with SQLiteLog(path) as log, SQLiteLog("link.db") as other, log.hold("a") as mine:
        await other.append(write("run/a", 3, 3))
        assert await stored(log) == [0, 1, 2, 3]
        async with other.hold("a") as again:
            assert (mine, again) == (True, False)
        assert log.peek(value(b"kept").digest) == other.peek(value(b"kept").digest) == value(b"kept")


async def test_peeking_where_nothing_is(tmp_path: Path) -> None:
    """A log that was not opened yet has no values, and is not made by looking."""
    log = SQLiteLog(tmp_path / "log.db")
    assert log.peek(b"?" * 16) is None
    assert names(tmp_path) == []
    await log.aclose()
    with pytest.raises(LogClosed):
        await log.head()


async def test_events_are_immutable(tmp_path: Path) -> None:
    """No statement of another program changes or removes an event, a stream's name or a value's bytes."""
    path = await make(tmp_path / "log.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA recursive_triggers = ON")
        for statement in (
            "UPDATE event SET crc = 0",
            "DELETE FROM event",
            "INSERT OR REPLACE INTO event SELECT * FROM event",
            "UPDATE stream SET name = 'x'",
            "DELETE FROM stream",
            "UPDATE value SET data = x''",
        ):
            with pytest.raises(sqlite3.IntegrityError, match=r"permanent|immutable"):
                connection.execute(statement)
    async with SQLiteLog(path) as log:
        assert await stored(log) == [0, 1, 2]


async def test_a_changed_value_is_not_given(tmp_path: Path) -> None:
    """A value whose bytes no longer have its digest is an error that names it."""
    path, kept = await make(tmp_path / "log.db"), value(b"kept")
    breaking.execute(path, ("UPDATE value SET data = ?", (b"kepT",)))
    async with SQLiteLog(path) as log:
        with pytest.raises(LogDamaged, match=kept.digest.hex()):
            await log.values([kept.digest])
        with pytest.raises(LogDamaged, match=kept.digest.hex()):
            log.peek(kept.digest)


async def test_a_record_in_the_wrong_place_is_not_given(tmp_path: Path) -> None:
    """A record whose own bytes name another version than its place is damage, its checksum being right."""
    path = await make(tmp_path / "log.db")
    breaking.execute(
        path,
        ("UPDATE event SET version = 9 WHERE position = 2", ()),
        ("UPDATE event SET version = 2 WHERE position = 3", ()),
        ("UPDATE event SET version = 3 WHERE position = 2", ()),
    )
    async with SQLiteLog(path) as log:
        with pytest.raises(
            LogDamaged, match=r"record 2 of 'run/a' is stored as version 3 and says that it is version 2"
        ):
            await collect(log.read())
        with pytest.raises(LogDamaged, match="'run/a' has records after version 3"):
            await collect(log.read(stream="run/a"))


async def test_a_damaged_end_is_not_built_upon(tmp_path: Path) -> None:
    """A stream whose last record is damaged takes no more; the others do."""
    path = await make(tmp_path / "log.db")
    breaking.damage(path, 3)
    async with SQLiteLog(path) as log:
        with pytest.raises(LogDamaged, match="record 3 of 'run/a'"):
            await log.append(write("run/a", 3, 3))
        await log.append(write("run/b", 0, 3))


async def _read_until_damage(log: SQLiteLog) -> tuple[list[int], LogDamaged]:
    """The positions that come before the error, and that."""
    found: list[int] = []
    try:
        async for record in log.read():
            found.append(record.position)  # noqa: PERF401 - it is left by an exception
    except LogDamaged as error:
        return found, error
    raise AssertionError("nothing was damaged")


async def test_pages_that_were_overwritten(tmp_path: Path) -> None:
    """Where the file itself is torn, the records before the damage come, and the error names the next."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, *range(2_000)))
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        try:
            pages = connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'event' AND pagetype = 'leaf' ORDER BY path"
            ).fetchall()
        except sqlite3.OperationalError:
            pytest.skip("this SQLite cannot tell which page is which")
    (page,) = pages[len(pages) // 2]
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    async with SQLiteLog(path) as log:
        found, error = await _read_until_damage(log)
        assert found == list(range(1, len(found) + 1))
        assert 0 < len(found) < 2_000
        assert f"position {len(found) + 1} is missing (database disk image is malformed)" in str(error)
        assert len(await collect(log.read(backwards=True), 100)) == 100


async def test_a_beginning_that_was_overwritten(tmp_path: Path) -> None:
    """A log whose first page is torn says so."""
    path = await make(tmp_path / "log.db")
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * 2_000 + content[2_100:])
    with pytest.raises(LogDamaged, match=r"log\.db is damaged .*restore"):
        await SQLiteLog.open(path)


async def test_the_key_is_made_once_and_kept(tmp_path: Path) -> None:
    """All handles of a log have one key, in a file that is secret from its first moment; its id is told."""
    path = await make(tmp_path / "log.db")
    assert "log.db.key" not in names(tmp_path)
    async with SQLiteLog(path) as log, SQLiteLog(path) as other:
        assert dict(log.keyring.keys) == dict(other.keyring.keys)
        assert mode_of(path, ".key") == 0o600
        await log.append(write("run/a", 3, 3))
        assert (await other.info()).keys == tuple(log.keyring.keys)
    assert names(tmp_path) == ["log.db", "log.db.key", "log.db.lock"]


async def test_the_key_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`EVENTFLOW_KEY` is used in place of the file, which is not even made; the first of several signs."""
    monkeypatch.setenv("EVENTFLOW_KEY", f"{'ab' * 32},{'cd' * 32}")
    assert list(SQLiteLog(tmp_path / "log.db").keyring.keys.values()) == [b"\xab" * 32, b"\xcd" * 32]
    assert names(tmp_path) == []
    monkeypatch.setenv("EVENTFLOW_KEY", "abc")
    with pytest.raises(PickleNotTrusted, match=r"EVENTFLOW_KEY holds no key.*openssl"):
        list(SQLiteLog(tmp_path / "log.db").keyring.keys)


def test_a_lost_or_wrong_key(tmp_path: Path) -> None:
    """Pickles of a log whose key was lost or exchanged raise `PickleNotTrusted`, and are not opened."""
    log, key = SQLiteLog(tmp_path / "log.db"), tmp_path / "log.db.key"
    signed = sign_pickle(range(3), log.keyring)
    assert signed is not None
    assert open_pickle(*signed, SQLiteLog(log.path).keyring) == range(3)
    key.unlink()
    with pytest.raises(PickleNotTrusted, match="its key is not at hand"):
        open_pickle(*signed, SQLiteLog(log.path).keyring)


@pytest.mark.parametrize(
    ("content", "mode", "message"), [("zz", 0o600, "holds no key"), ("ab" * 32, 0o640, "0640.*chmod 600")]
)
def test_a_key_file_that_is_no_secret_or_no_key(
    tmp_path: Path, content: str, mode: int, message: str
) -> None:
    """It is refused with its path and what to do."""
    key = tmp_path / "log.db.key"
    key.write_text(content)
    key.chmod(mode)
    with pytest.raises(PickleNotTrusted, match=f"{key}.*{message}"):
        list(SQLiteLog(tmp_path / "log.db").keyring.keys)


def test_unread_by_the_face() -> None:
    """The package itself does not load SQLite: who uses another log does not pay for it."""
    code = "import sys, eventflow; sys.exit('aiosqlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def test_the_key_of_a_log_in_a_hidden_folder_lies_in_that_folder(tmp_path: Path) -> None:
    """The logs of one `.eventflow` share `.eventflow/key`."""
    folder = tmp_path / ".eventflow"
    folder.mkdir()
    async with SQLiteLog(folder / "log.db") as log, SQLiteLog(folder / "other.db") as other:
        assert dict(log.keyring.keys) == dict(other.keyring.keys)
    assert (folder / "key").exists()
