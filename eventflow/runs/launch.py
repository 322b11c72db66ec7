"""One call of a flow: its options, and what it gives back.

`Launch` is what `flow.options(...)` returns, and what `flow.run` uses with no options at all.  It turns
values into payloads, asks the runner for the run, and the run's facts into States and values.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from eventflow.events import Origin, RunStarted, run_stream
from eventflow.fingerprints.type_defs import Difference
from eventflow.graph import Arg, Const, DictOf, Graph, ListOf, ParameterNode, Ref, TupleOf
from eventflow.history.rerun import kept_results
from eventflow.logs.open import log_of
from eventflow.logs.urls import check_url
from eventflow.machine import Command, Phase, Plan
from eventflow.ports import Bindings, Durability, EventLog, Value, World
from eventflow.projections import RunNotFound, open_run, read_graph
from eventflow.result import (
    Inline,
    NoResult,
    Payload,
    Result,
    ResultError,
    ResultSerializer,
    SerializationError,
    identical,
)
from eventflow.runner.compatibility import OnChange, of_another_type
from eventflow.runner.flow_runner import FlowRunner
from eventflow.runner.live_values import to_store
from eventflow.runner.ownership import fold
from eventflow.runner.request import Request
from eventflow.runs.world import RealWorld
from eventflow.serializers import Serializer
from eventflow.serializers.recorded import AsRecorded
from eventflow.states import Failed, Mapped, State
from eventflow.views.results import fetcher
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_serializers import RunSerializers, serialization_differences
from eventflow.views.run_states import RunStates

__all__ = ["Launch", "NoValue", "Options", "RunNotFinished", "Runnable", "state_of"]

P = ParamSpec("P")
R = TypeVar("R")

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+@-]{0,199}")
_ON_CHANGE: Final = ("refuse", "keep")
_DURABILITIES: Final = ("full", "normal", "pipelined")


class NoValue(LookupError):
    """The run succeeded, but what its flow returns was skipped, so there is no value."""


class RunNotFinished(RuntimeError):
    """What was asked needs a run that has finished, and this one can still go on."""


class Runnable(Protocol):
    """What running needs of a flow."""

    name: str
    entry: str
    returns: bool
    """Whether it says what its value is, be it nothing."""

    @property
    def graph(self) -> Graph:
        """The flow as data."""
        ...

    @property
    def plan(self) -> Plan:
        """What the machine derives from the graph."""
        ...

    @property
    def bindings(self) -> Bindings:
        """The live side of its tasks."""
        ...

    @property
    def openers(self) -> Mapping[str, ResultSerializer]:
        """For each parameter, the serializer of its declared type."""
        ...

    def locate(self, node: object) -> Ref:
        """Where the value of a node lies; raises `BuildError`."""
        ...

    def bind(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, only_given: bool = False
    ) -> Mapping[str, Any]:
        """Every parameter's converted value, or that of each given one; raises `ParameterError`."""
        ...

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[str]:
        """Names of the parameters that are given, not left to their defaults."""
        ...


def _is_run_id(given: object) -> bool:
    return isinstance(given, str) and _RUN_ID.fullmatch(given) is not None


def _is_text(given: object) -> bool:
    return isinstance(given, str) and given.isprintable()


