"""The options of `@task`: one list with their types, and one check that turns them into data and live parts.

    options_of(...)  →  Policy         the options that are data; they go into the graph
                        LiveOptions    the functions and objects that the runner calls

Options are checked when the function is decorated.  Each error names the task, the option and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction, signature
from types import FunctionType
from typing import Any, Final, TypedDict, cast

import msgspec

from eventflow.authoring.option_values import (
    CacheOn,
    Duration,
    Exponential,
    RetryDelay,
    check_name,
    inputs,
    microseconds,
    nothing,
)
from eventflow.graph import CachePolicy, Policy
from eventflow.result import ResultSerializer
from eventflow.suggestions import did_you_mean

__all__ = ["LiveOptions", "TaskFunction", "TaskOptions", "checked_options"]


class TaskOptions(TypedDict, total=False):
    """The options of `@task`. Each may be left out. Durations are seconds or a `timedelta`."""

    name: str | None
    """Name of the task, instead of the function's own."""
    retries: int
    """How many further attempts follow a failure; 0 by default."""
    retry_delay: RetryDelay | None
    """How long to wait before a retry: a duration, `exponential(first, limit=...)`, or a function that takes the
    number of failures so far and returns seconds. No delay by default."""
    timeout: Duration | None
    """Limit of one attempt, for async functions only. No limit by default."""
    version: str | None
    """Replaces the digest of the code: as long as the version is the same, the task counts as unchanged."""
    depends_on: Sequence[Callable[..., Any]]
    """Functions or tasks whose code counts as part of this task's code."""
    cache_for: Duration | None
    """How long a cached result may be reused. With `cache_on` or `cache_key` alone, without end. A task with none of
    these three options is not cached. The task's code and the declared type of its result always count."""
    cache_on: CacheOn | None
    """The inputs that must be equal for a cache hit: `inputs(...)`, `parameters(...)`, both joined by `|`, or
    `nothing`. All inputs by default."""
    cache_key: Callable[..., Any] | None
    """A function of the task's arguments whose answer must be equal for a cache hit, instead of the inputs. With
    `cache_on`, too, both count."""
    cache_namespace: str | None
    """Tasks of one namespace with the same code share cache entries. By default the function's full name."""
    share: bool
    """Hand the result to downstream tasks without copying it. They must not change it."""
    serializer: ResultSerializer | None
    """Serializes the results, instead of the serializer for the declared return type."""


_KNOWN: Final = frozenset(TaskOptions.__annotations__)


class LiveOptions(msgspec.Struct, frozen=True):
    """The options of a task that are code or objects, so that they cannot be data in the graph."""

    delay: Callable[[int], float] | None
    """`retry_delay=` if it is a function."""
    cache_key: Callable[..., Any] | None
    serializer: ResultSerializer | None
    version: str | None
    depends_on: tuple[FunctionType, ...]


class TaskFunction(msgspec.Struct, frozen=True):
    """The facts about a function that its options are checked against."""

    label: str
    """`task 'fetch'`, for messages."""
    full_name: str
    """Module and qualified name: the default cache namespace."""
    arguments: tuple[str, ...]
    is_async: bool


def checked_options(function: TaskFunction, options: TaskOptions) -> tuple[Policy, LiveOptions]:
    """Check the options of a task and split them into data and live parts.

    Raises `TypeError` for an unknown option or one of another type, `ValueError` for a value that cannot work.
    """
    label = function.label
    for name in options:
        if name not in _KNOWN:
            hint = "; did you mean 'cache_for'?" if name == "cache" else did_you_mean(name, sorted(_KNOWN))
            raise TypeError(f"{label}: there is no option {name!r}{hint}")
    version: Any = options.get("version")
    serializer: Any = options.get("serializer")
    if version is not None and not (isinstance(version, str) and version):
        raise TypeError(f"{label}: version={version!r} is not text, such as '1'")
    if serializer is not None and not isinstance(serializer, ResultSerializer):
        raise TypeError(f"{label}: serializer={serializer!r:.80} does not both serialize and deserialize")
    delay, cache_key = options.get("retry_delay"), options.get("cache_key")
    live = LiveOptions(
        delay=delay if callable(delay) else None,
        cache_key=cache_key,
        serializer=serializer,
        version=version,
        depends_on=_helpers(label, options.get("depends_on", ())),
    )
    return _policy(function, options), live


def _policy(function: TaskFunction, options: TaskOptions) -> Policy:
    label, share = function.label, options.get("share", False)
    if type(share) is not bool:
        raise TypeError(f"{label}: share={share!r} is neither True nor False")
    return Policy(
        retries=_retries(label, options),
        share=share,
        timeout_us=_timeout_us(function, options.get("timeout")),
        cache=_cache_policy(function, options),
        **_delay(label, options.get("retry_delay")),
    )


def _retries(label: str, options: TaskOptions) -> int:
    retries = options.get("retries", 0)
    if type(retries) is not int:
        raise TypeError(f"{label}: retries={retries!r} is not a whole number of further attempts")
    if retries < 0:
        raise ValueError(f"{label}: retries={retries} is negative; 0 means that a failure is final")
    if options.get("retry_delay") is not None and not retries:
        raise ValueError(
            f"{label}: retry_delay= has no effect without retries=; add how many, or leave it out"
        )
    return retries


