"""One run as it stood at any of its events: every task's State, its inputs, its result.

`RunView` is the projection, a fold of the run's stream into `RunFacts`; a `Picture` is what a person
looks at, built on access from facts and plan.  The runner folds the very same projection, so what it
acts on, what it returns and what a replay shows are one thing.

    view = await RunView.of(log, run_id)
    fold = await replay(log, view, stream=view.stream, until=position)
    view.picture(fold.state)["total"].result
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from eventflow import states
from eventflow.events import (
    Failure,
    FlowDefined,
    LogDamaged,
    Record,
    RunStarted,
    Source,
    Unknown,
    flow_stream,
    kind_of,
    run_stream,
)
from eventflow.graph import Graph, Ref, Subscript
from eventflow.machine import IllegalEvent, Phase, Plan, RunState, Status, causes, sources
from eventflow.machine.inputs import leaves
from eventflow.ports import Bindings, EventLog
from eventflow.result import (
    Inline,
    NoResult,
    NoResultType,
    Payload,
    Result,
    ResultNotLoaded,
    ResultSerializer,
    Stored,
    Withheld,
)
from eventflow.serializers import Keyring, Serializer
from eventflow.states import Failed, State, TaskError
from eventflow.suggestions import did_you_mean
from eventflow.views.openers import Openers
from eventflow.views.run_facts import Ending, RunFacts, advance
from eventflow.views.sequences import follow_path

__all__ = ["STATES", "Picture", "RunNotFound", "RunView", "fetcher", "graph_of"]


class RunNotFound(LookupError):
    """The log has no run of that id."""


async def graph_of(log: EventLog, digest: str) -> Graph:
    """The graph that stands in the log under its digest."""
    async for record in log.read(stream=flow_stream(digest)):
        if isinstance(record.event, FlowDefined):
            return record.event.graph
        if isinstance(record.event, Unknown):
            raise RunNotFound(
                f"flow {digest} is recorded as a {record.event.kind!r}: a newer eventflow wrote it"
            )
    raise LogDamaged(f"the log has no flow {digest}, which one of its runs is of")


class RunView:
    """Projection: one run's stream → `RunFacts`."""

    name: Final = "run"
    version: Final = 1
    modules: Final = (
        "eventflow.views.run_facts", "eventflow.machine.evolve", "eventflow.machine.state", "eventflow.machine.rules",
        "eventflow.machine.plan",
    )  # fmt: skip

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        *,
        bindings: Bindings | None = None,
        openers: Mapping[str, ResultSerializer] | None = None,
        keyring: Keyring | None = None,
        fetch: Callable[[Stored], Inline] | None = None,
        locate: Callable[[Any], tuple[int, tuple[Subscript, ...]]] | None = None,
    ) -> None:
        """View a run of the flow behind `plan`.

        With `bindings`, `openers` (of parameters) and `keyring` results open with their tasks' declared
        types, and pickles open at all; without them what plain data can say is shown, and nothing is ever
        unpickled. `fetch` reads stored bytes from local disk; `locate` finds the place of a node handle.
        """
        self.run_id = run_id
        self.stream: Final = run_stream(run_id)
        """The stream that is folded."""
        self.snapshot_name: Final = f"{self.stream}/{plan.graph.digest}"
        """What the log may have kept a fold of it under; the graph is part of its meaning."""
        self.plan = plan
        self.fetch = fetch
        self.locate = locate
        self.openers = Openers(plan, bindings, openers or {}, keyring)

    @classmethod
    async def of(cls, log: EventLog, run_id: str) -> RunView:
        """The view of a run by its id, from the log alone; raises `RunNotFound`."""
        async for record in log.read(stream=run_stream(run_id)):
            if isinstance(record.event, RunStarted):
                plan = Plan(await graph_of(log, record.event.flow))
                return cls(run_id, plan, fetch=fetcher(log))
            if not isinstance(record.event, Unknown):
                raise LogDamaged(f"run {run_id!r} begins with a {kind_of(record.event)!r}")
            break
        raise RunNotFound(f"there is no run {run_id!r} in this log")

    def initial(self) -> RunFacts:
        """The facts before the first record."""
        return RunFacts.initial(self.plan)

    def apply(self, state: RunFacts, record: Record) -> RunFacts:
        """Fold one record of the run's stream; raises `ValueError` for another stream's.

        Raises `LogDamaged` for one that cannot have been written after those before it.
        """
        if record.stream != self.stream:
            raise ValueError(
                f"the view of run {self.run_id!r} was given a record of {record.stream!r}: fold one stream, "
                f"with replay(log, view, stream=view.stream)"
            )
        try:
            return advance(self.plan, state, record.version, record)
        except IllegalEvent as error:
            raise LogDamaged(
                f"record {record.position} of {record.stream!r} cannot stand there: {error}"
            ) from error

    def picture(self, facts: RunFacts) -> Picture:
        """What a person looks at. It shows the facts as they are when a state is asked for."""
        return Picture(self, facts)

    def serializer_of(self, slot: int, run: RunState) -> ResultSerializer:
        """What opens the result in a slot: bound to its task's declared type, if that is known."""
        return self.openers.serializer_of(slot, run)

    async def learn(self, log: EventLog, facts: RunFacts) -> None:
        """Read the graphs under which the run's values were made, which say of what types they are."""
        for _, flow in facts.flows if facts.is_foreign else ():
            if flow not in self.openers.graphs:
                self.openers.graphs[flow] = await graph_of(log, flow)

    def opener_of(self, slot: int, facts: RunFacts) -> ResultSerializer:
        """What opens the value that is recorded for a slot: one kept as another type only where that is harmless."""
        return self.openers.opener_of(slot, facts)

    def result(
        self, facts: RunFacts, source: Source, slot: int, *, is_element: bool = False
    ) -> Result | NoResultType:
        """The Result at a source that was taken from `slot`; the path to an element of a map ends with a position."""
        version, path = (source, ()) if isinstance(source, int) else (source[0], source[1:])
        serializer = self.opener_of(slot, facts)
        if not isinstance(version, int) or (version == 1 and not path):
            raise LogDamaged(
                f"run {self.run_id!r} says that an input of its came from {source!r}, which is no place"
            )
        if version == 1:
            payload: Payload | Ending | None = facts.parameters.get(str(path[0]))
            path = path[1:]
        else:
            payload = facts.kept.get(int(version))
        if payload is None or isinstance(payload, Ending):
            return NoResult
        return Result(
            payload,
            True,
            PartOf(serializer, path, is_element=is_element) if path else serializer,
            fetch=self.fetch,
        )


