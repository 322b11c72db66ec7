"""Executors that are not in this process: calls and answers are data, and every outcome is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from typing import Any

import msgspec
import pytest

from eventflow import Flow, MemoryLog, State, context, task
from eventflow.codecs.digests import digest_of
from eventflow.events import Event, Record, TaskAbandoned, TaskFailed, TaskStarted, TaskSucceeded
from eventflow.ports import (
    BodyCancelled,
    BodyLost,
    BodyRaised,
    BodyReturned,
    BodySkipped,
    LiveCall,
    Outcome,
    OutcomeUnknown,
    RemoteCall,
)
from eventflow.result import Inline
from eventflow.runner.failures import failure_of, skip_reason
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
    except Skip as skip:
        return BodySkipped(skip_reason(skip))
    except Exception as error:
        return BodyRaised(failure_of(error))


Trouble = Outcome | BaseException | str
"""What an executor does in place of a call: it answers so, or it raises at submission."""


class Elsewhere:
    """An executor that is given bytes only, and whose first calls may come to nothing."""

    in_process = False

    def __init__(self, lanes: Any, troubles: list[Trouble]) -> None:
        """Answer with the troubles first."""
        self._lanes = lanes
        self._troubles = troubles
        self.calls: list[RemoteCall] = []

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Run the call in a thread, which shares nothing with the submitter."""
        assert isinstance(call, RemoteCall)
        self.calls.append(call)
        message = msgspec.msgpack.encode(call)
        trouble: Any = self._troubles.pop(0) if self._troubles else None
        if isinstance(trouble, BaseException):
            raise trouble

        def answer(outcome: Outcome) -> None:
            assert isinstance(outcome, BodyReturned)
            done(trouble or outcome.value)

        self._lanes.submit(lambda: perform(message), answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lanes, name)


class ElsewhereWorld(VirtualWorld):
    """A virtual world whose plain functions run elsewhere."""

    troubles: tuple[Trouble, ...] = ()

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


class Closed(Skip):
    """A reason to skip with a class of its own."""


@task(version="1")
def skips_too(number: int) -> int:
    """A body that skips in its own way."""
    raise Closed("closed today")


def run_elsewhere(made: Flow[..., Any], *troubles: Trouble) -> tuple[State, list[Event], list[RemoteCall]]:
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


def test_a_subclass_of_skip_skips_its_task_elsewhere() -> None:
    """The other process answers that the body skipped, so it does not matter which class was raised."""
    state, events, _ = run_elsewhere(one(skips_too))
    assert state.result["skips_too"].is_skipped()
    assert "closed today" in state.result["skips_too"].message
    assert not any(isinstance(event, TaskFailed) for event in events)


@pytest.mark.parametrize("trouble", [BodyLost(), BodyCancelled()], ids=["lost", "cancelled"])
def test_a_call_without_an_outcome_is_abandoned_and_begins_again(trouble: Outcome) -> None:
    """It uses up no retry, and the log says why the first attempt came to nothing."""
    state, events, calls = run_elsewhere(one(double), trouble)
    assert state.result["double"].result["attempt"] == 2
    assert len(calls) == 2
    assert [event.reason for event in events if isinstance(event, TaskAbandoned)] == ["worker_lost"]
    assert sum(isinstance(event, TaskStarted) for event in events) == 2


@pytest.mark.parametrize("trouble", [BodyLost(), BodyCancelled()], ids=["lost", "cancelled"])
def test_three_deaths_in_a_row_end_the_task(trouble: Outcome) -> None:
    """A body that kills the process it runs in is not tried for ever, nor is one that its executor always cancels."""
    state, _, calls = run_elsewhere(one(double), *[trouble] * 10)
    assert type(state.result["double"]).__name__ == "Crashed"
    assert "the executor lost or cancelled the body" in state.result["double"].message
    assert len(calls) == 3


async def test_a_call_that_an_interruption_cancels_counts_as_no_death() -> None:
    """It is recorded as interrupted, so any number of interruptions leaves the task to be resumed."""
    log, world = MemoryLog(), HangingWorld()
    for _ in range(4):
        run = asyncio.ensure_future(one(double).options(log=log, world=world, run_id="r").run())
        await world.called()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    events = [record.event async for record in log.read(stream="run/r")]
    assert [event.reason for event in events if isinstance(event, TaskAbandoned)] == ["interrupted"] * 4
    assert world.made.claimed == 0


@pytest.mark.parametrize(
    ("trouble", "message"),
    [(OSError("no route"), "did not take the call: no route"), ("garbage", "answered 'garbage'")],
    ids=["submit raises", "no outcome"],
)
def test_a_fault_of_the_executor_fails_the_attempt_and_names_it(trouble: Trouble, message: str) -> None:
    """The run continues, and the policy of the task decides on a retry."""
    with Flow("both") as made:
        double(4)
        fails(1)
    state, events, _ = run_elsewhere(made, trouble, trouble, trouble)
    failed = [event.failure for event in events if isinstance(event, TaskFailed)]
    assert len(failed) == 3
    for failure in failed:
        assert failure.message.startswith(f"the executor eventflow.testing.virtual:StillExecutor {message}")
    assert state.result["double"].is_failed()
    assert state.result["fails"].is_failed()


