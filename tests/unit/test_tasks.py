"""`@task`: what it makes of a function, and what it refuses before any flow is built."""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from eventflow.authoring.arguments import unmapped
from eventflow.authoring.flows import Flow
from eventflow.authoring.nodes import BuildError
from eventflow.authoring.option_values import exponential
from eventflow.authoring.tasks import Task, task
from eventflow.graph import Policy
from eventflow.result import Inline
from eventflow.runner.task_context import Skip


async def fetch(day: str) -> list[int]:
    """Fetch the orders of a day."""
    return [len(day)]


def total(orders: list[int], rate: float = 1.0) -> float:
    """Add up."""
    return sum(orders) * rate


def helper() -> None:
    """Something a task depends on."""


class Keeper:
    """A serializer of one's own."""

    def serialize(self, value: Any) -> Inline:
        """Keep nothing."""
        return Inline("none", b"", b"")

    def deserialize(self, payload: Inline) -> Any:
        """Give nothing."""


async def test_the_plain_function_is_at_hand() -> None:
    """`fn` is the function itself, to be called in unit tests; its documentation stays."""
    assert task(total).fn is total
    assert task(total).fn([1, 2], rate=2.0) == 6.0
    assert await task(fetch).fn("abc") == [3]
    assert task(total).__doc__ == "Add up."
    assert task(total).__wrapped__ is total
    assert repr(task(total)) == f"<task 'total' of {__name__}:total>"


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({}, Policy()),
        ({"retries": 3}, Policy(retries=3)),
        ({"retries": 3, "retry_delay": 5}, Policy(retries=3, retry_delay_us=5_000_000)),
        ({"retries": 1, "retry_delay": 0}, Policy(retries=1)),
        ({"retries": 1, "retry_delay": 0.25}, Policy(retries=1, retry_delay_us=250_000)),
        ({"retries": 1, "retry_delay": timedelta(minutes=1)}, Policy(retries=1, retry_delay_us=60_000_000)),
        (
            {"retries": 1, "retry_delay": exponential(1, limit=timedelta(minutes=1))},
            Policy(retries=1, retry_delay_us=1_000_000, backoff="exponential", backoff_max_us=60_000_000),
        ),
        (
            {"retries": 1, "retry_delay": exponential(0.5)},
            Policy(retries=1, retry_delay_us=500_000, backoff="exponential"),
        ),
        ({"retries": 1, "retry_delay": float}, Policy(retries=1, backoff="callable")),
        ({"timeout": 60}, Policy(timeout_us=60_000_000)),
        ({"timeout": timedelta(milliseconds=1)}, Policy(timeout_us=1000)),
        ({"share": True}, Policy(share=True)),
    ],
)
def test_options_become_the_policy(options: dict[str, Any], policy: Policy) -> None:
    """Durations, as seconds or timedelta, are whole microseconds in the graph."""
    assert task(**options)(fetch).policy == policy


def test_the_live_side_goes_into_the_bindings() -> None:
    """A callable delay and a serializer cannot be data: a runner finds them in the body."""

    def delay(failures: int) -> float:
        return 2.0**failures

    keeper = Keeper()
    get = task(retries=1, retry_delay=delay, serializer=keeper)(fetch)
    with Flow("f") as f:
        get("2026-11-22")
        task(total)([1])
    assert f.built.bindings["fetch"].delay is delay
    assert f.built.bindings["fetch"].serializer is keeper
    assert f.built.bindings["fetch"].call is fetch
    assert f.built.bindings["fetch"].is_async
    assert not f.built.bindings["total"].is_async
    assert f.built.bindings["total"].delay is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retries": -1}, "retries=-1 is negative"),
        ({"retries": 1.5}, "retries=1.5 is not a whole number"),
        ({"retries": True}, "retries=True is not a whole number"),
        ({"retry_delay": 5}, "retry_delay= has no effect without retries="),
        ({"retry_delay": 0}, "retry_delay= has no effect without retries="),
        ({"retries": 1, "retry_delay": -1}, "retry_delay=-1 is negative"),
        ({"retries": 1, "retry_delay": "5"}, "retry_delay='5' is no duration"),
        ({"retries": 1, "retry_delay": math.nan}, "is no usable duration"),
        ({"retries": 1, "retry_delay": math.inf}, "is no usable duration"),
        ({"retries": 1, "retry_delay": timedelta.max}, "more than 100 years"),
        ({"retries": 1, "retry_delay": timedelta(-1)}, "is negative"),
        ({"retries": 1, "retry_delay": Decimal(1)}, "is no duration"),
        ({"retries": 1, "retry_delay": True}, "is no duration"),
        ({"retries": 1, "retry_delay": exponential(0)}, "cannot grow from 0"),
        ({"retries": 1, "retry_delay": exponential(5, limit=1)}, "below its first delay"),
        ({"timeout": 0}, "timeout=0 leaves no time at all"),
        ({"timeout": 1e-9}, "leaves no time at all"),
        ({"timeout": -3}, "timeout=-3 is negative"),
        ({"version": ""}, "version='' is not text"),
        ({"version": 2}, "version=2 is not text"),
        ({"share": "yes"}, "share='yes' is neither"),
        ({"serializer": object()}, "does not both serialize and deserialize"),
        ({"depends_on": helper}, "is not a list of functions"),
        ({"depends_on": [len]}, "whose source cannot be read"),
        ({"depends_on": "helper"}, "is not a list of functions"),
        ({"retry": 3}, "there is no option 'retry'; did you mean 'retries'?"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, Any], said: str) -> None:
    """The error comes with the decoration and names the task, the option and what is wrong."""
    with pytest.raises((TypeError, ValueError), match="task 'fetch'") as caught:
        task(**options)(fetch)
    assert said in str(caught.value)


