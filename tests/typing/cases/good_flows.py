"""Flows as people write them; nothing here is an error, and the types are those of the values."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any, assert_type

from eventflow import Flow, Parameter, exponential, flow, task, unmapped
from eventflow.authoring.tasks import Task


class Order:
    """What is bought."""


@task(retries=3, retry_delay=5, timeout=60)
async def fetch(day: str) -> list[Order]:
    """Async: a call is typed as the awaited value."""
    return [Order()]


@task
def enrich(order: Order, rate: float = 1.0) -> Order:
    """Plain."""
    return order


@task(retries=1, retry_delay=exponential(1, limit=timedelta(minutes=1)), name="sum")
def total(orders: list[Order]) -> Decimal:
    """Reduce."""
    return Decimal(len(orders))


@task(retries=1, retry_delay=lambda failures: 2.0**failures)
def four(a: int, b: str, c: bytes, d: float) -> tuple[int, str]:
    """Four arguments, two values."""
    return a, b


@task
async def clean() -> None:
    """No value."""


@flow
def nightly(day: str, factor: float = 1.0) -> Decimal:
    """The example of the documentation."""
    orders = fetch(day)
    assert_type(orders, list[Order])
    assert_type(orders[0], Order)
    enriched = enrich.map(orders)
    assert_type(enriched, list[Order])
    assert_type(enrich.map(orders, unmapped(factor)), list[Order])
    assert_type(enrich.map(orders, [1.0, 2.0]), list[Order])
    assert_type(enrich.mapping(zip_shortest=True).map(orders, [1.0, 2.0]), list[Order])
    assert_type(enrich.map(order=orders, rate=unmapped(factor)), list[Order])
    assert_type(fetch.map(["a", "b"]), list[list[Order]])
    assert_type(four.map([1], ["a"], unmapped(b""), [1.0]), list[tuple[int, str]])
    number, text = four(1, "a", b"", 1.0)
    assert_type(number, int)
    assert_type(text, str)
    amount = total.after(clean(), enriched).named("amount")(enriched)
    assert_type(amount, Decimal)
    return amount


@flow(name="other", reference=["fetch", total])
def other(day: str) -> list[Order]:
    """With options."""
    return fetch(day)


with Flow("explicit") as explicit:
    given = Parameter("day", type=str)
    assert_type(given, str)
    assert_type(Parameter("n", type=int, default=3), int)
    assert_type(Parameter("days", type=list[str], default=[]), list[str])
    free: Any = Parameter("free")
    maybe: int | None = Parameter("maybe", type=int | None, default=None)
    explicit.reference(total(fetch(given)), fetch(free), maybe)


async def use() -> None:
    """A flow's parameters and its value keep their types; so does the plain function."""
    assert_type(await nightly.value("2026-11-22", factor=2.0), Decimal)
    await nightly.run(day="2026-11-22")
    await explicit.run(day="2026-11-22")
    orders: list[Order] = await fetch.fn("2026-11-22")
    total.fn(orders)


def take(some: Task[[str], list[Order]]) -> None:
    """A task has a type that can be named."""
    some("a")
