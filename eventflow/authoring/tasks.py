"""`@task`: a function that can stand in a flow.

Outside a flow nothing happens on decoration but the checks that need no value: what cannot work is refused
here, with the task, the option and the fix.  Inside a flow a call adds a node and is typed as the value it
stands for, also when the function is async, so that a type checker follows the data.

    total(orders)                     one run of the body
    total.after(checked)(orders)      ... and not before `checked` has finished
    total.named("sum")(orders)        ... under another name
    enrich.map(orders)                one run for each element
    enrich.map(orders, unmapped(7))   ... all with the same 7
    enrich.mapping(zip_shortest=True).map(orders, days)   ... as many as the shorter of the two has elements
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, cast, overload

from eventflow.authoring.arguments import Unmapped, unmapped
from eventflow.authoring.builder import Definition, active
from eventflow.authoring.cache_options import CacheOn, Caching, cache_policy_of
from eventflow.authoring.callables import Signature, in_class
from eventflow.authoring.nodes import BuildError, Node
from eventflow.authoring.retry_options import (
    Duration,
    Exponential,
    Retry,
    RetryDelay,
    check_name,
    exponential,
    policy_of,
)
from eventflow.fingerprints.code import Code
from eventflow.fingerprints.content import full_name
from eventflow.graph import Policy
from eventflow.result import ResultSerializer
from eventflow.runner.task_context import Skip

__all__ = ["Exponential", "Skip", "Task", "Unmapped", "exponential", "task", "unmapped"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
V = TypeVar("V")


class Task(Generic[P, R]):
    """A function that can stand in a flow; made by `@task`. Immutable."""

    def __init__(
        self,
        definition: Definition,
        label: str | None = None,
        after: tuple[Node, ...] = (),
        zip_shortest: bool | None = None,
    ) -> None:
        """For `@task`, `named`, `after` and `mapping` only; `zip_shortest` is None where `mapping` was not called."""
        self._definition = definition
        self._label = label
        self._after = after
        self._zip_shortest = zip_shortest
        self.__wrapped__ = definition.fn
        self.__doc__ = definition.fn.__doc__

    @property
    def name(self) -> str:
        """The name under which its calls appear in a flow."""
        return self._label or self._definition.name

    @property
    def fn(self) -> Callable[P, Any]:
        """The plain function, for unit tests and for use in other functions."""
        return self._definition.fn

    @property
    def definition(self) -> Definition:
        """What all forms of this task (`after`, `named`) share."""
        return self._definition

    @property
    def policy(self) -> Policy:
        """How it is run: retries, delays, timeout."""
        return self._definition.policy

    @property
    def code(self) -> Code:
        """The digest of its code, or why there is none."""
        return self._definition.code

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Add a call to the flow being built; gives what stands for its value.

        Raises `BuildError` outside a flow, and for arguments that do not fit or cannot be kept.
        """
        builder = active.get() or self._no_flow("called")
        if self._zip_shortest is not None:
            raise BuildError(
                f"in flow {builder.name!r}, task {self.name!r} is called after .mapping(), which has a meaning only "
                f"before .map(): write {self._definition.name}.mapping(...).map(...), or leave .mapping() out"
            )
        node: Any = builder.call(self._definition, self._label, self._after, args, kwargs)
        return cast(R, node)

    def after(self, *nodes: object) -> Task[P, R]:
        """The same task, whose call waits until `nodes` have finished; adds to earlier ones."""
        return Task(
            self._definition, self._label, (*self._after, *cast(tuple[Node, ...], nodes)), self._zip_shortest
        )

    def named(self, name: str) -> Task[P, R]:
        """The same task under another name; a number is added where the flow has the name already."""
        return Task(self._definition, check_name("task", name), self._after, self._zip_shortest)

    def mapping(self, *, zip_shortest: bool = False) -> Task[P, R]:
        """The same task, whose `.map` is done in this way: `add.mapping(zip_shortest=True).map(xs, ys)`.

        With `zip_shortest` inputs of unequal lengths give as many children as the shortest has elements, as `zip`
        does; without it they are an error. Raises `TypeError` for anything but a bool.
        """
        if not isinstance(zip_shortest, bool):
            raise TypeError(f"task {self.name!r}: zip_shortest={zip_shortest!r:.80} is not True or False")
        return Task(self._definition, self._label, self._after, zip_shortest)

    @overload
    def map(self: Callable[[A], V], a: Iterable[A] | Unmapped[A], /) -> list[V]: ...
    @overload
    def map(
        self: Callable[[A, B], V], a: Iterable[A] | Unmapped[A], b: Iterable[B] | Unmapped[B], /
    ) -> list[V]: ...
    @overload
    def map(
        self: Callable[[A, B, C], V],
        a: Iterable[A] | Unmapped[A],
        b: Iterable[B] | Unmapped[B],
        c: Iterable[C] | Unmapped[C],
        /,
    ) -> list[V]: ...
    @overload
    def map(
        self: Callable[[A, B, C, D], V],
        a: Iterable[A] | Unmapped[A],
        b: Iterable[B] | Unmapped[B],
        c: Iterable[C] | Unmapped[C],
        d: Iterable[D] | Unmapped[D],
        /,
    ) -> list[V]: ...
    @overload
    def map(self, /, **each: Iterable[Any] | Unmapped[Any]) -> list[R]: ...
    def map(self, /, *args: Any, **kwargs: Any) -> list[Any]:
        """Add one call for each element of the arguments, which go side by side; `unmapped` ones go whole.

        Typed for one to four arguments by position, or all by name. When every argument is unmapped this is
        a plain call, and the node stands for a single value. What is mapped over is a sequence: a list, a tuple, a
        range, an array of one dimension or a Series; all are of the same length, unless `mapping` says otherwise. Of
        an array that is written here each child gets the element as a plain Python value. Raises like a call.
        """
        builder = active.get() or self._no_flow("mapped")
        node: Any = builder.map(
            self._definition,
            self._label,
            self._after,
            args,
            kwargs,
            zip_shortest=self._zip_shortest or False,
        )
        return cast(list[Any], node)

    def __repr__(self) -> str:
        return f"<task {self.name!r} of {self._definition.fn.__module__}:{self._definition.fn.__qualname__}>"

    def _no_flow(self, tried: str) -> NoReturn:
        name, takes = self._definition.name, self._definition.signature
        raise BuildError(
            f"task {name!r} was {tried} outside a flow, where nothing runs it: call its plain function as "
            f"{name}.fn({takes}), or write {name}({takes}) in a function under @flow or a `with Flow(...)` block"
        )


