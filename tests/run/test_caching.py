"""The cache: what is taken, what is not, and what the log says of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventflow import (
    Flow,
    MemoryLog,
    Parameter,
    Skip,
    SQLiteLog,
    flow,
    inputs,
    nothing,
    parameters,
    task,
    unmapped,
)
from eventflow.events import CacheMiss, Record, TaskReused, TaskStarted, TaskSucceeded
from eventflow.ports import Value
from eventflow.states import Cached, Failed, Success
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated

ran: list[Any] = []
"""What bodies were called with."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@task(cache_for=timedelta(hours=1))
async def slow(x: Any, y: int = 0) -> Any:
    """Cached on all inputs, for an hour."""
    ran.append((x, y))
    await anyio.sleep(2)
    return [x, y]


def one(call: Callable[[], Any], name: str = "one") -> Flow[..., Any]:
    """A flow of what `call` calls."""
    with Flow(name) as found:
        call()
    return found


async def records(log: MemoryLog) -> list[Record]:
    """All of a log."""
    return [record async for record in log.read()]


async def misses(log: MemoryLog) -> list[CacheMiss | None]:
    """Of all starts, in order."""
    return [record.event.cache for record in await records(log) if isinstance(record.event, TaskStarted)]


async def state_of(called: Flow[..., Any], log: MemoryLog, world: VirtualWorld, **given: Any) -> Any:
    """The states after a run."""
    return (await called.options(log=log, world=world).run(**given)).result


@simulated
async def test_a_second_run_takes_the_result(world: VirtualWorld) -> None:
    """The body does not run again, the state is `Cached`, and the event names its source, key and saving."""
    log = MemoryLog()
    calls = one(lambda: slow([1, 2]))
    first = await state_of(calls, log, world)
    second = await state_of(calls, log, world)
    assert ran == [([1, 2], 0)]
    assert type(first["slow"]) is Success
    assert type(second["slow"]) is Cached
    assert second["slow"].result == first["slow"].result == [[1, 2], 0]
    (made,) = [record for record in await records(log) if isinstance(record.event, TaskSucceeded)]
    (taken,) = [record.event for record in await records(log) if isinstance(record.event, TaskReused)]
    assert (taken.source.stream, taken.source.version) == (made.stream, made.version)
    assert second["slow"].source == (made.stream, made.version)
    assert calls.graph.tasks[0].cache_key(taken.parts) == made.key
    assert taken.why == "cache"
    assert taken.saved_us >= 2_000_000
    assert second["slow"].expires_at is not None
    (miss,) = [found for found in await misses(log) if found is not None]
    assert (miss.reason, miss.parts) == ("new", taken.parts)


@simulated
async def test_other_inputs_are_another_key(world: VirtualWorld) -> None:
    """Types count as values do: 1, 1.0, True and "1" are four things; so are a list and a tuple."""
    given = [1, 1.0, True, "1", None, [1], (1,), {"a": 1}, {"a": 2}, {1}, b"1", -0.0, 0.0, float("nan")]

    log = MemoryLog()
    for _ in range(2):
        for value in given:
            await state_of(one(lambda value=value: slow(value)), log, world)
    assert len(ran) == len(given)


@simulated
async def test_the_order_of_a_dict_and_of_a_set_does_not_count(world: VirtualWorld) -> None:
    """Neither in a constant, nor in a parameter, nor in a result that another task takes."""

    @task
    async def make(flip: bool) -> dict[str, Any]:
        pairs = [("a", {3, 1, 2}), ("b", {"x": 1, "y": 2})]
        return dict(reversed(pairs) if flip else pairs)

    with Flow("f") as f:
        flip = Parameter("flip", type=bool)
        found = Parameter("found", type=dict)
        slow(make(flip))
        slow(found)

    log = MemoryLog()
    await state_of(f, log, world, flip=False, found={"k": 1, "l": 2})
    await state_of(f, log, world, flip=True, found={"l": 2, "k": 1})
    await state_of(one(lambda: slow({"l": 2, "k": 1})), log, world)
    assert len(ran) == 2


