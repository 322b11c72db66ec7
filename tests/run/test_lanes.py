"""The thread executor by itself: outcomes, batching, context, and threads that end."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import anyio
import pytest

from eventflow.executors.local import Lanes
from eventflow.ports import Outcome, Raised, Returned
from eventflow.world import RealWorld

here: ContextVar[str] = ContextVar("here", default="nowhere")


class Collected:
    """Outcomes as they are handed back, and a way to wait for so many."""

    def __init__(self, wanted: int) -> None:
        """Wait for that many."""
        self.outcomes: list[Outcome] = []
        self._wanted = wanted
        self._all = anyio.Event()

    def __call__(self, outcome: Outcome) -> None:
        """Take one."""
        self.outcomes.append(outcome)
        if len(self.outcomes) == self._wanted:
            self._all.set()

    async def wait(self) -> list[Outcome]:
        """All of them, once they are there."""
        await self._all.wait()
        return self.outcomes


async def test_outcomes_come_back_on_the_loop() -> None:
    """What a call returns and what it raises are both handed back, in the loop's own thread."""
    lanes = Lanes(RealWorld())
    threads: set[int] = set()
    done = Collected(2)

    def record(outcome: Outcome) -> None:
        threads.add(threading.get_ident())
        done(outcome)

    lanes.submit(threading.get_ident, record)
    lanes.submit(lambda: 1 // 0, record)
    outcomes = await done.wait()
    assert threads == {threading.get_ident()}
    returned = [outcome.value for outcome in outcomes if isinstance(outcome, Returned)]
    raised = [outcome.error for outcome in outcomes if isinstance(outcome, Raised)]
    assert returned[0] != threading.get_ident()
    assert isinstance(raised[0], ZeroDivisionError)
    lanes.close()


async def test_many_outcomes_share_a_wake_up() -> None:
    """While the loop is busy finished calls gather, and one wake-up brings them all."""
    lanes = Lanes(RealWorld(), limit=4)
    done = Collected(400)
    last = threading.Event()
    for i in range(400):
        lanes.submit(last.set if i == 399 else int, done)
    last.wait()  # the loop does not turn meanwhile
    await done.wait()
    assert lanes.wake_ups <= 100
    assert lanes.unfinished == 0
    lanes.close()


async def test_no_more_threads_than_calls_or_limit() -> None:
    """Lanes are made as they are needed, up to the limit."""
    lanes = Lanes(RealWorld(), limit=3)
    at_once = threading.Semaphore(0)
    free = threading.Event()
    running: list[int] = []

    def call() -> None:
        running.append(1)
        at_once.release()
        free.wait()

    done = Collected(5)
    for _ in range(5):
        lanes.submit(call, done)
    for _ in range(3):
        at_once.acquire()
    assert len(running) == 3
    free.set()
    await done.wait()
    assert len(running) == 5
    lanes.close()


async def test_calls_see_the_submitters_context_and_keep_theirs() -> None:
    """A call runs in a copy of the context: it sees what is set, and leaks nothing."""
    lanes = Lanes(RealWorld())
    here.set("loop")

    def call() -> str:
        before = here.get()
        here.set("lane")
        return before

    done = Collected(2)
    lanes.submit(call, done)
    lanes.submit(call, done)
    assert [outcome.value for outcome in await done.wait() if isinstance(outcome, Returned)] == ["loop"] * 2
    assert here.get() == "loop"
    lanes.close()


async def test_closed_lanes_refuse_and_their_threads_end() -> None:
    """After `close` nothing is taken any more, and idle threads are gone."""
    lanes = Lanes(RealWorld())
    threads: list[threading.Thread] = []
    done = Collected(1)
    lanes.submit(lambda: threads.append(threading.current_thread()), done)
    await done.wait()
    lanes.close()
    lanes.close()
    await asyncio.to_thread(threads[0].join, 10)
    assert not threads[0].is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        lanes.submit(int, done)
