"""Bytes that are lost or altered beside the log: the task that needs them fails and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, SQLiteLog, flow, task
from eventflow.ports import EventLog, Value
from eventflow.records import LogDamaged
from eventflow.testing import Crash, CrashingLog, VirtualWorld, simulated


@task
async def large() -> str:
    """Larger than what an event carries."""
    return "x" * 1000


@task
async def length(text: str) -> int:
    """Needs the large one."""
    return len(text)


@flow
def measured() -> int:
    """One after the other."""
    return length(large())


class Holed:
    """A log whose values are gone, or do not bear a look."""

    def __init__(self, log: MemoryLog, *, altered: bool) -> None:
        """Wrap a log."""
        self._log = log
        self._altered = altered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def peek(self, digest: bytes) -> Value | None:
        """Nothing, or the news that it was altered."""
        if self._altered:
            raise LogDamaged(f"value {digest.hex()} was altered")
        return None

    async def values(self, digests: Any) -> dict[bytes, Value]:
        """Nothing."""
        return {}


@pytest.mark.parametrize(("altered", "said"), [(True, "was altered"), (False, "are not in the log")])
@simulated
async def test_a_value_that_is_gone_fails_the_task_that_needs_it(
    altered: bool, said: str, world: VirtualWorld
) -> None:
    """After a crash the producer's bytes are missing or damaged: its consumer fails, naming it; never None."""
    log = MemoryLog()
    dying: EventLog = CrashingLog(log, crash_at=2, when="after")
    with pytest.raises(Crash):
        await measured.options(log=dying, run_id="r", world=world).run()
    holed: Any = Holed(log, altered=altered)
    state = await measured.options(log=holed, run_id="r", world=world).run()
    assert state.is_failed()
    assert state.result["large"].is_successful()
    assert state.result["length"].is_failed()
    assert said in state.result["length"].message


@pytest.mark.parametrize("altered", [True, False])
async def test_a_large_result_that_is_gone_from_disk_is_made_again_by_a_rerun(
    tmp_path: Path, altered: bool
) -> None:
    """Resumed, its consumer fails and says which file; rerun, the producer runs again and all is well."""
    ran: list[str] = []

    @task
    async def extract() -> list[int]:
        ran.append("extract")
        return list(range(50_000))

    @task
    async def count(rows: list[int]) -> int:
        ran.append("count")
        return len(rows)

    with Flow("etl") as flow:
        count(extract())

    async with SQLiteLog(tmp_path / "log.db") as log:
        dying = CrashingLog(log, crash_at=2, when="after")
        with pytest.raises(Crash):
            await flow.options(log=dying, run_id="r").run()
    (pack,) = (tmp_path / "log.db.packs").iterdir()
    if altered:
        pack.write_bytes(pack.read_bytes().replace(b"\x07\x08\x09", b"\x07\x07\x07", 1))
    else:
        pack.unlink()
    async with SQLiteLog(tmp_path / "log.db") as log:
        state = await flow.options(log=log, run_id="r").run()
        assert state.result["extract"].is_successful()
        assert state.result["count"].is_failed()
        assert pack.name in state.result["count"].message
        with pytest.raises(LogDamaged, match=pack.name):
            _ = state.result["extract"].result
        assert ran == ["extract"]
        again = await flow.options(log=log).rerun("r")
        assert again.result["count"].result == 50_000
        assert ran == ["extract", "extract", "count"]
