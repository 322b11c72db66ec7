"""`@task`: a function that a flow can call.

Decoration only checks the function and its options.  An error names the task, the option and the fix.  Inside a flow
a call adds a node.  It is typed as the value of the task, also if the function is async, so that a type checker
follows the data.

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
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import FunctionType
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from eventflow.authoring.arguments import Unmapped
from eventflow.authoring.builder import active
from eventflow.authoring.callables import Signature, in_class
from eventflow.authoring.definition import TaskDefinition
from eventflow.authoring.nodes import BuildError, Node
from eventflow.authoring.option_values import check_name
from eventflow.authoring.options import TaskFunction, TaskOptions, checked_options
from eventflow.fingerprints.code import Code
from eventflow.fingerprints.content import full_name
from eventflow.graph import Policy
from eventflow.runner.task_context import current

__all__ = ["Task", "task"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
V = TypeVar("V")


class Task(Generic[P, R]):
    """A function that a flow can call; made by `@task`. Immutable.

    ```python
    from eventflow import MemoryLog, flow, task

    @task
    def fetch(page: int) -> list[int]:
        return [page, page + 1]

    @task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @flow
    def report() -> list[int]:
        first = total(fetch(1))
        return total.after(first).map(fetch.map([2, 3]))

    print(await report.options(log=MemoryLog()).value())
    print(fetch.fn(7))  # the plain function
    ```

    ```text
    [5, 7]
    [7, 8]
    ```
    """

    def __init__(
        self,
        definition: TaskDefinition,
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
    def definition(self) -> TaskDefinition:
        """The definition that all forms of this task (`after`, `named`, `mapping`) share."""
        return self._definition

    @property
    def policy(self) -> Policy:
        """How it is run, as data: retries, delays, timeout, cache."""
        return self._definition.policy

    @property
    def code(self) -> Code:
        """The digest of its code, or the reason why there is none."""
        return self._definition.code

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Add a call to the flow being built. Returns a node, typed as the value of the task.

        Raises `BuildError` outside a flow, for arguments that the function does not take, and for constants that
        cannot be serialized.
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
        """Return the same task whose call also depends on `nodes`: it starts when they have finished."""
        return Task(
            self._definition, self._label, (*self._after, *cast(tuple[Node, ...], nodes)), self._zip_shortest
        )

    def named(self, name: str) -> Task[P, R]:
        """Return the same task under another name. A number is added if the flow has the name already."""
        return Task(self._definition, check_name("task", name), self._after, self._zip_shortest)

    def mapping(self, *, zip_shortest: bool = False) -> Task[P, R]:
        """Return the same task with options for its `.map`: `add.mapping(zip_shortest=True).map(xs, ys)`.

        With `zip_shortest`, inputs of unequal lengths make as many children as the shortest has elements, as `zip`
        does. Without it they are an error. Raises `TypeError` for anything but a bool.
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
        """Add one call for each element of the arguments, taken in parallel. Each child gets the whole of an `unmapped` one.

        Arguments are sequences of one length (but see `mapping`): a list, a tuple, a range, an array of one dimension
        or a Series. An element of an array that is a constant becomes a plain Python value. If every argument is
        unmapped, this is a plain call, and the node has a single value. Typed for one to four arguments by position, or
        all by name. Raises like a call.
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
        call = f"{name}.fn({takes})"
        if inspect.iscoroutinefunction(self._definition.fn):
            call = f"await {call}"
        if tried == "mapped":
            call = f"[{call} for ... in ...]"
        running = current.get(None)
        if running is not None:
            raise BuildError(
                f"task {name!r} was {tried} in the body of task {running.task!r}, and a body calls no tasks: call its "
                f"plain function as {call}, or call the task in the flow and pass its value to {running.task!r}"
            )
        raise BuildError(
            f"task {name!r} was {tried} outside a flow, where nothing runs it: call its plain function as "
            f"{call}, or write {name}({takes}) in a function under @flow or a `with Flow(...)` block"
        )


class _Decorator(Protocol):
    """The decorator that `@task(...)` returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> _Decorator: ...
def task(fn: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
    """Make a task of a function: `@task`, or `@task(...)` with options. `TaskOptions` describes each option.

    name, version, depends_on                      its name, and the code that counts as its own
    retries, retry_delay, timeout                  its attempts
    cache_for, cache_on, cache_key, cache_namespace   its cache entries
    share, serializer                              its result

    An async function runs on the event loop, a plain one in a worker thread. Raises `TypeError` or `ValueError` for a
    function or an option that cannot work.

    ```python
    from datetime import timedelta
    from eventflow import MemoryLog, flow, task

    @task(retries=3, retry_delay=5, timeout=60)
    async def fetch(day: str) -> list[int]:
        return [1, 2, 3]

    @task(cache_for=timedelta(hours=12))
    def total(orders: list[int]) -> int:
        return sum(orders)

    @flow
    def nightly(day: str) -> int:
        return total(fetch(day))

    print(await nightly.options(log=MemoryLog()).value(day="2026-11-22"))
    ```

    ```text
    6
    ```
    """
    # The names that the author sees here: annotations may refer to classes of an enclosing function.
    if fn is not None:
        return _make(fn, options, sys._getframe(1).f_locals)  # noqa: SLF001
    return lambda fn: _make(fn, options, sys._getframe(1).f_locals)  # noqa: SLF001


def _make(fn: Any, options: TaskOptions, visible: Mapping[str, Any]) -> Task[..., Any]:
    function = _function(fn)
    name = options.get("name")
    name = check_name("task", function.__name__ if name is None else name)
    label = f"task {name!r}"
    signature = Signature(label, function, visible)
    is_async = inspect.iscoroutinefunction(function)
    facts = TaskFunction(label, full_name(function), signature.names, is_async)
    policy, live = checked_options(facts, options)
    return Task(TaskDefinition(name, function, signature, policy, live, is_async=is_async))


def _function(fn: Any) -> FunctionType:
    """Return the function if it is of a kind that can be a task; raise `TypeError` if not."""
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


def _kind(fn: Any) -> str:
    if isinstance(fn, Task):
        return f"{fn!r}, being one already,"
    if isinstance(fn, type):
        return f"the class {fn.__qualname__}"
    return f"{fn!r:.80} (a {type(fn).__qualname__})"
