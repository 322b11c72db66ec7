"""Executors that are not in this process: calls and answers are data, and every outcome is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import msgspec
import pytest

from eventflow import Flow, MemoryLog, State, context, task
from eventflow.events import Event, TaskAbandoned, TaskFailed, TaskStarted
from eventflow.ports import (
    BodyCancelled,
    BodyLost,
    BodyRaised,
    BodyReturned,
    LiveCall,
    Outcome,
    RemoteCall,
)
from eventflow.result import Inline
from eventflow.runner.failures import failure_of
from eventflow.runner.task_context import Skip, TaskContext, current
from eventflow.runs.world import RealWorld
from eventflow.serializers import Serializer
from eventflow.testing import simulate
from eventflow.testing.virtual import StillExecutor, VirtualWorld


def perform(message: bytes) -> Outcome:
    """Do what another process does with the bytes of a call: find the task, open the arguments, run it, and serialize."""
    call = msgspec.msgpack.decode(message, type=RemoteCall)
    called = resolve_name(call.entry)
    current.set(TaskContext(call.run, call.task, call.attempt, call.started_us))
    try:
        arguments = {name: Serializer().deserialize(value) for name, value in call.arguments.items()}
        value = called.fn(**arguments)
        return BodyReturned(called.definition.body.serializer.serialize(value))
    except Exception as error:
        return BodyRaised(failure_of(error))


class Elsewhere:
    """An executor that is given bytes only, and whose first calls may come to nothing."""

    in_process = False

    def __init__(self, lanes: Any, troubles: list[Outcome]) -> None:
        """Answer with the troubles first."""
        self._lanes = lanes
        self._troubles = troubles
        self.calls: list[RemoteCall] = []

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Run the call in a thread, which shares nothing with the submitter."""
        assert isinstance(call, RemoteCall)
        self.calls.append(call)
        message = msgspec.msgpack.encode(call)
        trouble = self._troubles.pop(0) if self._troubles else None

        def answer(outcome: Outcome) -> None:
            assert isinstance(outcome, BodyReturned)
            done(trouble or outcome.value)

        self._lanes.submit(lambda: perform(message), answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lanes, name)


class ElsewhereWorld(VirtualWorld):
    """A virtual world whose plain functions run elsewhere."""

    troubles: tuple[Outcome, ...] = ()

    def executor(self) -> StillExecutor:
        """Make the executor and keep it, to be looked into."""
        self.made = Elsewhere(RealWorld().executor(), list(self.troubles))
        return StillExecutor(self.made, self._loop)


@task(version="1")
def double(number: int) -> dict[str, Any]:
    """A body that says who it is."""
    return {"twice": 2 * number, "task": context.task, "attempt": context.attempt}


@task(version="1")
def total(parts: list[dict[str, Any]]) -> int:
    """The sum of what the others made."""
    return sum(part["twice"] for part in parts)


@task(version="1", retries=1, retry_delay=0)
def fails(number: int) -> int:
    """A body that raises."""
    raise ValueError(f"no {number}")


@task(version="1")
def skips(number: int) -> int:
    """A body with nothing to do."""
    raise Skip("nothing to do")


def run_elsewhere(made: Flow[..., Any], *troubles: Outcome) -> tuple[State, list[Event], list[RemoteCall]]:
    """Run a flow whose bodies run elsewhere; gives its State, its events and the calls."""
    log, events, calls = MemoryLog(), [], []

    async def main(world: VirtualWorld) -> State:
        elsewhere = ElsewhereWorld()
        elsewhere.troubles = troubles
        state = await made.options(log=log, world=elsewhere, run_id="r").run()
        calls.extend(elsewhere.made.calls)
        events.extend([record.event async for record in log.read(stream="run/r")])
        return state

    return simulate(main), events, calls


def one(body: Any) -> Flow[..., Any]:
    """A flow of one task."""
    with Flow("one") as made:
        body(21)
    return made


def test_a_body_is_sent_by_reference_and_its_values_as_bytes() -> None:
    """Name, arguments and context travel; results come back as payloads, and downstream tasks are given them."""
    with Flow("sum") as made:
        total(double.map([1, 2, 3]))
    state, _, calls = run_elsewhere(made)
    assert state.result["total"].result == 12
    assert state.result["double[2]"].result == {"twice": 6, "task": "double[2]", "attempt": 1}
    assert {call.entry for call in calls} == {f"{__name__}:double", f"{__name__}:total"}
    assert {call.entry for call in calls} == {known.entry for known in made.graph.tasks}
    assert all(isinstance(value, Inline) for call in calls for value in call.arguments.values())


def test_an_exception_elsewhere_fails_the_attempt() -> None:
    """Its description is recorded as it came, the retry included; a skip is a skip."""
    state, events, calls = run_elsewhere(one(fails))
    assert state.result["fails"].message == "ValueError: no 21"
    assert [call.attempt for call in calls] == [1, 2]
    assert sum(isinstance(event, TaskFailed) for event in events) == 2
    state, _, _ = run_elsewhere(one(skips))
    assert state.result["skips"].is_skipped()


@pytest.mark.parametrize(
    ("trouble", "reason"), [(BodyLost(), "lost"), (BodyCancelled(), "interrupted")], ids=["lost", "cancelled"]
)
def test_a_call_without_an_outcome_is_abandoned_and_begins_again(trouble: Outcome, reason: str) -> None:
    """It uses up no retry, and the log says why the first attempt came to nothing."""
    state, events, calls = run_elsewhere(one(double), trouble)
    assert state.result["double"].result["attempt"] == 2
    assert len(calls) == 2
    assert [event.reason for event in events if isinstance(event, TaskAbandoned)] == [reason]
    assert sum(isinstance(event, TaskStarted) for event in events) == 2


def test_three_deaths_in_a_row_end_the_task() -> None:
    """A body that kills the process it runs in is not tried for ever."""
    state, _, calls = run_elsewhere(one(double), BodyLost(), BodyLost(), BodyLost())
    assert type(state.result["double"]).__name__ == "Crashed"
    assert len(calls) == 3


def test_a_payload_that_does_not_open_fails_its_task() -> None:
    """What came back is looked at before it is believed."""
    state, _, _ = run_elsewhere(one(double), BodyReturned(Inline("msgpack", b"\xc1", b"x" * 16)))
    assert state.result["double"].is_failed()


def test_an_argument_that_cannot_be_sent_fails_its_task() -> None:
    """A value that another process could not open is an error of the task's input, and the lane is free again."""
    with Flow("functions") as made:
        total([makes(1), makes(2)])
    state, _, _ = run_elsewhere(made)
    assert state.result["total"].is_failed()
    assert state.result["makes"].is_successful()


class Unsendable:
    """Text in its own log, an object elsewhere."""

    def serialize(self, value: Any) -> Inline:
        """Give a payload that anyone can keep."""
        return Serializer().serialize("kept")

    def deserialize(self, payload: Inline) -> Any:
        """Give a value that nothing can keep."""
        return iter(())


@task(version="1", serializer=Unsendable())
def makes(number: int) -> Any:
    """A body whose result opens as an iterator."""
    return "kept"
