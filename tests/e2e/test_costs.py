"""What a run costs its log: commits, database calls, bytes and memory, counted; no clock is looked at."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventflow import Flow, SQLiteLog, inputs, task
from eventflow.authoring.tasks import Task
from eventflow.logs.sqlite.connection import Connection
from eventflow.logs.sqlite.readers import Readers
from eventflow.logs.sqlite.transaction import Append


@task
async def small(number: int, after: object = None) -> dict[str, object]:
    """A result of a few bytes."""
    return {"i": number, "ok": True}


@task
def plain(number: int, after: object = None) -> dict[str, object]:
    """The same in a thread."""
    return {"i": number, "ok": True}


@task(
    name="small", cache_on=inputs(), version="1"
)  # the index of keys has a page more or less by their values
async def cached(number: int, after: object = None) -> dict[str, object]:
    """The same, cached on both."""
    return {"i": number, "ok": True}


@task
async def count(parts: list[dict[str, object]]) -> int:
    """The end of a fan."""
    return len(parts)


class Counts:
    """What is asked of a log's threads."""

    def __init__(self) -> None:
        self.commits = 0
        self.reads = 0


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SQLiteLog]:
    """A log that has had one run."""
    async with SQLiteLog(tmp_path / "log.db") as log:
        with Flow("warm") as flow:
            small(1)
        await flow.options(log=log).run()
        yield log


@pytest.fixture
def counts(log: SQLiteLog, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Count from here on."""
    found = Counts()
    assert log._open is not None
    store, ask = log._open.commits._store, Readers.ask

    def counted(connection: Connection, appends: Sequence[Append]) -> None:
        found.commits += 1
        store(connection, appends)

    async def asked(self: Readers, question: object) -> object:
        found.reads += 1
        return await ask(self, question)  # type: ignore[arg-type]

    monkeypatch.setattr(log._open.commits, "_store", counted)
    monkeypatch.setattr(Readers, "ask", asked)
    return found


@pytest.mark.parametrize("body", [small, plain], ids=["async", "plain"])
async def test_a_fan_of_a_thousand_takes_a_handful_of_commits(
    body: object, log: SQLiteLog, counts: Counts
) -> None:
    """1,000 tasks between a source and a sink: at most 8 commits and no read, however fast the disk."""
    with Flow("fan") as flow:
        source = small(0)
        count([body(number, source) for number in range(1_000)])  # type: ignore[operator]
    state = await flow.options(log=log).run()
    assert state.is_successful()
    if body is small:
        assert counts.commits <= 8
    else:  # threads end when they end: commits depend on how fast the disk is, and rounds wait for it
        assert counts.commits < 500
    assert counts.reads == 0


async def test_a_chain_takes_one_commit_a_step(log: SQLiteLog, counts: Counts) -> None:
    """The success of one task and the start of the next share a commit; birth, claim and first start do, too."""
    with Flow("chain") as flow:
        node = small(0)
        for number in range(1, 100):
            node = small(number, node)
    await flow.options(log=log).run()
    assert counts.commits == 101
    assert counts.reads == 0


@pytest.mark.parametrize(("work", "limit"), [(small, 240), (cached, 330)])
async def test_a_small_task_takes_few_bytes(
    log: SQLiteLog, tmp_path: Path, work: Task[..., Any], limit: int
) -> None:
    """At most 240 bytes of file for a task with a small result: both events, indexes included; 330 with a key."""
    with Flow("fan") as flow:
        source = small(0)
        count([work(number, source) for number in range(5_000)])
    await log.aclose()
    before = (tmp_path / "log.db").stat().st_size
    run_id = "01890a5d-ac96-774b-bcce-b302099a8057"
    async with SQLiteLog(log.path) as again:
        await flow.options(log=again, run_id=run_id).run()
        graph = len(
            await again.snapshot(f"run/01890a5d-ac96-774b-bcce-b302099a8057/{flow.graph.digest}") or b""
        )
        assert graph > 0
    size = (tmp_path / "log.db").stat().st_size - before
    async with SQLiteLog(log.path) as again:
        defined = [record async for record in again.read(stream=f"flow/{flow.graph.digest}")]
        assert len(defined) == 1
    size -= graph + len(msgspec.msgpack.encode(flow.graph))  # once for the flow; a cache of the fold
    assert size / 5_000 <= limit


LAYERS = """
    import asyncio, os, sys, warnings
    from eventflow import Flow, SQLiteLog, task

    @task
    async def load(number: int, before: bytes | None = None) -> bytes:
        return os.urandom(10_000)

    @task
    async def end(parts: list[bytes]) -> int:
        return len(parts)

    with Flow("layers") as flow:
        layer = [load(number) for number in range(1_000)]
        for _ in range(99):
            layer = [load(number, node) for number, node in enumerate(layer)]
        end(layer[:10])

    async def main():
        async with SQLiteLog(sys.argv[1]) as log:
            state = await flow.options(log=log, durability="normal").run()
        assert state.is_successful()

    asyncio.run(main())
    with open("/proc/self/status") as status:  # what `getrusage` says begins with the parent's
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of its memory")
def test_memory_does_not_grow_with_finished_results(tmp_path: Path) -> None:
    """100,000 results of 10 KB, a gigabyte in all, in layers: never more than 250 MB in memory."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LAYERS), str(tmp_path / "log.db")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "log.db").unlink()
    assert int(done.stdout) < 250 * 1024
