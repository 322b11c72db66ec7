"""The thread executor by itself: outcomes, batching, context, and threads that end."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import anyio
import pytest

from eventflow.executors.local import Lanes, Pool
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
    lanes = Lanes(RealWorld(), Pool(40))
    done = Collected(40)
    finished = threading.Semaphore(0)
    assert lanes.claim(40, list) == 40
    for _ in range(40):
        lanes.submit(finished.release, done)
    for _ in range(40):
        finished.acquire()  # the loop does not turn meanwhile
    await done.wait()
    assert lanes.wake_ups <= 10
    assert lanes.unfinished == 0
    lanes.close()


async def test_no_more_threads_than_calls_or_limit() -> None:
    """Lanes are made as they are needed, up to the limit."""
    lanes = Lanes(RealWorld(), Pool(3))
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


async def test_closed_lanes_refuse_and_give_their_threads_back() -> None:
    """After `close` nothing is taken any more; the pool's threads stay for other runs."""
    pool = Pool(2)
    lanes = Lanes(RealWorld(), pool)
    done = Collected(1)
    lanes.submit(int, done)
    await done.wait()
    assert lanes.claim(2, list) == 2
    lanes.close()
    lanes.close()
    with pytest.raises(RuntimeError, match="closed"):
        lanes.submit(int, done)
    other = Lanes(RealWorld(), pool)
    assert other.claim(5, list) == 2, "what the first one had claimed is free again"
    assert pool.threads == 2
    other.close()