@simulated
async def test_it_is_found_in_whatever_form_the_input_comes(world: VirtualWorld) -> None:
    """A constant, a parameter, a result, a part of one, an element of a map: the value counts, not the way."""

    @task
    async def give() -> list[int]:
        return [7, 8]

    with Flow("forms") as forms:
        number = Parameter("number", type=int)
        slow(number)
        found = give()
        slow(found[0])
        slow.map(found)
        slow.map([7, number])

    log = MemoryLog()
    await state_of(one(lambda: slow(7)), log, world)
    states = await state_of(forms, log, world, number=7)
    assert ran == [(7, 0), (8, 0)]
    assert [type(state) for state in states["slow-3"].map_states] == [Cached, Success]
    assert [type(state) for state in states["slow-4"].map_states] == [Cached, Cached]


@simulated
async def test_expiry_by_the_recorded_clock(world: VirtualWorld) -> None:
    """An hour is an hour after the success; what expired is said to have, and the next success counts."""
    log = MemoryLog()
    calls = one(lambda: slow(1))
    await state_of(calls, log, world)
    await anyio.sleep(3599)
    assert type((await state_of(calls, log, world))["slow"]) is Cached
    await anyio.sleep(2)
    assert type((await state_of(calls, log, world))["slow"]) is Success
    last = (await misses(log))[-1]
    assert last is not None
    assert last.reason == "expired"
    await anyio.sleep(3000)
    assert type((await state_of(calls, log, world))["slow"]) is Cached
    assert len(ran) == 2


@simulated
async def test_the_shorter_of_both_times_counts(world: VirtualWorld) -> None:
    """An entry is good as long as it was said to be, and as long as the task says today."""

    def kept(seconds: float | None) -> Any:
        on = {"cache_on": inputs()} if seconds is None else {"cache_for": seconds}

        @task(version="1", cache_namespace="kept", **on)  # type: ignore[call-overload]
        async def work(x: int) -> int:
            ran.append(seconds)
            return x

        return one(lambda: work(1))

    log = MemoryLog()
    await state_of(kept(1000), log, world)
    await anyio.sleep(500)
    assert type((await state_of(kept(400), log, world))["work"]) is Success
    await anyio.sleep(300)
    assert type((await state_of(kept(1000), log, world))["work"]) is Cached
    await anyio.sleep(200)  # the entry, made by the second, said 400
    assert type((await state_of(kept(None), log, world))["work"]) is Success
    await anyio.sleep(80_000)
    assert type((await state_of(kept(None), log, world))["work"]) is Cached


@simulated
async def test_cache_on(world: VirtualWorld) -> None:
    """Some inputs, parameters, both, nothing; a parameter counts though the task never sees it."""

    @task(cache_on=inputs("x"))
    async def on_x(x: int, y: int) -> str:
        ran.append("x")
        return "x"

    @task(cache_on=parameters("day"))
    async def on_day(x: int) -> str:
        ran.append("day")
        return "day"

    @task(cache_on=inputs("x") | parameters())
    async def on_both(x: int, y: int) -> str:
        ran.append("both")
        return "both"

    @task(cache_on=nothing)
    async def once(x: int) -> str:
        ran.append("once")
        return "once"

    with Flow("f") as f:
        day = Parameter("day", type=str)
        x, y = Parameter("x", type=int), Parameter("y", type=int)
        on_x(x, y)
        on_day(x)
        on_both(x, y)
        once(x)
        del day

    log = MemoryLog()

    async def ran_with(**given: Any) -> set[str]:
        ran.clear()
        await state_of(f, log, world, **given)
        return set(ran)

    assert await ran_with(day="mon", x=1, y=1) == {"x", "day", "both", "once"}
    assert await ran_with(day="mon", x=1, y=1) == set()
    assert await ran_with(day="mon", x=1, y=2) == {"both"}
    assert await ran_with(day="mon", x=2, y=2) == {"x", "both"}
    assert await ran_with(day="tue", x=2, y=2) == {"day", "both"}


@simulated
async def test_cache_key(world: VirtualWorld) -> None:
    """What the function makes of the arguments counts, and nothing else but the code."""

    @dataclass
    class Order:
        number: int
        note: object = None

    @task
    async def order(number: int, note: str) -> Order:
        return Order(number, note)

    @task(cache_key=lambda order: order.number)
    async def price(order: Order) -> int:
        ran.append(order.note)
        return order.number * 2

    @flow
    def prices(number: int, note: str) -> int:
        return price(order(number, note))

    options = prices.options(log=MemoryLog(), world=world)
    assert [await options.value(1, "a"), await options.value(1, "b"), await options.value(2, "c")] == [
        2,
        2,
        4,
    ]
    assert ran == ["a", "c"]


