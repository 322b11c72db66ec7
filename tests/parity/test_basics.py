"""Cases 16 to 36 of PIN-4's lineage, how one task is run, and its companions for event-sourcing, in our words."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventflow import (
    BuildError,
    Flow,
    MemoryLog,
    NoResult,
    ParameterError,
    Skip,
    SQLiteLog,
    TaskError,
    context,
    flow,
    task,
    unmapped,
)
from eventflow.events import Draft, Record, TaskAbandoned, TaskFailed, TaskStarted, TaskSucceeded
from eventflow.ports import Write
from eventflow.records import encode_event
from eventflow.states import Failed, Pending, Retrying, Running, Skipped, Success, TimedOut, TriggerFailed
from eventflow.testing import Crash, CrashingLog
from eventflow.testing.virtual import EPOCH_US, VirtualWorld, simulated
from tests.parity.looking import RUN, events, flow_of, history, kinds, opened

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


class Boom(Exception):
    """What bodies raise."""


@task(version="1")
async def add(x: int, y: int = 0) -> int:
    """Well."""
    ran.append((x, y))
    return x + y


@task(version="1")
async def fail(text: str = "no") -> int:
    """Not well."""
    raise Boom(text)


@task(version="1")
async def skip(reason: str) -> int:
    """Nothing to do."""
    raise Skip(reason)


def flaky(failures: int, **options: Any) -> Flow[..., Any]:
    """A flow of a task `try_it` that fails so many times; tells attempt and moment in `ran`."""

    @task(version="1", **options)
    async def try_it(x: int) -> int:
        ran.append((context.attempt, anyio.current_time()))
        if context.attempt <= failures:
            raise Boom(f"failure {context.attempt}")
        return x

    return flow_of(lambda: try_it(add.named("made")(6)))


@asynccontextmanager
async def dying(log: MemoryLog, crash_at: int) -> AsyncIterator[CrashingLog]:
    """A log whose process dies in this block, at that append."""
    with pytest.raises(Crash):
        yield CrashingLog(log, crash_at=crash_at)


# ── one task ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_case_16_a_plain_task() -> None:
    """16. Given a plain task, when run, then it goes from Pending to Running to Success, by two events of its own.

    There are no state handlers to be called: the events are what can be watched.
    """
    log = MemoryLog()
    state = await flow_of(lambda: add(1, 2)).options(log=log, run_id=RUN).run()
    assert state.result["add"].result == 3
    assert await kinds(log) == [
        "run_started",
        "run_claimed",
        "task_started",
        "task_succeeded",
        "run_finished",
    ]
    assert [type(state) for state in await history(log, "add")] == [Pending, Running, Success]


async def test_case_17_a_task_that_raises() -> None:
    """17. Given a task that raises, then it is Failed, and the error says of what type.

    `state.result` is a TaskError, live and loaded alike; the very exception is its cause where it was raised.
    """
    log = MemoryLog()
    state = (await flow_of(fail).options(log=log, run_id=RUN).run()).result["fail"]
    assert type(state) is Failed
    assert isinstance(state.result, TaskError)
    assert type(state.result.__cause__) is Boom
    (failed,) = await events(log, TaskFailed)
    assert failed.failure == state.result.failure
    assert failed.failure.type.endswith("test_basics.Boom")
    assert (failed.reason, failed.retry_at) == ("raised", None)


async def test_case_18_a_task_that_is_not_ready() -> None:
    """18. Given a run whose tasks have all ended, when run again, then the same states come back and there is no event."""

    def build() -> None:
        add(1)
        add.named("blocked")(fail())
        add.named("skipped")(skip("idle"))

    log = MemoryLog()
    first = await flow_of(build).options(log=log, run_id=RUN).run()
    before, bodies = [record async for record in log.read()], [*ran]
    again = await flow_of(build).options(log=log, run_id=RUN).run()
    assert [record async for record in log.read()] == before
    assert ran == bodies == [(1, 0)]
    kept = {name: type(state) for name, state in again.result.items()}
    assert kept == {name: type(state) for name, state in first.result.items()}
    assert [*kept.values()] == [Success, Failed, TriggerFailed, Skipped, Skipped]


@simulated
async def test_case_18_a_task_that_is_running(world: VirtualWorld) -> None:
    """18. Given a task that runs elsewhere, when its run is asked for, then it is shown Running and there is no event."""

    @task(version="1")
    async def nap() -> str:
        ran.append("nap")
        await anyio.sleep(10)
        return "rested"

    log = MemoryLog()
    options: dict[str, Any] = {"log": log, "world": world, "run_id": RUN}
    async with anyio.create_task_group() as group:
        group.start_soon(flow_of(nap).options(**options).run)
        await anyio.sleep(5)
        before = await log.head()
        state = await flow_of(nap).options(**options, wait=False).run()
        assert type(state.result["nap"]) is Running
        assert await log.head() == before
    assert ran == ["nap"]


@simulated
async def test_case_19_retries_are_counted(world: VirtualWorld) -> None:
    """19. Given two retries, when it fails three times, then Retrying (1), Retrying (2), Failed.

    Nobody feeds states back: one run sees to all attempts, and each failure is one event.
    """
    log = MemoryLog()
    await flaky(9, retries=2, retry_delay=0).options(log=log, world=world, run_id=RUN).run()
    failed = await events(log, TaskFailed)
    assert [event.attempt for event in failed] == [1, 2, 3]
    assert [event.retry_at is not None for event in failed] == [True, True, False]
    waits = [state for state in await history(log, "try_it") if isinstance(state, Retrying)]
    assert [state.run_count for state in waits] == [1, 2]
    assert type((await history(log, "try_it"))[-1]) is Failed


async def test_case_22_skip() -> None:
    """22. Given the signal Skip, when raised in a body, then the task is Skipped; arguments it does not have: TypeError.

    It is the only signal there is today; its state has a message and no result, where upstream kept the signal.
    """
    state = (await flow_of(lambda: skip("weekend")).options(log=MemoryLog()).run()).result["skip"]
    assert type(state) is Skipped
    assert state.message == "weekend"
    assert state.result is NoResult
    with pytest.raises(TypeError):
        Skip("weekend", start_time=3)  # type: ignore[call-arg]


async def test_case_29_errors_surface_where_they_are_asked_for() -> None:
    """29. Given a task that raises, then `.value()` raises and `.run()` does not; what is mapped or finished never does.

    There is no switch in a context: who wants the error asks for the value.
    """

    @flow
    def broken() -> int:
        return fail("here")

    @flow
    def mapped() -> list[int]:
        return add.map([1, 2], unmapped(1))

    log = MemoryLog()
    assert (await broken.options(log=log).run()).is_failed()
    with pytest.raises(TaskError, match="Boom: here") as caught:
        await broken.options(log=log).value()
    assert type(caught.value.__cause__) is Boom
    for _ in range(2):
        assert await mapped.options(log=log, run_id=RUN).value() == [2, 3]


@simulated
async def test_case_30_a_timeout(world: VirtualWorld) -> None:
    """30. Given a timeout and a longer task, then it is TimedOut with its inputs; with retries left, Retrying with them."""

    @task(timeout=1, version="1")
    async def slow(x: int) -> int:
        await anyio.sleep(5)
        return x

    @task(timeout=1, retries=1, retry_delay=60, version="1")
    async def again(x: int) -> int:
        await anyio.sleep(5 if context.attempt == 1 else 0)
        return x

    def build() -> None:
        made = add(6)
        slow(made)
        again(made)

    log = MemoryLog()
    state = await flow_of(build).options(log=log, world=world, run_id=RUN).run()
    ended = state.result["slow"]
    assert type(ended) is TimedOut
    assert type(ended.result.__cause__) is TimeoutError
    assert ended.result.failure.type == "TimeoutError"
    assert opened(ended) == {"x": 6}
    (waiting,) = [found for found in await history(log, "again") if isinstance(found, Retrying)]
    assert opened(waiting) == {"x": 6}
    assert state.result["again"].result == 6


async def test_case_31_wrong_arguments() -> None:
    """31. Given wrong arguments, then no crash: of a call, an error when built; of a run, one before any event.

    A TypeError inside the body fails its task.
    """

    @task
    async def wrong(x: int) -> int:
        return add.fn(x, z=1)  # type: ignore[call-arg, no-any-return]

    @flow
    def takes(x: int) -> int:
        return wrong(x)

    with pytest.raises(BuildError, match="z"):
        flow_of(lambda: add(1, z=1))  # type: ignore[call-arg]
    log = MemoryLog()
    with pytest.raises(ParameterError, match="z"):
        await takes.options(log=log).run(1, z=1)  # type: ignore[call-arg]
    assert await log.head() == 0
    state = (await takes.options(log=log).run(1)).result["wrong"]
    assert type(state) is Failed
    assert type(state.result.__cause__) is TypeError


# ── one task, over several processes ─────────────────────────────────────────────────────────────────────────


@simulated
async def test_case_32_attempts_are_counted_over_processes(world: VirtualWorld) -> None:
    """32. Given a run that died while a task was Retrying after one attempt, when resumed, then the attempt is the second.

    There are no wrappers around a state to be taken off, and no state to be handed in: the log has it.
    """
    log = MemoryLog()
    async with dying(log, 4) as deadly:
        await flaky(1, retries=1, retry_delay=60).options(log=deadly, world=world, run_id=RUN).run()
    assert isinstance((await history(log, "try_it"))[-1], Retrying)
    state = await flaky(1, retries=1, retry_delay=60).options(log=log, world=world, run_id=RUN).run()
    assert [attempt for attempt, _ in ran[2:]] == [2]
    assert state.result["try_it"].result == 6


@pytest.mark.parametrize(("resumed_at", "begun_at"), [(0, 60), (59, 60), (60, 60), (100, 100)])
@simulated
async def test_case_33_a_moment_is_kept(resumed_at: int, begun_at: int, world: VirtualWorld) -> None:
    """33. Given a task that is Retrying, when resumed before its moment, then it waits for it; after it, it runs at once."""
    log = MemoryLog()
    calls = flaky(1, retries=1, retry_delay=60)
    async with dying(log, 4) as deadly:
        await calls.options(log=deadly, world=world, run_id=RUN).run()
    assert await log.head(f"run/{RUN}") == 6
    (failed,) = await events(log, TaskFailed)
    assert failed.retry_at == EPOCH_US + 60_000_000
    await anyio.sleep(max(0, resumed_at - anyio.current_time()))
    await calls.options(log=log, world=world, run_id=RUN).run()
    begun = [record.at async for record in log.read() if isinstance(record.event, TaskStarted)]
    assert begun[-1] == EPOCH_US + begun_at * 1_000_000
    (waited,) = [found for found in await history(log, "try_it") if isinstance(found, Retrying)]
    assert waited.start_time == datetime.fromtimestamp(failed.retry_at / 1e6, UTC)


# ── what only a log can promise ──────────────────────────────────────────────────────────────────────────────


async def test_case_e2_the_past_cannot_be_edited() -> None:
    """E2. Given a body and a caller who change what they were given, then the events are unchanged.

    Upstream's case is about state handlers, which do not exist here; states are frozen.
    """

    @task(version="1")
    async def make() -> list[int]:
        return [1]

    @task(version="1")
    async def spoil(found: list[int]) -> int:
        found.append(99)
        return len(found)

    calls = flow_of(lambda: spoil(make()))
    log = MemoryLog()
    state = (await calls.options(log=log, run_id=RUN).run()).result
    before = [encode_event(record.event) async for record in log.read()]
    assert (state["make"].result, state["spoil"].result) == ([1], 2)
    state["make"].result.append(7)
    with pytest.raises(AttributeError):
        state["make"].message = "edited"
    assert [encode_event(record.event) async for record in log.read()] == before
    again = (await calls.options(log=log, run_id=RUN).run()).result
    assert (again["make"].result, opened(again["spoil"])) == ([1], {"found": [1]})


async def test_case_e3_an_append_that_is_repeated() -> None:
    """E3. Given an append that is sent again, then there is one event, and the writer is told the same.

    An event is known by its place in its stream and its bytes; it needs no id.
    """
    log = MemoryLog()
    await flow_of(lambda: add(1)).options(log=log, run_id=RUN).run()
    before: list[Record] = [record async for record in log.read(stream=f"run/{RUN}")]
    for nth, record in enumerate(before):
        again = Write(record.stream, nth, [Draft(record.at + 5, record.event, record.key)])
        assert list(await log.append(again)) == [record]
    assert [record async for record in log.read(stream=f"run/{RUN}")] == before


async def test_case_e5_a_success_that_was_not_appended() -> None:
    """E5. Given a crash after the body returned and before that was appended, then the task is seen Running and run again.

    A lost attempt uses up no retry, so that no policy is asked; its success is never made up.
    """
    log = MemoryLog()
    calls = flow_of(lambda: add(1, 2))
    async with dying(log, 2) as deadly:
        await calls.options(log=deadly, run_id=RUN).run()
    assert ran == [(1, 2)]
    assert type((await history(log, "add"))[-1]) is Running
    assert await events(log, TaskSucceeded) == []
    state = await calls.options(log=log, run_id=RUN).run()
    assert (ran, state.result["add"].result) == ([(1, 2), (1, 2)], 3)
    (lost,) = await events(log, TaskAbandoned)
    assert (lost.attempt, lost.reason) == (1, "lost")
    assert [event.attempt for event in await events(log, TaskSucceeded)] == [2]


@simulated
async def test_case_e6_nobody_sees_a_failure_that_will_be_retried(world: VirtualWorld) -> None:
    """E6. Given a failure with a retry, then no reader of any part of the log sees the task Failed.

    Upstream's Failed and Retrying are one event here, which no append can tear apart.
    """
    log = MemoryLog()
    calls = flaky(2, retries=2, retry_delay=60)
    await calls.options(log=log, world=world, run_id=RUN).run()
    seen = [type(state) for state in await history(log, "try_it")]
    assert seen == [Pending, Running, Retrying, Running, Retrying, Running, Success]


CUTS = 12


def copies(path: Path) -> list[Path]:
    """Copies of a log that is open, with more and more of what it wrote last, the last one with all."""
    written = Path(f"{path}-wal").read_bytes()
    found = [path.with_name(f"{nth}.db") for nth in range(CUTS)]
    for nth, to in enumerate(found):
        shutil.copy(path, to)
        Path(f"{to}-wal").write_bytes(written[: len(written) * (CUTS + nth) // (2 * CUTS - 1)])
    return found


async def test_case_e7_a_log_cut_off_in_the_middle(tmp_path: Path) -> None:
    """E7. Given a log file that was cut off anywhere, when read, then it holds the whole events before the cut."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await flow_of(lambda: add.named("b")(add(1))).options(log=log, run_id=RUN).run()
        whole = [record async for record in log.read()]
        cut_off = copies(path)
    lengths = []
    for cut in cut_off:
        async with SQLiteLog(cut) as log:
            found = [record async for record in log.read()]
        assert found == whole[: len(found)]
        lengths.append(len(found))
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(whole)
    assert len(set(lengths)) > 2
