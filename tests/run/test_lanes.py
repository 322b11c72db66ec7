"""The thread executor by itself: outcomes, batching, context, and threads that end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from functools import partial

import anyio
import pytest

from eventflow import MemoryLog, flow, task
from eventflow.executors import threads
from eventflow.executors.threads import THREADS, Lanes, Pool, shared_pool
from eventflow.ports import BodyCancelled, BodyRaised, BodyReturned, Outcome

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
    lanes = Lanes()
    threads: set[int] = set()
    done = Collected(2)

    def record(outcome: Outcome) -> None:
        threads.add(threading.get_ident())
        done(outcome)

    lanes.submit(threading.get_ident, record)
    lanes.submit(lambda: 1 // 0, record)
    outcomes = await done.wait()
    assert threads == {threading.get_ident()}
    returned = [outcome.value for outcome in outcomes if isinstance(outcome, BodyReturned)]
    raised = [outcome.error for outcome in outcomes if isinstance(outcome, BodyRaised)]
    assert returned[0] != threading.get_ident()
    assert isinstance(raised[0], ZeroDivisionError)
    lanes.close()


async def test_many_outcomes_share_a_wake_up() -> None:
    """While the loop is busy finished calls gather, and one wake-up brings them all."""
    lanes = Lanes(partial(Pool, 40))
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
    lanes = Lanes(partial(Pool, 3))
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
    lanes = Lanes()
    here.set("loop")

    def call() -> str:
        before = here.get()
        here.set("lane")
        return before

    done = Collected(2)
    lanes.submit(call, done)
    lanes.submit(call, done)
    assert [outcome.value for outcome in await done.wait() if isinstance(outcome, BodyReturned)] == [
        "loop"
    ] * 2
    assert here.get() == "loop"
    lanes.close()


async def test_closed_lanes_refuse_and_give_their_threads_back() -> None:
    """After `close` nothing is taken any more; the pool's threads stay for other runs."""
    pool = Pool(2)
    lanes = Lanes(lambda: pool)
    done = Collected(1)
    lanes.submit(int, done)
    await done.wait()
    assert lanes.claim(2, list) == 2
    lanes.close()
    lanes.close()
    with pytest.raises(RuntimeError, match="closed"):
        lanes.submit(int, done)
    other = Lanes(lambda: pool)
    assert other.claim(5, list) == 2, "what the first one had claimed is free again"
    assert pool.threads == 2
    other.close()


async def test_queued_calls_are_answered_when_they_are_cancelled() -> None:
    """Each call has exactly one outcome: those that no lane has begun are `BodyCancelled`, the one under way returns."""
    lanes = Lanes(partial(Pool, 1))
    begun, free = threading.Event(), threading.Event()
    done = Collected(3)

    def call() -> str:
        begun.set()
        free.wait()
        return "ended"

    for _ in range(3):
        lanes.submit(call, done)
    begun.wait()
    lanes.cancel_queued()
    assert done.outcomes == [BodyCancelled(), BodyCancelled()]
    assert lanes.unfinished == 1
    free.set()
    assert (await done.wait())[2] == BodyReturned("ended")
    assert lanes.unfinished == 0
    lanes.close()


async def test_threads_are_bounded_for_the_process() -> None:
    """However many runs there are, their plain functions share one pool, and no more of them run at once."""
    busy, most, lock = 0, 0, threading.Lock()

    @task
    def count(number: int) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.0005)
        with lock:
            busy -= 1
        return number

    @flow
    def counting() -> list[int]:
        return count.map(list(range(10)))

    pool = shared_pool(THREADS)
    log = MemoryLog()
    async with asyncio.TaskGroup() as runs:
        for _ in range(20):
            runs.create_task(counting.options(log=log).run())
    assert most <= THREADS
    assert pool.threads <= THREADS
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("eventflow-lane") for name in names) >= pool.threads


