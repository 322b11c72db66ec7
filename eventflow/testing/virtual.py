"""A virtual clock for flows: hours pass in no time, and one seed gives one history.

`simulate(main)` runs a coroutine function on an event loop whose clock jumps to the next timer whenever
nothing else is left to do.  The clock does not move while a body runs in a thread, so a timeout never fires because
a thread was slow.  `asyncio.sleep`, `anyio.sleep`, deadlines and retry delays all follow it; nothing is patched.
A SQLite log holds the clock while its threads work. Other work outside the loop must be in `VirtualWorld.outside`.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from inspect import iscoroutinefunction, signature
from typing import Any, Final, TypeVar

from eventflow.executors.limit import limited_pool
from eventflow.executors.threads import Lanes
from eventflow.ports import Executor, LiveCall, Outcome, RemoteCall
from eventflow.runs.world import uuid7

__all__ = ["StillExecutor", "VirtualLoop", "VirtualWorld", "simulate", "simulated"]

T = TypeVar("T")

EPOCH_US: Final = 1_700_000_000_000_000
"""When every simulation begins, microseconds UTC."""


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer, moves the clock to it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.loop.pending_outside:
            # Nothing to jump to, or work outside must end first: wait as a real loop does, but never for a
            # virtual timer.
            return super().select(None if timeout is None or timeout > 0 else 0)
        events = super().select(0)
        if not events:
            self.loop.advance(timeout)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop with a clock of its own, which jumps instead of waiting."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        self.pending_outside = 0
        """Pieces of work under way outside the loop; the clock does not move meanwhile."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._virtual_now += seconds
        # asyncio calls timers that are due before time + resolution; after half a year of virtual time the fixed
        # resolution is lost in rounding, and a timer that is due right now would never be called.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._virtual_now))

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncio's own
        """Wait for the threads of `asyncio.to_thread`, with the clock held.

        Since Python 3.12 asyncio waits for them for some seconds of the loop, which the clock would jump over.

        ```python
        import asyncio

        from eventflow.testing import VirtualLoop

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:  # its end shuts the threads down
            print(runner.run(asyncio.to_thread(sum, [1, 2])))
        ```
        ```text
        3
        ```
        """
        with self.hold_clock():
            if sys.version_info < (3, 12):
                await super().shutdown_default_executor()
            else:
                await super().shutdown_default_executor(timeout)

    @contextmanager
    def hold_clock(self) -> Iterator[None]:
        """Hold the clock during a block that waits for work outside the loop; a log on disk calls it.

        ```python
        import asyncio

        from eventflow.testing import VirtualLoop

        async def main() -> None:
            loop = asyncio.get_running_loop()
            with loop.hold_clock():
                print(loop.pending_outside)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
        ```
        ```text
        1
        ```
        """
        self.pending_outside += 1
        try:
            yield
        finally:
            self.pending_outside -= 1


class VirtualWorld:
    """`World` of a simulation: the loop's clock, ids and chance from a seed.

    Use it inside `simulate`, or in any task of a `VirtualLoop`.
    """

    def __init__(self, seed: int = 0) -> None:
        """Make a world; equal seeds give equal ids and equal chance."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("a VirtualWorld lives on a VirtualLoop: start it with eventflow.testing.simulate")
        self._loop = loop
        self._random = random.Random(seed)  # noqa: S311 - chance that repeats is the point

    def now(self) -> int:
        """Virtual microseconds UTC."""
        return EPOCH_US + round(self._loop.time() * 1e6)

    def monotonic(self) -> int:
        """Virtual microseconds since the loop was made."""
        return round(self._loop.time() * 1e6)

    def new_id(self) -> str:
        """A UUIDv7 of the seed and the virtual clock."""
        return uuid7(self.now(), self._random.randbytes(10))

    def random(self) -> float:
        """The seed's next number in [0, 1)."""
        return self._random.random()

    def executor(self) -> StillExecutor:
        """A handle on the process's threads; the clock does not move while a call is under way."""
        return StillExecutor(Lanes(limited_pool), self._loop)

    def outside(self) -> AbstractContextManager[None]:
        """Hold the clock during a block that waits for work outside the loop, such as a thread of your own.

        ```python
        import asyncio
        import time

        from eventflow.testing import VirtualWorld, simulate

        async def main(world: VirtualWorld) -> None:
            with world.outside():
                await asyncio.to_thread(time.sleep, 0.01)
            print(world.monotonic())

        simulate(main)
        ```
        ```text
        0
        ```
        """
        return self._loop.hold_clock()


