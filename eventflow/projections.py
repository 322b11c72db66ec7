"""Folds of the log: the state at any moment of the past, and the state now.

A projection is a class with a name, a version, an initial state and a function that applies one record to a state.
It can be replayed to any position, followed live, snapshotted and served, if msgspec can encode its state, whose type
is the return annotation of `initial`.

    replay        the records up to a position → Fold
    follow        the same, then the fold after each new record
    dump          Fold → bytes, a snapshot;   restore   bytes → Fold, or None
    latest_fold   the log's snapshot as a fold, or the fold of no records
    open_run      a run's id → the `RunView` that folds its stream

A snapshot caches a fold.  It may be deleted at any time, and it is ignored if it is corrupt or was made by other code.
fold(all records) = fold(snapshot + the records after it) at every cut, since `apply` depends on nothing but its state
and the record.

Built in: `RunView` (shown by `RunStates` and `run_report`), `Timeline`, and the row projections `Runs` and
`CacheHits`, which can also be kept row by row (`eventflow.read_models`).  All find the handler of an event by its type,
and ignore the kinds that they do not handle.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_args, get_type_hints

import msgspec

from eventflow.events import (
    FlowDefined,
    Record,
    RunStarted,
    Unknown,
    flow_stream,
    kind_of,
    run_of,
    run_stream,
)
from eventflow.graph import Graph, outline
from eventflow.machine import Plan
from eventflow.ports import EventLog
from eventflow.records import LogDamaged, checksum, flow_of_birth
from eventflow.views.cache import CacheHits
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_list import Runs
from eventflow.views.run_report import RunReport, run_report
from eventflow.views.run_states import RunStates
from eventflow.views.timeline import Attempt, TaskLine, Timeline, TimelineState

__all__ = [
    "Attempt",
    "CacheHits",
    "Fold",
    "Projection",
    "RunNotFound",
    "RunReport",
    "RunStates",
    "RunView",
    "Runs",
    "TaskLine",
    "Timeline",
    "TimelineState",
    "code_of_fold",
    "dump",
    "follow",
    "latest_fold",
    "open_run",
    "read_graph",
    "read_graphs",
    "replay",
    "restore",
    "run_report",
    "state_type",
    "view_of",
]

S = TypeVar("S")


class Projection(Protocol[S]):
    """Folds records into a state of type `S`, which is the return annotation of `initial`.

    ```python
    from eventflow import MemoryLog, flow, replay, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    class Kinds:
        name = "kinds"
        version = 1

        def initial(self) -> dict[str, int]:
            return {}

        def apply(self, state: dict[str, int], record) -> dict[str, int]:
            kind = type(record.event).__name__
            state[kind] = state.get(kind, 0) + 1
            return state


    fold = await replay(log, Kinds(), stream="run/a")
    print(fold.state)

    by_hand = Kinds().initial()
    async for record in log.read(stream="run/a"):
        by_hand = Kinds().apply(by_hand, record)
    print(by_hand == fold.state)
    ```

    ```text
    {'RunStarted': 1, 'RunClaimed': 1, 'TaskStarted': 1, 'TaskSucceeded': 1, 'RunFinished': 1}
    True
    ```
    """

    @property
    def name(self) -> str:
        """The name of its snapshots; a plain class attribute will do."""
        ...

    @property
    def version(self) -> int:
        """Must be raised when the meaning of the state changes and the file that defines the projection does not."""
        ...

    def initial(self) -> S:
        """Return the state before the first record, a new one each time."""
        ...

    def apply(self, state: S, record: Record) -> S:
        """Return the state after a record; it may be the same object, changed in place."""
        ...


class Fold(Generic[S]):
    """A projection's state after the record at `position`.

    ```python
    from eventflow import Fold, MemoryLog, Runs, flow, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    fold = Fold.start(Runs())
    async for record in log.read():
        fold.push(record)
        if record.version == 1:
            early = fold.frozen()
    print(early.position, Runs.of(early.state)["a"].status)
    print(fold.position, Runs.of(fold.state)["a"].status)
    ```

    ```text
    2 started
    6 finished
    ```
    """

    __slots__ = ("position", "projection", "state")

    def __init__(self, projection: Projection[S], state: S, position: int = 0) -> None:
        self.projection = projection
        self.state = state
        self.position = position
        """The position of the last record that was applied; 0 if there was none."""

    @classmethod
    def start(cls, projection: Projection[S]) -> Fold[S]:
        """Return the fold of no records. Raises `TypeError` if a class is given in place of its object."""
        if isinstance(projection, type):
            raise TypeError(
                f"{projection.__name__} is the class of a projection: give an object, {projection.__name__}()"
            )
        return cls(projection, projection.initial())

    def push(self, record: Record) -> None:
        """Apply the next record, in place; its position must be after the fold's."""
        assert record.position > self.position, f"record {record.position} is not after {self.position}"
        self.state = self.projection.apply(self.state, record)
        self.position = record.position
        if self.state is None:
            _check_none(self.projection)

    def frozen(self) -> Fold[S]:
        """Return a copy that later records do not change."""
        body = msgspec.msgpack.encode(self.state)
        state = msgspec.msgpack.decode(body, type=state_type(self.projection))
        return Fold(self.projection, state, self.position)

    def __repr__(self) -> str:
        return f"Fold({self.projection.name} at {self.position}: {self.state!r})"