class Options(msgspec.Struct, frozen=True):
    """How a flow is run, apart from its parameters."""

    run_id: str | None = None
    log: EventLog | str | None = None
    labels: Mapping[str, str] = {}
    durability: Durability = "full"
    wait: bool = True
    on_change: OnChange = "refuse"
    world: World | None = None

    def checked(self, flow: str) -> Options:
        """Itself; `TypeError` or `ValueError` for an option that cannot be."""
        where = f"flow {flow!r}, options"
        if self.run_id is not None and not _is_run_id(self.run_id):
            raise ValueError(
                f"{where}: run_id={self.run_id!r} is not 1 to 200 of letters, digits and any of _.:+@- "
                "(the first a letter or digit)"
            )
        if type(self.wait) is not bool:
            raise TypeError(f"{where}: wait={self.wait!r:.80} is neither True nor False")
        if not self.wait and self.run_id is None:
            raise ValueError(
                f"{where}: wait=False only looks at a run that exists, so say which: run_id=...; to start a run, leave "
                "wait=False out"
            )
        if isinstance(self.log, str):
            check_url(self.log, f"{where}, log")
        elif isinstance(self.log, type):
            raise TypeError(f"{where}: log={self.log.__name__} is a class; give a log made of it")
        elif self.log is not None and not callable(getattr(self.log, "append", None)):
            raise TypeError(
                f"{where}: log={self.log!r:.80} is no log; give one like MemoryLog(), or a URL like "
                "'sqlite:///runs.db'"
            )
        if self.durability not in _DURABILITIES:
            raise ValueError(f"{where}: durability={self.durability!r} is none of {', '.join(_DURABILITIES)}")
        if self.on_change not in _ON_CHANGE:
            raise ValueError(f"{where}: on_change={self.on_change!r} is none of {', '.join(_ON_CHANGE)}")
        if not isinstance(self.labels, Mapping):
            raise TypeError(f"{where}: labels={self.labels!r:.80} is not a mapping of text to text")
        for key, text in self.labels.items():
            if not _is_text(key) or not _is_text(text):
                raise TypeError(f"{where}: labels are text by text, not {key!r}: {text!r:.80}")
        return self


