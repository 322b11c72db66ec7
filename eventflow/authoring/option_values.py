"""The values that task options take: durations, retry delays, the inputs that a cache entry depends on, names.

Durations are seconds or a `timedelta`.  The graph keeps them as whole microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

__all__ = [
    "CacheOn",
    "Duration",
    "Exponential",
    "RetryDelay",
    "check_name",
    "exponential",
    "inputs",
    "microseconds",
    "nothing",
    "parameters",
]

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

_SECOND_US: Final = 1_000_000
_LONGEST_US: Final = 100 * 366 * 24 * 3600 * _SECOND_US
"""A hundred years. A longer duration is a mistake."""


def microseconds(label: str, option: str, duration: Any) -> int:
    """Return a duration in whole microseconds.

    Raises `TypeError` or `ValueError` for anything else; `label` names the task in the message, `option` the option.
    """
    if isinstance(duration, timedelta):
        us = duration // timedelta(microseconds=1)
    elif type(duration) in (int, float):
        if not abs(duration) < _LONGEST_US:  # NaN and infinity, too
            raise ValueError(f"{label}: {option}={duration!r} is no usable duration")
        us = round(duration * _SECOND_US)
    else:
        raise TypeError(f"{label}: {option}={duration!r} is no duration; give seconds or a timedelta")
    if us < 0:
        raise ValueError(f"{label}: {option}={duration!r} is negative; give 0 or more")
    if us > _LONGEST_US:
        raise ValueError(f"{label}: {option}={duration!r} is more than 100 years")
    return us


def check_name(kind: str, name: Any) -> str:
    """Return the name unchanged if it can name a task, flow, parameter or namespace.

    Raises `TypeError` for anything but text, `ValueError` for text that is empty or has invisible characters or
    the marks of children and iterations.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} is text, not {name!r}")
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} cannot name a {kind}: it is empty, or has invisible characters")
    reserved = [mark for mark in "[]#" if mark in name]
    if reserved:
        raise ValueError(f"{name!r} cannot name a {kind}: {reserved[0]!r} marks children and iterations")
    return str(name)


class Exponential(msgspec.Struct, frozen=True):
    """A delay that doubles with every failure; made by `exponential`."""

    first: Duration
    limit: Duration | None = None


def exponential(first: Duration, *, limit: Duration | None = None) -> Exponential:
    """Wait `first` after the first failure and twice as long after each further one, but never more than `limit`.

    Each delay varies at random by up to a quarter of it, in both directions, so that tasks that failed together
    are not retried together. In this example the delays are 3 to 5, 6 to 10, 12 to 20, then 22.5 to 30 seconds:

    ```python
    from eventflow import exponential, task

    @task(retries=5, retry_delay=exponential(4, limit=30))
    async def fetch(day: str) -> list[int]:
        return [1, 2, 3]
    ```
    """
    return Exponential(first, limit)


RetryDelay: TypeAlias = Duration | Exponential | Callable[[int], float]
"""A fixed delay, `exponential(...)`, or a function: number of failures so far → seconds."""


class CacheOn(msgspec.Struct, frozen=True):
    """The inputs and parameters that must be equal for a cache hit; made by `inputs`, `parameters` and `nothing`."""

    inputs: tuple[str, ...] | None = ()
    """Names of the task's arguments; None for all."""
    parameters: tuple[str, ...] | None = ()
    """Names of the flow's parameters; None for all."""

    def __call__(self, *_: object) -> NoReturn:
        """Refused: it is a value, not a function."""
        raise TypeError("cache_on= takes a value: write `nothing`, without parentheses")

    def __or__(self, other: CacheOn) -> CacheOn:
        """Both must be equal."""
        if not isinstance(other, CacheOn):
            return NotImplemented
        return CacheOn(_union(self.inputs, other.inputs), _union(self.parameters, other.parameters))


def _union(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if a is None or b is None:  # all of them
        return None
    return tuple(dict.fromkeys(a + b))


def inputs(*names: str) -> CacheOn:
    """Cache on these arguments of the task; without names, on all of them.

    In this example a second call with the same `order` is a cache hit, also with another `attempt_id`:

    ```python
    from eventflow import inputs, task

    @task(cache_on=inputs("order"))
    def enrich(order: int, attempt_id: str) -> int:
        return order * 2
    ```
    """
    return CacheOn(inputs=_texts("inputs", names) or None)


def parameters(*names: str) -> CacheOn:
    """Cache on these parameters of the flow; without names, on all of them.

    In this example the rates are fetched once for each value of the flow's parameter `day`:

    ```python
    from eventflow import flow, parameters, task

    @task(cache_on=parameters("day"))
    def rates() -> dict[str, float]:
        return {"EUR": 1.0}

    @flow
    def nightly(day: str) -> dict[str, float]:
        return rates()
    ```
    """
    return CacheOn(parameters=_texts("parameters", names) or None)


def _texts(function: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{function}() takes names as text, not {name!r:.60}")
    return names


nothing: Final = CacheOn()
"""Cache on the task alone: any call is a hit, with any arguments.

```python
from eventflow import nothing, task

@task(cache_for=3600, cache_on=nothing)
def exchange_rates() -> dict[str, float]:
    return {"EUR": 1.0}
```
"""