@simulated
async def test_the_code_of_a_cache_key_counts(world: VirtualWorld) -> None:
    """An edited key function gives other answers the same meaning never; without a digest nothing is cached."""
    log = MemoryLog()

    def keyed(key: Any, **options: Any) -> Flow[..., Any]:
        async def work(x: int) -> int:
            return x

        made = task(cache_key=key, cache_namespace="n", **options)(work)
        return one(lambda: made(12))

    def half(x: int) -> int:
        return x // 2

    def six(x: int) -> int:
        return 6

    for key, kind in ((half, Success), (six, Success), (half, Cached), (six, Cached)):
        assert type((await state_of(keyed(key), log, world))["work"]) is kind
    for key, kind in ((half, Success), (six, Cached)):
        assert type((await state_of(keyed(key, version="1"), log, world))["work"]) is kind
    with pytest.warns(
        UserWarning, match="its cache_key is a partial: write a function, or give the task a version="
    ):
        unknown = keyed(partial(half))
    for _ in range(2):
        assert type((await state_of(unknown, log, world))["work"]) is Success


@simulated
async def test_a_cache_key_that_raises_or_says_nothing(world: VirtualWorld) -> None:
    """The task runs as if it were not cached, and its event says why."""

    def broken(x: int) -> Any:
        if x == 0:
            raise ValueError("zero")
        return None if x == 1 else object()

    @task(cache_key=broken)
    async def work(x: int) -> int:
        ran.append(x)
        return x

    log = MemoryLog()
    for _ in range(2):
        for x in range(3):
            assert (await state_of(one(lambda x=x: work(x)), log, world))["work"].result == x
    assert ran == [0, 1, 2] * 2
    found = [miss.detail for miss in await misses(log) if miss is not None][:3]
    assert found == [
        "its cache_key raised ValueError: zero",
        "its cache_key returned None",
        "the answer of its cache_key: it is a object",
    ]
    assert not [record for record in await records(log) if record.key]


