"""Bodies, serializers and callers that do what nobody should: one task pays, never the run or the log."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from typing import Any, ClassVar

import anyio
import pytest

from eventflow import (
    FlowChanged,
    MemoryLog,
    RunNotFinished,
    Runs,
    Skip,
    flow,
    replay,
    task,
)
from eventflow.events import TaskFailed
from eventflow.executors.threads import THREADS
from eventflow.result import Inline
from eventflow.serializers import digest_of
from eventflow.testing import VirtualWorld, simulate, simulated


class OddSkip(Skip):
    """A skip that forgets its reason."""

    def __init__(self) -> None:
        """Say nothing."""


class Lying:
    """A serializer that gives and takes whatever it likes."""

    def __init__(self, gives: Any) -> None:
        """Give that."""
        self.gives = gives

    def serialize(self, value: Any) -> Any:
        """Not what was asked."""
        return self.gives

    def deserialize(self, payload: Inline) -> Any:
        """Not even that."""
        raise RuntimeError("cannot open")


@pytest.mark.parametrize(
    "reason", [123, "bad \ud800", None, OddSkip()], ids=["int", "surrogate", "none", "odd"]
)
@pytest.mark.parametrize("plain", [True, False])
@simulated
async def test_whatever_a_skip_says_can_be_recorded(reason: Any, plain: bool, world: VirtualWorld) -> None:
    """The reason becomes text that can be encoded, and the whole log can be read again."""
    error = reason if isinstance(reason, Skip) else Skip(reason)

    @task
    def plainly() -> int:
        raise error

    @task
    async def async_() -> int:
        raise error

    @flow
    def skipping() -> int:
        return plainly() if plain else async_()

    log = MemoryLog()
    options = skipping.options(log=log, world=world, run_id="r")
    for _ in range(2):
        assert (await options.run()).is_successful()
    assert (await replay(log, Runs())).state


@pytest.mark.parametrize("gives", [b"x", Inline("x", "text", b""), None], ids=["bytes", "text", "none"])  # type: ignore[arg-type]
@pytest.mark.parametrize("plain", [True, False])
@simulated
async def test_a_serializer_that_lies_fails_its_task(gives: Any, plain: bool, world: VirtualWorld) -> None:
    """What it gives is looked at before it is believed; the run goes on, the log stays whole."""

    @task(serializer=Lying(gives))
    def plainly() -> int:
        return 1

    @task(serializer=Lying(gives))
    async def async_() -> int:
        return 1

    @flow
    def lying() -> int:
        return plainly() if plain else async_()

    log = MemoryLog()
    state = await lying.options(log=log, world=world, run_id="r").run()
    assert state.is_failed()
    assert "serializer returned" in state.result["plainly" if plain else "async_"].message
    assert (await replay(log, Runs())).state


@simulated
async def test_an_input_that_does_not_open_fails_its_consumer(world: VirtualWorld) -> None:
    """Opening runs what users wrote; what it raises is the consumer's failure."""

    @task(serializer=Lying(Inline("msgpack", b"\x91\x01", digest_of(b"\x91\x01"))))
    async def give() -> list[int]:
        return [1]

    @task
    async def take(value: list[int]) -> int:
        return len(value)

    @flow
    def taking() -> int:
        return take(give())

    state = await taking.options(log=MemoryLog(), world=world).run()
    assert state.result["give"].is_successful()
    assert "cannot open" in state.result["take"].message


@simulated
async def test_a_body_that_cancels_its_own_task_harms_nobody_else(world: VirtualWorld) -> None:
    """Workers are shared: the cancellation is taken back, the attempt fails, the others go on."""

    @task
    async def quick() -> int:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return 1

    @task
    async def later() -> int:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await anyio.sleep(1)
        return 1

    @task
    async def slow() -> int:
        await anyio.sleep(5)
        return 2

    @flow
    def both() -> list[int]:
        return [quick(), later(), slow(), slow()]

    state = await both.options(log=MemoryLog(), world=world).run()
    assert state.is_failed()
    assert state.result["quick"].failure.type == "asyncio.exceptions.CancelledError"
    assert state.result["later"].is_failed()
    assert state.result["slow"].result == state.result["slow-2"].result == 2


async def test_an_interruption_drops_queued_plain_functions() -> None:
    """Bodies that no thread has begun never begin; those that run are waited for; resuming runs the rest once."""
    ran: Counter[int] = Counter()
    begun, free = threading.Semaphore(0), threading.Event()

    @task(version="1")
    def work(number: int) -> int:
        begun.release()
        free.wait()
        ran[number] += 1
        return number

    @flow
    def many() -> list[int]:
        return work.map(list(range(100)))

    log = MemoryLog()

    running = asyncio.create_task(many.options(log=log, run_id="r").run())
    for _ in range(32):
        await asyncio.to_thread(begun.acquire)
    running.cancel()
    for _ in range(50):  # let the runner see it before the threads may go on
        await asyncio.sleep(0)
    free.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sum(ran.values()) <= 33
    state = await many.options(log=log, run_id="r").run()
    assert state.is_successful()
    assert ran == Counter(range(100))


