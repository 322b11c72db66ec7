"""A flow's parameters above 512 bytes lie beside their event; what is decided with their birth can read them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, SQLiteLog, State, flow, task
from eventflow.events import RunStarted, TaskReused, TaskStarted
from eventflow.ports import Durability, EventLog
from eventflow.result import Stored
from eventflow.testing.crash_log import Crash, CrashingLog

MANY = list(range(300))
NAMED = {"k": MANY, "other": "x" * 700}


@task
async def double(number: int) -> int:
    """One element."""
    return number * 2


@task
async def count(numbers: list[int]) -> int:
    """The whole."""
    return len(numbers)


@task(cache_for=3600)
async def cached(numbers: list[int]) -> int:
    """Cached on the parameter."""
    return sum(numbers)


@flow
def mapped(numbers: list[int]) -> int:
    """Maps over a parameter."""
    return count(double.map(numbers))


@flow
def keyed(named: dict[str, Any]) -> int:
    """Takes a part of a parameter."""
    return count(named["k"])


@flow
def over_part(named: dict[str, Any]) -> int:
    """Maps over a part of a parameter."""
    return count(double.map(named["k"]))


@flow
def by_default(numbers: list[int] = MANY) -> int:
    """Maps over a default."""
    return count(double.map(numbers))


@flow
def of_cache(numbers: list[int]) -> int:
    """One cached task."""
    return cached(numbers)


@asynccontextmanager
async def sqlite_log(folder: Path) -> AsyncIterator[EventLog]:
    """A file."""
    async with SQLiteLog(folder / "log.db") as log:
        yield log


@asynccontextmanager
async def memory_log(_folder: Path) -> AsyncIterator[EventLog]:
    """The reference."""
    yield MemoryLog()


LOGS = pytest.mark.parametrize("opened", [memory_log, sqlite_log])
FLOWS = [(mapped, (MANY,)), (keyed, (NAMED,)), (over_part, (NAMED,)), (by_default, ())]


@LOGS
@pytest.mark.parametrize("durability", ["full", "pipelined"])
@pytest.mark.parametrize(("given", "args"), FLOWS, ids=lambda it: getattr(it, "name", None))
async def test_a_large_parameter_is_at_hand_in_the_first_round(
    opened: Any, given: Flow[..., int], args: tuple[Any, ...], durability: Durability, tmp_path: Path
) -> None:
    """To map over it, to take a part of it, and as a default; its bytes lie beside the event."""
    async with opened(tmp_path) as log:
        assert await given.options(log=log, durability=durability).value(*args) == 300
        born = [r.event async for r in log.read() if isinstance(r.event, RunStarted)]
        assert all(isinstance(payload, Stored) for payload in born[0].parameters.values())


@LOGS
async def test_a_cached_task_on_a_large_parameter_has_a_key_at_once(opened: Any, tmp_path: Path) -> None:
    """It is an entry after the first run, and a hit in the second."""
    async with opened(tmp_path) as log:
        for _ in range(2):
            assert await of_cache.options(log=log).value(MANY) == sum(MANY)
        found = [r.event async for r in log.read() if isinstance(r.event, TaskStarted | TaskReused)]
    assert [type(event) for event in found] == [TaskStarted, TaskReused]
    assert isinstance(found[0], TaskStarted)
    assert found[0].cache is not None
    assert found[0].cache.reason == "new"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_birth_whose_append_dies_is_repeated_with_its_parameter(when: Any) -> None:
    """Whether or not the first append went through, the same call sees the run to its end."""
    log = MemoryLog()
    with pytest.raises(BaseException) as died:
        await mapped.options(log=CrashingLog(log, crash_at=1, when=when), run_id="r").value(MANY)
    assert Crash in {type(died.value), *map(type, getattr(died.value, "exceptions", ()))}
    assert await mapped.options(log=log, run_id="r").value(MANY) == 300


async def test_a_rerun_keeps_a_large_default_beside_its_event() -> None:
    """A parameter that the old run did not have comes from today's default, and is stored like any other."""
    log = MemoryLog()

    def build(call: Callable[..., Any]) -> Flow[..., Any]:
        return flow(name="grows")(call)

    def old(day: str) -> int:
        return count([1])

    def new(day: str, numbers: list[int] = MANY) -> int:
        return count(double.map(numbers))

    await build(old).options(log=log, run_id="old").run("monday")
    state: State = await build(new).options(log=log, run_id="new").rerun("old")
    assert state.is_successful(), state.message
    born = [r.event async for r in log.read(stream="run/new") if isinstance(r.event, RunStarted)]
    assert isinstance(born[0].parameters["numbers"], Stored)
