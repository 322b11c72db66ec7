"""Looking at a run: by its flow with `wait=False`, or by its id alone; neither starts anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from eventflow import MemoryLog, RunNotFinished, RunNotFound, flow, state_of, task
from eventflow.result import DeserializationError
from eventflow.states import Failed, Pending, Success
from eventflow.testing.crash_log import Crash, CrashingLog
from tests.run.pipeline import nightly

ran: list[Any] = []


@dataclass
class Order:
    """A declared class."""

    number: int


@task
async def order(number: int) -> Order:
    """Counts its calls."""
    ran.append(number)
    if number < 0:
        raise ValueError("negative")
    return Order(number)


@flow
def orders(number: int) -> Order:
    """One task."""
    return order(number)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


async def test_looking_at_a_run_that_is_not_there_starts_none() -> None:
    """Whether or not its parameters are given: it is not found, and the log stays empty."""
    log = MemoryLog()
    looking = orders.options(log=log, run_id="r", wait=False)
    for given in ({}, {"number": 1}):
        with pytest.raises(RunNotFound, match="no run 'r'"):
            await looking.run(**given)
        with pytest.raises(RunNotFound):
            await looking.value(**given)
    assert (await log.head(), ran) == (0, [])


async def test_looking_at_a_run_that_nobody_runs_does_not_resume_it() -> None:
    """The State is what the log says; a later call without `wait=False` goes on with it."""
    log = MemoryLog()
    with pytest.raises(BaseException) as died:
        await orders.options(log=CrashingLog(log, crash_at=2), run_id="r").run(1)
    assert Crash in {type(died.value), *map(type, getattr(died.value, "exceptions", ()))}
    ran.clear()
    head = await log.head()
    looking = orders.options(log=log, run_id="r", wait=False)
    state = await looking.run()
    assert type(state) is Pending
    assert state.message == "its owner has ended without releasing it"
    task_state = state.result["order"]
    assert (type(task_state), task_state.message) == (Pending, "attempt 1 was interrupted")
    assert (await state_of("r", log=log)).message == state.message
    with pytest.raises(RunNotFinished):
        await looking.value()
    assert (await log.head(), ran) == (head, [])
    assert await orders.options(log=log, run_id="r").value() == Order(1)


async def test_looking_at_a_finished_run_gives_its_state_and_value() -> None:
    """As recorded."""
    log = MemoryLog()
    await orders.options(log=log, run_id="r").run(3)
    ran.clear()
    looking = orders.options(log=log, run_id="r", wait=False)
    assert (await looking.run()).is_successful()
    assert await looking.value() == Order(3)
    assert ran == []


def test_looking_needs_a_run() -> None:
    """Without a run id there is nothing to look at, and the error says so."""
    with pytest.raises(ValueError, match="wait=False only looks at a run that exists, so say which: run_id="):
        orders.options(wait=False)
    with pytest.raises(TypeError, match="wait=0 is neither True nor False"):
        orders.options(run_id="r", wait=0)  # type: ignore[arg-type]


async def test_a_rerun_does_not_only_look() -> None:
    """It would be a new run, so the two exclude each other."""
    log = MemoryLog()
    await orders.options(log=log, run_id="old").run(-1)
    with pytest.raises(ValueError, match="a rerun is a new run"):
        await orders.options(log=log, run_id="new", wait=False).rerun("old")
    assert await log.head("run/new") == 0


async def test_the_state_of_a_run_needs_no_flow() -> None:
    """Its tasks are found by name, values that are plain data open, and so do failures."""
    log = MemoryLog()
    await nightly.options(log=log, run_id="good").run("monday")
    state = await state_of("good", log=log)
    assert type(state) is Success
    assert state.result["total"].result == 23
    assert state.result["double"].is_mapped()
    await orders.options(log=log, run_id="bad").run(-1)
    state = await state_of("bad", log=log)
    assert type(state) is Failed
    assert "negative" in str(state.result["order"].result)


async def test_the_state_of_a_run_that_is_not_there() -> None:
    """It is not found, and the log stays as it is."""
    log = MemoryLog()
    with pytest.raises(RunNotFound, match="no run 'other'"):
        await state_of("other", log=log)
    assert await log.head() == 0


async def test_a_result_of_a_declared_class_is_not_guessed() -> None:
    """Without the flow's code the class is not known, so the value does not open."""
    log = MemoryLog()
    await orders.options(log=log, run_id="r").run(7)
    state = await state_of("r", log=log)
    with pytest.raises(DeserializationError, match="declared type"):
        _ = state.result["order"].result
