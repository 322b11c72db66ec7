"""Launch a flow: start, resume, follow, look at or rerun one run of it.

`Launch` is the object that `flow.options(...)` returns, and that `flow.run` uses with the default options.  It turns
parameters into payloads, asks the runner for the run, and turns the run's facts into States and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, ParamSpec, TypeVar, assert_never

from eventflow.events import RunStarted
from eventflow.graph import Arg, Const, DictOf, ListOf, Ref, TupleOf
from eventflow.logs.open import log_of
from eventflow.machine import Phase
from eventflow.ports import EventLog, Value
from eventflow.projections import RunNotFound, open_run
from eventflow.result import NoResult, Payload, Result
from eventflow.runner.flow_runner import FlowRunner
from eventflow.runner.ownership import read_run
from eventflow.runner.request import Request, RunOptions
from eventflow.runner.stored_values import to_store
from eventflow.runs.birth import birth_of
from eventflow.runs.built_flow import BuiltFlow
from eventflow.runs.moment import is_stopped
from eventflow.runs.rerun import RunNotFinished, rerun_request
from eventflow.runs.world import RealWorld
from eventflow.states import Failed, Mapped, State
from eventflow.views.run import RunView
from eventflow.views.run_serializers import RunSerializers
from eventflow.views.run_states import RunStates

__all__ = ["Launch", "NoValue", "state_of"]

P = ParamSpec("P")
R = TypeVar("R")


class NoValue(LookupError):
    """The run has finished without a value: the returned task was skipped, or the run was cancelled."""


class Launch(Generic[P, R]):
    """A built flow with its options, ready to be run; made by `flow.options(...)`.

    ```python
    from eventflow import MemoryLog, flow, task

    @task
    def double(number: int) -> int:
        return 2 * number

    @flow
    def doubled(number: int) -> int:
        return double(number)

    log = MemoryLog()
    launch = doubled.options(log=log, run_id="first")
    state = await launch.run(number=21)
    print(state.is_successful(), await launch.value())
    again = await doubled.options(log=log).rerun("first")
    print(again.result["double"].is_cached())
    ```

    ```text
    True 42
    True
    ```
    """

    def __init__(self, built: BuiltFlow, options: RunOptions) -> None:
        self._built = built
        self._options = options

    async def run(self, /, *args: P.args, **kwargs: P.kwargs) -> State:
        """Run the flow to its end and return its final State; `state.result` maps tasks to their States.

        A new `run_id` starts a run. The id of an unfinished run resumes it: finished tasks are not run again. The id
        of a finished run returns its recorded State and executes nothing. A run that is live elsewhere is followed,
        and taken over if its owner dies. With `wait=False` nothing is started or resumed: the State is the recorded
        one, `Pending` if the run's owner has ended without releasing it. Then `RunNotFound` is raised if there is no such run, and `LogUnusable` if there is no log at the URL.

        Raises `ParameterError` before anything is appended, `ParametersDiffer` or `FlowChanged` if an existing run was
        started with other parameters or other code. A failed task raises nothing: its failure is part of the State.
        Cancellation: the bodies are cancelled, the run is released, and can be resumed.
        """
        return (await self._run(args, kwargs)).state

    async def value(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow as `run` does and return its value, a Python object.

        Raises `TaskError` if the run failed: the error of the returned task, or else of the task that failed first,
        with the live exception as its cause if it was raised in this process. Raises `NoValue` if that task was
        skipped or the run was cancelled, `RunNotFinished` if `wait=False` finds a run that can still go on, and
        `TypeError` for a flow that was spelled out in a `with` block.
        """
        name, arg = self._built.name, self._built.graph.value
        if not self._built.returns:
            raise TypeError(
                f"flow {name!r} was spelled out in a `with` block and returns no node: "
                "use `.run(...)` and look into `state.result[node].result`"
            )
        states = await self._run(args, kwargs)
        if states.phase != Phase.FINISHED:
            raise RunNotFinished(f"run {states.run_id!r} has no value yet: {states.state.message}")
        if states.state.is_cancelled():
            raise NoValue(f"run {states.run_id!r} was cancelled, so it has no value: {states.state.message}")
        value: Any = None
        if arg is not None:
            value = _evaluate(arg, states)
        if isinstance(states.state, Failed):  # even if the returned task succeeded
            raise states.root_error()
        if value is NoResult:
            assert isinstance(arg, Ref), "a list, tuple or dict of nodes is a value"
            raise NoValue(
                f"flow {name!r} returns the value of a task that was skipped: {states.at_ref(arg).message}"
            )
        returned: R = value
        return returned

    async def rerun(self, run_id: str, /) -> State:
        """Make a new run that keeps an old run's successes and runs the rest with today's code.

        The old run has finished, or was interrupted and has no owner. The new run has the same parameters. Raises
        `RunNotFound`, `RunNotFinished` for a run that is live, and `ValueError` for a run of another flow or if
        `options(run_id=...)` names a run that exists and is not this rerun.
        """
        if not self._options["wait"]:
            raise ValueError(
                f"flow {self._built.name!r}: a rerun is a new run, and wait=False starts none: leave it out"
            )
        async with log_of(self._options["log"], read_only=False) as log:
            request = await rerun_request(self._built, self._options, log, run_id)
            return (await self._execute(log, request)).state

    async def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> RunStates:
        async with log_of(self._options["log"], read_only=not self._options["wait"]) as log:
            request = await self._request(log, args, kwargs)
            return await self._execute(log, request)

    async def _request(self, log: EventLog, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request:
        """Return the request for the run; a parameter of an existing run that is not given is as recorded."""
        built, run_id = self._built, self._options["run_id"]
        birth: RunStarted | None = None
        parameters: dict[str, Payload] = {}
        if run_id is not None:
            birth = await birth_of(log, run_id)
        if birth is not None:
            parameters.update(birth.parameters)
        elif not self._options["wait"]:
            raise RunNotFound(f"there is no run {run_id!r} in this log")
        extra_values: list[Value] = []
        given = built.given(args, kwargs)
        for name, value in built.convert(given, only_given=birth is not None).items():
            parameters[name], extra_value = to_store(built.serialize(name, value, log.keyring))
            if extra_value is not None:
                extra_values.append(extra_value)
        return Request(
            options=self._options,
            entry=built.entry,
            parameters=parameters,
            given=frozenset(given),
            extra_values=tuple(extra_values),
        )

    async def _execute(self, log: EventLog, request: Request) -> RunStates:
        built, options = self._built, self._options
        world = options["world"] or RealWorld()
        view = RunView(options["run_id"] or world.new_id(), built.plan)
        serializers = RunSerializers(built.plan, built.bindings, built.serializers, log.keyring)
        executor = world.executor()
        runner = FlowRunner(view, serializers, built.bindings, log, world, executor, request)
        try:
            facts = await (runner.run() if options["wait"] else runner.look())
        finally:
            executor.close()
        return RunStates(
            view,
            facts,
            peek=log.peek,
            serializers=serializers,
            locate=built.locate,
            errors=dict(runner.errors),
            is_stopped=await is_stopped(log, view.run_id, facts),
        )


async def state_of(run_id: str, *, log: EventLog | str | None = None) -> State:
    """Return the State of a run by its id. It is read from the log alone, without the flow's code.

    `log` is a log or a URL; without it, the default log. Nothing is run or written. Results of plain data can be read.
    Results of declared classes and pickled ones raise `DeserializationError`, since they need the flow's code: use
    `flow.options(run_id=..., wait=False).run()` for them. Raises `RunNotFound`, and `LogUnusable` if there is no log
    at the URL. The State of a run whose owner has ended without releasing it is `Pending`.

    ```python
    from eventflow import MemoryLog, flow, state_of, task

    @task
    def total(orders: list[int]) -> int:
        return sum(orders)

    @flow
    def nightly() -> int:
        return total([1, 2, 3])

    log = MemoryLog()
    await nightly.options(run_id="nightly-7", log=log).run()
    state = await state_of("nightly-7", log=log)
    print(state.is_successful(), state.result["total"].result)
    ```

    ```text
    True 6
    ```
    """
    async with log_of(log, read_only=True) as opened:
        view = await open_run(opened, run_id)
        facts = await read_run(opened, view)
        stopped = await is_stopped(opened, run_id, facts)
        return RunStates(view, facts, peek=opened.peek, is_stopped=stopped).state


def _evaluate(arg: Arg, states: RunStates) -> Any:
    """Return the Python value of a flow: its returned nodes, with their values in place."""
    match arg:
        case Ref():
            return _value_of(states.at_ref(arg), states)
        case Const(value=payload):
            return Result(payload, True).deserialize().value
        case ListOf(items=items):
            return [_evaluate(part, states) for part in items]
        case TupleOf(items=items):
            return tuple([_evaluate(part, states) for part in items])
        case DictOf(keys=keys, items=items):
            return {key: _evaluate(part, states) for key, part in zip(keys, items, strict=True)}
        case _:
            assert_never(arg)


def _value_of(state: State, states: RunStates) -> Any:
    if isinstance(state, Mapped):
        return [_value_of(child, states) for child in state.map_states if child is not None]
    if isinstance(state, Failed):
        raise states.root_error(state)
    return state.result
