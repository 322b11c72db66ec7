"""Flows: what a person asks for as a whole, written as if the values were there already.

    @flow                                        with Flow("nightly") as nightly:
    def nightly(day: str) -> Decimal:                day = Parameter("day", type=str)
        return total(enrich.map(fetch(day)))         amount = total(enrich.map(fetch(day)))

Both are built once: the function when its flow is first used, the block when it ends.  What comes out is a
frozen `Graph`, the bindings from its tasks to their functions, and the types of its parameters.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from threading import RLock
from types import FunctionType, TracebackType
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, Self, TypeAlias, TypeVar, overload

import msgspec

from eventflow.authoring.arguments import serializer_for
from eventflow.authoring.builder import Builder, active
from eventflow.authoring.callables import Signature, in_class
from eventflow.authoring.nodes import BuildError
from eventflow.authoring.option_values import check_name
from eventflow.authoring.tasks import Task
from eventflow.fingerprints.script_modules import MAIN, script_module
from eventflow.graph import Graph
from eventflow.machine import Plan
from eventflow.ports import Durability, EventLog, World
from eventflow.runner.compatibility import OnChange
from eventflow.runner.request import RunOptions
from eventflow.runs.built_flow import BuiltFlow
from eventflow.runs.launch import Launch
from eventflow.runs.parameters import FlowParameter
from eventflow.states import State

__all__ = ["Flow", "Parameter", "flow"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Reference: TypeAlias = Sequence["str | Task[..., Any]"]
"""Tasks on which success is judged: names of nodes, or tasks (every call of them)."""


class Flow(Generic[P, R]):
    """A graph of tasks with its parameters and functions. Unchangeable once it is built."""

    name: str
    _returns = False
    """Whether it has a value: a function has, even if it returns nothing."""

    def __init__(self: Flow[..., Any], name: str, *, reference: Reference = ()) -> None:
        """Begin a flow that is spelled out in a `with` block.

        `reference` names the tasks on which success is judged; by default the terminal ones.
        """
        self.name = check_name("flow", name)
        frame = sys._getframe(1)  # noqa: SLF001 - that of the block
        self._builder = Builder(name)
        self._reference = reference
        self._judged: list[int] = []
        self._built: BuiltFlow | None = None
        self.entry = _entry_of(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, is_block=True)
        self._outer: Token[Builder | None] | None = None
        self._raised = False

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def entry(self) -> str:
        """Where its code can be loaded from: `module:qualname`, `file:qualname` of a script, or module or file of its block."""
        return self._entry

    @entry.setter
    def entry(self, entry: str) -> None:
        self._entry = entry
        if self._built is not None:
            self._built = msgspec.structs.replace(self._built, entry=entry)

    @property
    def built(self) -> BuiltFlow:
        """The graph with all that is needed to run it. A function is traced when this is first needed.

        Raises `BuildError` for a flow that cannot be built, or whose `with` block has not ended.
        """
        return self._build()

    @property
    def graph(self) -> Graph:
        """The flow as data."""
        return self._build().graph

    @property
    def plan(self) -> Plan:
        """Derived from the graph, once for all runs."""
        return self._build().plan

    @property
    def parameters(self) -> Mapping[str, FlowParameter]:
        """The parameters by name, in order."""
        return self._build().parameters

    def __repr__(self) -> str:
        return f"<flow {self.name!r} ({self.entry})>"

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> NoReturn:  # noqa: ARG002 - see below
        """Refused, whatever the arguments: a flow is run, not called."""
        building = active.get()
        if building is not None:
            raise BuildError(
                f"flow {self.name!r} was called inside flow {building.name!r}: a flow inside a flow is not "
                f"possible; call its tasks here, or share a plain function that calls them"
            )
        raise BuildError(f"flow {self.name!r} was called: a flow is run, with `await ….run(...)`")

    # ── how it is run ────────────────────────────────────────────────────────────────────────────────────────

    def options(
        self,
        *,
        run_id: str | None = None,
        log: EventLog | str | None = None,
        labels: Mapping[str, str] | None = None,
        durability: Durability = "full",
        wait: bool = True,
        on_change: OnChange = "refuse",
        world: World | None = None,
    ) -> Launch[P, R]:
        """The flow with engine options, which are kept apart so that no parameter name is reserved.

        run_id        a new one starts a run, a known one resumes it or gives what it recorded
        log           where events go: a log, or a URL like `sqlite:///runs.db`; see `eventflow.logs.urls`
        labels        text by text, recorded with the run
        durability    when a result may be handed on: `full`, `normal` or `pipelined`
        wait          False: only look: give what the log says of the run `run_id`, and start or resume nothing
        on_change     `keep`: resume although the code of finished tasks changed, and keep their results
        world         clock, ids and chance; a `VirtualWorld` in tests

        Raises `TypeError` or `ValueError` for an option that cannot be.
        """
        options = RunOptions(
            run_id=run_id,
            log=log,
            labels=labels or {},
            durability=durability,
            wait=wait,
            on_change=on_change,
            world=world,
        )
        options.check(self.name)
        return Launch(self.built, options)

    async def run(self, /, *args: P.args, **kwargs: P.kwargs) -> State:
        """Run the flow to its end and give its final State; see `Launch.run` for the contract."""
        return await self.options().run(*args, **kwargs)

    async def value(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow and give the value that it returns, or raise the failing task's `TaskError`."""
        return await self.options().value(*args, **kwargs)

    async def rerun(self, run_id: str, /) -> State:
        """Make a new run that keeps a finished run's successes and runs the rest with today's code."""
        return await self.options().rerun(run_id)

    # ── how it is built ──────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Self:
        if self._outer is not None or self._built is not None or self._raised:
            raise BuildError(
                f"flow {self.name!r} has had its `with` block: a flow is built once; make a new one"
            )
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._raised = True  # unless it comes to its end below
        if kind is None:
            self._finish(None)
            self._raised = False

    def reference(self, *nodes: object) -> None:
        """Judge success on the tasks of these nodes, and of those named before; to be called in the block."""
        if self._outer is None:
            raise BuildError(f"flow {self.name!r}: .reference() belongs into its `with` block")
        self._judged += [self._builder.task_index(node, ".reference()") for node in nodes]

    def _begin(self) -> None:
        outer = active.get()
        if outer is not None:
            raise BuildError(
                f"flow {self.name!r} cannot be built inside flow {outer.name!r}: a flow inside a flow is not "
                f"possible; end the other one first, or use this one outside it"
            )
        self._outer = active.set(self._builder)

    def _end(self) -> None:
        assert self._outer is not None, "left without having entered"
        active.reset(self._outer)
        self._outer = None

    def _finish(self, returned: Any) -> BuiltFlow:
        builder = self._builder
        judged = [*self._judged]
        for part in self._reference:
            judged += builder.calls_of(part.definition) if isinstance(part, Task) else builder.named(part)
        graph = builder.finish(returned, tuple(dict.fromkeys(judged)))
        self._built = BuiltFlow(
            name=self.name,
            entry=self.entry,
            returns=self._returns,
            graph=graph,
            plan=Plan(graph),
            bindings=builder.bodies,
            parameters=builder.parameters,
            serializers={name: serializer_for(part.type) for name, part in builder.parameters.items()},
            locate=builder.locate,
        )
        return self._built

    def _build(self) -> BuiltFlow:
        if self._built is not None:
            return self._built
        if self._outer is not None:
            raise BuildError(f"flow {self.name!r} is still being built: use it after that")
        why = "its `with` block raised" if self._raised else "it has had no `with` block yet"
        raise BuildError(f"flow {self.name!r} was not built: {why}")