def test_a_function_that_another_process_cannot_import_is_refused_before_anything_runs() -> None:
    """The error names the task and its entry, and the log stays empty."""

    @task(version="1")
    def local(number: int) -> int:
        return number

    log = MemoryLog()

    async def main(world: VirtualWorld) -> int:
        with pytest.raises(TypeError, match=r"task 'local': .* cannot import '.*<locals>\.local'"):
            await one(local).options(log=log, world=ElsewhereWorld(), run_id="r").run()
        return await log.head()

    assert simulate(main) == 0
    state, _, _ = run_elsewhere(one(double))
    assert state.is_successful()


def test_a_payload_that_does_not_open_fails_its_task() -> None:
    """What came back is looked at before it is believed."""
    state, _, _ = run_elsewhere(one(double), BodyReturned(Inline("msgpack", b"\xc1", b"x" * 16)))
    assert state.result["double"].is_failed()


def test_a_payload_under_a_digest_of_other_bytes_fails_its_task() -> None:
    """Also if the task has its own serializer, which may look at the bytes alone; nothing is stored."""
    data = b"[" + b"1, " * 400 + b"]"
    payload = Inline("text", data, digest_of(b"other bytes"))
    state, events, _ = run_elsewhere(one(listed), BodyReturned(payload))
    assert state.result["listed"].is_failed()
    assert "digest" in state.result["listed"].message
    assert not any(isinstance(event, TaskSucceeded) for event in events)


async def test_no_more_lanes_are_given_up_than_were_claimed() -> None:
    """A round whose append failed gives back the lanes of its own starts, and no lane is used twice."""
    with Flow("many") as made:
        double.map(list(range(40)))
    world = CountingWorld()
    state = await made.options(log=FailingLog(), world=world, run_id="r").run()
    assert state.is_successful()
    assert world.made.claimed == 0
    assert world.made.least_claimed == 0
    assert world.made.most_busy == 2


def test_an_argument_that_cannot_be_sent_fails_its_task() -> None:
    """A value that another process could not open is an error of the task's input, and the lane is free again."""
    with Flow("functions") as made:
        total([makes(1), makes(2)])
    state, _, _ = run_elsewhere(made)
    assert state.result["total"].is_failed()
    assert state.result["makes"].is_successful()


class CountingExecutor:
    """An executor of two lanes that counts them."""

    in_process = False

    def __init__(self) -> None:
        """Begin with free lanes."""
        self.claimed = self.least_claimed = self.unfinished = self.most_busy = 0
        self._on_free: Callable[[], object] = list
        self._loop = asyncio.get_running_loop()

    def claim(self, wanted: int, on_free: Callable[[], object]) -> int:
        """Give the lanes that are free."""
        given = max(0, min(wanted, 2 - self.unfinished - self.claimed))
        self.claimed += given
        self._on_free = on_free
        return given

    def give_up(self, count: int) -> None:
        """Believe the caller's count."""
        self.claimed -= count
        self.least_claimed = min(self.least_claimed, self.claimed)

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Perform the call a little later, in a claimed lane."""
        assert isinstance(call, RemoteCall)
        self.give_up(1)
        self.unfinished += 1
        self.most_busy = max(self.most_busy, self.unfinished)
        self._loop.call_soon(self._finish, msgspec.msgpack.encode(call), done)

    def _finish(self, message: bytes, done: Callable[[Outcome], None]) -> None:
        self.unfinished -= 1
        done(perform(message))
        self._on_free()

    def cancel_queued(self) -> None:
        """Give back all claims."""
        self.claimed = 0

    def close(self) -> None:
        """Nothing is open."""


class CountingWorld(RealWorld):
    """A world whose plain functions run in two counted lanes."""

    def executor(self) -> CountingExecutor:
        """Make the executor and keep it, to be looked into."""
        self.made = CountingExecutor()
        return self.made


class FailingLog(MemoryLog):
    """A log whose third append is lost on its way."""

    appends = 0

    async def append(self, *writes: Any, **options: Any) -> Sequence[Record]:
        """Store nothing the third time."""
        self.appends += 1
        if self.appends == 3:
            raise OutcomeUnknown("the answer was lost")
        return await super().append(*writes, **options)


class HangingExecutor(CountingExecutor):
    """An executor that begins no call, and cancels all when it is asked to."""

    def __init__(self, called: asyncio.Event) -> None:
        """Tell `called` of each call."""
        super().__init__()
        self._called = called
        self._waiting: list[Callable[[Outcome], None]] = []

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Keep the call."""
        self.give_up(1)
        self.unfinished += 1
        self._waiting.append(done)
        self._called.set()

    def cancel_queued(self) -> None:
        """Answer all calls."""
        super().cancel_queued()
        self.unfinished = 0
        for done in self._waiting:
            done(BodyCancelled())


class HangingWorld(RealWorld):
    """A world whose plain functions never begin."""

    def executor(self) -> HangingExecutor:
        """Make the executor and keep it, to be looked into."""
        self._called.clear()
        self.made = HangingExecutor(self._called)
        return self.made

    def __init__(self) -> None:
        """Begin without a call."""
        self._called = asyncio.Event()

    async def called(self) -> None:
        """Wait for the next call."""
        await self._called.wait()
        self._called.clear()


class Plain:
    """Text of lists, opened without a look at the digest."""

    def serialize(self, value: Any) -> Inline:
        """Write the list."""
        data = repr(value).encode()
        return Inline("text", data, digest_of(data))

    def deserialize(self, payload: Inline) -> Any:
        """Count the commas."""
        return payload.data.count(b",") * [1]


@task(version="1", serializer=Plain())
def listed(number: int) -> list[int]:
    """A body with a list of ones."""
    return [1] * number


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
