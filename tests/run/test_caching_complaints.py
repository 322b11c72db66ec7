"""What people complain of in the caches of other engines, each as a test that passes here.

The names give the thread: `prefect_15861` is PrefectHQ/prefect#15861.  Those that ask for something that is not
there yet (dropping an entry, refreshing one, one computation for two runs at once) have no test.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventflow import Flow, MemoryLog, SQLiteLog, flow, inputs, nothing, task
from eventflow.events import TaskReused, TaskStarted
from eventflow.states import Cached, Failed, Success
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.logs import breaking_sqlite

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


def one(call: Callable[[], Any]) -> Flow[..., Any]:
    """A flow of one call."""
    with Flow("one") as found:
        call()
    return found


class Handle:
    """An open connection, say: nothing can tell two of them apart."""

    def __init__(self, to: str) -> None:
        self.to = to


async def test_prefect_15861_an_input_that_cannot_be_hashed_does_not_drop_out_of_the_key() -> None:
    """With one part of the key missing there is no key, not a smaller one: no hit for another handle."""

    @task
    async def connect(to: str) -> Handle:
        return Handle(to)

    @task(cache_on=inputs())
    async def count(handle: Handle, table: str) -> str:
        return f"{handle.to}.{table}"

    @flow
    def counted(to: str) -> str:
        return count(connect(to), "orders")

    log = MemoryLog()
    assert [await counted.options(log=log).value(to) for to in ("a", "b", "a")] == [
        "a.orders",
        "b.orders",
        "a.orders",
    ]
    details = [
        r.event.cache.detail async for r in log.read() if isinstance(r.event, TaskStarted) and r.event.cache
    ]
    assert len(details) == 3
    assert all("argument handle" in detail for detail in details)


async def test_prefect_12229_which_parts_of_a_value_are_one_object_does_not_count() -> None:
    """Pickles of equal values differ where parts are shared; contents do not, however a value came about."""
    text = "x" * 100

    @dataclass
    class Pair:
        left: list[str]
        right: list[str]

    @task(cache_on=inputs())
    async def join(pair: Pair) -> int:
        ran.append(1)
        return len(pair.left + pair.right)

    shared = [text]
    log = MemoryLog()
    for pair in (Pair(shared, shared), Pair(["x" * 100], ["".join(["x"] * 100)])):
        await one(lambda pair=pair: join(pair)).options(log=log).run()
    assert ran == [1]


async def test_prefect_3553_and_5602_an_input_counts_by_its_value_wherever_it_lies() -> None:
    """Inline, beside the events, as an element of a map, just made or read back from the log: one key."""

    @task
    async def large(size: int) -> list[str]:
        return ["y" * size] * 2

    @task(cache_on=inputs())
    async def head(text: str) -> str:
        ran.append(len(text))
        return text[:1]

    with Flow("mapped") as mapped:
        head.map(large(2_000))
    with Flow("part") as part:
        head(large(2_000)[0])
    log = MemoryLog()
    await mapped.options(log=log).run()
    assert set(ran) == {2_000}
    ran.clear()
    for found in (part, mapped, one(lambda: head("y" * 2_000))):
        await found.options(log=log).run()
    assert ran == []


async def test_prefect_8892_a_result_that_is_gone_is_made_again(tmp_path: Path) -> None:
    """And prefect_19411: made again over what is left of the old one, which heals it. On a file, both."""

    @task(cache_on=inputs())
    async def table(rows: int) -> str:
        ran.append(rows)
        return "r" * rows

    made = one(lambda: table(1_000))
    path = tmp_path / "log.db"
    for harm in ("DELETE FROM value", "UPDATE value SET data = zeroblob(length(data))"):
        async with SQLiteLog(path) as log:
            await made.options(log=log).run()
        ran.clear()
        breaking_sqlite.execute(path, (harm, ()))
        async with SQLiteLog(path) as log:
            state = (await made.options(log=log).run()).result["table"]
            assert (type(state), state.result) == (Success, "r" * 1_000)
            assert type((await made.options(log=log).run()).result["table"]) is Cached
        assert ran == [1_000]


@simulated
async def test_prefect_13865_and_15470_what_expires_expires(world: VirtualWorld) -> None:
    """A second is a second, every time, also where the key is the author's own."""

    @task(cache_for=1, cache_key=lambda n: n)
    async def tick(n: int) -> int:
        ran.append(n)
        return n

    log, calls = MemoryLog(), one(lambda: tick(1))
    for _ in range(5):
        for wait in (0.0, 0.5, 0.4):
            await anyio.sleep(wait)
            await calls.options(log=log, world=world).run()
        await anyio.sleep(0.2)
    assert ran == [1] * 5