def _entry_of(module: str, file: str, *, is_block: bool = False) -> str:
    """Where another process finds the code of a module: the module's name, or the file of a script.

    For a block, whose variable has no name here, a module outside a package is found by its file.
    """
    ran = script_module() if module == MAIN else None
    if ran is not None:
        return ran
    if module == MAIN:
        return os.path.abspath(file) if file.endswith(".py") else module  # noqa: PTH100 - a text, made once
    return file if is_block and "." not in module else module


class _TracedFlow(Flow[P, R]):
    """A flow made by calling a function with nodes for values, when it is first needed."""

    _returns = True

    def __init__(self, fn: FunctionType, signature: Signature, name: str, reference: Reference) -> None:
        super().__init__(name, reference=reference)
        self.entry = f"{_entry_of(fn.__module__, fn.__code__.co_filename)}:{fn.__qualname__}"
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
            return self._built if self._built is not None else self._trace()

    def _trace(self) -> BuiltFlow:
        if self._outer is not None:
            return super()._build()  # asked for by the function that is being traced
        self._builder = Builder(self.name, traced=True)  # anew: an earlier attempt may have raised halfway
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
        """Have errors that are about the function as a whole name its first line."""
        try:
            yield
        except BuildError as error:
            code = self.__wrapped__.__code__
            error.location = (code.co_filename, code.co_firstlineno)
            raise

    def _parameter(self, name: str) -> FlowParameter:
        signature = self._signature
        declared = signature.type_of(name)
        riddle = signature.unresolved(name)
        if riddle is not None:
            raise BuildError(
                f"in flow {self.name!r}, the type {riddle!r} of parameter {name!r} is not known when the flow is "
                f"built; import it for real (not under TYPE_CHECKING) and define it at module level"
            )
        default = signature.defaults.get(name, msgspec.UNSET)
        return FlowParameter(name, declared, default, signature.names.index(name) >= signature.positional)


