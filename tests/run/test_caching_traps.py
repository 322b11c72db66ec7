"""Wrong hits that were possible once: each is a way in which two calls looked the same and were not."""

from __future__ import annotations

import asyncio
import importlib
import linecache
import os
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, NewType, TypeVar

import msgspec
import pytest

from eventflow import Flow, MemoryLog, flow, inputs, nothing, parameters, replay, task
from eventflow.events import TaskReused, TaskStarted
from eventflow.fingerprints.content import NoContent, content_of
from eventflow.fingerprints.types import schema_of, settings_of
from eventflow.graph import KeyPart
from eventflow.history.cache_explain import Hit, Miss, PartDifference, Uncached, explain
from eventflow.result import Inline
from eventflow.serializers import JSONSerializer, digest_of
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated
from eventflow.views.cache import CacheHits, entries_under


async def value_of(found: Flow[..., Any], log: MemoryLog, name: str = "t") -> Any:
    """What a task gives, made or taken."""
    return (await found.options(log=log).run()).result[name].result


def one(call: Callable[[], Any]) -> Flow[..., Any]:
    """A flow of one call."""
    with Flow("one") as found:
        call()
    return found


async def test_another_policy_is_another_key() -> None:
    """Cached on nothing and then on an input that is left to its default; on one input and then on all."""

    def on(cache_on: Any) -> Any:
        async def t(x: int = 1, y: int = 1) -> int:
            return x * 100 + y

        return task(cache_on=cache_on, cache_namespace="n")(t)

    log = MemoryLog()
    first, second = on(nothing), on(inputs("x"))
    assert [await value_of(one(lambda: first(5)), log), await value_of(one(second), log)] == [
        501,
        101,
    ]
    log = MemoryLog()
    first, second = on(inputs("x")), on(inputs())
    assert [await value_of(one(lambda: first(1, 5)), log), await value_of(one(lambda: second(1)), log)] == [
        105,
        101,
    ]


async def test_a_closure_that_changed_after_the_flow_was_built() -> None:
    """What a loop variable is when the task is called is not what it is when its body runs."""

    def build(count: int) -> Flow[..., Any]:
        with Flow("loop") as found:
            for i in range(count):

                @task(cache_on=nothing)
                async def t() -> int:
                    return i  # noqa: B023 - the trap itself

                t()
        return found

    log = MemoryLog()
    states = (await build(3).options(log=log).run()).result
    assert [state.result for state in states.values()] == [2, 2, 2]
    assert await value_of(build(1), log) == 0
    reasons = [
        r.event.cache.reason async for r in log.read() if isinstance(r.event, TaskStarted) and r.event.cache
    ]
    assert reasons == ["opaque", "opaque", "new", "new"]


async def test_a_closure_that_is_rebound_between_two_runs() -> None:
    """By a function beside it, which its own source does not show."""
    factor = 1

    @task(cache_on=nothing)
    async def t() -> int:
        return factor

    def rebind(value: int) -> None:
        nonlocal factor
        factor = value

    log, found = MemoryLog(), one(t)
    assert await value_of(found, log) == 1
    rebind(7)
    assert await value_of(found, log) == 7
    rebind(1)
    assert await value_of(found, log) == 1


SOURCE = """
from eventflow import flow, nothing, task

@task(cache_on=nothing)
async def t() -> int:
    return {}

@flow
def f() -> int:
    return t()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / f"trapped_{os.getpid()}_{len(sys.modules)}.py"


def edit(module: Path, value: int) -> None:
    """Write the source anew, at another moment."""
    module.write_text(SOURCE.format(value), encoding="utf-8")
    stat = module.stat()
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns + value * 2_000_000_000))


def test_a_module_that_is_edited_and_loaded_again(module: Path) -> None:
    """The lines that were read once are not the new function's."""
    log = MemoryLog()
    edit(module, 1)
    found = importlib.import_module(module.stem)
    assert asyncio.run(value_of(found.f, log)) == 1
    edit(module, 2)
    importlib.invalidate_caches()
    found = importlib.reload(found)
    assert asyncio.run(value_of(found.f, log)) == 2


