"""Large values in pack files: where they are, what a crash leaves, and what is lost is said."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from eventflow.logs.sqlite import LogUnusable, LogWriteFailed, SQLiteLog, packs
from eventflow.ports import Value
from eventflow.records import LogDamaged
from eventflow.testing.conformance.hooks import stored, value, write
from tests.logs import breaking_sqlite as breaking
from tests.logs.packs_worker import KIB, large

ROOT = Path(__file__).parents[2]


def start(action: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    """A process that stores values."""
    command = [sys.executable, "-m", "tests.logs.packs_worker", action, str(path), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def pack(path: Path, number: int = 1) -> Path:
    """A pack of a log."""
    return path.with_name(f"{path.name}.packs") / f"{number:06d}.pack"


def sizes(path: Path) -> list[int]:
    """The sizes of all packs."""
    return [found.stat().st_size for found in sorted(pack(path).parent.iterdir())]


def rows(path: Path) -> list[tuple[bytes, int | None, int | None, int | None]]:
    """Digest and place of all values, in the order of their making."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT digest, pack, offset, stored_size FROM value ORDER BY rowid"
        ).fetchall()


def open_files() -> int:
    """How many descriptors this process has."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def check_all(path: Path) -> set[bytes]:
    """Read every value that has a row, at once and one by one; gives their digests."""
    digests = [row[0] for row in rows(path)]
    async with SQLiteLog(path) as log:
        found = await log.values(digests)
        assert list(found) == digests
        assert all(log.peek(digest) == found[digest] for digest in digests[-3:])
    return set(digests)


async def make(path: Path, *values: Value) -> Path:
    """A log with some values."""
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0), values=values)
    return path


async def test_where_values_are(tmp_path: Path) -> None:
    """Up to 64 KiB a value stands in the database, above in a pack; both are read alike, while open and after."""
    path = tmp_path / "log.db"
    edge, beyond = large(1, 64 * KIB), large(2, 64 * KIB + 1)
    async with SQLiteLog(path) as log:
        await log.append(values=[edge])
        assert not pack(path).parent.exists()
        await log.append(values=[beyond])
        assert await log.values([beyond.digest, edge.digest, b"?" * 16]) == {
            edge.digest: edge,
            beyond.digest: beyond,
        }
        assert [log.peek(edge.digest), log.peek(beyond.digest)] == [edge, beyond]
    assert [log.peek(edge.digest), log.peek(beyond.digest)] == [edge, beyond]
    assert rows(path) == [(edge.digest, None, None, 64 * KIB), (beyond.digest, 1, 0, 64 * KIB + 1)]
    assert sizes(path) == [64 * KIB + 1]


async def test_a_very_large_value(tmp_path: Path) -> None:
    """100 MB are stored and read back, and the database stays small."""
    huge = large(1, 100_000_000)
    path = await make(tmp_path / "log.db", huge, large(2))
    assert SQLiteLog(path).peek(huge.digest) == huge
    assert path.stat().st_size < 100_000
    assert await check_all(path) == {huge.digest, large(2).digest}


async def test_many_values_in_one_append(tmp_path: Path) -> None:
    """More values than fit one system call or one query are all stored, once each."""
    many = [large(n, 65 * KIB) for n in range(1_100)]
    path = await make(tmp_path / "log.db", *many)
    async with SQLiteLog(path) as log:
        await log.append(values=many)
    assert await check_all(path) == {each.digest for each in many}
    assert sizes(path) == [1_100 * 65 * KIB]


async def test_the_same_bytes_are_stored_once(tmp_path: Path) -> None:
    """Within an append, a batch, a handle and a log, and when they stand in the database for some reason."""
    path = tmp_path / "log.db"
    one, two, inside = large(1), large(2), large(3)
    async with SQLiteLog(path) as log, SQLiteLog(path) as other:
        await log.append(values=[one, one])
        await asyncio.gather(*(log.append(values=[one, two]) for _ in range(5)))
        await other.append(values=[two, one])
        breaking.insert_value(path, inside)
        await log.append(values=[inside, two])
    assert [row[1] for row in rows(path)] == [1, 1, None]
    assert sizes(path) == [2 * 100 * KIB]
    assert await check_all(path) == {one.digest, two.digest, inside.digest}


async def test_a_full_pack_gets_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a size on the next pack is begun, by whichever handle; few packs are kept open, all are read."""
    monkeypatch.setattr(packs, "PACK_BYTES_MAX", 300 * KIB)
    monkeypatch.setattr(packs, "DESCRIPTORS_MAX", 2)
    path = tmp_path / "log.db"
    before = open_files()
    async with SQLiteLog(path) as one, SQLiteLog(path) as two:
        for number in range(20):
            await (one, two)[number % 2].append(values=[large(number)])
        assert sizes(path) == [300 * KIB] * 6 + [200 * KIB]
        assert [one.peek(large(n).digest) for n in range(20)] == [large(n) for n in range(20)]
        assert len(one._peeked._descriptors) == 2
    assert len(await check_all(path)) == 20
    assert open_files() == before


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_one_sync_before_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    """A `full` batch syncs its pack once, before its rows can be seen; a `normal` one leaves that to others."""
    path, seen = tmp_path / "log.db", []
    async with SQLiteLog(path) as log:
        await log.append(values=[large(0)])
        sync = packs._sync

        def watched(descriptor: int) -> None:
            seen.append((sizes(path), len(rows(path))))
            sync(descriptor)

        monkeypatch.setattr(packs, "_sync", watched)
        await log.append(values=[large(n) for n in range(1, 5)], durability=durability)  # type: ignore[arg-type]
        once = [([500 * KIB], 1)]
        assert seen == (once if durability == "full" else [])
        # What was left without a sync gets it with the next `full` batch, which makes its row durable.
        await log.append(write("run/a", 0, 1))
        assert len(seen) == 1
        # A value that is there may have been left so by another process.
        await log.append(values=[large(1)])
        assert len(seen) == 2


