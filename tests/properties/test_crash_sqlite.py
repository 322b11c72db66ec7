"""Kill it anywhere, open the file again: the properties of `test_crash`, on a log that outlives its process.

A death between two SQL statements is shown by what another process would find then: the bytes of the
database and its write-ahead log, copied at that moment.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import RunStates, open_run, replay
from eventflow.events import TaskSucceeded
from eventflow.logs.sqlite import LogUnusable, LogWriteFailed, SQLiteLog, connection
from eventflow.result import Stored
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulate
from tests.properties.flows import (
    Journal,
    Sketch,
    Step,
    Whole,
    expected,
    outcomes_of,
    run_sketch,
    seen,
    sketches,
    succeeded_in,
)

pytestmark = pytest.mark.slow

FEW = settings(max_examples=max(5, settings().max_examples // 4))
"""Each example is some dozen runs on a real file."""


async def check_values(log: SQLiteLog, run_id: str) -> None:
    """No success refers to bytes that are not there."""
    async for record in log.read(stream=f"run/{run_id}"):
        if isinstance(record.event, TaskSucceeded) and isinstance(record.event.result, Stored):
            digest = record.event.result.digest
            assert digest in await log.values([digest]), "a success without its bytes"


async def check_end(
    sketch: Sketch, log: SQLiteLog, run_id: str, world: VirtualWorld, before: Journal
) -> None:
    """Resumed, the run comes to its end, and repeats nothing that had succeeded."""
    await check_values(log, run_id)
    finished, starts = await succeeded_in(log, run_id)
    assert sum(before.started.values()) <= starts, "a body ran whose start is not in the log"
    later = Journal(before.started.copy())
    state = await run_sketch(sketch, later, log, world, run_id)
    assert seen(sketch, state) == expected(sketch)
    for node, *path in finished:  # node 0 is the parameter
        name = f"s{node - 1}" + "".join(f"[{index}]" for index in path)
        assert later.started[name] == before.started[name], f"{name} had succeeded and ran again"
    await succeeded_in(log, run_id)
    view = await open_run(log, run_id)
    fold = await replay(log, view, stream=view.stream)
    assert outcomes_of(sketch, RunStates(view, fold.state, peek=log.peek)) == outcomes_of(
        sketch, state.result
    )


@pytest.mark.parametrize("when", ["before", "after"])
@FEW
@given(sketches(max_steps=4), st.integers(0, 99))
def test_a_crash_at_any_append(when: Literal["before", "after"], sketch: Sketch, seed: int) -> None:
    """A death at every append; the next process opens the file that was left, and the end is equal."""

    async def die(path: Path, world: VirtualWorld, crash_at: int) -> bool:
        run_id, journal = f"r{crash_at}", Journal()
        async with SQLiteLog(path) as dead:
            dying = CrashingLog(dead, crash_at=crash_at, when=when)
            try:
                await run_sketch(sketch, journal, dying, world, run_id)
            except Crash:
                async with SQLiteLog(path) as log:  # beside the dead one, which has closed nothing
                    await check_end(sketch, log, run_id, world, journal)
                return True
        return False

    async def main(world: VirtualWorld) -> None:
        with TemporaryDirectory() as folder:
            crash_at = 1
            while await die(Path(folder) / "log.db", world, crash_at):
                crash_at += 1

    simulate(main, seed=seed)


class _Moments:
    """Copies of the log's files as they are before each statement of the writer."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.db"
        self.found: dict[bytes, tuple[Path, Journal]] = {}
        """Content → a copy of it, and what the bodies had done when it came to be."""
        self.statements: list[str] = []
        self.journal = Journal()
        self._descriptors: dict[Path, int] = {}

    def take(self, statement: str) -> None:
        """Copy what another process would find now."""
        self.statements.append(statement.split(" ", 1)[0])
        files = [self._read(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal")]
        content = b"|".join(files)
        if content in self.found:
            return
        folder = self.path.parent / str(len(self.found))
        folder.mkdir()
        for name, data in zip(("log.db", "log.db-wal"), files, strict=True):
            (folder / name).write_bytes(data)
        key = Path(f"{self.path}.key")
        if key.exists():
            (folder / "log.db.key").symlink_to(key)
        self.found[content] = folder / "log.db", Journal(self.journal.started.copy())

    def _read(self, path: Path) -> bytes:
        """Read a file by a descriptor that stays open: closing it would drop SQLite's locks on the file."""
        if path not in self._descriptors:
            if not path.exists():
                return b""
            self._descriptors[path] = os.open(path, os.O_RDONLY)
        descriptor = self._descriptors[path]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def close(self) -> None:
        """After SQLite is done with the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Every connection that is opened meanwhile takes copies while it writes."""
        moments = self

        class Watched(connection.Connection):
            """Pages reach the file before the commit: what is written by halves is really there."""

            def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
                if sql.startswith("BEGIN"):
                    super().execute("PRAGMA cache_size = 1")
                if self.in_transaction:
                    moments.take(sql)
                done = super().execute(sql, parameters)
                if sql == "COMMIT":
                    moments.take("after")
                return done

        with monkeypatch.context() as patch:
            patch.setattr(connection, "Connection", Watched)
            yield
        self.close()


LARGE = Sketch(
    (
        Step((), shape="large"),
        Step((Whole(0),), shape="text", delay_ms=1),
        Step((Whole(0), Whole(1)), shape="list", size=3),
        Step((), overs=(Whole(2),), shape="text"),
        Step((Whole(3),), shape="large", trouble="flaky", retries=1),
    )
)
"""Results that lie beside their events, in a row and side by side."""


def test_a_crash_between_any_two_statements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment is there a success without its bytes, or half an append; the run goes on from each."""
    moments = _Moments(tmp_path)

    async def undisturbed(world: VirtualWorld) -> set[int]:
        with moments.watched(monkeypatch):
            async with SQLiteLog(moments.path) as log:
                counting = _Boundaries(log)
                state = await run_sketch(LARGE, moments.journal, counting, world)
        assert seen(LARGE, state) == expected(LARGE)
        return counting.heads

    heads = simulate(undisturbed)
    assert {"INSERT", "COMMIT", "after"} <= set(moments.statements)
    assert len(moments.found) > 2 * len(heads), "nothing of an append reached the file before its commit"
    visible = set()
    for path, journal in moments.found.values():

        async def look(world: VirtualWorld, path: Path = path, journal: Journal = journal) -> int:
            async with SQLiteLog(path) as log:
                head = await log.head()
                await check_end(LARGE, log, "r", world, journal)
                return head

        visible.add(simulate(look))
    assert visible == heads


class _Boundaries(CrashingLog):
    """Never crashes; remembers where appends ended."""

    def __init__(self, log: SQLiteLog) -> None:
        super().__init__(log)
        self.heads = {0}

    async def append(self, *writes: Any, **options: Any) -> Any:
        """Append, and remember the end."""
        records = await super().append(*writes, **options)
        self.heads.add(records[-1].position)
        return records


def test_an_error_at_any_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that fails stores nothing of its append; the file is whole, and the run goes on later."""

    async def fail_and_resume(world: VirtualWorld, path: Path, fails_at: int) -> bool:
        journal, run_id, failed = Journal(), f"r{fails_at}", False
        async with SQLiteLog(path):
            pass  # its tables are made without a fault
        with monkeypatch.context() as patch:
            patch.setattr(connection, "Connection", _failing(fails_at))
            try:
                async with SQLiteLog(path) as log:
                    await run_sketch(LARGE, journal, log, world, run_id)
            except (LogWriteFailed, LogUnusable):  # the latter while it is opened
                failed = True
        async with SQLiteLog(path) as log:
            await check_end(LARGE, log, run_id, world, journal)
        return failed

    async def main(world: VirtualWorld) -> None:
        fails_at = 1
        while await fail_and_resume(world, tmp_path / "log.db", fails_at):
            fails_at += 1
        assert fails_at > 25, "too few statements: most of the run was not reached"

    simulate(main)


def _failing(fails_at: int) -> type[connection.Connection]:
    """Connections of which one statement in a transaction fails, and only that one."""
    left = fails_at

    class Failing(connection.Connection):
        """Counts the statements of all appends."""

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if self.in_transaction and sql != "ROLLBACK":
                nonlocal left
                left -= 1
                if not left:
                    raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, parameters)

    return Failing