def fetcher(log: EventLog) -> Callable[[Stored], Inline]:
    """Reads stored bytes back from a log's local files, synchronously."""

    def fetch(stored: Stored) -> Inline:
        value = log.peek(stored.digest)
        if value is None:
            raise ResultNotLoaded(f"the {stored.size} bytes under {stored.digest.hex()} are not in the log")
        return Inline(stored.codec, value.data, stored.digest)

    return fetch


class PartOf:
    """Opens a part of a value: what a serializer gives, followed along a path of keys."""

    def __init__(
        self, whole: ResultSerializer, path: tuple[Subscript, ...], *, is_element: bool = False
    ) -> None:
        self.whole = whole
        self.path = path
        self.is_element = is_element
        """Whether the path ends with a position."""

    def serialize(self, value: Any) -> Inline:
        """Serialize a part by itself: the declared type of the whole is not that of the part."""
        if isinstance(self.whole, Serializer):
            return Serializer(type(value), self.whole.keyring).serialize(value)
        return self.whole.serialize(value)

    def deserialize(self, payload: Inline) -> Any:
        """Open the whole and follow the path; raises what the value raises for a missing key."""
        value = self.whole.deserialize(payload)
        return follow_path(value, self.path, is_element=self.is_element)

    def part(self, result: Result) -> Payload:
        """The payload of the part by itself, for the wire, where no path goes with it."""
        try:
            return self.serialize(result.deserialize().value)
        except Exception as error:  # noqa: BLE001 - indexing runs code of the value's own
            return Withheld(f"a part of a value that is kept as a whole: {error}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartOf) and (
            (self.whole, self.path, self.is_element) == (other.whole, other.path, other.is_element)
        )

    def __hash__(self) -> int:
        return hash(self.path)


