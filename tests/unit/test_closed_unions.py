"""Every fold of the log handles each kind of event, or ignores it on purpose.

One log has at least one record of each kind. For each fold, `IGNORED` lists the kinds that change nothing in it, with the
reason; all others must change its state. So a new kind fails here until the log below has a record of it and each fold
handles it or lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, get_args

import anyio
import msgspec
import pytest

from eventflow import Flow, MemoryLog, RunStates, RunView, Skip, Timeline, open_run, states, task
from eventflow.events import (
    FlowDefined,
    Known,
    Record,
    RunClaimed,
    RunReleased,
    RunStarted,
    TaskAbandoned,
    TaskBlocked,
    TaskFailed,
    TaskMapped,
    TaskSkipped,
    TaskStarted,
    Unknown,
)
from eventflow.machine import Status
from eventflow.machine.evolve import evolve
from eventflow.machine.state import RunState
from eventflow.projections import CacheHits, Projection, Runs
from eventflow.testing.virtual import VirtualWorld, simulate
from eventflow.views.progress import Progress
from eventflow.views.run_states import STATES

KINDS = frozenset(get_args(Known))


@task(version="1", cache_for=3600)
async def made() -> list[int]:
    """Returns two numbers, the second time from the cache."""
    return [1, 2]


@task(version="1", cache_for=3600)
async def each(number: int) -> int:
    """Returns one number, after the interruption of its run."""
    await anyio.sleep(10)
    return number


@task(version="1")
async def skipped() -> None:
    """Has nothing to do."""
    raise Skip("nothing to do")


@task(version="1")
async def failing() -> int:
    """Fails."""
    raise ValueError("no")


@task(version="1")
async def blocked(number: int) -> int:
    """Never runs."""
    return number


def flows() -> tuple[Flow[..., Any], Flow[..., Any]]:
    """Return a flow that fills the cache, and one whose run has events of all kinds if it is interrupted once."""
    with Flow("first") as first:
        made()
    with Flow("second") as second:
        each.map(made())
        skipped()
        blocked(failing())
    return first, second


def recorded() -> tuple[RunView, list[Record]]:
    """Record two runs: the first fills the cache; the second is interrupted and resumed."""
    log = MemoryLog()

    async def main(world: VirtualWorld) -> tuple[RunView, list[Record]]:
        first, second = flows()
        await first.options(log=log, world=world, run_id="first").run()
        with suppress(TimeoutError), anyio.fail_after(5):
            await second.options(log=log, world=world, run_id="r").run()
        await second.options(log=log, world=world, run_id="r").run()
        return await open_run(log, "r"), [record async for record in log.read()]

    return simulate(main)


VIEW, RECORDS = recorded()


def test_the_log_has_a_record_of_each_kind() -> None:
    """The folds below are tried on all kinds that this version knows."""
    assert {type(record.event) for record in RECORDS} == KINDS


class RunStateFold:
    """The machine's fold, apart from the version and moment, which each event changes."""

    name = "machine"
    version = 1

    def initial(self) -> RunState:
        """Return the state before the first record."""
        return RunState.initial(VIEW.plan)

    def apply(self, state: RunState, record: Record) -> RunState:
        """Fold one record of the run."""
        return evolve(VIEW.plan, state, record.version, record)


def run_state_shown(state: RunState) -> object:
    """Return everything of a run state but the version and moment of its last event."""
    shown = msgspec.to_builtins(state, str_keys=True)
    return {name: value for name, value in shown.items() if name not in ("version", "at")}


def facts_shown(facts: Any) -> object:
    """Return the facts of a run without the machine's state, which has its own test."""
    return [msgspec.to_builtins(part) for name, part in _fields(facts).items() if name != "run"]


def _fields(struct: msgspec.Struct) -> Mapping[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def states_shown(facts: Any) -> object:
    """Return the states of the run and of all tasks."""
    run_states = RunStates(VIEW, facts)
    state = run_states.state
    return type(state), state.message, [states.encode_msgpack(run_states[name]) for name in run_states]


def rows_shown(rows: Any) -> object:
    """Return the encoded state of a projection."""
    return msgspec.msgpack.encode(rows)


OF_OTHER_STREAMS = frozenset({FlowDefined})  # it is in the stream of its flow; a run's fold never gets it
CASES: Mapping[str, tuple[Projection[Any], Callable[[Any], object], frozenset[type]]] = {
    "machine": (RunStateFold(), run_state_shown, OF_OTHER_STREAMS),
    # Only the statuses change, which the machine's state has:
    "run facts": (
        VIEW,
        facts_shown,
        OF_OTHER_STREAMS | {RunClaimed, RunReleased, TaskAbandoned, TaskMapped},
    ),
    "run states": (
        VIEW,
        states_shown,
        OF_OTHER_STREAMS | {RunStarted},
    ),  # a run is pending before and after it
    "run list": (Runs(), rows_shown, frozenset({TaskStarted, TaskAbandoned})),  # it counts how tasks end
    # Calls that ask the cache start, succeed or are reused:
    "cache": (
        CacheHits(),
        rows_shown,
        frozenset({RunReleased, TaskAbandoned, TaskFailed, TaskSkipped, TaskBlocked, TaskMapped}),
    ),
    "timeline": (
        Timeline(),
        rows_shown,
        OF_OTHER_STREAMS | {RunClaimed, RunReleased},
    ),  # ownership is no time
    # Bars count tasks; a run that starts or changes its owner shows nothing:
    "progress": (
        Progress(VIEW.plan.graph),
        rows_shown,
        OF_OTHER_STREAMS | {RunStarted, RunClaimed, RunReleased},
    ),
}
"""Name → the fold, the part of its state that is compared, and the kinds that it ignores on purpose."""


@pytest.mark.parametrize("name", CASES)
def test_a_fold_handles_each_kind_or_ignores_it_on_purpose(name: str) -> None:
    """The kinds that change a fold's state, and those that it is known to ignore, are together all kinds."""
    fold, shown, ignored = CASES[name]
    takes_all = name in ("run list", "cache")
    state, changing = fold.initial(), set[type]()
    before = shown(state)
    for record in RECORDS:
        if takes_all or record.stream == VIEW.stream:
            state = fold.apply(state, record)
            after = shown(state)
            if after != before:
                changing.add(type(record.event))
            before = after
    assert changing == KINDS - ignored


@pytest.mark.parametrize("name", [name for name in CASES if name != "machine"])
def test_a_fold_passes_over_a_kind_of_a_later_version(name: str) -> None:
    """A fold of this version can read a log that a later version continued."""
    fold, _, _ = CASES[name]
    state = fold.initial()
    for record in RECORDS[: len(RECORDS) // 2]:
        if record.stream == VIEW.stream:
            state = fold.apply(state, record)
            last = record
    unknown = Record(
        last.position + 1, last.stream, last.version + 1, last.at, None, Unknown("task_flew", b"x")
    )
    fold.apply(state, unknown)


def test_each_status_has_its_state() -> None:
    """The states that people see cover every status of a task."""
    assert STATES.keys() == set(Status)