async def replay(
    log: EventLog,
    projection: Projection[S],
    *,
    stream: str | None = None,
    until: int | None = None,
    start: Fold[S] | None = None,
) -> Fold[S]:
    """Fold the log, or one stream, up to and including position `until`; no user code runs.

    Raises `TypeError` if `projection` is a class, or if its `apply` returns None, which is no state of it.

    A fold passed as `start` is continued in place and returned. Without it, a projection that has a `snapshot_name`
    continues the log's snapshot with this name, if there is one.

    ```python
    from eventflow import MemoryLog, Runs, flow, replay, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    early = await replay(log, Runs(), until=2)
    print(Runs.of(early.state)["a"].status)
    late = await replay(log, Runs())
    print(Runs.of(late.state)["a"].outcome)
    ```

    ```text
    started
    success
    ```
    """
    fold = await latest_fold(log, projection, until=until) if start is None else start
    apply, state, position = projection.apply, fold.state, fold.position
    async for record in log.read(stream=stream, after=position, until=until):
        state = apply(state, record)
        position = record.position
        if state is None:
            _check_none(projection)
    fold.state, fold.position = state, position
    return fold


async def follow(
    log: EventLog,
    projection: Projection[S],
    *,
    stream: str | None = None,
    start: Fold[S] | None = None,
) -> AsyncIterator[Fold[S]]:
    """Yield the fold once it has caught up, then after each new record; ends with `LogClosed`.

    It is always the same fold, changed in place: take `.frozen()` to keep one.

    ```python
    from eventflow import MemoryLog, Runs, flow, follow, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    async for fold in follow(log, Runs()):
        print(Runs.of(fold.state)["a"].outcome)
        break
    ```

    ```text
    success
    ```
    """
    head = await log.head()
    fold = await replay(log, projection, stream=stream, until=head, start=start)
    yield fold
    async for record in log.follow(after=max(head, fold.position)):
        if stream is None or record.stream == stream:
            fold.push(record)
            yield fold


def _check_none(projection: Any) -> None:
    """Raise `TypeError` for a state that is None, if the projection declares no such state."""
    declared = state_type(projection)
    if declared is not type(None) and declared is not Any and type(None) not in get_args(declared):
        raise TypeError(f"{type(projection).__qualname__}.apply returned None: it must return the state")


class RunNotFound(LookupError):
    """The log has no run with this id."""


async def open_run(log: EventLog, run_id: str) -> RunView:
    """Return the view of a run, made from the log alone.

    Reads the first record of the run and its graph. Raises `RunNotFound`.

    ```python
    from eventflow import MemoryLog, RunStates, flow, open_run, replay, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    view = await open_run(log, "a")
    fold = await replay(log, view, stream=view.stream)
    print(RunStates(view, fold.state, peek=log.peek)["double"].result)
    ```

    ```text
    42
    ```
    """
    async for record in log.read(stream=run_stream(run_id)):
        return await view_of(log, record)
    raise RunNotFound(f"there is no run {run_id!r} in this log")


