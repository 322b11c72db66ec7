"""Projections: replay to any position, live folds, snapshots, the built-in ones, and a user's own."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from eventflow.events import (
    Draft,
    Event,
    Failure,
    FlowDefined,
    Origin,
    Record,
    RunClaimed,
    RunFinished,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
)
from eventflow.graph import Graph
from eventflow.logs import MemoryLog
from eventflow.ports import LogClosed, Write
from eventflow.projections import (
    Attempt,
    Fold,
    Runs,
    TaskLine,
    Timeline,
    dump,
    follow,
    replay,
    restore,
)
from eventflow.result import Inline
from eventflow.views.run_list import FlowRow, RunRow

DOCS = Path(__file__).parents[2] / "docs" / "projections.md"
NONE = Inline("msgpack", b"\xc0", b"d" * 16)
NO = Failure("ValueError", "no")
GRAPH = Graph(name="orders")


# A user's own projection: which tasks took longest?


class Slowest(msgspec.Struct):
    """The body time of the slowest tasks of all runs, the slowest first."""

    top: list[tuple[int, str]] = []


class SlowestTasks:
    """The three slowest tasks."""

    name = "slowest"
    version = 1

    def initial(self) -> Slowest:
        """Nothing has run."""
        return Slowest()

    def apply(self, state: Slowest, record: Record) -> Slowest:
        """Take one record in."""
        match record.event:
            case TaskSucceeded(body_us=body_us, task=task):
                state.top.append((body_us, f"{record.stream}:{task[0]}"))
                state.top.sort(reverse=True)
                del state.top[3:]
        return state


def succeeded(task: int, body_us: int = 0) -> Event:
    """A success of a plain task."""
    return TaskSucceeded(claim=2, task=(task,), attempt=1, result=NONE, body_us=body_us)


def started(task: tuple[int, ...], attempt: int = 1) -> Event:
    """A start."""
    return TaskStarted(claim=2, task=task, attempt=attempt)


def failed(task: tuple[int, ...], attempt: int = 1, retry_at: int | None = None) -> Event:
    """A failure."""
    return TaskFailed(claim=2, task=task, attempt=attempt, failure=NO, reason="raised", retry_at=retry_at)


async def write(log: MemoryLog, stream: str, *facts: Event) -> None:
    """Append; each fact of the log happens 10 µs after the one before it."""
    version, head = await log.head(stream), await log.head()
    await log.append(
        Write(stream, version, [Draft((head + i + 1) * 10, fact) for i, fact in enumerate(facts)])
    )


@pytest.fixture
async def log() -> MemoryLog:
    """A log with two finished runs of a flow, one of which had trouble, and one that was let go."""
    log = MemoryLog()
    claim = RunClaimed(owner="o", environment={}, flow="f")
    other = RunClaimed(owner="o", environment={}, flow="g")
    await write(log, "flow/f", FlowDefined(graph=GRAPH))
    await write(
        log,
        "run/a",
        RunStarted(flow="f", parameters={"p": NONE}, durability="full", labels={"k": "v"}),
        claim,
    )
    await write(log, "run/b", RunStarted(flow="f", parameters={}, durability="full"), claim)
    await write(
        log, "run/a", started((0,)), failed((0,), retry_at=60), TaskMapped(claim=2, task=(1,), width=2)
    )
    await write(log, "run/b", started((0,)), succeeded(0, 70), RunFinished(claim=2, outcome="success"))
    await write(log, "run/a", started((0,), 2), TaskAbandoned(claim=2, task=(0,), attempt=2, reason="lost"))
    await write(
        log, "run/a", RunReleased(claim=2, reason="interrupted"), claim, started((0,), 3), succeeded(0, 30)
    )
    await write(
        log, "run/a", started((1, 0)), failed((1, 0)), Unknown("task_teleported", b"\x91\xaftask_teleported")
    )
    skipped = TaskSkipped(claim=2, task=(2,), reason="r")
    blocked = TaskBlocked(claim=2, task=(3,), trigger="all_successful", message="m")
    reused = TaskReused(claim=2, task=(1, 1), result=NONE, source=Origin("run/b", 4), why="cache")
    await write(log, "run/a", skipped, blocked, reused, RunFinished(claim=2, outcome="failed"))
    await write(log, "run/c", RunStarted(flow="g", parameters={}, durability="full"), other)
    await write(log, "run/c", RunReleased(claim=2, reason="interrupted"))
    return log


async def test_runs_has_a_row_for_each_run(log: MemoryLog) -> None:
    """`Runs` tells of each run its flow, status, outcome, moments, labels, parameters and counts."""
    runs = Runs.of((await replay(log, Runs())).state)
    assert list(runs) == ["a", "b", "c"]
    a, b, c = runs.values()
    assert (a.flow, a.name, a.status, a.outcome) == ("f", "orders", "finished", "failed")
    assert a.tasks == {"succeeded": 1, "failed": 1, "skipped": 1, "blocked": 1, "reused": 1}
    assert (a.labels, a.parameters, a.started_at, a.finished_at) == ({"k": "v"}, {"p": NONE}, 20, 240)
    assert (b.status, b.outcome, b.tasks, b.started_at, b.finished_at) == (
        "finished",
        "success",
        {"succeeded": 1},
        40,
        110,
    )
    assert (c.flow, c.name, c.status, c.finished_at) == ("g", "", "released", None)


async def test_runs_as_they_stood(log: MemoryLog) -> None:
    """The rows of any past position are those that a log ending there would show."""
    seen = []
    for until in (1, 2, 3, 7, 13):
        runs = Runs.of((await replay(log, Runs(), until=until)).state)
        seen.append({run: row.status for run, row in runs.items()})
    both = {"a": "running", "b": "running"}
    assert seen == [{}, {"a": "started"}, {"a": "running"}, both, both | {"a": "running", "b": "finished"}]


async def test_timeline_of_a_run(log: MemoryLog) -> None:
    """`Timeline` lists the attempts of every task with their moments and outcomes, and widths of maps."""
    fold = await replay(log, Timeline(), stream="run/a")
    state = fold.state
    assert (state.started_us, state.ended_us) == (20, 240)
    assert state.tasks == {
        "0": TaskLine(
            (0,),
            [
                Attempt(1, 60, 70, "retrying"),
                Attempt(2, 120, 130, "abandoned"),
                Attempt(3, 160, 170, "succeeded"),
            ],
        ),
        "1": TaskLine((1,), [], 2),
        "1.0": TaskLine((1, 0), [Attempt(1, 180, 190, "failed")]),
        "2": TaskLine((2,), [Attempt(0, 210, 210, "skipped")]),
        "3": TaskLine((3,), [Attempt(0, 220, 220, "blocked")]),
        "1.1": TaskLine((1, 1), [Attempt(0, 230, 230, "reused")]),
    }
    early = await replay(log, Timeline(), stream="run/a", until=6)
    assert early.state.tasks == {"0": TaskLine((0,), [Attempt(1, 60)])}


async def test_a_projection_of_ones_own(log: MemoryLog) -> None:
    """A user's class of a few lines is replayed, cut at a position, and snapshotted like the built-in ones."""
    fold = await replay(log, SlowestTasks())
    assert fold.state.top == [(70, "run/b:0"), (30, "run/a:0")]
    assert (await replay(log, SlowestTasks(), until=12)).state.top == [(70, "run/b:0")]
    again = restore(dump(fold), SlowestTasks())
    assert again is not None
    assert again.state == fold.state


