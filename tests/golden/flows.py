"""The flows behind the golden log. What stands here is on disk: `make.py` writes the log anew after a change.

Read as text and compiled as `golden.py` (`make.load_flows`), so that no path of a machine is in the log.  Bodies
sleep, each for another time, so that one seed gives one history.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Literal
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import anyio

from eventflow import (
    Flow,
    Parameter,
    Skip,
    context,
    exponential,
    flow,
    inputs,
    nothing,
    parameters,
    task,
    unmapped,
)


@dataclass
class Order:
    """What the codec `typed` keeps."""

    number: int
    price: Decimal


@task(retries=2, retry_delay=5)
async def fetch(day: str) -> list[int]:
    """Plain data, at the second attempt."""
    await anyio.sleep(1)
    if context.attempt == 1:
        raise ConnectionError(f"no orders of {day} yet")
    return [3, 1, 2]


@task
async def enrich(number: int) -> Order:
    """One child for each number."""
    await anyio.sleep(number)
    return Order(number, Decimal(number) / 4)


@task(share=True)
async def price(order: Order, factor: int) -> Decimal:
    """Follows `enrich` child by child."""
    await anyio.sleep(order.number / 8)
    return order.price * factor


@task
def total(prices: list[Decimal]) -> Any:
    """A Decimal of no declared type; the one body that runs in a thread."""
    return sum(prices, Decimal("0.00"))


@task
async def plain() -> Any:
    """What MessagePack has a form for."""
    await anyio.sleep(0.375)
    numbers = [0, -1, 127, 128, -(2**63), 2**64 - 1, 0.5, -0.0, float("inf"), float("nan")]
    moments = [datetime(2026, 11, 22, 9, 30, 0, 1, UTC), datetime(1969, 7, 20, tzinfo=UTC)]
    return [numbers, moments, {"b": None, "a": [True, False], 7: "ü"}, b"\x00\xff", ""]


@task
async def standard(amount: Decimal) -> Any:
    """A value of every standard type."""
    await anyio.sleep(0.5)
    return {
        "pair": (1, "one"),
        "sets": [{2, 3, 5}, frozenset({1})],
        "keys": {(1, 2): "tuple", None: "none"},
        "numbers": [2**64, -(2**70), amount, Decimal("-0E+3"), Decimal("NaN"), 1 - 2j, range(9, 0, -2)],
        "texts": ["lone \udc80", bytearray(b"array")],
        "days": [date(2026, 11, 22), timedelta(days=-1, seconds=5, microseconds=7)],
        "clocks": [time(9, 30), time(23, 59, 59, 999999, timezone(timedelta(hours=-3), "here"), fold=1)],
        "moments": [
            datetime(2026, 11, 22, 9, 30, fold=1),  # noqa: DTZ001 - one without a zone
            datetime(2026, 11, 22, 9, 30, tzinfo=UTC),
            datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        ],
        "ids": [UUID(int=7), UUID(int=2**127, is_safe=SafeUUID.safe)],
        "paths": [PurePosixPath("a/b"), PureWindowsPath("c:/d")],
    }


@task
async def members() -> Any:
    """A set."""
    await anyio.sleep(0.25)
    return {300, 20, 1}


@task
async def ratio() -> Any:
    """What only a pickle keeps."""
    await anyio.sleep(0.125)
    return Fraction(1, 3)


@task
async def report(amount: Decimal, title: str = "the day's orders") -> str:
    """Above 512 bytes."""
    await anyio.sleep(2)
    return f"{title}: {amount}\n" * 40


@task(timeout=60)
async def archive(text: str) -> str:
    """Above 64 KiB."""
    await anyio.sleep(3)
    return text * 120


@task
async def label(name: str, mark: str) -> str:
    """Takes a part of a value."""
    await anyio.sleep(0.75)
    return f"{name}{mark}"


@task
async def collect(listed: list[Any], paired: tuple[Any, Any], named: dict[str, Any]) -> Any:
    """Takes nodes within a list, a tuple and a dict."""
    await anyio.sleep(0.0625)
    return (listed, paired, named)


@flow
def orders(day: str, factor: int = 2) -> Any:
    """A success with every codec, all kinds of inputs, and two maps of which one follows the other."""
    enriched = enrich.map(fetch(day))
    amount = total(price.map(enriched, unmapped(factor)))
    plain()
    facts = standard(amount)
    text = report(amount)
    kept = archive(text)
    named = label.after(kept)(facts["pair"][1], "!")
    nobody = enrich.map(list[int]())
    gathered = collect([named, 7, None], (members(), ratio()), {"first": enriched[0], "all": nobody})
    return {"amount": amount, "all": [gathered, text]}


@task(retries=1, retry_delay=exponential(2, limit=10))
async def broken(key: str) -> int:
    """Fails twice, with a cause."""
    await anyio.sleep(1)
    try:
        return {"a": 1}[key]
    except KeyError as error:
        raise ValueError(f"no {key!r} there") from error


@task(timeout=3)
async def slow() -> int:
    """Takes too long."""
    await anyio.sleep(60)
    return 1


@task
async def maybe() -> int:
    """Skips itself."""
    await anyio.sleep(0.5)
    raise Skip("nothing new")


@task
async def generate() -> Any:
    """What nothing keeps."""
    await anyio.sleep(0.25)
    return (number for number in range(3))


@task
async def fine() -> dict[str, int]:
    """A success among failures."""
    await anyio.sleep(0.125)
    return {"number": 5}


@task
async def use(value: Any) -> Any:
    """What stands after others."""
    await anyio.sleep(0.0625)
    return value


with Flow("trouble") as trouble:
    use(broken("b"))
    slow()
    use(maybe())
    generate()
    found = fine()
    use(found["number"])
    use(found["nothing"])
    use.map(found["number"])  # type: ignore[call-overload]  # wrong on purpose


class Kind(Enum):
    """Part of a `Model`."""

    MEAN = "mean"
    SUM = "sum"


@dataclass
class Model:
    """A declared type with some depth, whose digest counts in a key."""

    kind: Kind
    unit: Literal["EUR", "CHF"]
    value: float | None = None
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)


@task(cache_for=3600)
async def rates(day: str) -> dict[str, float]:
    """Good for an hour."""
    await anyio.sleep(1)
    return {"EUR": 1.0, "CHF": 0.9375}


@task(cache_on=inputs("rows") | parameters("day"), cache_namespace="models", version="3")
async def fit(rows: list[int], verbose: bool = False) -> Model:
    """Good for ever, for these rows on this day."""
    await anyio.sleep(2)
    return Model(Kind.MEAN, "EUR", sum(rows) / len(rows), {"b": (1, 2), "a": ()})


@task(cache_on=inputs())
async def judge(models: list[Model], rates: dict[str, float]) -> bool:
    """Takes what has a content beside its digest: classes, enums, dicts."""
    await anyio.sleep(0.75)
    return bool(models and rates)


def first_of(rows: list[int]) -> int:
    """The answer that `keyed` is cached on."""
    return rows[0]


@task(cache_key=first_of)
async def keyed(rows: list[int]) -> Any:
    """A tuple, cached on an answer."""
    await anyio.sleep(0.5)
    return (*rows, "end")


@task(cache_on=nothing)
async def large() -> str:
    """A value beside its event, which can be lost."""
    await anyio.sleep(0.25)
    return "golden " * 100


@task(cache_on=inputs())
async def opaque(value: Any) -> str:
    """Takes what has no content of its own."""
    await anyio.sleep(0.125)
    return str(value)


def wait(failures: int) -> float:
    """The delay of `flaky`."""
    return failures / 4


@task(cache_on=inputs(), retries=1, retry_delay=wait)
async def flaky(number: int) -> int:
    """Fails in the first attempt."""
    await anyio.sleep(0.0625)
    if context.attempt == 1:
        raise OSError("not yet")
    return number * 2


with Flow("cached") as cached:
    of_day = Parameter("day", type=str, default="monday")
    judge([fit([1, 2, 4])], rates(of_day))
    keyed([5, 6])
    large()
    opaque(ratio())
    flaky.map([1, 2])


@task(retries=1, retry_delay=30)
async def step(number: int) -> int:
    """One child of a map; the last one fails in its first attempt."""
    await anyio.sleep(10 * number)
    if number == 3 and context.attempt == 1:
        raise OSError("once more")
    return number + 1


@task
async def numbers() -> list[int]:
    """What is mapped over."""
    await anyio.sleep(1)
    return [1, 2, 3, 4]


@task
async def add(steps: list[int]) -> int:
    """The end of it."""
    await anyio.sleep(100)
    return sum(steps)


@flow
def steps(scale: float = 1.5) -> int:
    """Takes long enough to be interrupted."""
    return add(step.map(numbers()))
