"""Runs plain functions in the threads of one pool for the whole process, and hands their outcomes back in batches.

A hop to a fresh worker thread and back costs about 100 µs; a *lane*, a thread that stays, costs a fifth of that
under load: a finished body's outcome is put on a list, and the event loop is woken only when no wake-up is
under way.  Async bodies need none of this, the runner calls them in its own loop.

    Pool     the lanes: at most `limit` threads, made as they are needed, kept until the process ends
    Lanes    one run's handle on a pool: claims lanes, submits calls, takes their outcomes back on its loop

A lane is *claimed* before a call is submitted, so that a call begins as soon as it is submitted.  A run that finds
no free lane joins a queue, and each lane that becomes free goes to the run at its head, one at a time: runs take
turns, however many calls each has waiting.

A body that runs a flow waits for bodies that need lanes of their own.  If all lanes of a pool waited like this, they
would wait for ever.  So a lane from which a run was called does not count until that run has ended: the pool may have
one thread more.  A body may also wait for a thread of its own that runs a flow; the pool cannot know
that.  So each event loop that has calls waiting has one lane at least, beyond the limit if need be.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Final, TypeAlias

from eventflow.ports import BodyCancelled, BodyRaised, BodyReturned, LiveCall, Outcome, RemoteCall

__all__ = ["THREADS", "Lanes", "Pool", "shared_pool"]

THREADS: Final = 32
"""Threads of the process's pool, by default.

