"""Wrong data flow: every line with `# E:` is an error for mypy, with that text in it, and no other is."""

from __future__ import annotations

from decimal import Decimal

from eventflow import Flow, Parameter, flow, task, unmapped


class Order: ...


@task
async def fetch(day: str) -> list[Order]:
    return [Order()]


@task
def enrich(order: Order, rate: float = 1.0) -> Order:
    return order


@task(retries=2)
def total(orders: list[Order]) -> Decimal:
    return Decimal(len(orders))


@task
def pair() -> tuple[int, str]:
    return 1, "a"


@flow
def nightly(day: str) -> Decimal:
    orders = fetch(day)
    fetch(7)  # E: has incompatible type "int"; expected "str"
    fetch()  # E: Missing positional argument "day"
    fetch(day=day, unit=1)  # E: Unexpected keyword argument "unit"
    total(fetch)  # E: expected "list[Order]"
    total(day)  # E: has incompatible type "str"; expected "list[Order]"
    enrich(orders)  # E: has incompatible type "list[Order]"; expected "Order"
    fetch(enrich.map(orders)[0])  # E: has incompatible type "Order"; expected "str"
    enrich.map(["a"])  # E: has incompatible type "str"; expected "Order"
    enrich.map(orders, 2.0)  # E: No overload variant of "map"
    enrich.map(orders, unmapped("a"))  # E: has incompatible type "str"; expected "float"
    enrich.map(total(orders))  # E: No overload variant of "map"
    enrich.map(orders, [1.0], [2.0])  # E: No overload variant of "map"
    enrich.after(orders)(day)  # E: has incompatible type "str"; expected "Order"
    orders.total  # E: "list[Order]" has no attribute "total"
    a, b, c = pair()  # E: Need more than 2 values to unpack
    number, text = pair()
    fetch(number)  # E: has incompatible type "int"; expected "str"
    return fetch(text)  # E: expected "Decimal"


@task(retries="3")  # E: No overload variant of "task"
def bad_option() -> None: ...


@task(timout=3)  # E: Unexpected keyword argument "timout"
def misspelt_option() -> None: ...


with Flow("explicit"):
    day = Parameter("day", type=int)
    fetch(day)  # E: has incompatible type "int"; expected "str"
    count = Parameter("count", type=list[str])
    total(count)  # E: has incompatible type "list[str]"; expected "list[Order]"


async def use() -> None:
    amount: int = await nightly.value("2026-11-22")  # E: expression has type "Decimal", variable has type "int"
    await nightly.run(22)  # E: has incompatible type "int"; expected "str"
    await nightly.run()  # E: Missing positional argument "day"
    await nightly.run("a", days=2)  # E: Unexpected keyword argument "days"
    nightly.options(run_id=7)  # E: has incompatible type "int"; expected "str | None"
    nightly.options(log=7)  # E: has incompatible type "int"; expected "EventLog | str | None"
    nightly.options(durability="none")  # E: has incompatible type "Literal['none']"
    nightly.options(wiat=False)  # E: Unexpected keyword argument "wiat"
    await nightly.options(run_id="a", log="memory:").run(22)  # E: has incompatible type "int"; expected "str"
    fetch.fn(7)  # E: has incompatible type "int"; expected "str"
