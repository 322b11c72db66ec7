"""What a task says about its cache: how long a result is good, and what must be the same for it to be taken.

    cache_for=timedelta(hours=12)            good for that long; on all inputs, unless `cache_on` says otherwise
    cache_on=inputs("order")                 only this input counts;  inputs() are all of them
    cache_on=parameters("day")               this parameter of the flow counts;  parameters() are all of them
    cache_on=inputs("order") | parameters()  both
    cache_on=nothing                         one entry for the task, whatever it is given
    cache_key=lambda order, **_: order.id    what the function makes of the arguments counts
    cache_namespace="orders"                 entries are shared by all tasks that say so and have the same code

The task's code always counts (`version=` stands for it), and so does the declared type of its result.  A task
that says nothing of this is not cached.  (PIN-4's `cache_for` and `cache_validator`: `duration_only` is `nothing`,
`all_inputs` is `inputs()`, `partial_parameters_only(["day"])` is `parameters("day")`.)
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction, signature
from typing import Any, Final, NoReturn

import msgspec

from eventflow.authoring.retry_options import Duration, check_name, microseconds
from eventflow.graph import CachePolicy
from eventflow.suggestions import did_you_mean

__all__ = ["CacheOn", "Caching", "cache_policy_of", "inputs", "nothing", "parameters"]


class CacheOn(msgspec.Struct, frozen=True):
    """What must be the same for a result to be taken; made by `inputs`, `parameters` and `nothing`."""

    inputs: tuple[str, ...] | None = ()
    """Names of the task's arguments; None for all."""
    parameters: tuple[str, ...] | None = ()
    """Names of the flow's parameters; None for all."""

    def __call__(self, *_: object) -> NoReturn:
        """Refused: it is a value."""
        raise TypeError("what a task is cached on is a value: write `nothing`, without parentheses")

    def __or__(self, other: CacheOn) -> CacheOn:
        """Both."""
        if not isinstance(other, CacheOn):
            return NotImplemented
        return CacheOn(_both(self.inputs, other.inputs), _both(self.parameters, other.parameters))


def _both(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if a is None or b is None else tuple(dict.fromkeys(a + b))


def inputs(*names: str) -> CacheOn:
    """Cache on these arguments of the task, or on all of them."""
    return CacheOn(inputs=_checked("inputs", names) or None)


def parameters(*names: str) -> CacheOn:
    """Cache on these parameters of the flow, or on all of them."""
    return CacheOn(parameters=_checked("parameters", names) or None)


def _checked(what: str, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{what}() takes names as text, not {name!r:.60}")
    return names


nothing: Final = CacheOn()
"""Cache on nothing but the task itself."""


class Caching(msgspec.Struct, frozen=True):
    """What a task says about its cache, as given; checked by `cache_policy_of`."""

    duration: Duration | None = None
    on: Any = None
    key: Any = None
    namespace: str | None = None


def cache_policy_of(label: str, given: Caching, names: tuple[str, ...], home: str) -> CachePolicy | None:
    """Check what a task says and put it into the form of the graph; None when it is not cached.

    `names` are those of its arguments, `home` is the function's full name. Raises `TypeError` or `ValueError`;
    `label` names the task.
    """
    if given.duration is None and given.on is None and given.key is None:
        if given.namespace is not None:
            raise ValueError(
                f"{label}: cache_namespace= has no effect on a task that is not cached; add cache_for=, cache_on= or "
                f"cache_key=, or leave it out"
            )
        return None
    if given.key is not None and (not callable(given.key) or iscoroutinefunction(given.key)):
        raise TypeError(
            f"{label}: cache_key={given.key!r:.80} is not a plain function of the task's arguments; to cache on some "
            f"of them, say cache_on=inputs('name')"
        )
    if given.key is not None:
        _check_key(label, given.key, names)
    on = inputs() if given.key is None else nothing
    if given.on is not None:
        on = given.on
    if not isinstance(on, CacheOn):
        raise TypeError(
            f"{label}: cache_on={on!r:.80} is none of inputs(), inputs('name'), parameters('name') and nothing"
        )
    for name in on.inputs or ():
        if name not in names:
            raise ValueError(f"{label}: cache_on names inputs({name!r}){did_you_mean(name, names)}")
    return CachePolicy(
        namespace=home if given.namespace is None else check_name("cache namespace", given.namespace),
        for_us=_for_us(label, given.duration),
        inputs=None if on.inputs is None else tuple(sorted({*on.inputs})),
        parameters=None if on.parameters is None else tuple(sorted({*on.parameters})),
        keyed=given.key is not None,
    )


def _check_key(label: str, key: Callable[..., Any], names: tuple[str, ...]) -> None:
    """See that a `cache_key` can be called with the task's arguments, as far as its signature tells."""
    try:
        signature(key).bind(**dict.fromkeys(names))
    except ValueError:  # some builtins do not say what they take
        return
    except TypeError as error:
        raise TypeError(
            f"{label}: cache_key cannot be called with the task's arguments ({', '.join(names)}): {error}"
        ) from None


def _for_us(label: str, duration: Duration | None) -> int:
    if duration is None:
        return 0
    found = microseconds(label, "cache_for", duration)
    if not found:
        raise ValueError(
            f"{label}: cache_for={duration!r} keeps nothing; leave it out for no cache, or say cache_on=inputs() for "
            f"one without an end"
        )
    return found