Bodies in threads mostly wait for disks and networks, so it does not depend on the number of processors.
"""
START_AGAIN_S: Final = 0.1
"""How long to wait before another thread is tried, after the system refused one."""

Done: TypeAlias = Callable[[Outcome], None]
_stay: Final[ContextVar[_Stay | None]] = ContextVar("eventflow-lane", default=None)
"""The stay in a lane of the call in whose context code runs."""


class _Stay:
    """One call's stay in a lane of a pool; the pool's lock guards it."""

    __slots__ = ("nested", "over", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.nested = 0
        """Runs that were called from within it and have not ended."""
        self.over = False


class _Job:
    """One call on its way through a lane."""

    __slots__ = ("call", "context", "done", "owner")

    def __init__(self, owner: Lanes, context: Context, call: LiveCall, done: Done) -> None:
        self.owner = owner
        self.context = context
        self.call = call
        self.done = done


class Pool:
    """At most `limit` threads that run calls for any number of runs, in any number of event loops.

    The threads are daemons: a body that never ends does not keep the process from ending.
    """

    def __init__(self, limit: int = THREADS) -> None:
        self._limit = limit
        self._lock = Lock()
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = 0
        self._taken = 0
        """Lanes that are claimed or busy; there is a thread for each."""
        self._lent = 0
        """Busy lanes whose body waits for a run, for each of which there may be another lane."""
        self._waiting: deque[Lanes] = deque()
        self._held: Counter[int] = Counter()
        """Lanes that are claimed or busy, by event loop."""

    @property
    def limit(self) -> int:
        """How many threads there may be."""
        return self._limit

    @property
    def threads(self) -> int:
        """How many threads there are."""
        return self._threads

    def resize(self, limit: int) -> None:
        """Allow another number of threads; those that are too many stay and are not used."""
        if limit != self._limit:
            with self._lock:
                self._limit = limit
                self._grant()

    def claim(self, owner: Lanes, wanted: int) -> int:
        """Give a run up to `wanted` lanes; for the rest it joins the queue."""
        with self._lock:
            given = min(owner.granted, wanted)
            if given < owner.granted:
                self._free(owner, owner.granted - given)
                self._grant()
            owner.granted = 0
            if not self._waiting:
                given += self._take(min(wanted - given, self._limit + self._lent - self._taken), owner)
            if given < wanted and not self._held[owner.loop_id]:
                given += self._take(1, owner)
            owner.wanted = wanted - given
            if owner.waits:
                self._grant(owner)  # there is room if a thread was refused before
                given += owner.granted
                owner.granted = 0
            elif owner.wanted:
                owner.waits = True
                self._waiting.append(owner)
            return given

    def put(self, job: _Job) -> None:
        """Run a call in a lane that was claimed for it."""
        self._jobs.put(job)

    def give_up(self, owner: Lanes, count: int) -> None:
        """Take back lanes that were claimed and are not needed."""
        with self._lock:
            self._free(owner, count)
            self._grant()

    def forget(self, owner: Lanes) -> None:
        """Take back all that a run has not used; it does not wait any more."""
        with self._lock:
            owner.wanted = 0
            self._free(owner, owner.granted)
            owner.granted = 0
            self._grant()

    def lend(self, stay: _Stay) -> None:
        """Allow another lane, for a call in one of ours waits for a run."""
        with self._lock:
            stay.nested += 1
            if stay.nested == 1 and not stay.over:
                self._lent += 1
                self._grant()

    def take_back(self, stay: _Stay) -> None:
        """The run that a call waited for has ended."""
        with self._lock:
            stay.nested -= 1
            if not stay.nested and not stay.over:
                self._lent -= 1

    def end(self, stay: _Stay, owner: Lanes) -> None:
        """A call of that run has ended, and its lane is free."""
        with self._lock:
            stay.over = True
            if stay.nested:
                self._lent -= 1
            self._free(owner, 1)
            self._grant(owner)

    # With the lock:

    def _take(self, count: int, owner: Lanes) -> int:
        """Take free lanes, with a thread for each; fewer where the system refuses a thread."""
        taken = 0
        while taken < count:
            if self._taken == self._threads and not self._start():
                owner.ask_again()
                break
            self._taken += 1
            self._held[owner.loop_id] += 1
            taken += 1
        return taken

    def _free(self, owner: Lanes, count: int) -> None:
        self._taken -= count
        self._held[owner.loop_id] -= count
        if not self._held[owner.loop_id]:
            del self._held[owner.loop_id]

    def _start(self) -> bool:
        name = f"eventflow-lane-{self._threads + 1}"
        try:
            Thread(target=_work, args=(self, self._jobs), name=name, daemon=True).start()
        except (RuntimeError, MemoryError):  # "can't start new thread": one that is there will be free
            return False
        self._threads += 1
        return True

    def _grant(self, awake: Lanes | None = None) -> None:
        """Hand free lanes to the runs that wait, in turn; `awake` is about to look by itself."""
        while self._waiting:
            if self._limit + self._lent <= self._taken:
                starved = next((owner for owner in self._waiting if not self._held[owner.loop_id]), None)
                if starved is None:
                    return
                self._waiting.remove(starved)
                self._waiting.appendleft(starved)
            owner = self._waiting[0]
            if owner.wanted:
                if not self._take(1, owner):
                    return
                owner.granted += 1
                owner.wanted -= 1
                if owner is not awake and not owner.nudge():  # its event loop is closed
                    self._free(owner, owner.granted)
                    owner.granted = owner.wanted = 0
            self._waiting.popleft()
            owner.waits = owner.wanted > 0
            if owner.waits:
                self._waiting.append(owner)


def _work(pool: Pool, jobs: SimpleQueue[_Job]) -> None:
    """Run calls in one thread."""
    while True:
        job = jobs.get()
        stay = _Stay(pool)
        outcome: Outcome
        try:
            outcome = BodyReturned(job.context.run(_call, stay, job.call))
        except BaseException as error:  # noqa: BLE001 - every way to end is an outcome
            outcome = BodyRaised(error)
        pool.end(stay, job.owner)  # first, so that the lane is free when the outcome arrives
        job.owner.give_back(job.done, outcome)
        del job, outcome  # an idle lane keeps nothing alive


def _call(stay: _Stay, call: LiveCall) -> Any:
    _stay.set(stay)
    return call()


_shared: Final[list[Pool]] = []
os.register_at_fork(after_in_child=_shared.clear)  # a child has none of its parent's threads


def shared_pool(limit: int = THREADS) -> Pool:
    """The process's one pool, of that size from now on."""
    if not _shared:
        _shared.append(Pool(limit))
    pool = _shared[0]
    pool.resize(limit)
    return pool