def test_a_timeout_needs_an_async_function() -> None:
    """A thread cannot be stopped, and the message says so and what to do."""
    with pytest.raises(ValueError, match=r"task 'total': .* cannot be stopped; make it async"):
        task(timeout=60)(total)


def generating() -> Iterator[int]:
    """A generator."""
    yield 1


async def generating_async() -> AsyncIterator[int]:
    """An async generator."""
    yield 1


class Shop:
    """A class with a method."""

    def sell(self, what: str) -> str:
        """Sell."""
        return what

    @staticmethod
    def open_hours(day: str) -> str:
        """Not bound to anything."""
        return day


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (generating, "task 'generating' is a generator"),
        (generating_async, "task 'generating_async' is a generator"),
        (Shop, "the class Shop cannot be a task"),
        (Shop.sell, "task 'sell' is a method"),
        (Shop().sell, "cannot be a task; write a function"),
        (len, "cannot be a task"),
        (functools.partial(total, [1]), "(a partial) cannot be a task"),
        (task(total), "being one already"),
        (lambda *days: days, "takes *days"),
        (lambda **days: days, "takes **days"),
        (eval("lambda day, /: day"), "positional-only parameter 'day'"),
        (3, "3 (a int) cannot be a task"),
    ],
)
def test_what_cannot_be_a_task(fn: Callable[..., Any], said: str) -> None:
    """Only a function with named arguments and one value can stand in a flow."""
    with pytest.raises(TypeError) as caught:
        task(fn)
    assert said in str(caught.value)


def test_a_static_method_can_be_a_task() -> None:
    """It is a function that happens to lie in a class."""
    assert task(Shop.open_hours).name == "open_hours"


@pytest.mark.parametrize("name", ["", " a", "a\nb", "a[1]", "a#2", 7])
def test_a_name_that_people_or_addresses_cannot_bear(name: Any) -> None:
    """Marks of children and iterations, and what cannot be seen, are no part of a name."""
    with pytest.raises((TypeError, ValueError), match="name"):
        task(name=name)(total)
    with pytest.raises((TypeError, ValueError), match="name"):
        task(total).named(name)


def test_no_parameter_name_is_reserved() -> None:
    """A function may call its parameters what it likes."""

    @task
    def odd(self: int, args: int, kwargs: int, name: int, after: int, each: int, builder: int) -> int:
        return self + args + kwargs + name + after + each + builder

    with Flow("f") as f:
        odd(self=1, args=2, kwargs=3, name=4, after=5, each=6, builder=7)
        odd.map(self=[1], args=[2], kwargs=[3], name=[4], after=[5], each=[6], builder=[7])
    first, second = f.graph.nodes
    assert [i.name for i in first.inputs] == ["self", "args", "kwargs", "name", "after", "each", "builder"]  # type: ignore[union-attr]
    assert first.inputs != second.inputs  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "use", [lambda t: t([1]), lambda t: t.map([[1]]), lambda t: t.after().named("x")([1])]
)
def test_a_task_outside_a_flow_points_to_its_function(use: Callable[[Task[..., Any]], Any]) -> None:
    """Nothing would run it; the message shows the call of the plain function."""
    with pytest.raises(
        BuildError, match=r"task 'total' was .* outside a flow.* \[?total\.fn\(orders, rate=…\)"
    ):
        use(task(total))


def test_code_follows_the_options() -> None:
    """The digest in the graph is that of the function, its helpers, or its version."""
    plain, versioned, helped = task(total), task(version="1")(total), task(depends_on=[helper])(total)
    assert len({plain.code.digest, versioned.code.digest, helped.code.digest}) == 3
    assert task(depends_on=[task(helper)])(total).code == helped.code
    seen: list[int] = []

    @task
    def leaky() -> None:
        seen.append(1)

    assert "which may change" in leaky.code.reason
    with Flow("f") as f:
        versioned([1])
        leaky()
    assert [definition.code for definition in f.graph.tasks] == [versioned.code.digest, b""]


def test_skip_tells_its_reason() -> None:
    """A body says why it had nothing to do."""
    assert Skip("no orders").reason == "no orders"
    assert Skip().reason == ""


def test_unmapped_holds_its_value() -> None:
    """The mark keeps what it marks."""
    assert unmapped([1]).value == [1]