def test_a_file_that_is_edited_while_its_old_code_runs(module: Path) -> None:
    """What the old function gives is not kept as the new one's."""
    log = MemoryLog()
    edit(module, 1)
    found = importlib.import_module(module.stem)
    edit(module, 2)
    linecache.clearcache()
    with pytest.warns(UserWarning, match="has changed since 't' was imported"):
        assert asyncio.run(value_of(found.f, log)) == 1
    del sys.modules[module.stem]
    importlib.invalidate_caches()
    assert asyncio.run(value_of(importlib.import_module(module.stem).f, log)) == 2


@dataclass
class Queue(deque[int]):
    """More than its field says."""

    label: str = ""


@dataclass(init=False, eq=False)
class Dice(Random):
    """The same, below a class that is written in C."""

    label: str = ""


class Pair(NamedTuple):
    """Two numbers."""

    x: int
    y: int


class Liar(Pair):
    """One number, whatever it holds."""

    @property
    def x(self) -> int:  # type: ignore[override]
        """Seven."""
        return 7


@dataclass
class Hiding:
    """A field that its class answers for."""

    x: int


class Computed(Hiding):
    """Whatever it was given."""

    @property
    def x(self) -> int:  # type: ignore[override]
        """Seven."""
        return 7

    @x.setter
    def x(self, value: int) -> None:
        """Forget it."""


class Faker(Hiding):
    """Tells every attribute as it likes."""

    def __getattribute__(self, name: str) -> Any:
        return 7 if name == "x" else object.__getattribute__(self, name)


@pytest.mark.parametrize(
    "value", [Queue("a"), Dice(1), Computed(1), Faker(1)], ids=lambda v: type(v).__name__
)
def test_classes_that_hold_more_than_their_fields_say_are_opaque(value: object) -> None:
    """Storage of a base that is written in C, properties in place of fields, attributes made up."""
    with pytest.raises(NoContent):
        content_of(value)


def test_a_named_tuple_is_its_items() -> None:
    """Whatever its attributes say."""
    assert content_of(Liar(1, 2)) != content_of(Liar(3, 2))


def struct(default: int = 1, **config: Any) -> Any:
    """One class, as it is declared at two times."""
    return msgspec.defstruct("K", [("a_b", int, default)], module="k", **config)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (struct(1, omit_defaults=True), struct(2, omit_defaults=True)),
        (struct(), struct(rename="camel")),
        (struct(), struct(array_like=True)),
        (struct(tag="x"), struct(tag="y")),
        (struct(tag="x"), struct(tag="x", tag_field="kind")),
    ],
)
def test_a_struct_that_opens_otherwise_is_another_type(before: Any, after: Any) -> None:
    """Defaults that are not written, names on the wire, tags."""
    assert schema_of(before) != schema_of(after)
    assert schema_of(list[before]) != schema_of(list[after])


def test_settings_of_a_serializer_count() -> None:
    """Its class alone does not say as what it opens."""

    @dataclass
    class Own:
        level: Any

        def serialize(self, value: Any) -> Inline:
            raise NotImplementedError

        def deserialize(self, payload: Inline) -> Any:
            raise NotImplementedError

    assert settings_of(JSONSerializer(int)) != settings_of(JSONSerializer(str))
    assert settings_of(JSONSerializer(list[int])) == settings_of(JSONSerializer(list[int]))
    assert settings_of(Own(1)) != settings_of(Own(2))
    with pytest.raises(NoContent):
        settings_of(Own(object()))


class Colour(Enum):
    """Something that a serializer of one's own makes of plain bytes."""

    RED = 1


class Plainly:
    """Keeps everything as if it were a number."""

    def serialize(self, value: Any) -> Inline:
        """Say as little as possible."""
        data = msgspec.msgpack.encode(value if isinstance(value, int) else value.value)
        return Inline("msgpack", data, digest_of(data))

    def deserialize(self, payload: Inline) -> Any:
        """Give a colour, whatever it was."""
        return Colour(msgspec.msgpack.decode(payload.data))