class Model:
    """Something without fields."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Model

    __hash__ = None  # type: ignore[assignment]


@dataclass
class Fitted:
    """Something with one inside."""

    name: str
    layers: list[Any]


@simulated
async def test_what_has_no_content_is_not_cached_and_the_event_says_where(world: VirtualWorld) -> None:
    """A wrong hit is worse than none: an object that may hold anything is never guessed at."""

    @task
    async def fit() -> dict[str, Fitted]:
        return {"best": Fitted("a", [1, Model()])}

    log = MemoryLog()
    calls = one(lambda: slow(fit(), y=3))
    for _ in range(2):
        states = await state_of(calls, log, world)
        assert type(states["slow"]) is Success
    assert len(ran) == 2
    (detail,) = {miss.detail for miss in await misses(log) if miss is not None}
    assert detail.startswith("argument x['best'].layers[1] is a tests.run.test_caching:Model")


@simulated
async def test_what_is_not_cached_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, world: VirtualWorld
) -> None:
    """Once in a run for each task function, however many calls of it there are; `cache_key` may decline in silence."""

    @task(name="aside", cache_key=lambda x: None)
    async def aside(x: Any) -> None:
        """Meant not to be cached."""

    @task
    async def fit() -> Model:
        return Model()

    def calls() -> None:
        model = fit()
        for i in range(3):
            slow(model, y=i)
            aside(i)

    log, called = MemoryLog(), one(calls)
    for run in (1, 2):
        await state_of(called, log, world)
        assert len(ran) == 3 * run
        said = [entry.getMessage() for entry in caplog.records if entry.name == "eventflow.cache"]
        assert len(said) == run
        assert said[-1].startswith("task 'slow' of run ")
        assert "is not cached: argument x is a tests.run.test_caching:Model" in said[-1]


@simulated
async def test_failures_and_skips_are_never_cached(world: VirtualWorld) -> None:
    """Only a success is; a task that failed runs again, though its key is the same."""

    @task(cache_on=inputs(), retries=1)
    async def flaky(x: int) -> int:
        ran.append(x)
        if len(ran) < 4:
            raise RuntimeError("not yet")
        if len(ran) == 4:
            raise Skip("nothing there")
        return x

    log = MemoryLog()
    calls = one(lambda: flaky(1))
    found = [(await state_of(calls, log, world))["flaky"] for _ in range(4)]
    assert [type(state).__name__ for state in found] == ["Failed", "Skipped", "Success", "Cached"]
    assert len(ran) == 5
    reasons = [miss.reason for miss in await misses(log) if miss is not None]
    assert reasons == ["new", "retry", "new", "retry", "new"]


@simulated
async def test_none_is_a_value(world: VirtualWorld) -> None:
    """A task that returned None is not asked again."""

    @task(cache_on=inputs())
    async def silent(x: int) -> None:
        ran.append(x)

    log = MemoryLog()
    calls = one(lambda: silent(1))
    await state_of(calls, log, world)
    states = await state_of(calls, log, world)
    assert (type(states["silent"]), states["silent"].result, ran) == (Cached, None, [1])


@pytest.mark.parametrize("damage", ["gone", "changed"])
@simulated
async def test_a_value_that_is_gone_or_damaged_is_a_miss(damage: str, world: VirtualWorld) -> None:
    """It is recorded as one, the body runs, and its success is an entry again."""

    @task(cache_on=inputs())
    async def large(x: int) -> str:
        ran.append(x)
        return "x" * 1000

    log = MemoryLog()
    calls = one(lambda: large(1))
    await state_of(calls, log, world)
    values = log._store.values
    ((digest, value),) = values.items()
    if damage == "gone":
        del values[digest]
    else:
        values[digest] = Value(digest, value.codec, b"y" + value.data[1:])
    states = await state_of(calls, log, world)
    assert type(states["large"]) is Success
    assert ran == [1, 1]
    last = (await misses(log))[-1]
    assert last is not None
    assert (last.reason, digest.hex() in last.detail) == ("lost", True)
    assert type((await state_of(calls, log, world))["large"]) is Cached


@simulated
async def test_children_of_a_map_one_by_one(world: VirtualWorld) -> None:
    """A new element runs, the others are taken, whatever their place."""

    @flow
    def each(numbers: list[int], y: int = 0) -> list[Any]:
        return slow.map(numbers, unmapped(y))

    options = each.options(log=MemoryLog(), world=world)
    assert await options.value([1, 2, 3]) == [[1, 0], [2, 0], [3, 0]]
    assert await options.value([3, 4, 1]) == [[3, 0], [4, 0], [1, 0]]
    assert [x for x, _ in ran] == [1, 2, 3, 4]


@simulated
async def test_a_hit_serves_as_an_input(world: VirtualWorld) -> None:
    """Consumers of a reused result get its value, and are hits themselves; also of a fork's."""

    @task(cache_on=inputs())
    async def after(before: Any) -> Any:
        ran.append("after")
        return before

    log = MemoryLog()
    with Flow("chain") as chain:
        after(after(slow({"k": 1})))
    for _ in range(2):
        states = await state_of(chain, log, world)
        assert states["after-2"].result == [{"k": 1}, 0]
    assert ran == [({"k": 1}, 0), "after", "after"]
    assert [type(states[name]) for name in ("slow", "after", "after-2")] == [Cached] * 3
    assert states["after-2"].cached_inputs["before"].deserialize().value == [{"k": 1}, 0]


@simulated
async def test_one_round_takes_all_that_is_cached(world: VirtualWorld) -> None:
    """A run whose every task is cached is one append after its birth, and one look-up for what is due at once."""

    class Counting(MemoryLog):
        asked: list[int]
        appended = 0

        async def latest(self, keys: Any, *, until: int | None = None) -> Any:
            self.asked.append(len(keys))
            return await super().latest(keys, until=until)

        async def append(self, *writes: Any, **rest: Any) -> Any:
            self.appended += 1
            return await super().append(*writes, **rest)

    @task(cache_on=inputs())
    async def number(i: int) -> int:
        return i

    @task(cache_on=inputs())
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    log = Counting()
    log.asked = []
    with Flow("wide") as wide:
        total([number(i) for i in range(10_000)])
    await state_of(wide, log, world)
    log.asked, log.appended = [], 0
    states = await state_of(wide, log, world)
    assert type(states["total"]) is Cached
    assert sum(log.asked) == 10_001
    assert len(log.asked) <= 12
    assert log.appended <= 4


