"""Flows: tasks and how their values depend on each other, written as if the values existed already.

    @flow                                        with Flow("nightly") as nightly:
    def nightly(day: str) -> Decimal:                day = Parameter("day", type=str)
        return total(enrich.map(fetch(day)))         amount = total(enrich.map(fetch(day)))

Both are built once: the function when its flow is first used, the block when it ends.  The result is a `BuiltFlow`: a
frozen graph, the functions of its tasks, and the types of its parameters.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, Generic, NoReturn, ParamSpec, Self, TypeAlias, TypeVar, Unpack, overload

import msgspec

from eventflow.authoring.arguments import serializer_for
from eventflow.authoring.builder import Builder, active
from eventflow.authoring.nodes import BuildError
from eventflow.authoring.option_values import check_name
from eventflow.authoring.tasks import Task
from eventflow.fingerprints.script_modules import MAIN, script_module
from eventflow.graph import Graph
from eventflow.machine import Plan
from eventflow.runner.request import RunOptions, checked_run_options
from eventflow.runs.built_flow import BuiltFlow
from eventflow.runs.launch import Launch
from eventflow.runs.parameters import FlowParameter
from eventflow.states import State

__all__ = ["Flow", "Parameter", "Reference", "entry_of"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Reference: TypeAlias = Sequence["str | Task[..., Any]"]
"""Tasks on which success is judged: names of nodes, or tasks (every call of them)."""


class Flow(Generic[P, R]):
    """A graph of tasks with its parameters and functions. It does not change once it is built.

    Made by `@flow`, or spelled out in a `with` block:

    ```python
    from eventflow import Flow, MemoryLog, Parameter, task

    @task
    def fetch(day: str) -> list[int]:
        return [1, 2, 3]

    @task
    def total(orders: list[int]) -> int:
        return sum(orders)

    @task
    def publish(amount: int) -> None:
        pass

    with Flow("nightly") as nightly:
        day = Parameter("day", type=str)
        amount = total(fetch(day))
        publish(amount)
        nightly.reference(amount)  # the run succeeds if `total` does

    state = await nightly.options(log=MemoryLog()).run(day="2026-11-22")
    print(state.is_successful(), state.result[amount].result)
    ```

    ```text
    True 6
    ```
    """

    name: str
    _returns = False
    """Whether it has a value: a function has, even if it returns nothing."""

    def __init__(self: Flow[..., Any], name: str, *, reference: Reference = ()) -> None:
        """Begin a flow that is spelled out in a `with` block.

        `reference` names the tasks that decide whether a run succeeds; by default the terminal ones.
        """
        self.name = check_name("flow", name)
        frame = sys._getframe(1)  # noqa: SLF001 - that of the block
        self._builder = Builder(name)
        self._reference = reference
        self._judged: list[int] = []
        self._built: BuiltFlow | None = None
        self.entry = entry_of(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, is_block=True)
        self._outer: Token[Builder | None] | None = None
        self._raised = False

    # ── its parts ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def entry(self) -> str:
        """The place from which its code can be loaded.

        Of a function: `module:qualname`, or `file:qualname` in a script. Of a `with` block: its module or its file.
        """
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
        """Raise `BuildError`: run a flow with `.run()`."""
        building = active.get()
        if building is not None:
            raise BuildError(
                f"flow {self.name!r} was called inside flow {building.name!r}: a flow inside a flow is not "
                f"possible; call its tasks here, or share a plain function that calls them"
            )
        raise BuildError(
            f"flow {self.name!r} was called: a flow is run, with `asyncio.run(….run(...))`, or with `await ….run(...)` in "
            "a coroutine"
        )

    # ── running ────────────────────────────────────────────────────────────────────────────────────────

    def options(self, **options: Unpack[RunOptions]) -> Launch[P, R]:
        """Return the flow with engine options; `RunOptions` describes each of them.

        Options are separate, so a parameter may have any name.
        Raises `TypeError` or `ValueError` for an invalid option, `BuildError` for a flow that cannot be built.

        ```python
        from eventflow import MemoryLog, flow, task

        @task
        def add(a: int, b: int) -> int:
            return a + b

        @flow
        def sums(a: int) -> int:
            return add(a, 1)

        launch = sums.options(run_id="first", log=MemoryLog(), labels={"team": "data"})
        print(await launch.value(a=1))
        print(await launch.value(a=1))  # the run has finished: its recorded value, nothing is executed
        ```

        ```text
        2
        2
        ```
        """
        return Launch(self.built, checked_run_options(self.name, options))

    async def run(self, /, *args: P.args, **kwargs: P.kwargs) -> State:
        """Run the flow to its end and return its final State; `state.result` maps tasks to their States.

        Raises `ParameterError` before anything is recorded. A failed task raises nothing: its failure is part of the State.
        If cancelled, the bodies are cancelled and the run is released. `.options(run_id=...)` can resume it.

        ```python
        from eventflow import flow, task

        @task
        def add(a: int, b: int) -> int:
            return a + b

        @flow
        def sums(a: int) -> int:
            return add(a, 1)

        state = await sums.run(a=1)
        print(state.is_successful(), state.result["add"].result)
        ```

        ```text
        True 2
        ```
        """
        return await self.options().run(*args, **kwargs)

    async def value(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow and return its value, or raise the `TaskError` of the failed task.

        The live exception is the cause of the `TaskError`. Raises `NoValue` if the returned task was skipped or the run was
        cancelled, and `TypeError` for a flow that was spelled out in a `with` block.

        ```python
        from eventflow import TaskError, flow, task

        @task
        def divide(a: int, b: int) -> float:
            return a / b

        @flow
        def ratio(b: int) -> float:
            return divide(1, b)

        print(await ratio.value(b=4))
        try:
            await ratio.value(b=0)
        except TaskError as error:
            print(error.task, type(error.__cause__).__name__)
        ```

        ```text
        0.25
        divide ZeroDivisionError
        ```
        """
        return await self.options().value(*args, **kwargs)

    async def rerun(self, run_id: str, /) -> State:
        """Make a new run that keeps a finished run's successes and runs the rest with today's code.

        It goes to the default log, as `run` does; `options(log=...).rerun(run_id)` names another. Raises
        `RunNotFound`, `RunNotFinished` for a run that is live, and `ValueError` for a run of another flow.

        ```python
        from eventflow import flow, task

        broken = True

        @task
        def fetch() -> int:
            return 20

        @task
        def enrich(number: int) -> int:
            if broken:
                raise ValueError("a bug")
            return number + 1

        @flow
        def nightly() -> int:
            return enrich(fetch())

        print((await nightly.options(run_id="monday").run()).is_failed())
        broken = False
        state = await nightly.rerun("monday")
        print(state.result["fetch"].is_cached(), state.result["enrich"].result)
        ```

        ```text
        True
        True 21
        ```
        """
        return await self.options().rerun(run_id)

    # ── building ──────────────────────────────────────────────────────────────────────────────────────

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
        self._raised = True  # until the flow is finished below
        if kind is None:
            self._finish(None)
            self._raised = False

    def reference(self, *nodes: object) -> None:
        """Add the tasks of these nodes to those that decide whether a run succeeds. To be called in the block."""
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
            if isinstance(part, Task):
                judged += builder.calls_of(part.definition)
            else:
                judged += builder.named(part)
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
        if self._raised:
            raise BuildError(f"flow {self.name!r} was not built: its `with` block raised")
        raise BuildError(f"flow {self.name!r} was not built: it has had no `with` block yet")