async def test_prefect_12140_and_10774_a_new_answer_of_the_key_function_is_a_new_key() -> None:
    """Whoever can change what the key function says can invalidate what is cached, from outside."""
    generation = 0

    @task(cache_key=lambda n: [n, generation], version="1")
    async def work(n: int) -> int:
        ran.append(generation)
        return n

    log, calls = MemoryLog(), one(lambda: work(1))
    for generation in (0, 0, 1, 1, 0):  # noqa: B007 - the key function reads it
        await calls.options(log=log).run()
    assert ran == [0, 1]


async def test_prefect_14236_the_same_source_with_another_closure_is_other_code() -> None:
    """What a function has closed over counts, and so do its defaults."""

    def adder(by: int) -> Flow[..., Any]:
        @task(cache_on=inputs())
        async def add(n: int) -> int:
            return n + by

        return one(lambda: add(1))

    log = MemoryLog()
    found = [(await adder(by).options(log=log).run()).result["add"].result for by in (1, 10, 1)]
    assert found == [2, 11, 2]


async def test_prefect_1226_edited_code_is_other_code() -> None:
    """A name is not enough: the entry of an earlier body is not taken for a later one."""

    def first() -> Any:
        @task(cache_on=inputs(), name="transform")
        async def transform(n: int) -> int:
            return n

        return transform

    def second() -> Any:
        @task(cache_on=inputs(), name="transform")
        async def transform(n: int) -> int:
            return -n

        return transform

    log, values = MemoryLog(), []
    for made in (first(), second()):
        state = await one(lambda made=made: made(1)).options(log=log).run()
        values.append(state.result["transform"].result)
    assert values == [1, -1]


async def test_prefect_2343_two_tasks_do_not_take_each_others_results() -> None:
    """Neither in one flow, with the same input, nor under one version."""

    @task(cache_on=inputs(), version="1")
    async def extract(n: int) -> str:
        return f"raw {n}"

    @task(cache_on=inputs(), version="1")
    async def transform(n: int) -> str:
        return f"clean {n}"

    log = MemoryLog()
    with Flow("both") as both:
        extract(1)
        transform(1)
    for _ in range(2):
        states = (await both.options(log=log).run()).result
        assert (states["extract"].result, states["transform"].result) == ("raw 1", "clean 1")


async def test_prefect_4056_none_is_cached_like_any_other_value() -> None:
    """A task that is run for its effect and gives nothing back does not run again."""

    @task(cache_on=inputs())
    async def send(to: str) -> None:
        ran.append(to)

    log, calls = MemoryLog(), one(lambda: send("a"))
    for _ in range(2):
        assert (await calls.options(log=log).run()).result["send"].result is None
    assert ran == ["a"]


async def test_prefect_15658_a_failed_result_is_never_read_as_a_cached_one() -> None:
    """A failure leaves no entry, and the next run tries again."""

    @task(cache_on=inputs())
    async def fragile(n: int) -> int:
        ran.append(n)
        raise RuntimeError("down")

    log, calls = MemoryLog(), one(lambda: fragile(1))
    for _ in range(2):
        assert type((await calls.options(log=log).run()).result["fragile"]) is Failed
    assert ran == [1, 1]


_PROGRAM = """
import asyncio, sys
from eventflow import flow, inputs, open_log, task

@task(cache_on=inputs())
def slow(n: int) -> int:
    print("ran", flush=True)
    return n

@flow
def f(n: int) -> int:
    return slow(n)

async def main():
    async with open_log(sys.argv[1]) as log:
        await f.options(log=log).run(1)

asyncio.run(main())
"""


def test_prefect_1221_and_2636_the_cache_outlives_its_process(tmp_path: Path) -> None:
    """No session, server or setting: the log is the cache, and the next process has it."""
    (tmp_path / "program.py").write_text(_PROGRAM, encoding="utf-8")
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(tmp_path / "program.py"),
        f"sqlite:///{tmp_path / 'log.db'}",
    ]
    done = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)]
    assert done == ["ran\n", "", ""]