@simulated
async def test_code_counts(world: VirtualWorld) -> None:
    """Another body, closure, default, helper or version is another key; a comment or another name is none."""

    def variant(source: str, **options: Any) -> Flow[..., Any]:
        @task(cache_on=inputs(), cache_namespace="same", **options)
        async def work(x: int) -> list[Any]:
            ran.append(source)
            return [source, x]

        return one(lambda: work(1))

    log = MemoryLog()
    for source in ("a", "b", "a"):
        assert (await state_of(variant(source), log, world))["work"].result == [source, 1]
    assert ran == ["a", "b"]
    for version in ("1", "2", "1"):
        await state_of(variant("c", version=version), log, world)
    assert ran == ["a", "b", "c", "c"]


@simulated
async def test_functions_of_one_name_do_not_share(world: VirtualWorld) -> None:
    """Without a namespace a function shares with nobody, also under the same version."""

    def make_one() -> Any:
        @task(cache_on=inputs(), version="1")
        async def load(x: int) -> str:
            return "one"

        return load

    def make_two() -> Any:
        @task(cache_on=inputs(), version="1")
        async def load(x: int) -> str:
            return "two"

        return load

    log = MemoryLog()
    first, second = make_one(), make_two()
    assert (await state_of(one(lambda: first(1)), log, world))["load"].result == "one"
    assert (await state_of(one(lambda: second(1)), log, world))["load"].result == "two"


@simulated
async def test_the_declared_type_of_the_result_counts(world: VirtualWorld) -> None:
    """Bytes that would open as something else are not taken, though namespace, version and inputs agree."""

    @dataclass
    class A:
        x: int

    @dataclass
    class B:
        x: int

    def giving(kind: type) -> Flow[..., Any]:
        async def make(x: int) -> Any:
            return kind(x)

        make.__annotations__["return"] = kind
        made = task(cache_on=inputs(), version="1", cache_namespace="ab", name="make")(make)
        return one(lambda: made(1))

    log = MemoryLog()
    for kind in (A, B, A):
        assert type((await state_of(giving(kind), log, world))["make"].result) is kind
    assert type((await state_of(giving(A), log, world))["make"]) is Cached


@simulated
async def test_no_source_no_cache(world: VirtualWorld) -> None:
    """Code that cannot be read might be anything: a warning when the flow is built, and the event says why."""
    made: dict[str, Any] = {}
    exec("async def ghost(x): return x", made)
    ghost = task(cache_on=inputs())(made["ghost"])

    with pytest.warns(
        UserWarning, match="task 'ghost' is never cached, for its code has no digest: the source of"
    ):
        calls = one(lambda: ghost(1))

    log = MemoryLog()
    for _ in range(2):
        assert type((await state_of(calls, log, world))["ghost"]) is Success
    assert all(
        miss and miss.detail.startswith("its code has no digest: the source") for miss in await misses(log)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_for": 0}, "cache_for=0 keeps nothing"),
        ({"cache_for": -1}, "cache_for=-1 is negative"),
        ({"cache_for": "1h"}, "cache_for='1h' is no duration"),
        ({"cache_on": "x"}, "cache_on='x' is none of inputs"),
        ({"cache_on": inputs}, "cache_on=<function inputs"),
        ({"cache_on": inputs("z")}, r"cache_on names inputs\('z'\); there is 'x', 'y'"),
        ({"cache_key": "x"}, "cache_key='x' is not a plain function"),
        ({"cache_namespace": "n"}, "cache_namespace= has no effect"),
        ({"cache_on": nothing, "cache_namespace": "a[b"}, "cannot name a cache namespace"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Refused when the function is decorated, with the task, the option and the fix."""

    async def work(x: int, y: int) -> int:
        return x

    with pytest.raises((TypeError, ValueError), match=message):
        task(**options)(work)


def test_a_parameter_that_the_flow_does_not_have() -> None:
    """Known when the flow is built."""

    @task(cache_on=parameters("dya"))
    async def work() -> int:
        return 1

    @flow
    def daily(day: str) -> int:
        return work()

    with pytest.raises(TypeError, match=r"task 'work' is cached on parameters\('dya'\); did you mean 'day'"):
        _ = daily.graph


_SCRIPT = """
import asyncio, sys
from dataclasses import dataclass
from eventflow import flow, inputs, open_log, task

@dataclass(frozen=True)
class Item:
    tags: frozenset[str]
    sizes: dict[str, int]

@task
def items() -> list[Item]:
    return [Item(frozenset({"a", "b", "c", str(i)}), {"x": i, "y": 2}) for i in range(5)]

@task(cache_on=inputs())
def weigh(item: Item) -> set[str]:
    print("ran", flush=True)
    return {*item.tags, "w"}

@flow
def all_items() -> list[set[str]]:
    return weigh.map(items())

async def main():
    async with open_log(sys.argv[1]) as log:
        print(len(await all_items.options(log=log).value()))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_another_process_with_another_hash_seed(tmp_path: Path) -> None:
    """Keys are the same there, and the same when the script is run and when it is imported."""
    script = tmp_path / "weighing.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    url = f"sqlite:///{tmp_path / 'log.db'}"
    imported = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import asyncio, weighing; asyncio.run(weighing.main())"
    found = []
    for seed, command in ((1, [str(script)]), (2, [str(script)]), (3, ["-c", imported])):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *command, url],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout.split())
    assert found == [["ran"] * 5 + ["5"], ["5"], ["5"]]