async def test_bytes_of_a_serializer_of_ones_own_say_nothing() -> None:
    """Neither its digests nor its codec's name are proof of what consumers are given."""

    @task(serializer=Plainly())
    async def coloured() -> Any:
        return Colour.RED

    @task
    async def plain() -> int:
        return 1

    @task(cache_on=inputs())
    async def kind(x: Any) -> str:
        return type(x).__name__

    log = MemoryLog()
    assert await value_of(one(lambda: kind(plain())), log, "kind") == "int"
    assert await value_of(one(lambda: kind(coloured())), log, "kind") == "Colour"


def _in_a_ring() -> Any:
    found: dict[str, Any] = {"z": None, "b": object()}
    found["z"] = found
    return found


def test_a_ring_with_something_opaque_in_it_ends() -> None:
    """The search for the part at fault does not go round for ever."""
    with pytest.raises(NoContent):
        content_of(_in_a_ring())


class Unspeakable(Exception):
    """Cannot be told."""

    def __str__(self) -> str:
        raise self


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Unspeakable(), "Unspeakable: <message unavailable"),
        (ValueError("a \udcff name"), r"ValueError: a \udcff name"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError(), "CancelledError"),
        (ValueError("x" * 10_000_000), "ValueError: xxx"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_key_function_that_raises_something_odd(error: BaseException, said: str) -> None:
    """The task runs as if it were not cached, and the reason is text of bounded length."""

    def key(x: int) -> None:
        raise error

    @task(cache_key=key, version="1")
    async def t(x: int) -> int:
        return x

    log = MemoryLog()
    assert await value_of(one(lambda: t(1)), log) == 1
    (miss,) = [r.event.cache async for r in log.read() if isinstance(r.event, TaskStarted)]
    assert miss is not None
    assert said in miss.detail
    assert len(miss.detail) < 500


async def test_a_key_function_is_given_what_the_body_is_given() -> None:
    """Defaults included."""

    @flow
    def keyed(x: int) -> int:
        return t(x)

    @task(cache_key=lambda x, y: x + y)
    async def t(x: int, y: int = 2) -> int:
        return x + y

    log = MemoryLog()
    for _ in range(2):
        state = await keyed.options(log=log).run(1)
    assert state.result["t"].is_cached()


async def test_a_helper_whose_defaults_were_replaced() -> None:
    """In place, as reloaders do it: the digest of a function is not kept longer than what it was made of."""

    def helper(by: int = 1) -> int:
        return by

    @task(cache_on=nothing, depends_on=[helper])
    async def t() -> int:
        return helper()

    log = MemoryLog()
    assert await value_of(one(t), log) == 1
    helper.__defaults__ = (9,)
    assert await value_of(one(t), log) == 9


async def test_helpers_count_by_name() -> None:
    """Two that have changed places are called by their names all the same."""

    def a() -> int:
        return 1

    def b() -> int:
        return 2

    def body() -> int:
        return 0

    renamed = [
        task(cache_on=nothing, depends_on=order)(body).definition.code.digest for order in ([a, b], [b, a])
    ]
    assert renamed[0] != renamed[1]


@pytest.mark.parametrize("wrap", [lambda kind: kind, lambda kind: list[kind], lambda kind: dict[str, kind]])
def test_a_new_type_is_what_it_stands_for(wrap: Callable[[Any], Any]) -> None:
    """`NewType`, aliases and type variables are more than their names."""
    before, after = (NewType("Row", kind) for kind in (int, str))
    assert schema_of(wrap(before)) != schema_of(wrap(after))
    assert schema_of(wrap(before)) == schema_of(wrap(NewType("Row", int)))
    one_var, other_var = TypeVar("T", bound=int), TypeVar("T", bound=str)
    assert schema_of(wrap(one_var)) != schema_of(wrap(other_var))


def test_members_of_enums_count_by_name_as_well() -> None:
    """A body may give the name back."""
    before, after = (Enum("Light", names) for names in ({"RED": 1, "GREEN": 2}, {"GREEN": 1, "RED": 2}))
    assert content_of(before(1)) != content_of(after(1))


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 5, 300, 70_000])
async def test_extensions_of_ones_own_are_no_standard_types(size: int) -> None:
    """Msgpack's extension 1 in plain data is not a tuple."""

    @task
    async def ext() -> list[Any]:
        return [msgspec.msgpack.Ext(1, b"\x90" + bytes(size - 1))]

    @task
    async def tuples() -> list[Any]:
        return [()]

    @task(cache_on=inputs())
    async def kind(x: list[Any]) -> str:
        return type(x[0]).__name__

    log = MemoryLog()
    assert await value_of(one(lambda: kind(ext())), log, "kind") == "Ext"
    assert await value_of(one(lambda: kind(tuples())), log, "kind") == "tuple"