class StillExecutor:
    """An `Executor` in a simulation: the virtual clock does not move while a call is under way."""

    def __init__(self, executor: Executor, loop: VirtualLoop) -> None:
        """Pass every call on to another executor."""
        self._executor = executor
        self._loop = loop
        self._under_way = 0

    @property
    def in_process(self) -> bool:
        """As of the executor inside."""
        return self._executor.in_process

    @property
    def unfinished(self) -> int:
        """As of the executor inside."""
        return self._executor.unfinished

    def claim(self, wanted: int, on_free: Callable[[], object]) -> int:
        """As the executor inside."""
        return self._executor.claim(wanted, on_free)

    def give_up(self, count: int) -> None:
        """As the executor inside."""
        self._executor.give_up(count)

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Hold the clock until the call is answered."""

        def answer(outcome: Outcome) -> None:
            self._hold(-1)
            done(outcome)

        self._executor.submit(call, answer)
        self._hold(1)

    def cancel_queued(self) -> None:
        """As the executor inside."""
        self._executor.cancel_queued()

    def close(self) -> None:
        """Close the executor inside; calls under way no longer hold the clock."""
        self._executor.close()
        self._hold(-self._under_way)

    def _hold(self, more: int) -> None:
        self._under_way += more
        self._loop.pending_outside += more


def simulate(main: Callable[[VirtualWorld], Awaitable[T]], *, seed: int = 0) -> T:
    """Run `main(world)` to its end on a virtual clock, and return its result.

    Real time is spent on computing only. A simulation in which nothing can ever happen again, though a task waits,
    hangs as a real program would; give the test a time limit.

    ```python
    import asyncio

    from eventflow.testing import VirtualWorld, simulate

    async def main(world: VirtualWorld) -> float:
        began = world.now()
        await asyncio.sleep(3600)
        return (world.now() - began) / 1e6

    print(simulate(main), "seconds, in no time")
    ```
    ```text
    3600.0 seconds, in no time
    ```
    """

    async def start() -> Any:
        return await main(VirtualWorld(seed))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        result: T = runner.run(start())
        return result


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make an async test that takes `world` a plain one, which runs it on a virtual clock.

    The other parameters stay, so fixtures and `parametrize` work as for any test. Raises `TypeError` for a plain
    function, and for a test without the parameter `world`. Pass `world=world` to the options of each flow; a flow without
    it runs in real time.

    ```python
    import asyncio

    from eventflow.testing import VirtualWorld, simulated

    @simulated
    async def test_an_hour_passes(world: VirtualWorld) -> None:
        began = world.monotonic()
        await asyncio.sleep(3600)
        assert world.monotonic() - began == 3_600_000_000

    test_an_hour_passes()
    ```
    """
    name, whole = getattr(test, "__qualname__", repr(test)), signature(test)
    if not iscoroutinefunction(test):
        raise TypeError(
            f"@simulated: {name} is not an `async def` function; a plain test needs no virtual clock"
        )
    if "world" not in whole.parameters:
        raise TypeError(
            f"@simulated: {name} has no parameter `world`: add it, and pass world=world to the flow's options"
        )

    @wraps(test)
    def run(**given: Any) -> None:
        simulate(lambda world: test(world=world, **given))

    others = [parameter for name, parameter in whole.parameters.items() if name != "world"]
    run.__signature__ = whole.replace(parameters=others)  # type: ignore[attr-defined]  # pytest and Hypothesis read it
    return run