@simulated
async def test_a_failed_state_is_no_entry_for_a_rerun(world: VirtualWorld) -> None:
    """What a rerun keeps is a fork, not a hit; what it runs asks the cache."""

    @task(cache_on=inputs())
    async def work(x: int) -> int:
        ran.append("work")
        if ran.count("work") == 1:
            raise RuntimeError("first")
        return x

    log = MemoryLog()
    with Flow("f") as f:
        work(slow(1)[1])
    first = await f.options(log=log, world=world, run_id="a").run()
    assert type(first.result["work"]) is Failed
    again = await f.options(log=log, world=world).rerun("a")
    assert again.is_successful()
    whys = [record.event.why for record in await records(log) if isinstance(record.event, TaskReused)]
    assert whys == ["fork"]
    assert [type(state).__name__ for state in (await state_of(f, log, world)).values()] == ["Cached"] * 2


@pytest.mark.parametrize("durability", ["full", "normal", "pipelined"])
async def test_at_every_durability_on_a_file(tmp_path: Path, durability: Any) -> None:
    """Large and small results, a chain and a map: the second run, on a handle of its own, takes all of them."""

    @task(cache_on=inputs())
    async def grow(before: list[str], i: int) -> list[str]:
        ran.append(i)
        return [*before, str(i) * 40_000]

    @task(cache_on=inputs())
    def length(text: str) -> int:
        ran.append("length")
        return len(text)

    with Flow("grown") as grown:
        node: Any = []
        for i in range(4):
            node = grow(node, i)
        length.map(node)

    for expected in (8, 0):
        ran.clear()
        async with SQLiteLog(tmp_path / "log.db") as log:
            state = await grown.options(log=log, durability=durability).run()
            assert state.result["length"].result == [40_000] * 4
        assert len(ran) == expected


async def test_hits_survive_a_kill_between_two_rounds(tmp_path: Path) -> None:
    """A run that died after it took results goes on from them, and asks again only for what it had not."""

    @task(cache_on=inputs())
    async def step(before: int, i: int) -> int:
        ran.append(i)
        return before + i

    def chain(length: int) -> Flow[..., Any]:
        with Flow("chain") as found:
            node: Any = 0
            for i in range(length):
                node = step(node, i)
        return found

    inside = MemoryLog()
    await chain(3).options(log=inside).run()
    ran.clear()
    with pytest.raises(Crash):
        await chain(6).options(log=CrashingLog(inside, crash_at=2, when="after"), run_id="r").run()
    state = await chain(6).options(log=inside, run_id="r").run()
    assert state.result["step-6"].result == 15
    assert [type(state.result[name]).__name__ for name in ("step", "step-3", "step-6")] == [
        "Cached",
        "Cached",
        "Success",
    ]
    assert set(ran) == {3, 4, 5}
