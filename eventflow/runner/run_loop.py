"""The loop of one ownership of a run: claim it, make rounds until it has finished, or stop and release it.

    inbox ──reports──► Round, Scheduler ──batch──► RunWriter ──started──► Workers ──► TaskRunner ──reports──► inbox

A round takes the reports, folds them into the run's state, lets the scheduler decide on everything that follows, and is
stored in one append.  So "A succeeded" and "B started" share one commit.  Evolve first, append second, act third: only a
round that is stored starts bodies.  When an append fails, the run is folded again and the same reports are decided again.

The *keeper* is the task that called `run`.  It waits for timers and for reports from threads, and starts workers when
no worker does.  A worker that has reported makes the next round itself: in a chain one task of the event loop goes body,
commit, body, without a switch.  If another task is making rounds, the worker ends.  Cancel scopes of the caller reach only the
keeper; it stops the workers.

To add: a request from outside (cancel, pause, signal) is a report in `inbox`; a new source of due work is decided in
`scheduler`; a lease, or another rule about the right to append, is in `run_writer`; another way to run a body is an executor,
called by `task_runner`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from logging import getLogger
from typing import Final

import anyio

from eventflow.machine import StartTask
from eventflow.ports import Conflict, Executor, OutcomeUnknown
from eventflow.runner.body import CLEANUP_S
from eventflow.runner.inbox import Inbox
from eventflow.runner.live_values import LiveValues
from eventflow.runner.ownership import OwnershipLost
from eventflow.runner.request import Request
from eventflow.runner.round import Round
from eventflow.runner.run_writer import RunWriter
from eventflow.runner.scheduler import Scheduler
from eventflow.runner.task_runner import TaskRunner
from eventflow.runner.workers import Workers

__all__ = ["RunLoop"]

_logger: Final = getLogger("eventflow.runner")

YIELD_US: Final = 5_000
"""How long a worker may run before timers and other runs get their turn."""
RELEASE_S: Final = 5.0
"""How long the release of a stopped run may take, after its bodies have cleaned up."""


class RunLoop:
    """One ownership of one run. Made for one call of `run`; a later ownership has parts of its own."""

    def __init__(
        self,
        writer: RunWriter,
        values: LiveValues,
        scheduler: Scheduler,
        task_runner: TaskRunner,
        workers: Workers,
        inbox: Inbox,
        executor: Executor,
        monotonic: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._values = values
        self._scheduler = scheduler
        self._task_runner = task_runner
        self._workers = workers
        self._inbox = inbox
        self._executor = executor
        self._monotonic = monotonic
        self._yielded_us = 0
        """When a worker last gave way to other tasks of the event loop."""

    async def run(self, request: Request) -> None:
        """Claim the run and see it to its end.

        Raises `OwnershipLost` when another runner claims it; then nothing more is appended. On any other error, and
        when it is cancelled, bodies are cancelled and have `CLEANUP_S` to clean up; then their interruption is recorded
        and the run released, within `RELEASE_S`, before the error or cancellation is passed on.
        """
        try:
            await self._claim(request)
            await self._keep()
            await self._writer.keep_snapshot()
        except BaseException as error:
            await self._let_go(error)
            raise

    async def _claim(self, request: Request) -> None:
        if self._writer.facts.run.version:
            self._restore()
        else:
            self._values.lend(request.extra_values)
        claim_round = self._writer.begin_claim()
        await self._scheduler.follow(claim_round, all_bodies_began=True)
        await self._store(claim_round)

    # -- the keeper and its workers ---------------------------------------------------------------

    async def _keep(self) -> None:
        """Wait for reports and timers until the run is over; then no body is left, and the workers end."""
        inbox, workers, scheduler = self._inbox, self._workers, self._scheduler
        while not self._writer.is_over:
            inbox.listen()
            if inbox.failure is not None:
                raise inbox.failure
            workers.grow(self._work)
            if inbox.has_work and not inbox.attended:
                await self._drive()
            elif scheduler.wake_at is None or inbox.attended:
                await inbox.wait()  # the end of the rounds that are being made wakes the keeper, too
            else:
                woken = await inbox.wait((scheduler.wake_at - self._monotonic()) / 1e6)
                if not woken and not inbox.attended:
                    await self._drive()
        await workers.end()

    async def _work(self) -> None:
        """Run bodies while there are any; then make the next round, if there are reports and no other task does."""
        workers, inbox, scheduler, task_runner = (
            self._workers,
            self._inbox,
            self._scheduler,
            self._task_runner,
        )
        workers.has_successor = False
        worker = asyncio.current_task()
        assert worker is not None, "a worker is a task of the event loop"
        while True:
            while workers.queue:
                start = workers.queue.popleft()
                workers.grow(self._work)
                if scheduler.has_suspects:
                    inbox.request_round()
                elif inbox.reports:
                    inbox.wake()  # these reports must not wait for a long body
                attempt = task_runner.begin(self._writer.facts, start, workers.queued_us)
                report = await task_runner.run(attempt, worker)
                if attempt.left:
                    return  # this worker no longer belongs to the run
                if report is not None:
                    inbox.put(report)
                if attempt.ended_us - self._yielded_us > YIELD_US:
                    await asyncio.sleep(0)
                    self._yielded_us = self._monotonic()
                if workers.stopping:
                    return
            if inbox.attended or not inbox.reports:
                return
            await self._drive()

    # -- rounds -----------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Make rounds until none is due.

        When a round raises, the state is ahead of the log and no other task may decide on it: `attended` stays true until
        the error has reached the keeper, which ends the ownership.
        """
        inbox = self._inbox
        inbox.attended = True
        while True:
            await self._make_round()
            if not inbox.has_work:
                break
        inbox.attended = False
        if self._writer.is_over or self._scheduler.wake_at is not None:
            inbox.wake()

    async def _make_round(self) -> None:
        """Decide on the reports and on everything that follows, store it in one append, then act on it."""
        inbox = self._inbox
        reports = inbox.reports.copy()
        inbox.round_due = False
        while True:
            this_round = self._writer.begin_round()
            for report in reports:
                this_round.take(report)
            await self._scheduler.follow(this_round, all_bodies_began=not self._workers.queue)
            if not this_round.drafts:
                break
            try:
                await self._store(this_round)
                break
            except (Conflict, OutcomeUnknown):
                await self._refold(this_round)
        inbox.remove(len(reports))

    async def _store(self, this_round: Round) -> None:
        """Store a round, then release the values that nothing reads any more and start bodies."""
        is_committed = await self._writer.store(this_round)
        now_us = self._monotonic()
        if is_committed:
            self._yielded_us = now_us
        self._values.stored()
        self._values.release(this_round.completed)
        if this_round.started:
            self._workers.start(this_round.started, now_us)

    async def _refold(self, failed_round: Round) -> None:
        """Continue from the log after the append of a round failed; if it is stored after all, its bodies begin."""
        await self._writer.refold()
        self._restore()
        run = self._writer.facts.run
        stored: list[StartTask] = []
        not_stored: list[StartTask] = []
        for start in failed_round.started:
            is_known = start.slot < len(run.started)
            is_stored = is_known and run.started[start.slot] > failed_round.base
            (stored if is_stored else not_stored).append(start)
        self._scheduler.give_back(failed_round, not_stored)
        self._workers.start(stored, self._monotonic())

    def _restore(self) -> None:
        """Have the parts continue from the facts that were folded from the log."""
        facts = self._writer.facts
        self._values.restore(facts.run)
        self._scheduler.restore(facts)

    # -- the end of an ownership that does not end the run ----------------------------------------

    async def _let_go(self, error: BaseException) -> None:
        """Stop the bodies, then record their reports and release the run."""
        if not self._writer.claim:
            return
        self._inbox.attended = False
        with anyio.CancelScope(shield=True):
            await self._stop()
        if isinstance(error, OwnershipLost):
            return
        with anyio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._writer.release(self._inbox.reports)
            except Exception as second:  # noqa: BLE001 - the first error is the one to be raised
                error.add_note(f"and the run could not be released: {second!r}")

    async def _stop(self) -> None:
        """Cancel the bodies and wait `CLEANUP_S` for them, and for those in threads, which cannot be cancelled."""
        self._workers.stopping = True  # calls that are cancelled from here on were interrupted
        self._executor.cancel_queued()
        until = anyio.current_time() + CLEANUP_S
        names = await self._workers.stop(CLEANUP_S)
        if names:
            _logger.warning(
                "run %r was stopped, and these bodies did not end within %g s of being cancelled; they were left "
                "behind: %s", self._workers.run_id, CLEANUP_S, ", ".join(names)
            )  # fmt: skip
        with anyio.CancelScope(deadline=until):
            while self._executor.unfinished:
                self._inbox.listen()
                await self._inbox.wait()
