"""`@flow`: a flow that is made by calling a function with nodes in place of values."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from types import FunctionType
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar, overload

import msgspec

from eventflow.authoring.builder import Builder
from eventflow.authoring.callables import Signature, in_class
from eventflow.authoring.flows import Flow, Reference, entry_of
from eventflow.authoring.nodes import BuildError
from eventflow.authoring.option_values import check_name
from eventflow.runner.request import RunOptions
from eventflow.runs.built_flow import BuiltFlow
from eventflow.runs.parameters import FlowParameter
from eventflow.suggestions import did_you_mean

__all__ = ["flow"]

P = ParamSpec("P")
R = TypeVar("R")


class _TracedFlow(Flow[P, R]):
    """A flow made by calling a function with nodes in place of values, when the graph is first needed."""

    _returns = True

    def __init__(self, fn: FunctionType, signature: Signature, name: str, reference: Reference) -> None:
        super().__init__(name, reference=reference)
        self.entry = f"{entry_of(fn.__module__, fn.__code__.co_filename)}:{fn.__qualname__}"
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn
        self._signature = signature
        self._lock = RLock()  # threads may need it first at the same time

    def __enter__(self) -> NoReturn:
        raise BuildError(
            f"flow {self.name!r} is made of a function: call its tasks there, not in a `with` block"
        )

    def _build(self) -> BuiltFlow:
        with self._lock:
            return self._built or self._trace()

    def _trace(self) -> BuiltFlow:
        if self._outer is not None:
            return super()._build()  # the traced function itself needs the graph: an error
        self._builder = Builder(self.name, traced=True)  # an earlier attempt may have raised halfway
        self._begin()
        try:
            with self._located():
                nodes = {
                    name: self._builder.parameter(self._parameter(name)) for name in self._signature.names
                }
            returned = self.__wrapped__(**nodes)
        finally:
            self._end()
        with self._located():
            return self._finish(returned)

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Give errors about the function as a whole the location of its first line."""
        try:
            yield
        except BuildError as error:
            code = self.__wrapped__.__code__
            error.location = (code.co_filename, code.co_firstlineno)
            raise

    def _parameter(self, name: str) -> FlowParameter:
        signature = self._signature
        declared = signature.type_of(name)
        unresolved = signature.unresolved(name)
        if unresolved is not None:
            raise BuildError(
                f"in flow {self.name!r}, the type {unresolved!r} of parameter {name!r} is not known when the flow is "
                f"built; import it for real (not under TYPE_CHECKING) and define it at module level"
            )
        default = signature.defaults.get(name, msgspec.UNSET)
        return FlowParameter(name, declared, default, signature.names.index(name) >= signature.positional)


class _Decorator(Protocol):
    """The decorator that `@flow(...)` returns."""

    def __call__(self, fn: Callable[P, R], /) -> Flow[P, R]: ...


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(*, name: str | None = None, reference: Reference = ()) -> _Decorator: ...
def flow(fn: Any = None, /, *, name: str | None = None, reference: Reference = (), **unknown: Any) -> Any:
    """Make a flow of a function that calls tasks: `@flow`, or `@flow(...)` with options.

    The function is called once, when the flow is first used, with nodes for its parameters. The node that it returns,
    or a list, tuple or dict of nodes, is the flow's value. `reference` names the tasks that decide whether a run
    succeeds, as names of nodes or as tasks; by default the terminal ones. Raises `TypeError` for a function that cannot
    be traced.

    ```python
    from eventflow import MemoryLog, flow, task

    @task
    async def fetch(day: str) -> list[int]:
        return [1, 2, 3]

    @task
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
    for option in unknown:
        if option in RunOptions.__annotations__:
            raise TypeError(
                f"@flow: {option}= is an option of a run: write FLOW.options({option}=...).run(...)"
            )
        raise TypeError(f"@flow: there is no option {option!r}{did_you_mean(option, ('name', 'reference'))}")

    def make(fn: Any, visible: Mapping[str, Any]) -> Flow[..., Any]:
        if not isinstance(fn, FunctionType):
            raise TypeError(f"@flow: {fn!r:.80} cannot be a flow; decorate a function that calls tasks")
        own = check_name("flow", fn.__name__ if name is None else name)
        if in_class(fn):
            raise TypeError(
                f"flow {own!r} is a method, and its object could not be recorded: write a function, and pass the parts "
                f"of the object that it needs as parameters"
            )
        if (
            inspect.iscoroutinefunction(fn)
            or inspect.isgeneratorfunction(fn)
            or inspect.isasyncgenfunction(fn)
        ):
            raise TypeError(
                f"flow {own!r} is async or a generator, but a flow is only traced, to see which tasks it calls: "
                f"write a plain `def` without await and yield; the tasks may be async"
            )
        return _TracedFlow(fn, Signature(f"flow {own!r}", fn, visible), own, reference)

    # The names that the author sees here: annotations may refer to classes of an enclosing function.
    if fn is not None:
        return make(fn, sys._getframe(1).f_locals)  # noqa: SLF001
    return lambda fn: make(fn, sys._getframe(1).f_locals)  # noqa: SLF001