def _moment(at_us: int | None) -> datetime | None:
    return None if at_us is None else datetime.fromtimestamp(at_us / 1e6, UTC)


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
_INDICES: Final = re.compile(r"(\[(0|[1-9][0-9]{0,8})\])+")
"""What follows a mapped task's name in its child's: `[3]`, `[3][0]`."""


class Picture(Mapping[Any, State]):
    """The states of a run's tasks by name (`enrich`, `enrich[3]`), by address, or by node.

    Iterating gives the names of the nodes; mapped children are found by name but not listed.
    """

    def __init__(self, view: RunView, facts: RunFacts) -> None:
        self._view = view
        self._facts = facts
        self._built: dict[int, State] = {}
        self.live: dict[int, BaseException] = {}
        """Exceptions at hand in this process, by slot."""

    def __iter__(self) -> Iterator[str]:
        return (node.name for node in self._view.plan.nodes)

    def __len__(self) -> int:
        return len(self._view.plan.nodes)

    def __repr__(self) -> str:
        return f"<states of the {len(self)} nodes of run {self._view.run_id!r}>"

    def __getitem__(self, key: Any) -> State:
        return self._part(*self._find(key))

    def at_ref(self, ref: Ref) -> State:
        """The state of the task behind a node, or of the part of its value that the node stands for."""
        return self._part(*self._find_ref(ref.node, ref.path))

    def root_error(self, state: Failed | None = None) -> TaskError:
        """The error behind a failed task, or behind the run: of the first task that failed by itself.

        A task whose trigger refused has no error of its own worth telling.
        """
        if state is not None and not isinstance(state, states.TriggerFailed):
            return cast(TaskError, state.result)
        plan, run = self._view.plan, self._facts.run
        slots = plan.judged if state is None else [self.slot(state.task)]
        found = self.at(causes(plan, run, slots)[0])
        assert isinstance(found, Failed)
        return cast(TaskError, found.result)

    def _part(self, slot: int, path: tuple[Subscript, ...]) -> State:
        state = self.at(slot)
        if not path or not isinstance(state, states.Success):
            return state
        try:
            value = state.result
            for step in path:
                value = value[step]
        except (LookupError, TypeError) as error:
            name = f"{self._name(slot)}{''.join(f'[{step!r}]' for step in path)}"
            failure = Failure(type=type(error).__name__, message=f"no such part: {error}")
            return states.Failed(message=f"{name}: {error}", failure=failure, task=name)
        return states.Success(message=state.message, _result=Result(value, False))

    def _find(self, key: Any) -> tuple[int, tuple[Subscript, ...]]:
        run = self._facts.run
        if isinstance(key, str):
            return self.slot(key), ()
        if isinstance(key, tuple):
            try:
                return run.slot(key), ()
            except (LookupError, TypeError):
                raise KeyError(f"the run has no task {key!r}") from None
        if self._view.locate is None:
            raise KeyError(f"{key!r}: look a task up by its name or its address")
        try:
            place = self._view.locate(key)
        except TypeError as error:  # what is no node, or one of another flow
            raise KeyError(str(error)) from error
        return self._find_ref(*place)

    def _find_ref(self, node: int, path: tuple[Subscript, ...]) -> tuple[int, tuple[Subscript, ...]]:
        children = self._facts.run.maps.get(node)
        if children and path and isinstance(path[0], int) and -children.width <= path[0] < children.width:
            return children.base + path[0] % children.width, path[1:]
        return node, path

    def slot(self, name: str) -> int:
        """The slot of the task of that name, which may be a child's; `KeyError` says what there is instead."""
        index = self._view.plan.graph.index
        found = index.get(name)
        if found is not None:
            return found
        base, _, rest = name.partition("[")
        try:
            if rest and not _INDICES.fullmatch(f"[{rest}"):
                raise KeyError(name)
            path = [int(part) for part in rest.rstrip("]").split("][")] if rest else []
            return self._facts.run.slot((index[base], *path))
        except LookupError:
            hint = did_you_mean(base, index, otherwise="")
            raise KeyError(f"the run has no task {name!r}{hint}") from None

    def _name(self, slot: int) -> str:
        return self._facts.run.name(self._view.plan, slot)

    @property
    def run_id(self) -> str:
        """The run's id, with which it is resumed, rerun and looked up."""
        return self._view.run_id

    @property
    def phase(self) -> Phase:
        """Where the run as a whole stands."""
        return self._facts.run.phase

    @property
    def version(self) -> int:
        """The last event that is shown."""
        return self._facts.run.version

    @property
    def state(self) -> State:
        """The run's own State; its `result` is this mapping."""
        facts = self._facts
        result = Result(self, False, states.StatesSerializer())
        match facts.run.phase:
            case Phase.FINISHED if facts.run.outcome == "success":
                return states.Success(message="all reference tasks succeeded", _result=result)
            case Phase.FINISHED:
                return states.Failed(message=facts.message, _result=result)
            case Phase.CLAIMED:
                return states.Running(message=f"{facts.run.running} tasks running", _result=result)
            case _:
                return states.Pending(message="nobody runs it", _result=result)

    def statuses_below(self, slot: int) -> bytes | None:
        """Of a mapped task that has its children, the `Status` of each; builds no states, for there may be a million."""
        children = self._facts.run.maps.get(slot)
        if children is None:
            return None
        return bytes(self._facts.run.status[children.base : children.base + children.width])

    def at(self, slot: int) -> State:
        """The state of the task in a slot."""
        state = self._built.get(slot)
        if state is None:
            state = self._build(slot)
            if isinstance(state, states.Finished) and not isinstance(state, states.Mapped):
                self._built[slot] = state
        return state

    def _build(self, slot: int) -> State:  # noqa: PLR0911 - one return for each status
        facts, run = self._facts, self._facts.run
        status = Status(run.status[slot])
        ended = facts.kept.get(run.source[slot])
        match status:
            case Status.PENDING:
                return states.Pending(message=self._why_pending(slot), cached_inputs=self.inputs(slot))
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
                    message=f"from {reused.source.stream.removeprefix('run/')!r}",
                    _result=self._own_result(slot),
                    cached_inputs=self.inputs(slot),
                    source=(reused.source.stream, reused.source.version),
                    expires_at=_moment(reused.expires_at),
                )
            case Status.MAPPED:
                children = run.maps[slot]
                found = [self.at(child) for child in range(children.base, children.base + children.width)]
                return states.Mapped.of(found)
            case Status.SKIPPED:
                assert isinstance(ended, Ending)
                return states.Skipped(message=ended.message)
            case _:
                assert isinstance(ended, Ending)
                return self._failed(slot, status, ended)

    def _failed(self, slot: int, status: Status, ended: Ending) -> State:
        state = cast(type[Failed], STATES[status])(
            message=ended.message,
            failure=ended.failure,
            task=self._name(slot),
            cached_inputs=self.inputs(slot),
        )
        if slot in self.live:
            state.__dict__["live"] = self.live[slot]
        return state

    def _why_pending(self, slot: int) -> str:
        waiting = self._facts.run.waiting[slot]
        return f"waits for {waiting} upstreams" if waiting else "due"

    def _own_result(self, slot: int) -> Result | NoResultType:
        plan, run = self._view.plan, self._facts.run
        version = run.source[slot]
        if slot in plan.parameters:
            return self._view.result(self._facts, (version, plan.nodes[slot].name), slot)
        return self._view.result(self._facts, version, slot)

    def inputs(self, slot: int) -> dict[str, Result]:
        """The inputs of a task's last attempt, joined with their Results now."""
        facts = self._facts
        recorded = facts.inputs.get(slot)
        if recorded is None:
            if facts.run.status[slot] != Status.REUSED:
                return {}
            recorded = sources(
                self._view.plan, facts.run, slot
            )  # it took none, but these are what it would take
        found: dict[str, Result | NoResultType] = {}
        places = list(leaves(self._view.plan, facts.run, slot))
        if len(places) != len(recorded):
            raise LogDamaged(
                f"run {self.run_id!r} says that {self._name(slot)!r} had {len(recorded)} inputs, and it has {len(places)}"
            )
        for leaf, source in zip(places, recorded, strict=True):
            if leaf.children is None:
                found[leaf.label] = self._view.result(facts, source, leaf.slot, is_element=leaf.is_element)
            else:
                for nth, child in enumerate(leaf.children):
                    found[f"{leaf.label}[{nth}]"] = self._view.result(facts, facts.run.source[child], child)
        return {label: result for label, result in found.items() if isinstance(result, Result)}