def remove(path: Path) -> None:
    """No file."""
    path.unlink()


def shorten(path: Path) -> None:
    """Less than there was."""
    os.truncate(path, 150 * KIB)


def alter(path: Path) -> None:
    """One other bit."""
    content = bytearray(path.read_bytes())
    content[150 * KIB] ^= 1
    path.write_bytes(content)


def replace_folder(path: Path) -> None:
    """The folder is no folder."""
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")


LOST: list[tuple[Callable[[Path], None], str]] = [
    (remove, "which is missing"),
    (replace_folder, "which is missing"),
    (shorten, "which is too short"),
    (alter, "where there are other bytes"),
]


@pytest.mark.parametrize(("spoil", "why"), LOST, ids=[spoil.__name__ for spoil, _ in LOST])
async def test_bytes_that_are_lost(tmp_path: Path, spoil: Callable[[Path], None], why: str) -> None:
    """An error names digest, file, offset and the way out; it is never None and never other bytes."""
    lost = large(2)
    path = await make(tmp_path / "log.db", large(1), lost)
    spoil(pack(path))
    async with SQLiteLog(path) as log:
        with pytest.raises(LogDamaged, match=why) as caught:
            await log.values([lost.digest])
        for _ in range(2):
            with pytest.raises(LogDamaged, match=why):
                log.peek(lost.digest)
        for part in (lost.digest.hex(), str(pack(path)), f"offset {100 * KIB}", "made again"):
            assert part in str(caught.value)
        assert await stored(log) == [0]
    with pytest.raises(LogDamaged, match=why):
        log.peek(lost.digest)


async def test_no_place_for_packs(tmp_path: Path) -> None:
    """A file where the folder should be is left alone, and the error names the pack that cannot be made."""
    path = tmp_path / "log.db"
    pack(path).parent.write_text("mine")
    async with SQLiteLog(path) as log:
        with pytest.raises(LogWriteFailed, match=r"000001\.pack.*File exists"):
            await log.append(values=[large(1)])
    assert pack(path).parent.read_text() == "mine"


