"""Cases 55 to 70 of PIN-4's lineage, caching and checkpointing, in our words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from eventflow import Flow, MemoryLog, Skip, flow, inputs, nothing, parameters, task
from eventflow.events import TaskStarted, TaskSucceeded, kind_of
from eventflow.result import Inline
from eventflow.states import Cached, Failed, Skipped, Success
from eventflow.testing.virtual import VirtualWorld, simulated

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@task(cache_for=60)
async def add(x: int, y: int = 0, z: int = 0) -> int:
    """Cached for a minute, on all inputs."""
    ran.append((x, y, z))
    return x + y + z


def one(call: Callable[[], Any]) -> Flow[..., Any]:
    """A flow of what is called."""
    with Flow("one") as found:
        call()
    return found


async def end_of(called: Flow[..., Any], log: MemoryLog, name: str = "add", **options: Any) -> Any:
    """The state of one task after a run."""
    return (await called.options(log=log, **options).run()).result[name]


@simulated
async def test_case_55_a_cached_success(world: VirtualWorld) -> None:
    """55. Given cache_for, a success is followed by a hit, with inputs, value and expiration.

    Here the run that makes the value ends in Success, and the next one in Cached: one event each, and not two states
    of one task.
    """
    log = MemoryLog()
    first = await end_of(one(lambda: add(1, 2)), log, world=world, run_id="a")
    second = await end_of(one(lambda: add(1, 2)), log, world=world, run_id="b")
    assert (type(first), type(second)) == (Success, Cached)
    assert second.result == first.result == 3
    assert second.cached_inputs == first.cached_inputs
    kinds = [kind_of(record.event) async for record in log.read(stream="run/a")]
    assert kinds == ["run_started", "run_claimed", "task_started", "task_succeeded", "run_finished"]
    (entry,) = [r async for r in log.read(stream="run/a") if isinstance(r.event, TaskSucceeded)]
    assert second.expires_at.timestamp() * 1e6 == pytest.approx(entry.at + 60e6, abs=1)


async def test_case_56_only_successes_are_cached() -> None:
    """56. Given a failure or a skip, caching changes nothing: no record bears a key."""

    @task(cache_on=inputs())
    async def end(how: str) -> None:
        raise Skip(how) if how == "skip" else ValueError(how)

    log = MemoryLog()
    for how, kind in (("skip", Skipped), ("fail", Failed), ("skip", Skipped), ("fail", Failed)):
        assert type(await end_of(one(lambda how=how: end(how)), log, "end")) is kind
    assert not [record async for record in log.read() if record.key is not None]


async def test_case_57_equal_inputs() -> None:
    """57. Given an entry, equal inputs take it; different or additional ones run the body."""
    log = MemoryLog()
    calls = [
        lambda: add(1),
        lambda: add(1),
        lambda: add(2),
        lambda: add(1, 1),
        lambda: add(1, z=1),
        lambda: add(1),
    ]
    kinds = [type(await end_of(one(call), log)) for call in calls]
    assert kinds == [Success, Cached, Success, Success, Success, Cached]
    assert ran == [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]


@simulated
async def test_case_58_expiration(world: VirtualWorld) -> None:
    """58. Expired entries are refused; without an expiration none ever is; without a policy nothing is taken."""

    @task(cache_on=inputs())
    async def ever(x: int) -> int:
        return x

    @task
    async def never(x: int) -> int:
        return x

    log = MemoryLog()
    with Flow("three") as three:
        add(1)
        ever(1)
        never(1)
    found = []
    for wait in (0, 59, 2, 80_000):
        await anyio.sleep(wait)
        result = (await three.options(log=log, world=world).run()).result
        found.append([type(result[name]) for name in ("add", "ever", "never")])
    assert found == [
        [Success, Success, Success],
        [Cached, Cached, Success],
        [Success, Cached, Success],
        [Success, Cached, Success],
    ]


async def test_case_59_partial_policies() -> None:
    """59. Only what is named counts, of inputs and of parameters; nothing named is nothing compared."""

    @task(cache_on=inputs("x"))
    async def on_x(x: int, y: int = 0) -> int:
        return x

    @task(cache_on=parameters("day"))
    async def on_day(x: int) -> int:
        return x

    @task(cache_on=nothing)
    async def on_nothing(x: int) -> int:
        return x

    @flow
    def f(day: str, x: int, y: int) -> int:
        on_x(x, y)
        on_day(x)
        return on_nothing(y)

    log, found = MemoryLog(), []
    for given in (("mon", 1, 1), ("mon", 1, 2), ("mon", 2, 2), ("tue", 2, 2)):
        result = (await f.options(log=log).run(*given)).result
        found.append("".join(type(result[name]).__name__[0] for name in ("on_x", "on_day", "on_nothing")))
    assert found == ["SSS", "CCC", "SCC", "CSC"]


async def test_case_62_the_cache_is_the_log() -> None:
    """62. Nothing leaks from run to run but by the log: another log knows of no entry."""
    calls = one(lambda: add(1))
    assert [type(await end_of(calls, log)) for log in (MemoryLog(), MemoryLog())] == [Success, Success]


async def test_case_63_a_state_that_is_passed_in() -> None:
    """63. States are not fed to a run; what `rerun` keeps of an old one is not run, and its value flows on."""
    broken = True

    @task
    async def after(x: int) -> int:
        if broken:
            raise RuntimeError("not yet")
        return x + 1

    log = MemoryLog()
    with Flow("f") as f:
        after(add(1))
    await f.options(log=log, run_id="old").run()
    broken = False
    again = await f.options(log=log).rerun("old")
    assert (type(again.result["add"]), again.result["after"].result) == (Cached, 2)
    assert len(ran) == 1


async def test_case_64_one_entry_counts() -> None:
    """64. Of several successes with one key the last is the entry; one that cannot be used is a miss.

    Upstream went on to the next older candidate; here an older one is never newer in time, and a lost value is made
    again once.
    """

    @task(cache_on=inputs(), version="1")
    async def large(x: int) -> str:
        ran.append(x)
        return str(len(ran)) * 1_000

    log, calls = MemoryLog(), one(lambda: large(1))
    await end_of(calls, log, "large")
    for digest in list(log._store.values):
        del log._store.values[digest]
    assert (await end_of(calls, log, "large")).result[0] == "2"
    third = await end_of(calls, log, "large")
    assert (type(third), third.result[0]) == (Cached, "2")
    reasons = [
        r.event.cache.reason async for r in log.read() if isinstance(r.event, TaskStarted) and r.event.cache
    ]
    assert reasons == ["new", "lost"]


@simulated
async def test_case_65_what_a_rerun_keeps_wins(world: VirtualWorld) -> None:
    """65. A kept result is taken before the cache is asked: the fork has the value of its own past."""

    @task(cache_for=60, cache_on=nothing)
    async def number(x: int) -> int:
        return x

    @task
    async def fail(x: int) -> int:
        raise RuntimeError("no")

    log = MemoryLog()
    with Flow("f") as f:
        fail(number(1))
    await f.options(log=log, world=world, run_id="old").run()
    await anyio.sleep(100)
    newer = one(lambda: number(2))
    assert (await end_of(newer, log, "number", world=world)).result == 2
    assert (await end_of(newer, log, "number", world=world)).result == 2
    again = await f.options(log=log, world=world).rerun("old")
    assert (again.result["number"].result, again.result["number"].source) == (1, ("run/old", 4))


async def test_case_66_every_result_is_kept() -> None:
    """66. There is no checkpoint to switch on: every success carries its value, cached or not."""

    @task
    async def plain(x: int) -> int:
        return x

    log = MemoryLog()
    await one(lambda: plain(7)).options(log=log).run()
    (made,) = [r.event async for r in log.read() if isinstance(r.event, TaskSucceeded)]
    assert isinstance(made.result, Inline)


async def test_case_69_a_value_that_is_there_is_taken() -> None:
    """69. Upstream's target, a place that is filled once: here an entry on nothing but the task, in a namespace."""

    @task(cache_on=nothing, cache_namespace="reports/monday")
    async def report() -> str:
        ran.append("report")
        return "done"

    log = MemoryLog()
    assert [type(await end_of(one(report), log, "report")) for _ in range(2)] == [Success, Cached]
    assert ran == ["report"]