@pytest.mark.parametrize("inner", ["a loop of its own", "the outer loop"])
async def test_a_lane_whose_body_runs_a_flow_is_replaced(inner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a single thread a plain function can still wait for a flow that needs one."""
    monkeypatch.setenv("EVENTFLOW_THREADS", "1")
    loop, log = asyncio.get_running_loop(), MemoryLog()

    @task
    def double(number: int) -> int:
        return 2 * number

    @flow
    def doubling(depth: int, number: int) -> int:
        return nest(depth, double(number))

    @task
    def nest(depth: int, number: int) -> int:
        if not depth:
            return number
        options = doubling.options(log=MemoryLog() if inner == "a loop of its own" else log)
        if inner == "a loop of its own":
            return asyncio.run(options.value(depth - 1, number))
        return asyncio.run_coroutine_threadsafe(options.value(depth - 1, number), loop).result()

    assert await doubling.options(log=log).value(3, 1) == 16
    pool = shared_pool(1)
    lanes = Lanes(lambda: pool)
    assert lanes.claim(9, list) == 1, "what was lent is taken back"
    lanes.close()


async def test_runs_take_turns_for_a_lane() -> None:
    """A run with many calls does not keep another one waiting for all of them."""
    pool = Pool(1)
    many, one = Lanes(lambda: pool), Lanes(lambda: pool)
    order: list[str] = []
    done = Collected(21)
    for _ in range(20):
        many.submit(lambda: order.append("many"), done)
    one.submit(lambda: order.append("one"), done)
    await done.wait()
    assert order.index("one") <= 2
    many.close()
    one.close()


async def test_a_thread_that_cannot_be_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses threads, those that are there do the work; with none, another is tried soon."""
    start, refusals = threading.Thread.start, 3

    def refused(thread: threading.Thread) -> None:
        nonlocal refusals
        if thread.name.startswith("eventflow-lane") and (refusals > 0 or thread.name != "eventflow-lane-1"):
            refusals -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr(threads, "START_AGAIN_S", 0.001)
    pool = Pool(4)
    lanes = Lanes(lambda: pool)
    done = Collected(10)
    for _ in range(10):
        lanes.submit(int, done)
    await done.wait()
    assert pool.threads == 1
    assert refusals < 0, "more than one was tried"
    lanes.close()


def test_a_forked_child_has_lanes_of_its_own() -> None:
    """A child has its parent's memory and none of its threads: it runs plain functions all the same."""

    @task
    def double(number: int) -> int:
        return 2 * number

    @flow
    def doubling() -> int:
        return double(21)

    def run() -> int:
        return asyncio.run(doubling.options(log=MemoryLog()).value())

    def in_child(_: int) -> int:
        child = os.fork()
        if not child:
            try:
                os._exit(run())
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @task
    def forking(number: int) -> int:
        return in_child(number)

    @flow
    def forked() -> int:
        return forking(1)

    assert run() == 42
    assert in_child(0) == 42, "forked by the main thread"
    assert asyncio.run(forked.options(log=MemoryLog()).value()) == 42, "forked in a lane"


def test_a_body_may_wait_for_threads_of_its_own_that_run_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool cannot see that, yet the flows go on: each event loop has a lane, also where one is all there is."""

    @task(version="1")
    def leaf(number: int) -> int:
        return number + 1

    @flow
    def inner(number: int) -> int:
        return leaf(number)

    @task(version="1")
    def waits(number: int) -> int:
        found: list[int] = []

        def run() -> None:
            found.append(asyncio.run(inner.options(log=MemoryLog()).value(number)))

        own = threading.Thread(target=run)
        own.start()
        own.join()
        return found[0]

    @flow
    def outer(numbers: list[int]) -> list[int]:
        return waits.map(numbers)

    monkeypatch.setenv("EVENTFLOW_THREADS", "1")

    async def main() -> None:
        with anyio.fail_after(30):
            assert await outer.options(log=MemoryLog()).value([1, 2, 3]) == [2, 3, 4]

    asyncio.run(main())