async def test_the_documented_projection(log: MemoryLog) -> None:
    """What the docs show runs as it stands there, and is under 30 lines long."""
    first, second, *_ = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(first.splitlines()) < 30
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(compile(first + second, str(DOCS), "exec"), shown)
    now = await shown["now"](log)
    assert {stream: (found.count, found.by_type, found.last) for stream, found in now.items()} == {
        "run/a": (2, {"ValueError": 2}, "no")
    }
    assert (await shown["as_it_stood"](log, 7))["run/a"].count == 1
    async for position, state in shown["live"](log):
        assert (position, state) == (await log.head(), now)
        break


async def test_where_a_fold_stands(log: MemoryLog) -> None:
    """A fold knows the last record it has applied, and goes on from there, itself."""
    head = await log.head()
    assert (await replay(log, Runs(), until=0)).position == 0
    assert (await replay(log, Runs(), until=head + 9)).position == head
    assert (await replay(log, Runs(), stream="run/b")).position == 11
    fold = await replay(log, Runs(), until=9)
    assert fold.position == 9
    assert await replay(log, Runs(), start=fold) is fold
    assert (fold.position, fold.state) == (head, (await replay(log, Runs())).state)


async def test_a_frozen_fold_stays(log: MemoryLog) -> None:
    """What was frozen shows its moment for ever, deep inside too, and has the types of the original."""
    fold = await replay(log, Runs(), until=16)
    frozen = fold.frozen()
    before = msgspec.to_builtins(frozen.state)
    assert (frozen.position, frozen.state) == (16, fold.state)
    await replay(log, Runs(), start=fold)
    assert fold.state != frozen.state
    assert msgspec.to_builtins(frozen.state) == before
    assert {type(row) for row in frozen.state.values()} == {RunRow, FlowRow}