@simulated
async def test_an_interrupted_run_of_changed_code_can_be_rerun(world: VirtualWorld) -> None:
    """Kill it, fix it, go on: the way out that FlowChanged names is open."""
    ran: Counter[str] = Counter()

    def pipeline(version: str) -> Any:
        @task(version=version)
        async def first() -> int:
            ran["first"] += 1
            return 1

        @task(version=version)
        async def second(value: int) -> int:
            ran["second"] += 1
            if version == "1":
                await anyio.sleep(100)
            return value + 1

        @flow(name="pipeline")
        def pipe() -> int:
            return second(first())

        return pipe

    log = MemoryLog()
    with anyio.move_on_after(10):
        await pipeline("1").options(log=log, world=world, run_id="r").run()
    fixed = pipeline("2").options(log=log, world=world)
    with pytest.raises(FlowChanged, match="rerun"):
        await pipeline("2").options(log=log, world=world, run_id="r").run()
    state = await fixed.rerun("r")
    assert state.result["second"].result == 2
    assert ran == Counter({"first": 1, "second": 2})


@simulated
async def test_a_live_run_is_not_rerun_and_no_run_is_rerun_into_another(world: VirtualWorld) -> None:
    """Both are refused by name."""

    @task
    async def slow() -> int:
        await anyio.sleep(10)
        return 1

    @flow
    def waiting() -> int:
        return slow()

    log = MemoryLog()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiting.options(log=log, world=world, run_id="live").run)
        await anyio.sleep(1)
        with pytest.raises(RunNotFinished, match="live"):
            await waiting.options(log=log, world=world).rerun("live")
    with pytest.raises(ValueError, match="exists already"):
        await waiting.options(log=log, world=world, run_id="live").rerun("live")


@simulated
async def test_resuming_needs_no_parameters_and_returns_may_hold_constants(world: VirtualWorld) -> None:
    """What was recorded is taken; a list or dict that a flow returns may have plain values in it."""

    @task
    async def echo(value: int) -> int:
        return value

    @flow
    def echoing(value: int) -> Any:
        return {"echo": echo(value), "plain": [1, (2, "x")]}

    options = echoing.options(log=MemoryLog(), world=world, run_id="r")
    assert (await options.run(7)).is_successful()
    again: Any = options.value
    assert await again() == {"echo": 7, "plain": [1, (2, "x")]}


@simulated
async def test_what_is_inside_a_group_is_recorded_and_a_forgotten_async_is_named(world: VirtualWorld) -> None:
    """A group's members and an error's notes are in the failure; a coroutine is no result."""

    @task
    async def group() -> None:
        error = ValueError("the real one")
        error.add_note("look here")
        raise ExceptionGroup("several", [error])

    async def hidden() -> int:
        return 1

    @task
    def forgot() -> Any:
        return hidden()

    @flow
    def failing() -> Any:
        return [group(), forgot()]

    state = await failing.options(log=MemoryLog(), world=world).run()
    assert "ValueError: the real one" in state.result["group"].failure.traceback
    assert "look here" in state.result["group"].failure.traceback
    assert "async def" in state.result["forgot"].message


