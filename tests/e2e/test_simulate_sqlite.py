"""Simulations whose runs are in a SQLite log: its threads take no virtual time, and end with the simulation."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from eventflow import flow, open_log, state_of, task
from eventflow.testing import VirtualWorld, simulate


@task(retries=2, retry_delay=3600, timeout=0.001)
async def second_try(day: str) -> str:
    """Fail once, so that the run has a timer."""
    from eventflow import context

    if context.attempt == 1:
        raise ConnectionError("try later")
    return day


@flow
def patient(day: str) -> str:
    """One task with a retry."""
    return second_try(day)


def _living_threads() -> list[threading.Thread]:
    """The threads of logs that do not end by themselves; the last step of a thread comes after its last answer."""
    threads = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    for thread in threads:
        thread.join(timeout=5)
    return [thread for thread in threads if thread.is_alive()]


@pytest.fixture
def thread_errors(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """The uncaught exceptions of threads."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: errors.append(failed.exc_value))
    return errors


@pytest.mark.parametrize("how", ["url", "default", "open_log", "read_only"])
def test_a_log_on_disk_is_closed_before_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, thread_errors: list[BaseException | None]
) -> None:
    """No thread of a log calls the loop after its end, and each simulation takes as long as its timers say."""
    url = f"sqlite:///{tmp_path}/log.db"
    monkeypatch.setenv("EVENTFLOW_LOG", url)

    async def main(world: VirtualWorld) -> float:
        began = world.monotonic()
        if how == "open_log":
            async with open_log(url) as log:
                await patient.options(world=world, log=log).value(day="monday")
        elif how == "read_only":
            await patient.options(world=world, log=url, run_id="a").value(day="monday")
            assert (await state_of("a", log=url)).is_successful()
        else:
            options = {"log": url} if how == "url" else {}
            await patient.options(world=world, **options).value(day="monday")
        return (world.monotonic() - began) / 1e6

    for _ in range(5):
        assert simulate(main) == (3600 if how != "read_only" or _ == 0 else 0)
        assert _living_threads() == []
    assert thread_errors == []


def test_a_cancelled_simulation_closes_its_log(
    tmp_path: Path, thread_errors: list[BaseException | None]
) -> None:
    """If `main` raises while a run is under way, the log's threads end before the loop, too."""

    async def main(world: VirtualWorld) -> None:
        run = patient.options(world=world, log=f"sqlite:///{tmp_path}/log.db").run(day="monday")
        running = asyncio.ensure_future(run)
        await asyncio.sleep(60)
        assert not running.done()
        raise LookupError("the test failed")

    for _ in range(5):
        with pytest.raises(LookupError):
            simulate(main)
        assert _living_threads() == []
    assert thread_errors == []