def _delay(label: str, delay: RetryDelay | None) -> dict[str, Any]:
    """The fields of a `Policy` that say how long a retry waits."""
    match delay:
        case None:
            return {}
        case Exponential(first, limit):
            first_us = microseconds(label, "the first delay of exponential()", first)
            if not first_us:
                raise ValueError(
                    f"{label}: exponential() cannot grow from 0; say retry_delay=0, or start higher"
                )
            limit_us = 0  # none
            if limit is not None:
                limit_us = microseconds(label, "limit= of exponential()", limit)
                if limit_us < first_us:
                    raise ValueError(
                        f"{label}: limit={limit!r} of exponential() is below its first delay {first!r}"
                    )
            return {"retry_delay_us": first_us, "backoff": "exponential", "backoff_max_us": limit_us}
        case fixed if not callable(fixed):
            return {"retry_delay_us": microseconds(label, "retry_delay", fixed)}
        case _:
            return {"backoff": "callable"}


def _timeout_us(function: TaskFunction, timeout: Duration | None) -> int:
    if timeout is None:
        return 0
    label = function.label
    limit_us = microseconds(label, "timeout", timeout)
    if not limit_us:
        raise ValueError(f"{label}: timeout={timeout!r} leaves no time at all; leave it out for no limit")
    if not function.is_async:
        raise ValueError(
            f"{label}: timeout= needs an `async def` function: this one is plain and runs in a thread, which "
            f"cannot be stopped; make it async, or pass a limit to the calls that may hang inside it"
        )
    return limit_us


def _helpers(label: str, depends_on: Any) -> tuple[FunctionType, ...]:
    """The functions of `depends_on=`, where a task counts as its function."""
    if isinstance(depends_on, str) or not isinstance(depends_on, Sequence):
        raise TypeError(f"{label}: depends_on={depends_on!r:.80} is not a list of functions, like [helper]")
    functions = tuple(
        part if isinstance(part, FunctionType) else getattr(part, "fn", part) for part in depends_on
    )
    for function in functions:
        if not isinstance(function, FunctionType):
            raise TypeError(
                f"{label}: depends_on has {function!r:.80}, whose source cannot be read; name functions or tasks, "
                f"or use version="
            )
    return cast(tuple[FunctionType, ...], functions)


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────


def _cache_policy(function: TaskFunction, options: TaskOptions) -> CachePolicy | None:
    """The cache options as data; None if the task is not cached."""
    label, names = function.label, function.arguments
    duration, namespace = options.get("cache_for"), options.get("cache_namespace")
    cache_on, cache_key = options.get("cache_on"), options.get("cache_key")
    if duration is None and cache_on is None and cache_key is None:
        if namespace is not None:
            raise ValueError(
                f"{label}: cache_namespace= has no effect on a task that is not cached; add cache_for=, cache_on= or "
                f"cache_key=, or leave it out"
            )
        return None
    if cache_key is not None:
        _check_key(label, cache_key, names)
        if cache_on is None:
            cache_on = nothing
    if cache_on is None:
        cache_on = inputs()
    if not isinstance(cache_on, CacheOn):
        raise TypeError(
            f"{label}: cache_on={cache_on!r:.80} is none of inputs(), inputs('name'), parameters('name') and nothing"
        )
    for name in cache_on.inputs or ():
        if name not in names:
            raise ValueError(f"{label}: cache_on names inputs({name!r}){did_you_mean(name, names)}")
    if namespace is not None:
        check_name("cache namespace", namespace)
    return CachePolicy(
        namespace=namespace or function.full_name,
        for_us=_cache_for_us(label, duration),
        inputs=_sorted(cache_on.inputs),
        parameters=_sorted(cache_on.parameters),
        keyed=cache_key is not None,
    )


def _sorted(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names is None:  # all of them
        return None
    return tuple(sorted({*names}))


def _check_key(label: str, key: Any, names: tuple[str, ...]) -> None:
    """Check that a `cache_key` can be called with the task's arguments, as far as its signature says."""
    if not callable(key) or iscoroutinefunction(key):
        raise TypeError(
            f"{label}: cache_key={key!r:.80} is not a plain function of the task's arguments; to cache on some "
            f"of them, say cache_on=inputs('name')"
        )
    try:
        signature(key).bind(**dict.fromkeys(names))
    except ValueError:  # some builtins have no signature
        return
    except TypeError as error:
        raise TypeError(
            f"{label}: cache_key cannot be called with the task's arguments ({', '.join(names)}): {error}"
        ) from None


def _cache_for_us(label: str, duration: Duration | None) -> int:
    if duration is None:
        return 0
    us = microseconds(label, "cache_for", duration)
    if not us:
        raise ValueError(
            f"{label}: cache_for={duration!r} keeps nothing; leave it out for no cache, or say cache_on=inputs() for "
            f"one without an end"
        )
    return us