class Hostile(Exception):
    """Raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit

    def __str__(self) -> str:
        raise KeyboardInterrupt


class HostileSkip(Skip):
    """Its reason raises."""

    def __init__(self) -> None:
        """Say nothing."""

    @property
    def reason(self) -> str:  # type: ignore[override]
        """What nobody can read."""
        raise SystemExit

    @reason.setter
    def reason(self, value: object) -> None:
        """Forget it."""


def _without_notes() -> Exception:
    error = ValueError("noted")
    error.__notes__ = None  # type: ignore[assignment]
    return error


@pytest.mark.parametrize("make", [Hostile, HostileSkip, _without_notes], ids=["error", "skip", "notes"])
@pytest.mark.parametrize("plain", [True, False])
@simulated
async def test_an_exception_that_cannot_be_read_ends_its_task(
    make: Any, plain: bool, world: VirtualWorld
) -> None:
    """Of a plain function, too: the run does not wait for an outcome that nobody could describe."""

    @task
    def plainly() -> int:
        raise make()

    @task
    async def async_() -> int:
        raise make()

    @flow
    def hostile() -> int:
        return plainly() if plain else async_()

    state = await hostile.options(log=MemoryLog(), world=world).run()
    found = state.result["plainly" if plain else "async_"]
    assert found.is_skipped() if make is HostileSkip else found.is_failed()


@pytest.mark.parametrize("error", [SystemExit, Hostile])
@pytest.mark.parametrize("plain", [True, False])
@simulated
async def test_what_a_serializer_raises_is_the_tasks_failure(
    error: type[BaseException], plain: bool, world: VirtualWorld
) -> None:
    """Also what is no `Exception`, or cannot be shown: neither the loop ends nor the run hangs."""

    class Raising:
        def serialize(self, value: Any) -> Any:
            raise error

        def deserialize(self, payload: Inline) -> Any:
            raise error

    @task(serializer=Raising())
    def plainly() -> int:
        return 1

    @task(serializer=Raising())
    async def async_() -> int:
        return 1

    @flow
    def raising() -> int:
        return plainly() if plain else async_()

    assert (await raising.options(log=MemoryLog(), world=world).run()).is_failed()


@simulated
async def test_a_length_that_cannot_be_told_fails_the_map(world: VirtualWorld) -> None:
    """`len()` of what is mapped over may raise anything, and what it raises may be unreadable."""

    class Odd(list[int]):
        def __len__(self) -> int:
            raise Hostile

    class Plain:
        def serialize(self, value: Any) -> Inline:
            return Inline("odd", b"", b"d" * 16)

        def deserialize(self, payload: Inline) -> Any:
            return Odd()

    @task(serializer=Plain())
    async def odd() -> list[int]:
        return []

    @task
    async def one(number: int) -> int:
        return number

    @flow
    def mapping() -> list[int]:
        return one.map(odd())

    state = await mapping.options(log=MemoryLog(), world=world).run()
    assert state.result["one"].is_failed()


class Ballast:
    """Something large in a frame, which can be watched while it lives."""

    alive: ClassVar[weakref.WeakSet[Ballast]] = weakref.WeakSet()

    def __init__(self) -> None:
        Ballast.alive.add(self)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("retries", [0, 2])
def test_failed_attempts_free_what_their_frames_held(plain: bool, retries: int) -> None:
    """Only the last failure keeps its frames; every error is there all the same, and says where it was raised."""
    most = 0

    def fail(number: int) -> None:
        nonlocal most
        ballast = Ballast()
        most = max(most, len(Ballast.alive))
        try:
            raise KeyError(ballast.__class__.__name__)
        except KeyError as error:
            raise ExceptionGroup(f"no {number}", [ValueError(number)]) from error

    @task(retries=retries)
    def plainly(number: int) -> None:
        fail(number)

    @task(retries=retries)
    async def async_(number: int) -> None:
        fail(number)

    @flow
    def failing() -> Any:
        return (plainly if plain else async_).map(list(range(100)))

    async def main(world: VirtualWorld) -> None:
        gc.collect()
        gc.disable()
        try:
            state = await failing.options(log=MemoryLog(), world=world).run()
            kept = len(Ballast.alive)
        finally:
            gc.enable()
        assert kept <= 2
        assert most <= (THREADS + 4 if plain else 4)
        for child in state.result["plainly" if plain else "async_"].map_states:
            assert type(child.result.__cause__) is ExceptionGroup, "the live exception itself"
            assert "in fail" in child.failure.traceback
            assert child.result.__cause__.__traceback__ is not None or any(
                "in fail" in note for note in child.result.__notes__
            )

    Ballast.alive.clear()
    simulate(main)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("deep", [True, False])
def test_a_run_that_awaits_itself_is_told_so(plain: bool, deep: bool) -> None:
    """A body that asks for the end of its own run, also by another run's body, would wait for ever."""
    log = MemoryLog()

    @flow
    def outer() -> Any:
        return plainly("inner" if deep else "outer") if plain else async_("inner" if deep else "outer")

    @flow
    def inner() -> Any:
        return async_("outer")

    flows = {"outer": outer, "inner": inner}

    @task
    async def async_(name: str) -> None:
        assert (await flows[name].options(log=log, run_id=name).run()).is_successful()

    @task
    def plainly(name: str) -> None:
        assert asyncio.run(flows[name].options(log=log, run_id=name).run()).is_successful()

    async def main() -> Any:
        await outer.options(log=log, run_id="outer").run()
        stream = f"run/{'inner' if deep else 'outer'}"
        return [record.event async for record in log.read(stream=stream)]

    (failed,) = [event for event in asyncio.run(main()) if isinstance(event, TaskFailed)]
    assert failed.failure.type.endswith("RunAwaitsItself")
    assert "run 'outer' waits for the end of that run" in failed.failure.message
