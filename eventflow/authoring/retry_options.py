"""How a task is run, as its author says it: durations, retries, and what goes wrong in saying it.

Options are checked when the function is decorated, and each error names the task, the option and the fix.
Durations are seconds or a `timedelta`; in the graph they are whole microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeAlias

import msgspec

from eventflow.graph import CachePolicy, Policy

__all__ = [
    "Duration",
    "Exponential",
    "Retry",
    "RetryDelay",
    "check_name",
    "exponential",
    "microseconds",
    "policy_of",
]

Duration: TypeAlias = float | timedelta
"""Seconds, or a timedelta."""

_SECOND: Final = 1_000_000
_LONGEST: Final = 100 * 366 * 24 * 3600 * _SECOND
"""A hundred years: what is longer was meant to be something else."""


class Exponential(msgspec.Struct, frozen=True):
    """A delay that doubles with every failure; made by `exponential`."""

    first: Duration
    limit: Duration | None = None


def exponential(first: Duration, *, limit: Duration | None = None) -> Exponential:
    """Wait `first` after the first failure and twice as long after each further one, but never more than `limit`.

    Each delay is varied at random by up to a quarter of it, in both directions, so that tasks which failed together
    do not come back together. For example, `exponential(4, limit=30)` waits 3 to 5, 6 to 10, 12 to 20, then 22.5 to
    30 seconds.
    """
    return Exponential(first, limit)


RetryDelay: TypeAlias = Duration | Exponential | Callable[[int], float]
"""A fixed delay, `exponential(...)`, or a function: number of failures so far → seconds."""


class Retry(msgspec.Struct, frozen=True):
    """What a task says about failing, as given; checked by `policy_of`."""

    retries: int = 0
    delay: RetryDelay | None = None


def policy_of(
    label: str,
    retry: Retry,
    timeout: Duration | None,
    share: bool,
    is_async: bool,
    cache: CachePolicy | None = None,
) -> Policy:
    """Check a task's options and put them into the form of the graph.

    Raises `TypeError` or `ValueError`; `label` names the task.
    """
    if type(retry.retries) is not int:
        raise TypeError(f"{label}: retries={retry.retries!r} is not a whole number of further attempts")
    if retry.retries < 0:
        raise ValueError(f"{label}: retries={retry.retries} is negative; 0 means that a failure is final")
    if type(share) is not bool:
        raise TypeError(f"{label}: share={share!r} is neither True nor False")
    if retry.delay is not None and not retry.retries:
        raise ValueError(
            f"{label}: retry_delay= has no effect without retries=; add how many, or leave it out"
        )
    policy = Policy(
        retries=retry.retries, share=share, timeout_us=_timeout_us(label, timeout, is_async), cache=cache
    )
    match retry.delay:
        case None:
            return policy
        case Exponential(first, limit):
            first_us = microseconds(label, "the first delay of exponential()", first)
            if not first_us:
                raise ValueError(
                    f"{label}: exponential() cannot grow from 0; say retry_delay=0, or start higher"
                )
            limit_us = 0 if limit is None else microseconds(label, "limit= of exponential()", limit)
            if limit is not None and limit_us < first_us:
                raise ValueError(
                    f"{label}: limit={limit!r} of exponential() is below its first delay {first!r}"
                )
            delay = {"retry_delay_us": first_us, "backoff": "exponential", "backoff_max_us": limit_us}
        case fixed if not callable(fixed):
            delay = {"retry_delay_us": microseconds(label, "retry_delay", fixed)}
        case _:
            delay = {"backoff": "callable"}
    return msgspec.structs.replace(policy, **delay)


def _timeout_us(label: str, timeout: Duration | None, is_async: bool) -> int:
    if timeout is None:
        return 0
    limit = microseconds(label, "timeout", timeout)
    if not limit:
        raise ValueError(f"{label}: timeout={timeout!r} leaves no time at all; leave it out for no limit")
    if not is_async:
        raise ValueError(
            f"{label}: timeout= needs an `async def` function: this one is plain and runs in a thread, which "
            f"cannot be stopped; make it async, or pass a limit to the calls that may hang inside it"
        )
    return limit


def microseconds(label: str, option: str, duration: Any) -> int:
    """A duration in whole microseconds; `TypeError` or `ValueError` if it is none."""
    if isinstance(duration, timedelta):
        found = duration // timedelta(microseconds=1)
    elif type(duration) in (int, float):
        if not abs(duration) < _LONGEST:  # also what is no number
            raise ValueError(f"{label}: {option}={duration!r} is no usable duration")
        found = round(duration * _SECOND)
    else:
        raise TypeError(f"{label}: {option}={duration!r} is no duration; give seconds or a timedelta")
    if found < 0:
        raise ValueError(f"{label}: {option}={duration!r} is negative; time does not run backwards")
    if found > _LONGEST:
        raise ValueError(f"{label}: {option}={duration!r} is more than 100 years")
    return found


def check_name(kind: str, name: Any) -> str:
    """Give the name back if people and addresses can bear it; `TypeError` or `ValueError` if not."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a {kind} is text, not {name!r}")
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} cannot name a {kind}: it is empty, or has invisible characters")
    taken = [mark for mark in "[]#" if mark in name]
    if taken:
        raise ValueError(f"{name!r} cannot name a {kind}: {taken[0]!r} marks children and iterations")
    return str(name)