@pytest.mark.parametrize("spoil", [remove, shorten, alter])
async def test_lost_bytes_are_made_again(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Storing the same values again repairs the log, also in a handle that had the pack open."""
    kept = [large(1), large(2)]
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0), values=kept)
        assert log.peek(kept[1].digest) == kept[1]
        spoil(pack(path))
        await log.append(values=[large(3)])
        assert rows(path)[-1][1] == (1 if spoil is alter else 2)  # what is short or gone gets no more
        assert pack(path).exists() == (spoil is not remove)
        await log.append(values=kept)
        assert [log.peek(each.digest) for each in (*kept, large(3))] == [*kept, large(3)]
    for each in kept:
        async with SQLiteLog(path) as other:
            if spoil is not remove:
                assert other.peek(each.digest) == each
            await other.append(values=kept)
    assert len(await check_all(path)) == 3


async def test_a_file_that_was_put_back(tmp_path: Path) -> None:
    """A handle that has met a damaged pack reads the sound copy in its place, and appends to that."""
    path, copy = tmp_path / "log.db", tmp_path / "copy"
    async with SQLiteLog(path) as log:
        await log.append(values=[large(1), large(2)])
        shutil.copy(pack(path), copy)
        alter(pack(path))
        with pytest.raises(LogDamaged):
            log.peek(large(2).digest)
        with pytest.raises(LogDamaged):
            await log.values([large(2).digest])
        copy.rename(pack(path))
        assert log.peek(large(2).digest) == large(2)
        assert await log.values([large(2).digest]) == {large(2).digest: large(2)}
        await log.append(values=[large(3)])
    assert sizes(path) == [300 * KIB]
    assert len(await check_all(path)) == 3


async def test_a_row_that_was_changed(tmp_path: Path) -> None:
    """A place beyond the end, of an absurd size or of another value gives no bytes, and takes no memory."""
    path = await make(tmp_path / "log.db", large(1), large(2))
    for sql in (
        "stored_size = 1 << 60",
        "offset = 1 << 60",
        "offset = 7",
        "pack = 1 << 40",
        "stored_size = 5",
    ):
        breaking.execute(path, (f"UPDATE value SET {sql} WHERE digest = ?", (large(2).digest,)))
        with pytest.raises(LogDamaged, match=large(2).digest.hex()):
            SQLiteLog(path).peek(large(2).digest)


@pytest.mark.parametrize("size", [10, (1 << 63) - 1])
async def test_a_row_that_says_another_size_than_that_of_its_bytes(size: int, tmp_path: Path) -> None:
    """It is damage though the bytes are right, and is repaired when the value is stored again."""
    path, small = tmp_path / "log.db", value(b"x" * 2000)
    for kept in (small, large(1)):
        async with SQLiteLog(path) as log:
            await log.append(values=[small])
        if kept is not small:  # as a version with another threshold would have put it
            breaking.insert_value(path, kept)
        breaking.execute(path, ("UPDATE value SET stored_size = ? WHERE digest = ?", (size, kept.digest)))
        async with SQLiteLog(path) as log:
            with pytest.raises(LogDamaged, match=rf"names {size} bytes and has {len(kept.data)}"):
                log.peek(kept.digest)
            with pytest.raises(LogDamaged, match=kept.digest.hex()):
                await log.values([kept.digest])
            await log.append(values=[kept])
            assert log.peek(kept.digest) == kept


async def test_a_read_only_folder(tmp_path: Path) -> None:
    """The error names the pack, the append has stored nothing, smaller ones go on, and so does this one later."""
    path = await make(tmp_path / "log.db", large(1))
    pack(path).parent.chmod(0o555)
    async with SQLiteLog(path) as log:
        with pytest.raises(LogWriteFailed, match=r"read-only.*writable") as caught:
            await log.append(write("run/a", 1, 1), values=[large(2)])
        assert str(pack(path)) in str(caught.value)
        await log.append(write("run/a", 1, 1), values=[value(b"small")])
        assert log.peek(large(1).digest) == large(1)
        pack(path).parent.chmod(0o755)
        await log.append(write("run/a", 2, 2), values=[large(2)])
        assert await stored(log) == [0, 1, 2]
    assert len(await check_all(path)) == 3


async def test_a_pack_that_is_none(tmp_path: Path) -> None:
    """A folder under the name of a pack is refused, whether it is to be written or read."""
    path = await make(tmp_path / "log.db", large(1))
    pack(path).unlink()
    pack(path).mkdir()
    async with SQLiteLog(path) as log:
        with pytest.raises(LogUnusable, match=r"000001\.pack.*Is a directory"):
            log.peek(large(1).digest)
        with pytest.raises(LogWriteFailed, match=r"000001\.pack.*Is a directory"):
            await log.append(values=[large(2)])


async def test_a_commit_that_fails_leaves_an_orphan(tmp_path: Path) -> None:
    """Bytes whose rows the database refuses are named by nobody; the value is stored when it is asked for again."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        with pytest.raises(UnicodeEncodeError):
            await log.append(write("run/\ud800", 0, 0), values=[large(1)])
        assert log.peek(large(1).digest) is None
        breaking.execute_plain(
            path, "CREATE TRIGGER no BEFORE INSERT ON value BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(LogDamaged):
            await log.append(values=[large(1)])
        assert (sizes(path), log.peek(large(1).digest)) == ([100 * KIB], None)
        breaking.execute_plain(path, "DROP TRIGGER no")
        await log.append(values=[large(1)])
    assert rows(path) == [(large(1).digest, 1, 100 * KIB, 100 * KIB)]
    assert len(await check_all(path)) == 1


async def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    """Where a pack may not grow: an error that names it, nothing half, and it goes on when it may."""
    path = tmp_path / "log.db"
    told, _ = start("outgrow", path).communicate()
    message, size = told.splitlines()
    count = int(message.split()[0])
    assert str(pack(path)) in message
    assert "limit on file sizes" in message
    assert (count, int(size)) == (10, 10 * 100 * KIB)
    assert sizes(path) == [11 * 100 * KIB]
    assert await check_all(path) == {large(n).digest for n in range(count + 1)}


async def test_two_processes_share_the_packs(tmp_path: Path) -> None:
    """What two processes store at once stands in the same packs, without a gap, and is all there."""
    path = tmp_path / "log.db"
    workers = [start("store_some", path, first, first + 30) for first in (0, 100)]
    told = {line for worker in workers for line in worker.communicate()[0].split()}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert {digest.hex() for digest in await check_all(path)} == told
    assert len(told) == 60
    ends: dict[int | None, int] = {}
    for _, number, offset, size in rows(path):
        assert size is not None
        assert offset == ends.get(number, 0)
        ends[number] = offset + size
    assert [ends[number] for number in sorted(ends, key=str)] == sizes(path)


@pytest.mark.slow
async def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Writers killed while they store: each acknowledged value is there, and each row has its bytes."""
    path = tmp_path / "log.db"
    acknowledged: set[str] = set()
    for turn in range(5):
        firsts = [1_000 * turn, 10_000 + 1_000 * turn]
        workers = [start("store_some", path, first, first + 900) for first in firsts]
        for worker in workers:
            assert worker.stdout is not None
            acknowledged.add(worker.stdout.readline().strip())
        await asyncio.sleep(random.random() * 0.05)
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            told = worker.communicate()[0]
            acknowledged.update(told[: told.rfind("\n") + 1].split())
        assert acknowledged <= {digest.hex() for digest in await check_all(path)}


@pytest.mark.slow
async def test_killed_between_any_two_steps(tmp_path: Path) -> None:
    """Whatever call comes last: the append is whole or absent, each row has its bytes, and it can be made again."""
    codes: list[int] = []
    while 0 not in codes:
        first = len(codes) + 1
        paths = {
            tmp_path / f"{step}.db": start("die_at", tmp_path / f"{step}.db", step)
            for step in range(first, first + 8)
        }
        for path, worker in paths.items():
            told, _ = worker.communicate()
            codes.append(worker.returncode)
            digests = await check_all(path)
            async with SQLiteLog(path) as log:
                whole = await log.head() == 1
                assert len(digests) == (3 if whole else 1)
                assert whole or not told
                await log.append(write("run/a", 0, 1), values=[large(1), large(2), large(3)])
            assert len(await check_all(path)) == 3
    deaths = codes.index(0)
    assert codes[:deaths] == [-signal.SIGKILL] * deaths
    assert 8 < deaths < 60