async def test_a_fold_refuses_the_past(log: MemoryLog) -> None:
    """Pushing a record a second time is a mistake, not a double count."""
    fold = Fold.start(Runs())
    records = [record async for record in log.read()]
    fold.push(records[0])
    fold.push(records[1])
    with pytest.raises(AssertionError, match="record 2 is not after 2"):
        fold.push(records[1])


async def test_follow_catches_up_and_goes_on(log: MemoryLog) -> None:
    """The first fold has caught up; then comes one for each new record, until the log is closed."""
    head = await log.head()
    seen: list[tuple[int, str]] = []

    async def watch() -> None:
        async for fold in follow(log, Runs(), start=await replay(log, Runs(), until=3)):
            seen.append((fold.position, Runs.of(fold.state)["c"].status))  # noqa: PERF401 - ends by an error

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_closed, watch)
            await _until(lambda: len(seen) == 1)
            await write(log, "run/c", RunClaimed(owner="p", environment={}, flow="g"))
            await write(log, "run/c", succeeded(0), RunFinished(claim=4, outcome="success"))
            await _until(lambda: len(seen) == 4)
            await log.aclose()
    statuses = ["released", "running", "running", "finished"]
    assert seen == [(head + i, status) for i, status in enumerate(statuses)]


async def test_follow_of_one_stream(log: MemoryLog) -> None:
    """Records of other streams give no fold."""
    folds = follow(log, Timeline(), stream="run/c")
    first = await anext(folds)
    assert (first.state.tasks, first.position) == ({}, await log.head())
    await write(log, "run/d", started((0,)))
    await write(log, "run/c", started((5,)))
    second = await anext(folds)
    assert (list(second.state.tasks), second.position) == (["5"], await log.head())


async def test_snapshots_of_others_do_not_count(log: MemoryLog) -> None:
    """Another projection, another version, changed or missing bytes, another state: no fold comes of it."""
    fold = await replay(log, SlowestTasks())
    data = dump(fold)

    class Later(SlowestTasks):
        version = 2

    class Renamed(SlowestTasks):
        name = "slower"

    class Changed(SlowestTasks):
        def initial(self) -> dict[str, int]:
            return {}

    class Retyped(SlowestTasks):
        def initial(self) -> list[int]:
            return []

    for projection in (Later(), Renamed(), Retyped(), Runs()):
        assert restore(data, projection) is None
    for cut in range(len(data)):
        assert restore(data[:cut], SlowestTasks()) is None
        assert restore(data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :], SlowestTasks()) is None
    found = restore(data, SlowestTasks())
    assert found is not None
    assert (found.state, found.position) == (fold.state, fold.position)


async def test_a_state_without_a_type() -> None:
    """A projection that does not say what its state is can be folded, and says what to do when copied."""

    class Vague(SlowestTasks):
        def initial(self):  # noqa: ANN202 - what the test is about
            return {}

    fold = Fold.start(Vague())
    with pytest.raises(TypeError, match=r"Vague\.initial must be annotated"):
        fold.frozen()


async def _until_closed(watch: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(LogClosed):
        await watch()


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await checkpoint()


async def test_a_class_in_place_of_a_projection_is_refused() -> None:
    """Forgotten parentheses are named, by `replay`, `follow` and `Fold.start`."""
    kind: Any = Runs
    with pytest.raises(TypeError, match=r"give an object, Runs\(\)"):
        await replay(MemoryLog(), kind)
    with pytest.raises(TypeError, match=r"Runs\(\)"):
        await anext(follow(MemoryLog(), kind))
    with pytest.raises(TypeError, match=r"Runs\(\)"):
        Fold.start(kind)


class Forgetful:
    """Its `apply` returns nothing."""

    name = "forgetful"
    version = 1

    def initial(self) -> dict[str, int]:
        """Nothing yet."""
        return {}

    def apply(self, state: dict[str, int], record: Record) -> Any:
        """Change the state in place, and forget to return it."""
        state[record.stream] = record.version


class Last(Forgetful):
    """A projection whose state may be None."""

    def initial(self) -> int | None:  # type: ignore[override]
        """None."""
        return None

    def apply(self, state: int | None, record: Record) -> int | None:  # type: ignore[override]
        """None for odd versions."""
        return None if record.version % 2 else record.version


async def test_an_apply_that_returns_nothing_is_refused() -> None:
    """The error names the method; a projection that declares None as a state keeps it."""
    log = MemoryLog()
    await log.append(Write("flow/f", 0, (Draft(1, FlowDefined(graph=GRAPH)),)))
    with pytest.raises(TypeError, match=r"Forgetful\.apply returned None: it must return the state"):
        await replay(log, Forgetful())
    [record] = [record async for record in log.read()]
    with pytest.raises(TypeError, match=r"Forgetful\.apply returned None"):
        Fold.start(Forgetful()).push(record)
    assert (await replay(log, Last())).state is None