class Rounding:
    """Keeps less than it was given."""

    def serialize(self, value: list[float]) -> Inline:
        """One digit."""
        data = msgspec.msgpack.encode([round(number, 1) for number in value])
        return Inline("msgpack", data, digest_of(data))

    def deserialize(self, payload: Inline) -> Any:
        """What is left."""
        return msgspec.msgpack.decode(payload.data)


class Refusing(Rounding):
    """Opens nothing that another one kept."""

    def deserialize(self, payload: Inline) -> Any:
        """Not today."""
        raise ValueError("not today")


async def test_what_consumers_are_given_is_what_counts() -> None:
    """Not what the body returned, where a serializer of one's own keeps something else."""

    @task(serializer=Rounding())
    async def rounded() -> list[float]:
        return [1.26]

    @task(cache_on=inputs())
    async def show(x: list[float]) -> str:
        return str(x)

    log = MemoryLog()
    assert await value_of(one(lambda: show(rounded())), log, "show") == "[1.3]"
    assert await value_of(one(lambda: show([1.26])), log, "show") == "[1.26]"
    assert await value_of(one(lambda: show([1.3])), log, "show") == "[1.3]"


async def test_an_entry_that_its_serializer_does_not_open_is_a_miss() -> None:
    """Whatever the name of its codec."""

    def made(serializer: Any) -> Flow[..., Any]:
        async def t() -> list[float]:
            return [1.0]

        found = task(cache_on=nothing, version="1", serializer=serializer)(t)
        return one(found)

    log = MemoryLog()
    await made(Rounding()).options(log=log).run()
    Rounding.deserialize, kept = Refusing.deserialize, Rounding.deserialize  # type: ignore[method-assign]
    try:
        await made(Rounding()).options(log=log).run()
    finally:
        Rounding.deserialize = kept  # type: ignore[method-assign]
    reasons = [r.event.cache async for r in log.read() if isinstance(r.event, TaskStarted)]
    assert [miss.reason for miss in reasons if miss] == ["new", "unreadable"]
    assert reasons[1] is not None
    assert reasons[1].detail == "ValueError: not today"


class Patch(msgspec.Struct):
    """With a field that may be left out."""

    x: int | msgspec.UnsetType = msgspec.UNSET


def test_unset_is_a_value() -> None:
    """Msgspec's own way of leaving a field out."""
    assert content_of(Patch()) == content_of(Patch())
    assert content_of(Patch()) != content_of(Patch(1))


@pytest.mark.parametrize(
    ("say", "message"),
    [
        (lambda: inputs(5), r"inputs\(\) takes names as text, not 5"),  # type: ignore[arg-type]
        (lambda: parameters(3), r"parameters\(\) takes names as text, not 3"),  # type: ignore[arg-type]
        (
            lambda: task(cache_key=lambda y: y)(_takes_x),
            r"task '_takes_x': cache_key cannot be called with .* \(x\)",
        ),
        (lambda: task(cache_key=lambda: 1)(_takes_x), "cache_key cannot be called"),
    ],
)
def test_what_cannot_be_said(say: Callable[[], Any], message: str) -> None:
    """Found when the function is decorated."""
    with pytest.raises(TypeError, match=message):
        say()