def entry_of(module: str, file: str, *, is_block: bool = False) -> str:
    """Return where another process can load the code of a module from: the module's name, or the file of a script.

    For a block, whose variable has no name here, a module outside a package is named by its file.
    """
    if module == MAIN:
        return script_module() or _file_of_main(file)
    if is_block and "." not in module:
        return file
    return module


def _file_of_main(file: str) -> str:
    if file.endswith(".py"):
        return os.path.abspath(file)  # noqa: PTH100 - text, made once
    return MAIN


@overload
def Parameter(name: str) -> Any: ...
@overload
def Parameter(name: str, *, type: type[T], default: T = ...) -> T: ...
@overload
def Parameter(name: str, *, type: object = ..., default: Any = ...) -> Any: ...
def Parameter(name: str, *, type: Any = Any, default: Any = msgspec.UNSET) -> Any:  # noqa: A002, N802
    """Declare a parameter in a `with Flow(...)` block. Returns a node, typed as the parameter's value.

    Without a `default` every run must give it. Values are checked against `type` before anything
    runs; only safe conversions are made, such as 3 to 3.0. Raises `BuildError` outside a block, for a name in use, and for a default of another type.

    ```python
    from eventflow import Flow, MemoryLog, Parameter, task

    @task
    def repeat(word: str, times: int) -> str:
        return word * times

    with Flow("echo") as echo:
        word = Parameter("word", type=str)
        times = Parameter("times", type=int, default=2)
        answer = repeat(word, times)

    state = await echo.options(log=MemoryLog()).run(word="ab")
    print(state.result[answer].result)
    ```

    ```text
    abab
    ```
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