class Lanes:
    """An `Executor` on a pool of threads, for the event loop in which it was made. To be closed."""

    def __init__(self, find_pool: Callable[[], Pool] = shared_pool) -> None:
        """Make an executor for the running event loop, by default on the process's pool.

        `find_pool` is called at the first claim or call: a run without plain functions needs none.
        """
        self._loop = asyncio.get_running_loop()
        self.loop_id: Final = id(self._loop)
        self._find_pool = find_pool
        self._known_pool: Pool | None = None
        self._claimed = 0
        """Lanes of ours for which no call was submitted yet."""
        self._on_free: Callable[[], object] | None = None
        self._backlog: deque[_Job] = deque()
        """Calls that were submitted without a claim."""
        self._unfinished = 0
        self._lock = Lock()
        self._finished: deque[tuple[Done, Outcome]] = deque()
        self._waking = False
        self._closed = False
        self.wake_ups = 0
        """How often the event loop was woken: at most once for each outcome, far less under load."""
        self.wanted = self.granted = 0
        """Lanes that are asked for, and those that were given since; the pool's lock guards them."""
        self.waits = False
        """Whether it is in the pool's queue."""
        self._outer: _Stay | None = None
        outer = _stay.get()
        # In a forked child a call's own pool is not the one in use, and its lock may be taken for ever.
        if outer is not None and outer.pool is self._pool:
            self._outer = outer
            self._pool.lend(outer)

    @property
    def _pool(self) -> Pool:
        if self._known_pool is None:
            self._known_pool = self._find_pool()
        return self._known_pool

    @property
    def in_process(self) -> bool:
        """True: it is given live calls."""
        return True

    @property
    def unfinished(self) -> int:
        """Bodies submitted and not yet handed back."""
        return self._unfinished

    def claim(self, wanted: int, on_free: Callable[[], object]) -> int:
        """Give up to `wanted` lanes for calls to be submitted; if fewer, have `on_free` called when to ask again."""
        if self._closed or self._backlog:
            return 0
        self._on_free = on_free
        given = self._pool.claim(self, wanted)
        self._claimed += given
        return given

    def give_up(self, count: int) -> None:
        """Take back lanes that were claimed and are not needed."""
        count = min(count, self._claimed)
        if count:
            self._claimed -= count
            self._pool.give_up(self, count)

    def submit(self, call: LiveCall | RemoteCall, done: Callable[[Outcome], None]) -> None:
        """Run `call` in a lane, in a copy of the caller's context variables, then `done` on the loop.

        It begins at once in a lane that was claimed; otherwise it waits for one.
        """
        if self._closed:
            raise RuntimeError("the executor is closed")
        assert not isinstance(call, RemoteCall), "an executor in this process is given live calls"
        self._unfinished += 1
        job = _Job(self, copy_context(), call, done)
        if self._claimed:
            self._claimed -= 1
            self._pool.put(job)
        else:
            self._backlog.append(job)
            self._serve()

    def _serve(self) -> None:
        """Begin calls that wait for a lane."""
        for _ in range(self._pool.claim(self, len(self._backlog))):
            self._pool.put(self._backlog.popleft())

    def ask_again(self) -> None:
        """Try again soon; the system refuses more threads. From any thread."""
        self._call_soon(lambda: self._loop.call_later(START_AGAIN_S, self._wake))

    def nudge(self) -> bool:
        """Have the loop take the lanes that were granted; false when it is closed. From any thread."""
        with self._lock:
            if self._waking:
                return True
            self._waking = True
        return self._call_soon(self._wake)

    def give_back(self, done: Done, outcome: Outcome) -> None:
        """Take an outcome from a lane's thread."""
        with self._lock:
            self._finished.append((done, outcome))
            if self._waking:
                return
            self._waking = True
        self._call_soon(self._wake)

    def _call_soon(self, callback: Callable[[], object]) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed, and with it everything that waited
            self._closed = True
            return False
        return True

    def _wake(self) -> None:
        self.wake_ups += 1
        with self._lock:
            self._waking = False
            batch, self._finished = self._finished, deque()
        if self._closed:
            return  # the outcomes are not awaited any more
        self._unfinished -= len(batch)
        for done, outcome in batch:
            done(outcome)
        if self._backlog:
            self._serve()
        elif self.wanted or self.granted:
            assert self._on_free is not None, "a claim has a callback for free lanes"
            self._on_free()

    def cancel_queued(self) -> None:
        """Answer the calls that no lane has begun with `BodyCancelled`, and give back all claims."""
        cancelled, self._backlog = self._backlog, deque()
        if self._known_pool is not None:
            self._known_pool.forget(self)
        self.give_up(self._claimed)
        self._unfinished -= len(cancelled)
        for job in cancelled:
            job.done(BodyCancelled())

    def close(self) -> None:
        """Give back everything that is not in use; calls under way and in the queue are not answered any more."""
        if self._outer is not None:
            self._pool.take_back(self._outer)
            self._outer = None
        pool = self._known_pool
        if self._closed:
            if pool is not None:
                pool.forget(self)
            return
        self._closed = True
        self._backlog.clear()
        self._unfinished = 0
        if pool is not None:
            pool.forget(self)
            pool.give_up(self, self._claimed)
            self._claimed = 0
