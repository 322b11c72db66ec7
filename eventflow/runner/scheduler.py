"""Decides everything that follows in a round: due tasks, results that are reused, maps, retries, the end of the run.

Started tasks make nothing else due.  Reused, skipped, blocked and mapped ones do, so `follow` asks again until nothing
is left.  The only I/O is the look-up in the cache.

Later sources of due work belong here: child runs, limits and priorities.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from eventflow.machine import Plan
from eventflow.machine.commands import BlockTask, FinishRun, ReuseTask, SkipTask, StartTask
from eventflow.machine.ready import Due, ready
from eventflow.runner.cache_lookup import CacheLookup
from eventflow.runner.inbox import Inbox
from eventflow.runner.live_values import LiveValues
from eventflow.runner.map_width import map_task
from eventflow.runner.retry_timers import RetryTimers
from eventflow.runner.round import Round
from eventflow.runner.start_gate import StartGate
from eventflow.views.run import RunFacts, why_failed

__all__ = ["IN_FLIGHT_MAX", "Scheduler"]

IN_FLIGHT_MAX: Final = 1024
"""Tasks that are started and not finished, at most."""
ROUND_EVENTS_MAX: Final = 4_096
"""Events after which a round is stored, though more is due: results that are reused make others due."""


class Scheduler:
    """Decides for one run which tasks are started next."""

    def __init__(
        self,
        plan: Plan,
        values: LiveValues,
        cache: CacheLookup,
        gate: StartGate,
        timers: RetryTimers,
        inbox: Inbox,
    ) -> None:
        self._plan = plan
        self._values = values
        self._cache = cache
        self._gate = gate
        self._timers = timers
        self._inbox = inbox
        self._cursor = 0
        """How much of the run's queue was taken up, see `ready`."""
        self.wake_at: int | None = None
        """When the next retry is due, by the monotonic clock; None when there is none, or no room for one."""

    @property
    def has_suspects(self) -> bool:
        """Whether starts wait until all bodies that were started have begun."""
        return self._gate.has_suspects

    def restore(self, facts: RunFacts) -> None:
        """Continue from facts that were folded from the log."""
        self._cursor = 0
        self._cache.restore()
        self._gate.clear()
        self._timers.restore(facts)

    async def follow(self, this_round: Round, *, all_bodies_began: bool) -> None:
        """Decide on everything that is due, and on all that becomes due by that.

        `all_bodies_began` says that no body that was started still waits to begin. Requests another round when this one
        became long.
        """
        run = this_round.facts.run
        self._add_timers(this_round)
        self._start(this_round, self._gate.take_freed(IN_FLIGHT_MAX - run.running))
        while await self._step(this_round):
            if len(this_round.drafts) > ROUND_EVENTS_MAX:
                self._inbox.request_round()
                break
        self.wake_at = None
        if run.running < IN_FLIGHT_MAX:
            self.wake_at = self._timers.wake_at
        if all_bodies_began and not this_round.started:
            self._start(this_round, self._gate.take_suspect())

    def give_back(self, failed_round: Round, starts: Iterable[StartTask]) -> None:
        """Give back the threads of starts of a round that is not stored."""
        for command in starts:
            self._gate.give_back(failed_round.facts.run, command)

    def _add_timers(self, this_round: Round) -> None:
        """Start the timers of tasks that failed and will be retried."""
        run = this_round.facts.run
        for command in this_round.failed:
            if command.slot in run.retry_at:
                self._timers.add(run, command.slot, command.delay_us)

    async def _step(self, this_round: Round) -> bool:
        """Decide on everything that is due; returns whether that may have made more due."""
        facts = this_round.facts
        run = facts.run
        room = IN_FLIGHT_MAX - run.running
        due = ready(self._plan, run, None, room, self._cursor)
        self._cursor = due.cursor
        slots = due.start
        if self._timers.wake_at is not None:
            slots = slots + self._timers.due(run, room - len(slots))
        has_reused = False
        if slots:
            commands: Iterable[StartTask | ReuseTask] = map(StartTask, slots)
            if self._plan.cached:
                commands = await self._cache.ask(facts, slots, this_round.now)
            has_reused = self._start(this_round, self._gate.admit(run, commands))
        settles = bool(due.skip or due.block or due.map)
        if settles or due.finished:
            await self._settle(this_round, due)
        return settles or has_reused

    def _start(self, this_round: Round, commands: Iterable[StartTask | ReuseTask]) -> bool:
        """Decide on tasks that may start, or whose result is reused; returns whether a result was reused."""
        has_reused = False
        for command in commands:
            has_applied = this_round.add(command)
            if isinstance(command, ReuseTask):
                has_reused = True
            elif not has_applied:
                self._gate.give_back(this_round.facts.run, command)
        return has_reused

    async def _settle(self, this_round: Round, due: Due) -> None:
        """Decide on due tasks that start no body, and on the end of the run."""
        for slot in due.skip:
            this_round.add(SkipTask(slot, "an upstream was skipped"))
        for slot in due.block:
            this_round.add(BlockTask(slot))
        for slot in due.map:
            this_round.add(await map_task(self._plan, self._values, this_round.facts, slot))
        if due.finished:
            this_round.add(FinishRun(why_failed(self._plan, this_round.facts)))