async def view_of(log: EventLog, first: Record) -> RunView:
    """Return the view of the run whose first record is at hand, as `open_run` does.

    A run that begins with an event of a newer version has a view without tasks, if that event does not name a graph.
    """
    run_id = run_of(first.stream)
    match first.event:
        case RunStarted(flow=flow):
            graph = await read_graph(log, flow)
        case Unknown() as event:
            flow = flow_of_birth(event)
            graph = await read_graph(log, flow) if flow else Graph(name="")
        case event:
            raise LogDamaged(f"run {run_id!r} begins with a {kind_of(event)!r}")
    return RunView(run_id, Plan(graph))


async def read_graph(log: EventLog, digest: str) -> Graph:
    """Return the graph with this digest; of one that a newer version wrote, and that does not decode, its `outline`."""
    async for record in log.read(stream=flow_stream(digest)):
        if isinstance(record.event, FlowDefined):
            return record.event.graph
        if isinstance(record.event, Unknown):
            return outline(record.event.kind, record.event.data)
    raise LogDamaged(f"the log has no flow {digest}, which one of its runs is of")


async def read_graphs(log: EventLog, facts: RunFacts, graphs: MutableMapping[str, Graph]) -> None:
    """Add to `graphs`, by digest, those that were in force while the run's records were written."""
    for _, digest in facts.flows:
        if digest not in graphs:
            graphs[digest] = await read_graph(log, digest)


async def latest_fold(log: EventLog, projection: Projection[S], *, until: int | None = None) -> Fold[S]:
    """Return the fold to continue: of the log's snapshot, if there is a sound one up to `until`, or of no records."""
    fold = data = None
    if isinstance(projection, type):
        return Fold.start(projection)  # it says that a class is no projection
    name: str | None = getattr(projection, "snapshot_name", None)
    if name is not None:
        data = await log.snapshot(name)
    if data is not None:
        fold = restore(data, projection)
    if fold is None or (until is not None and fold.position > until):
        return Fold.start(projection)
    return fold


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    code: str
    position: int
    state: msgspec.Raw


def dump(fold: Fold[Any]) -> bytes:
    """Encode a fold as a snapshot: its state, its position, and the digest of the code that folded it."""
    state = msgspec.Raw(msgspec.msgpack.encode(fold.state))
    body = msgspec.msgpack.encode(_Snapshot(code_of_fold(fold.projection), fold.position, state))
    return checksum(body).to_bytes(4, "big") + body


def restore(data: bytes, projection: Projection[S]) -> Fold[S] | None:
    """Decode a snapshot; None if the bytes are damaged, or not of this projection and its code."""
    if data[:4] != checksum(data[4:]).to_bytes(4, "big"):
        return None
    try:
        snapshot = msgspec.msgpack.decode(data[4:], type=_Snapshot)
        if snapshot.code != code_of_fold(projection):
            return None
        state = msgspec.msgpack.decode(snapshot.state, type=state_type(projection))
    except msgspec.DecodeError:  # the state's type has changed, in another file
        return None
    return Fold(projection, state, snapshot.position)


def code_of_fold(projection: Any) -> str:
    """Return a digest of the code that folds a projection: of the file that defines it, and of its `modules`.

    A state that was folded by other code is not used, even if its version is the same. Code without a file is known by
    its version only. Raises `ImportError` if one of `modules` does not exist.
    """
    kind = type(projection)
    apply_globals = getattr(kind.apply, "__globals__", {})  # `apply` may be inherited from another file
    defined_in = apply_globals.get("__name__") or kind.__module__
    modules = (defined_in, *getattr(projection, "modules", ()))
    return _code_of(projection.name, projection.version, modules)


@cache
def _code_of(name: str, version: int, modules: tuple[str, ...]) -> str:
    digest = sha256(f"{name} {version}".encode("utf-8", "surrogatepass"))
    for module in modules:
        file = getattr(import_module(module), "__file__", None)
        if file is not None:  # an interactive session has none
            with suppress(OSError):  # a module in an archive
                digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:32]


def state_type(projection: Any) -> Any:
    """Return the annotation of `initial`; the runtime type of a dict would not name the types of its items."""
    initial = type(projection).initial
    try:
        return get_type_hints(initial)["return"]
    except (KeyError, NameError) as error:
        raise TypeError(
            f"{initial.__qualname__} must be annotated with the type of the state, "
            f"and that type must be defined in a module, so that the state can be copied and restored"
        ) from error