class _Decorator(Protocol):
    """`@task(...)` waiting for its function."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay: RetryDelay | None = None,
    timeout: Duration | None = None,
    version: str | None = None,
    depends_on: Sequence[Callable[..., Any]] = (),
    cache_for: Duration | None = None,
    cache_on: CacheOn | None = None,
    cache_key: Callable[..., Any] | None = None,
    cache_namespace: str | None = None,
    share: bool = False,
    serializer: ResultSerializer | None = None,
) -> _Decorator: ...
def task(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay: RetryDelay | None = None,
    timeout: Duration | None = None,
    version: str | None = None,
    depends_on: Sequence[Callable[..., Any]] = (),
    cache_for: Duration | None = None,
    cache_on: CacheOn | None = None,
    cache_key: Callable[..., Any] | None = None,
    cache_namespace: str | None = None,
    share: bool = False,
    serializer: ResultSerializer | None = None,
) -> Any:
    """Make a task of a function: `@task`, or `@task(...)` with options. Durations: seconds or a timedelta.

    name          instead of the function's own
    retries       further attempts after a failure
    retry_delay   before each of them: a duration, `exponential(first, limit=...)`, or a function that is
                  given the number of failures so far and gives seconds
    timeout       limit of one attempt, for async functions
    version       stands for the code: as long as it is the same, so is the task
    depends_on    functions (or tasks) whose code counts as part of this one's
    cache_for     reuse a result for so long, made from the same inputs by the same code
    cache_on      what must be the same: `inputs(...)`, `parameters(...)`, `nothing`; without `cache_for`, for ever
    cache_key     a function of the task's arguments, whose answer must be the same
    cache_namespace   shared by tasks that may take each other's results; by default the function's own name
    share         hand values to consumers without copying them
    serializer    keeps the results, instead of the one for the declared return type

    `eventflow.authoring.cache_options` says more of the four.

    An async function runs on the event loop, a plain one in a worker thread. Raises `TypeError` or
    `ValueError` for a function or an option that cannot work.
    """

    def make(fn: Any, visible: Mapping[str, Any]) -> Task[..., Any]:
        function = _function(fn)
        own = function.__name__ if name is None else name
        label = f"task {own!r}"
        is_async = inspect.iscoroutinefunction(function)
        _check_kinds(label, version, serializer)
        signature = Signature(label, function, visible)
        caching = Caching(cache_for, cache_on, cache_key, cache_namespace)
        cache = cache_policy_of(label, caching, signature.names, full_name(function))
        return Task(
            Definition(
                check_name("task", own),
                function,
                signature,
                policy_of(label, Retry(retries, retry_delay), timeout, share, is_async, cache),
                is_async=is_async,
                delay=retry_delay if callable(retry_delay) else None,
                cache_key=cache_key,
                serializer=serializer,
                version=version,
                depends_on=_helpers(label, depends_on),
            )
        )

    # The names that the author sees here: annotations may refer to classes of an enclosing function.
    if fn is not None:
        return make(fn, sys._getframe(1).f_locals)  # noqa: SLF001
    return lambda fn: make(fn, sys._getframe(1).f_locals)  # noqa: SLF001


def _function(fn: Any) -> FunctionType:
    """The function itself, if it is of a kind that can be a task."""
    if not isinstance(fn, FunctionType):
        raise TypeError(f"@task: {_kind(fn)} cannot be a task; write a function that calls it")
    label = f"task {fn.__name__!r}"
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise TypeError(
            f"{label} is a generator: a task has one value, so return a list instead of using yield"
        )
    if in_class(fn):
        raise TypeError(f"{label} is a method: a task is a function; pass the object to it as an argument")
    return fn


def _check_kinds(label: str, version: Any, serializer: Any) -> None:
    if version is not None and not (isinstance(version, str) and version):
        raise TypeError(f"{label}: version={version!r} is not text, such as '1'")
    if serializer is not None and not isinstance(serializer, ResultSerializer):
        raise TypeError(f"{label}: serializer={serializer!r:.80} does not both serialize and deserialize")


def _kind(fn: Any) -> str:
    if isinstance(fn, Task):
        return f"{fn!r}, being one already,"
    if isinstance(fn, type):
        return f"the class {fn.__qualname__}"
    return f"{fn!r:.80} (a {type(fn).__qualname__})"


def _helpers(label: str, depends_on: Any) -> tuple[FunctionType, ...]:
    if isinstance(depends_on, str) or not isinstance(depends_on, Sequence):
        raise TypeError(f"{label}: depends_on={depends_on!r:.80} is not a list of functions, like [helper]")
    found = tuple(part.fn if isinstance(part, Task) else part for part in depends_on)
    for part in found:
        if not isinstance(part, FunctionType):
            raise TypeError(
                f"{label}: depends_on has {part!r:.80}, whose source cannot be read; name functions or tasks, "
                f"or use version="
            )
    return cast(tuple[FunctionType, ...], found)