async def _takes_x(x: int) -> int:
    return x


# ── the table and the explanation ────────────────────────────────────────────────────────────────────────────


async def test_names_with_slashes_do_not_run_into_each_other() -> None:
    """Neither namespaces nor flows and tasks."""

    @task(cache_on=inputs(), version="1", cache_namespace="a")
    async def one_of(x: int) -> int:
        return x

    @task(cache_on=inputs(), version="1", cache_namespace="a/b")
    async def other_of(x: int) -> int:
        return x

    log = MemoryLog()
    with Flow("x/y") as first:
        one_of.named("z")(1)
    with Flow("x") as second:
        other_of.named("y/z")(2)
    for found in (first, second):
        await found.options(log=log).run()
    rows = (await replay(log, CacheHits())).state
    assert [(row.flow, row.task, row.misses) for row in CacheHits.tasks(rows)] == [
        ("x", "y/z", {"new": 1}),
        ("x/y", "z", {"new": 1}),
    ]
    assert len([name for name in rows if name.startswith(entries_under("a"))]) == 1


async def test_an_explanation_goes_by_the_graph_in_force() -> None:
    """A run that was resumed with other code asked with other keys than the flow that it was started with."""

    def version(number: str) -> Flow[..., Any]:
        @task
        async def before() -> int:
            return 1

        async def t(x: int) -> int:
            return x

        caching: Any = {} if number == "0" else {"cache_on": inputs(), "version": number}
        made = task(**caching)(t)
        with Flow("f") as found:
            made(before())
        return found

    log = MemoryLog()
    for started, resumed in (("1", "2"), ("0", "1"), ("1", "0")):
        run_id = f"{started}-{resumed}"
        dying = CrashingLog(log, crash_at=1, when="after")
        with pytest.raises(Crash):
            await version(started).options(log=dying, run_id=run_id).run()
        state = await version(resumed).options(log=log, run_id=run_id).run()
        assert state.is_successful()
        found = await explain(log, run_id, "t")
        bears = [r.key async for r in log.read(stream=f"run/{run_id}") if r.key is not None]
        taken = [r.event async for r in log.read(stream=f"run/{run_id}") if isinstance(r.event, TaskReused)]
        if resumed == "0":
            assert isinstance(found, Uncached)
        else:
            assert isinstance(found, Hit | Miss)
            graph = version(resumed).graph
            assert found.key in (bears or [graph.tasks[1].cache_key(event.parts) for event in taken])


@simulated
async def test_the_nearest_earlier_entry_is_shown_as_it_was_then(world: VirtualWorld) -> None:
    """Though it has been made again since."""

    @task(cache_for=60)
    async def t(x: int) -> int:
        return x

    log = MemoryLog()
    for run_id, x in (("a", 1), ("b", 2), ("c", 1)):
        await one(lambda x=x: t(x)).options(log=log, world=world, run_id=run_id).run()
        await asyncio.sleep(100)
    found = await explain(log, "b", "t")
    assert isinstance(found, Miss)
    assert found.nearest is not None
    assert found.nearest.first.stream == "run/a"
    assert found.differences == (PartDifference(KeyPart("input", "x"), then="1", now="2"),)


async def test_what_a_decorator_hangs_on_a_function_counts() -> None:
    """It is the same function, and its body may look at it."""

    def marked(by: Any) -> Flow[..., Any]:
        async def t() -> Any:
            return by_of(t)

        t.by = by  # type: ignore[attr-defined]
        return one(task(cache_on=nothing, version=None)(t))

    log = MemoryLog()
    assert [await value_of(marked(by), log) for by in (6, 15)] == [6, 15]
    with pytest.warns(UserWarning, match="the attribute 'by' of .* is a list"):
        marked([1])


def by_of(function: Any) -> Any:
    """What was hung on it."""
    return function.by
