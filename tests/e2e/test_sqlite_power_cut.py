"""The SQLite log and the power: what was acknowledged at `full` is there again, and the file is always whole."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventflow.logs.sqlite import SQLiteLog
from eventflow.logs.sqlite.files import prepare
from eventflow.logs.sqlite.packs import PackWriter
from eventflow.logs.sqlite.transaction import Append, Ledger, stage, store
from eventflow.testing.conformance.hooks import collect, value, write
from tests.e2e.power import Connection, Disk

APPENDS = 60
CUTS = 150


def write_log(path: Path, disk: Disk, *, full: bool) -> None:
    """Make a log and append to it, by the log's own statements; note on the disk what was acknowledged."""
    connection: Any = Connection(path, disk)
    with closing(connection):
        prepare(connection, path)
        connection.execute("PRAGMA wal_autocheckpoint = 30")  # often, or none would come
        ledger, packs = Ledger(), PackWriter(path)
        position = 0
        for number in range(APPENDS):
            kept = value(b"%d" % number * 400)
            writes = [
                write(f"run/{number % 3}", number // 3 * 2, number, number),
                write(f"flow/{number}", 0, 1),
            ]
            append = Append([stage(each) for each in writes], [kept], full, rows=3, size_bytes=0)
            store(connection, ledger, packs, [append], lambda: None)
            assert append.error is None
            position += 3
            disk.record("acknowledge", "", position)


async def look(path: Path) -> int:
    """How much is there after the cut; raises when that is not whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    async with SQLiteLog(path) as log:
        records = await collect(log.read())
        assert len(records) % 3 == 0  # no append was torn
        for number in range(len(records) // 3):
            kept = value(b"%d" % number * 400)
            assert await log.values([kept.digest]) == {kept.digest: kept}
        await log.append(write("run/after", 0, 1))
        return len(records)


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_power_cuts(tmp_path: Path, durability: str) -> None:
    """At any moment, with any part of what was not synced: no damage, no hole; at `full` nothing lost.

    At `normal` the last appends may be gone, and with this many cuts some are, or the test proves nothing.
    """
    disk = Disk(f"forgetful-{durability}")
    write_log(tmp_path / "log.db", disk, full=durability == "full")
    chance = random.Random(7)
    lost = 0
    for turn in range(CUTS):
        folder = tmp_path / str(turn)
        acknowledged = disk.cut(folder, chance)
        found = await look(folder / "log.db")
        lost += found < acknowledged
    disk.unregister()
    assert (lost > 0) == (durability == "normal"), lost