async def test_prefect_15559_results_are_kept_without_being_told_to() -> None:
    """Whoever says that a task is cached has a cache: nothing else has to be switched on."""

    @task(cache_for=60)
    def run_long_thing(year: int, day: int) -> str:
        ran.append(day)
        return f"{year}-{day}"

    log = MemoryLog()
    with Flow("mini") as mini:
        for day in range(10):
            run_long_thing(2016, day)
    for _ in range(2):
        await mini.options(log=log).run()
    assert sorted(ran) == list(range(10))


async def test_dagster_8919_memoization_without_versions() -> None:
    """Made once is made, whatever changes in the code, for whoever wants it so."""

    def variant(answer: str) -> Flow[..., Any]:
        @task(cache_on=nothing, version="any", cache_namespace="asset")
        async def asset() -> str:
            return answer

        return one(asset)

    log = MemoryLog()
    found = [
        (await variant(answer).options(log=log).run()).result["asset"].result for answer in ("one", "two")
    ]
    assert found == ["one", "one"]


async def test_zenml_822_which_run_made_this() -> None:
    """A hit says where its value was first made, also when that was some hits ago."""

    @task(cache_on=inputs())
    async def train(n: int) -> int:
        return n

    log, calls = MemoryLog(), one(lambda: train(1))
    for run_id in ("maker", "second", "third"):
        await calls.options(log=log, run_id=run_id).run()
    sources = [r.event.source.stream async for r in log.read() if isinstance(r.event, TaskReused)]
    assert sources == ["run/maker", "run/maker"]


async def test_prefect_10774_and_p17_nothing_is_cached_that_does_not_say_so() -> None:
    """Caching is asked for, task by task."""

    @task
    async def plain(n: int) -> int:
        ran.append(n)
        return n

    log, calls = MemoryLog(), one(lambda: plain(1))
    for _ in range(2):
        await calls.options(log=log).run()
    assert ran == [1, 1]
    assert not [r async for r in log.read() if r.key is not None]


@pytest.fixture
def explained(tmp_path: Path) -> Callable[..., str]:
    """`eventflow cache explain` on a file."""

    def ask(*words: str) -> str:
        command = [sys.executable, "-W", "ignore", "-m", "eventflow", "cache", *words]
        command += ["--log", f"sqlite:///{tmp_path / 'log.db'}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return ask


async def test_cromwell_1990_and_prefect_8239_what_differs_is_said(
    tmp_path: Path, explained: Callable[..., str]
) -> None:
    """The nearest earlier entry, the part of the key that is another one, and its value then and now."""

    @task(cache_on=inputs())
    async def align(sample: str, threads: int) -> str:
        return sample

    @flow
    def aligned(sample: str, threads: int) -> str:
        return align(sample, threads)

    async with SQLiteLog(tmp_path / "log.db") as log:
        for run_id, sample, threads in (("a", "NA12878", 4), ("b", "NA12878", 8), ("c", "NA12878", 4)):
            await aligned.options(log=log, run_id=run_id).run(sample, threads)
    said = explained("explain", "b", "align")
    assert "nearest earlier entry: run a, event" in said
    assert said.endswith("  differs in input 'threads'\n    then 4\n    now  8\n")
    assert "taken from run a" in explained("explain", "c", "align")
    listed = explained("ls").splitlines()
    assert len(listed) == 3
    assert [line.split()[3:5] for line in listed[1:]] == [["a", "1"], ["b", "0"]]


@pytest.mark.parametrize("harm", ["gone", "cut", "changed"])
async def test_prefect_3378_a_large_result_whose_file_is_gone_is_made_again(
    tmp_path: Path, harm: str
) -> None:
    """What lies in packs beside the file may be lost or damaged as well: a miss, and healed by the next success."""

    @task(cache_on=inputs())
    async def frame(rows: int) -> str:
        ran.append(rows)
        return "f" * rows

    made, path = one(lambda: frame(100_000)), tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await made.options(log=log).run()
    (pack,) = tmp_path.glob("*/*.pack")  # noqa: ASYNC240 - a test may wait
    match harm:
        case "gone":
            pack.unlink()
        case "cut":
            pack.write_bytes(pack.read_bytes()[:50_000])
        case _:
            pack.write_bytes(b"x" + pack.read_bytes()[1:])
    ran.clear()
    async with SQLiteLog(path) as log:
        state = (await made.options(log=log).run()).result["frame"]
        assert (type(state), state.result) == (Success, "f" * 100_000)
        assert ran == [100_000]
        assert type((await made.options(log=log).run()).result["frame"]) is Cached
