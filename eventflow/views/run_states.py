"""Shows the facts of a run as States: of each task, of each mapped child, and of the run itself.

States are built when they are asked for, from the plan and the facts, so they show the facts of that moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, assert_never, cast

from eventflow import states
from eventflow.events import Failure, Source, run_of
from eventflow.graph import Ref, Subscript
from eventflow.machine import Phase, Status, causes, sources
from eventflow.machine.inputs import leaf_of, leaves
from eventflow.records import LogDamaged
from eventflow.result import NoResultType, Result
from eventflow.states import Failed, State, TaskError
from eventflow.suggestions import did_you_mean
from eventflow.views.results import Peek, ResultReader
from eventflow.views.run import Ending, RunFacts, RunView
from eventflow.views.run_serializers import RunSerializers
from eventflow.views.states_serializer import StatesSerializer

__all__ = ["STATES", "Locate", "RunStates"]

Locate: TypeAlias = Callable[[Any], Ref]
"""Finds the reference that a node object is; raises `TypeError` for anything else."""

STATES: Final[Mapping[int, type[State]]] = {
    Status.PENDING: states.Pending,
    Status.RUNNING: states.Running,
    Status.RETRYING: states.Retrying,
    Status.SUCCEEDED: states.Success,
    Status.REUSED: states.Cached,
    Status.MAPPED: states.Mapped,
    Status.SKIPPED: states.Skipped,
    Status.FAILED: states.Failed,
    Status.TIMED_OUT: states.TimedOut,
    Status.BLOCKED: states.TriggerFailed,
    Status.CRASHED: states.Crashed,
}
"""The class of state that shows a status."""
_NAMED_MAX: Final = 8
"""Number of names in an error message."""
_CHILD: Final = re.compile(r"([^\[]*)((?:\[(?:0|[1-9][0-9]{0,8})\])+)")
"""The name of a mapped child: the name of its node, then indices such as `[3]` or `[3][0]`."""


class RunStates(Mapping[Any, State]):
    """The states of a run's tasks by name (`enrich`, `enrich[3]`), by address, or by node.

    You get one as `state.result`. Build one yourself only to look at the past. A *slot* is the number of a task or child in a
    run; an address is the index of a node, followed by map indices.

    Iterating gives the names of the nodes; mapped children are not listed, but can be looked up by name.

    ```python
    from eventflow import MemoryLog, RunStates, flow, open_run, replay, task


    @task
    def inverse(number: int) -> float:
        return 1 / number


    @flow
    def inverses(numbers: list[int]) -> list[float]:
        return inverse.map(numbers)


    log = MemoryLog()
    await inverses.options(log=log, run_id="a").run(numbers=[4, 0])

    view = await open_run(log, "a")
    fold = await replay(log, view, stream=view.stream)
    run_states = RunStates(view, fold.state, peek=log.peek)
    print(run_states["inverse[0]"].result, type(run_states["inverse[1]"]).__name__)
    print(run_states.state.message)
    print(run_states.root_error())

    slot = run_states.slot("inverse[1]")
    print(run_states.at(slot).message)
    print({name: result.deserialize().value for name, result in run_states.inputs(slot).items()})
    print(len(run_states.statuses_below(run_states.slot("inverse"))))
    print(type(run_states.at_ref(view.plan.graph.value)).__name__)
    ```

    ```text
    0.25 Failed
    inverse[1] failed: ZeroDivisionError: division by zero
    task 'inverse[1]' failed: ZeroDivisionError: division by zero
    ZeroDivisionError: division by zero
    {'number': 0}
    2
    Mapped
    ```
    """

    def __init__(
        self,
        view: RunView,
        facts: RunFacts,
        *,
        peek: Peek | None = None,
        serializers: RunSerializers | None = None,
        locate: Locate | None = None,
        errors: Mapping[int, BaseException] | None = None,
        is_stopped: bool = False,
    ) -> None:
        """Show `facts`, which `view` has folded.

        `peek` reads values that are stored outside the events: pass the log's own; without it they raise
        `ResultNotLoaded`. Without `serializers` plain data opens, typed and pickled values do not. `locate` allows nodes
        as keys. `errors` are the exceptions at hand in this process, by slot. `is_stopped` says that the run's owner has
        ended without releasing the run, which the events do not contain: then nothing is shown as running.
        """
        self._view = view
        self._facts = facts
        self._reader = ResultReader(view.run_id, serializers or RunSerializers(view.plan), peek)
        self._locate = locate
        self._errors = errors or {}
        self.is_stopped = is_stopped
        """Whether the run's owner has ended without releasing the run."""
        self._built: dict[int, State] = {}

    def __iter__(self) -> Iterator[str]:
        return (node.name for node in self._view.plan.nodes)

    def __len__(self) -> int:
        return len(self._view.plan.nodes)

    def __repr__(self) -> str:
        return f"<states of the {len(self)} nodes of run {self._view.run_id!r}>"

    def __getitem__(self, key: Any) -> State:
        return self._part(*self._find(key))

    @property
    def run_id(self) -> str:
        """The run's id, with which it is resumed, rerun and looked up."""
        return self._view.run_id

    @property
    def phase(self) -> Phase:
        """The phase of the run as a whole."""
        return self._facts.run.phase

    @property
    def version(self) -> int:
        """The version of the last event that is shown."""
        return self._facts.run.version

    @property
    def state(self) -> State:
        """The run's own State; its `result` is this mapping."""
        facts = self._facts
        result = Result(self, False, StatesSerializer())
        match facts.run.phase:
            case Phase.FINISHED:
                return self._finished(result)
            case Phase.CLAIMED if self.is_stopped:
                message = "its owner has ended without releasing it"
                return states.Pending(message=message, _result=result)
            case Phase.CLAIMED:
                return states.Running(message=_running(facts.run.running), _result=result)
            case Phase.NEW | Phase.STARTED | Phase.RELEASED:
                return states.Pending(message="not running", _result=result)
            case _:
                assert_never(facts.run.phase)

    def _finished(self, result: Result) -> State:
        message = self._facts.message
        match self._facts.run.outcome:
            case "success":
                return states.Success(message="all tasks that decide the outcome succeeded", _result=result)
            case "cancelled":
                return states.Cancelled(message=message, _result=result)
            case _:  # `failed`: the words are a closed list, and another one is refused when it is decoded
                return states.Failed(message=message, _result=result)

    # -- finding a task -----------------------------------------------------------------------------

    def slot(self, name: str) -> int:
        """Return the slot of a task or mapped child by its name; a `KeyError` names a similar task, if there is one."""
        index = self._view.plan.graph.index
        if name in index:
            return index[name]
        if child := _CHILD.fullmatch(name):
            node, indices = child.groups()
            with suppress(LookupError):
                return self._facts.run.slot((index[node], *map(int, indices[1:-1].split("]["))))
        some = [node.name for node in self._view.plan.nodes[:_NAMED_MAX]]
        more = ", …" if len(index) > _NAMED_MAX else ""
        otherwise = f"there is {', '.join(map(repr, some))}{more}" if some else ""
        hint = did_you_mean(name.partition("[")[0], index, otherwise=otherwise)
        raise KeyError(f"the run has no task {name!r}{hint}")

    def at_ref(self, ref: Ref) -> State:
        """Return the state of the task behind a node, or of the part of its value that the node refers to."""
        return self._part(*self._find_ref(ref))

    def at(self, slot: int) -> State:
        """Return the state of the task in a slot."""
        state = self._built.get(slot)
        if state is None:
            state = self._build(slot)
            if isinstance(state, states.Finished) and not isinstance(state, states.Mapped):
                self._built[slot] = state
        return state

    def root_error(self, state: Failed | None = None) -> TaskError:
        """Return the error behind a failed task, or behind the run: of the first task that failed by itself.

        A task whose trigger refused is passed over: its upstreams have the error. Raises `LookupError` for a run of
        which no task has failed.
        """
        if state is not None and not isinstance(state, states.TriggerFailed):
            return cast(TaskError, state.result)
        plan, run = self._view.plan, self._facts.run
        slots = plan.judged if state is None else [self.slot(state.task)]
        failed = causes(plan, run, slots)
        if not failed:
            raise LookupError(f"no task of run {self.run_id!r} has failed: {self.state.message}")
        first = self.at(failed[0])
        assert isinstance(first, Failed)
        return cast(TaskError, first.result)

    def statuses_below(self, slot: int) -> bytes | None:
        """Return the `Status` of each child of a mapped task as it is shown, None if it has no children yet.

        No states are built: there may be a million children.
        """
        children = self._facts.run.maps.get(slot)
        if children is None:
            return None
        statuses = bytes(self._facts.run.status[children.base : children.base + children.width])
        if self.is_stopped:
            return statuses.replace(bytes([Status.RUNNING]), bytes([Status.PENDING]))
        return statuses

    def _find(self, key: Any) -> tuple[int, tuple[Subscript, ...]]:
        run = self._facts.run
        if isinstance(key, str):
            return self.slot(key), ()
        if isinstance(key, tuple):
            try:
                return run.slot(key), ()
            except (LookupError, TypeError):
                raise KeyError(f"the run has no task {key!r}") from None
        if self._locate is None:
            raise KeyError(f"{key!r}: look a task up by its name or its address")
        try:
            ref = self._locate(key)
        except TypeError as error:  # it is no node, or a node of another flow
            raise KeyError(str(error)) from error
        return self._find_ref(ref)

    def _find_ref(self, ref: Ref) -> tuple[int, tuple[Subscript, ...]]:
        leaf = leaf_of(self._facts.run, "", ref)
        return leaf.slot, leaf.path

    def _name(self, slot: int) -> str:
        return self._facts.run.name(self._view.plan, slot)

    # -- building its state -------------------------------------------------------------------------

    def _part(self, slot: int, path: tuple[Subscript, ...]) -> State:
        state = self.at(slot)
        if not path or not isinstance(state, states.Success):
            return state
        try:
            value = state.result
            for step in path:
                value = value[step]
        except (LookupError, TypeError) as error:
            name = self._name(slot) + "".join(f"[{step!r}]" for step in path)
            failure = Failure(type=type(error).__name__, message=f"no such part: {error}")
            return states.Failed(message=f"{name}: {error}", failure=failure, task=name)
        return states.Success(message=state.message, _result=Result(value, False))

    def _build(self, slot: int) -> State:  # noqa: PLR0911 - one return for each status
        facts, run = self._facts, self._facts.run
        status = Status(run.status[slot])
        ending = facts.kept.get(run.source[slot])
        match status:
            case Status.PENDING:
                return states.Pending(message=self._why_pending(slot), cached_inputs=self.inputs(slot))
            case Status.RUNNING if self.is_stopped:
                message = f"attempt {run.attempt[slot]} was interrupted"
                return states.Pending(message=message, cached_inputs=self.inputs(slot))
            case Status.RUNNING:
                message = f"attempt {run.attempt[slot]}"
                return states.Running(message=message, cached_inputs=self.inputs(slot))
            case Status.RETRYING:
                return states.Retrying(
                    message=facts.retrying[slot].message,
                    start_time=_moment(run.retry_at[slot]),
                    run_count=run.attempt[slot],
                    cached_inputs=self.inputs(slot),
                )
            case Status.SUCCEEDED:
                return states.Success(_result=self._own_result(slot), cached_inputs=self.inputs(slot))
            case Status.REUSED:
                reused = facts.reused[run.source[slot]]
                return states.Cached(
                    message=f"from {run_of(reused.source.stream)!r}",
                    _result=self._own_result(slot),
                    cached_inputs=self.inputs(slot),
                    source=(reused.source.stream, reused.source.version),
                    expires_at=_moment(reused.expires_at),
                )
            case Status.MAPPED:
                children = run.maps[slot]
                below = [self.at(child) for child in range(children.base, children.base + children.width)]
                return states.Mapped.of(below)
            case Status.SKIPPED:
                assert isinstance(ending, Ending)
                return states.Skipped(message=ending.message)
            case Status.FAILED | Status.TIMED_OUT | Status.BLOCKED | Status.CRASHED:
                assert isinstance(ending, Ending)
                return self._failed(slot, status, ending)
            case _:
                assert_never(status)

    def _failed(self, slot: int, status: Status, ending: Ending) -> State:
        state = cast(type[Failed], STATES[status])(
            message=ending.message,
            failure=ending.failure,
            task=self._name(slot),
            cached_inputs=self.inputs(slot),
        )
        if slot in self._errors:
            state.__dict__["live"] = self._errors[slot]
        return state

    def _why_pending(self, slot: int) -> str:
        waiting = self._facts.run.waiting[slot]
        if waiting:
            return f"waits for {waiting} upstreams"
        return "due"

    def _own_result(self, slot: int) -> Result | NoResultType:
        version = self._facts.run.source[slot]
        source: Source = version
        if slot in self._view.plan.parameters:
            source = (version, self._view.plan.parameters[slot].name)
        return self._reader.result(self._facts, source, slot)

    def inputs(self, slot: int) -> dict[str, Result]:
        """Return the inputs of a task's last attempt by argument, joined with their Results.

        Of a run that a newer version wrote to, none are returned where they do not fit the graph.
        """
        try:
            return self._inputs(slot)
        except LogDamaged:
            if self._facts.is_newer:
                return {}
            raise

    def _inputs(self, slot: int) -> dict[str, Result]:
        facts, plan = self._facts, self._view.plan
        recorded = facts.inputs.get(slot)
        if recorded is None:
            if facts.run.status[slot] != Status.REUSED:
                return {}
            recorded = sources(plan, facts.run, slot)  # a reused task took no inputs: show those of a call
        expected = list(leaves(plan, facts.run, slot))
        if len(expected) != len(recorded):
            raise LogDamaged(
                f"run {self.run_id!r} records {len(recorded)} inputs of {self._name(slot)!r}, which has {len(expected)}"
            )
        results: dict[str, Result | NoResultType] = {}
        for leaf, source in zip(expected, recorded, strict=True):
            if leaf.children is None:
                result = self._reader.result(facts, source, leaf.slot, is_element=leaf.is_element)
                results[leaf.label] = result
                continue
            for nth, child in enumerate(leaf.children):
                result = self._reader.result(facts, facts.run.source[child], child)
                results[f"{leaf.label}[{nth}]"] = result
        return {label: result for label, result in results.items() if isinstance(result, Result)}


def _running(count: int) -> str:
    """Say how many tasks of an owned run are running."""
    if count == 0:
        return "started, no task running at this moment"
    return f"{count} task running" if count == 1 else f"{count} tasks running"


def _moment(at_us: int | None) -> datetime | None:
    if at_us is None:
        return None
    return datetime.fromtimestamp(at_us / 1e6, UTC)