class Launch(Generic[P, R]):
    """A flow with its options, ready to be run."""

    def __init__(self, flow: Runnable, options: Options) -> None:
        self._flow = flow
        self._options = options.checked(flow.name)

    async def run(self, /, *args: P.args, **kwargs: P.kwargs) -> State:
        """Run the flow to its end and give its final State; `state.result` maps tasks to their States.

        A new `run_id` starts a run. That of an unfinished one resumes it: finished tasks are not run
        again. That of a finished one gives what was recorded, and executes nothing. One that is live
        elsewhere is followed, and taken over if its owner dies. With `wait=False` nothing is started or resumed:
        the State is what the log says now, `RunNotFound` is raised if it knows no such run, and `LogUnusable` if the
        log's URL is that of a log that does not exist.

        Raises `ParameterError` before anything is appended, `ParametersDiffer` or `FlowChanged` when an
        existing run was started with others. A task's failure is no exception here but part of the State.
        Cancelled, it cancels the bodies, lets go of the run in good order, and the run can be resumed.
        """
        async with self._call() as call:
            _, run_states = await call.run(args, kwargs)
        return run_states.state

    async def value(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the flow as `run` does and give what it returns, as a Python value.

        Raises `TaskError` when the run failed: the error of what the flow returns, or else of the task that failed
        first, with the live exception as its cause if it was raised in this process; `NoValue` when that task was skipped; `TypeError` for a flow that was
        spelled out in a `with` block.
        """
        if not self._flow.returns:
            raise TypeError(
                f"flow {self._flow.name!r} was spelled out in a `with` block and returns no node: "
                "use `.run(...)` and look into `state.result[node].result`"
            )
        async with self._call() as call:
            view, run_states = await call.run(args, kwargs)
        arg = self._flow.graph.value
        if run_states.phase != Phase.FINISHED:
            raise RunNotFinished(f"run {view.run_id!r} has no value yet: {run_states.state.message}")
        value: Any = None if arg is None else _evaluate(arg, run_states)
        if isinstance(run_states.state, Failed):  # though perhaps not what it returns
            raise run_states.root_error()
        if value is NoResult:
            assert isinstance(arg, Ref), "what is made of several values is a value"
            raise NoValue(
                f"flow {self._flow.name!r} returns the value of a task that was skipped: "
                f"{run_states.at_ref(arg).message}"
            )
        found: R = value
        return found

    async def rerun(self, run_id: str, /) -> State:
        """Make a new run that keeps an old run's successes and runs the rest with today's code.

        The old run has finished, or was interrupted and is nobody's; its parameters are taken over. Raises
        `RunNotFound`, `RunNotFinished` for a run that is live, and `ValueError` for a run of another flow or
        when `options(run_id=...)` names a run that exists and is not this rerun.
        """
        if not self._options.wait:
            raise ValueError(
                f"flow {self._flow.name!r}: a rerun is a new run, and wait=False starts none: leave it out"
            )
        async with self._call() as call:
            run_states = await call.rerun(run_id)
        return run_states.state

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[_Call]:
        options = self._options
        async with log_of(options.log, read_only=not options.wait) as log:
            yield _Call(self._flow, options, log)


class _Call:
    """One call, with the log that it goes to."""

    def __init__(self, flow: Runnable, options: Options, log: EventLog) -> None:
        self._flow = flow
        self._options = options
        self._log = log
        self._world = options.world if options.world is not None else RealWorld()

    async def rerun(self, run_id: str) -> RunStates:
        """Keep what an old run has, and run the rest."""
        old = await open_run(self._log, run_id)
        is_live = await self._log.is_live(run_id)
        facts = await fold(self._log, old)
        is_live = is_live or await self._log.is_live(run_id)  # one that began meanwhile, too
        if is_live and facts.run.phase != Phase.FINISHED:
            raise RunNotFinished(f"run {run_id!r} is live: rerun it once it has ended or was let go of")
        if old.plan.graph.name != self._flow.name:
            raise ValueError(
                f"run {run_id!r} is a run of flow {old.plan.graph.name!r}, not of {self._flow.name!r}"
            )
        missing = [
            name
            for name, node in self._flow.graph.parameters.items()
            if name not in facts.parameters and node.required
        ]
        if missing:
            raise ValueError(
                f"run {run_id!r} has no value for the parameters {', '.join(missing)} of today's flow"
            )
        await self._check_carried(old, facts)
        beside: list[Value] = []
        parameters = {
            name: facts.parameters[name] if name in facts.parameters else _default_of(node, beside)
            for name, node in self._flow.graph.parameters.items()
        }
        origin = Origin(old.stream, facts.run.version)
        await self._check_target(old)
        request = self._request(
            parameters,
            frozenset(),
            tuple(beside),
            origin=origin,
            first=await kept_results(self._log, old, facts, self._flow.plan),
        )
        _, run_states = await self._execute(request)
        return run_states

    async def _check_carried(self, old: RunView, facts: RunFacts) -> None:
        """Refuse parameters whose type is another one today, unless today's takes the very value.

        Raises `FlowChanged`, or `TypeChanged` where a class inside a value is not what it was.
        """
        then, today = await read_graph(self._log, facts.flow_at(1)), self._flow.graph
        held: dict[str, tuple[Difference, ...]] = {}
        for name in today.parameters:
            payload, before = facts.parameters.get(name), then.index.get(name)
            if payload is None or before is None:
                continue
            changed = serialization_differences(then, before, today, today.index[name])
            if changed and not self._takes(name, payload, changed):
                held[f"parameter {name!r}"] = changed
        if held:
            raise of_another_type(
                f"run {old.run_id!r} has parameters whose type is another one today",
                held,
                "begin a new run with these parameters, or rerun it with the types as they were",
            )

    def _takes(self, name: str, payload: Payload, changed: tuple[Difference, ...]) -> bool:
        """Whether a parameter's type of today takes a value of another one as it is."""
        opener = AsRecorded(self._opener(name), f"parameter {name!r}", changed)
        try:
            value = Result(payload, True, opener, fetch=fetcher(self._log.peek)).deserialize().value
            return identical(value, self._flow.bind((), {name: value}, only_given=True)[name])
        except (ResultError, TypeError):  # today's type refuses it
            return False

    async def _check_target(self, old: RunView) -> None:
        """Refuse to rerun into a run that exists, unless it is this very rerun, to be resumed."""
        target = self._options.run_id
        born = await self._birth(target) if target is not None else None
        if born is not None and (born.origin is None or born.origin.stream != old.stream):
            raise ValueError(
                f"run {target!r} exists already: a rerun is a new run, so choose another run_id, or none"
            )

    async def _birth(self, run_id: str) -> RunStarted | None:
        """How a run began, if it did."""
        async for record in self._log.read(stream=run_stream(run_id)):
            if isinstance(record.event, RunStarted):
                return record.event
            break
        return None

    async def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[RunView, RunStates]:
        """Start, resume or follow the run; of one that exists, a parameter that is not given is as recorded."""
        run_id = self._options.run_id
        born = await self._birth(run_id) if run_id is not None else None
        if born is None and not self._options.wait:
            raise RunNotFound(f"there is no run {run_id!r} in this log")
        values = self._flow.bind(args, kwargs, only_given=born is not None)
        parameters = dict(born.parameters) if born is not None else {}
        beside: list[Value] = []
        for name, value in values.items():
            try:
                parameters[name] = _to_store(self._opener(name).serialize(value), beside)
            except SerializationError as error:
                raise SerializationError(f"flow {self._flow.name!r}, parameter {name!r}: {error}") from error
        return await self._execute(self._request(parameters, self._flow.given(args, kwargs), tuple(beside)))

    def _opener(self, name: str) -> ResultSerializer:
        found = self._flow.openers[name]
        return found.with_keyring(self._log.keyring) if isinstance(found, Serializer) else found

    def _request(
        self,
        parameters: Mapping[str, Payload],
        given: frozenset[str],
        beside: tuple[Value, ...],
        *,
        origin: Origin | None = None,
        first: tuple[Command, ...] = (),
    ) -> Request:
        options = self._options
        return Request(
            parameters=parameters,
            given=given,
            beside=beside,
            durability=options.durability,
            labels=options.labels,
            entry=self._flow.entry,
            fresh=options.run_id is None,
            on_change=options.on_change,
            origin=origin,
            why="" if origin is None else "rerun",
            first=first,
        )

    async def _execute(self, request: Request) -> tuple[RunView, RunStates]:
        flow, log = self._flow, self._log
        view = RunView(self._options.run_id or self._world.new_id(), flow.plan)
        serializers = RunSerializers(flow.plan, flow.bindings, flow.openers, log.keyring)
        executor = self._world.executor()
        runner = FlowRunner(view, serializers, flow.bindings, log, self._world, executor, request)
        try:
            facts = await (runner.run() if self._options.wait else runner.look())
        finally:
            executor.close()
        run_states = RunStates(
            view,
            facts,
            peek=log.peek,
            serializers=serializers,
            locate=flow.locate,
            errors=dict(runner.errors),
        )
        return view, run_states


async def state_of(run_id: str, *, log: EventLog | str | None = None) -> State:
    """The State of a run by its id, from the log alone: neither the flow's code is needed, nor is any run.

        state = await state_of("nightly-7", log="sqlite:///runs.db")
        state.is_successful(), state.result["total"].result

    `log` is a log or a URL; without it, the default log. Results of plain data open; those of declared classes and
    pickled ones raise `DeserializationError`, for they need the flow's code: `flow.options(run_id=..., wait=False)`.
    Raises `RunNotFound`, and `LogUnusable` if the URL is that of a log that does not exist. Writes nothing; cancelled,
    it just stops.
    """
    async with log_of(log, read_only=True) as opened:
        view = await open_run(opened, run_id)
        return RunStates(view, await fold(opened, view), peek=opened.peek).state


def _to_store(payload: Inline, beside: list[Value]) -> Payload:
    """What the event says of a parameter; the bytes of a large one go `beside` it."""
    kept, value = to_store(payload)
    if value is not None:
        beside.append(value)
    return kept


def _default_of(node: ParameterNode, beside: list[Value]) -> Payload:
    assert node.default is not None, "the parameters without one were asked for"
    payload = node.default.value
    return _to_store(payload, beside) if isinstance(payload, Inline) else payload


def _evaluate(arg: Arg, run_states: RunStates) -> Any:
    """The Python value of what a flow returned."""
    match arg:
        case Ref():
            return _value_of(run_states.at_ref(arg), run_states)
        case Const(value=payload):
            return Result(payload, True).deserialize().value
        case ListOf(items=items):
            return [_evaluate(part, run_states) for part in items]
        case TupleOf(items=items):
            return tuple([_evaluate(part, run_states) for part in items])
        case DictOf(keys=keys, items=items):
            return {key: _evaluate(part, run_states) for key, part in zip(keys, items, strict=True)}


def _value_of(state: State, run_states: RunStates) -> Any:
    if isinstance(state, Mapped):
        return [_value_of(child, run_states) for child in state.map_states if child is not None]
    if isinstance(state, Failed):
        raise run_states.root_error(state)
    return state.result