class _Decorator(Protocol):
    """`@flow(...)` waiting for its function."""

    def __call__(self, fn: Callable[P, R], /) -> Flow[P, R]: ...


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(*, name: str | None = None, reference: Reference = ()) -> _Decorator: ...
def flow(fn: Any = None, /, *, name: str | None = None, reference: Reference = ()) -> Any:
    """Make a flow of a function that calls tasks: `@flow`, or `@flow(...)` with options.

    The function is called once, when the flow is first used, with nodes for its parameters; the node that it
    returns (or a list, tuple or dict of nodes) is the flow's value. `reference` names the tasks on which
    success is judged, as names of nodes or as tasks. Raises `TypeError` for a function that cannot be traced.
    """

    def make(fn: Any, visible: Mapping[str, Any]) -> Flow[..., Any]:
        if not isinstance(fn, FunctionType):
            raise TypeError(f"@flow: {fn!r:.80} cannot be a flow; decorate a function that calls tasks")
        own = check_name("flow", fn.__name__ if name is None else name)
        if in_class(fn):
            raise TypeError(
                f"flow {own!r} is a method, and its object could not be recorded: write a function, and pass what it "
                f"needs of the object as parameters"
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


@overload
def Parameter(name: str) -> Any: ...
@overload
def Parameter(name: str, *, type: type[T], default: T = ...) -> T: ...
@overload
def Parameter(name: str, *, type: object = ..., default: Any = ...) -> Any: ...
def Parameter(name: str, *, type: Any = Any, default: Any = msgspec.UNSET) -> Any:  # noqa: A002, N802
    """Declare a parameter in a `with Flow(...)` block; stands for its value and is typed as it.

    Without a `default` every run must give it. Values are converted to `type` and checked before anything
    runs. Raises `BuildError` outside a block, for a name in use, and for a default of another type.
    """
    builder = active.get()
    if builder is None:
        raise BuildError(
            f"Parameter({name!r}) was declared outside a flow: it belongs into a `with Flow(...)` block"
        )
    if builder.traced:
        raise BuildError(
            f"in flow {builder.name!r}, Parameter({name!r}) was declared in a function under @flow: add {name!r} to "
            f"the function's signature instead"
        )
    return builder.parameter(FlowParameter(check_name("parameter", name), type, default))
