"""Decides, in one round, on what was reported and on all that follows from it; nothing here is committed.

The run's state is folded ahead of the append: whoever commits the round throws it away when that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eventflow.events import Draft
from eventflow.machine import FINISHED, Plan
from eventflow.machine.commands import (
    BlockTask,
    Command,
    FailTask,
    FinishRun,
    SkipTask,
    StartTask,
    SucceedTask,
)
from eventflow.machine.decide import decide
from eventflow.machine.ready import ready
from eventflow.ports import ThreadExecutor, World
from eventflow.runner.cache_lookup import Cache
from eventflow.runner.live_values import LiveValues
from eventflow.runner.mapping import map_or_block, why_blocked
from eventflow.runner.waiting import Waiting
from eventflow.views.run import RunFacts, advance, why_failed

__all__ = ["IN_FLIGHT_MAX", "Decider"]

IN_FLIGHT_MAX: Final = 1024
ROUND_EVENTS_MAX: Final = 4_096
"""Events after which a round is committed, though more is due: results that are reused make others due."""


class Decider:
    """Decides for one run."""

    def __init__(
        self,
        plan: Plan,
        values: LiveValues,
        cache: Cache,
        waiting: Waiting,
        threads: ThreadExecutor,
        world: World,
    ) -> None:
        self._plan = plan
        self._values = values
        self._cache = cache
        self._waiting = waiting
        self._threads = threads
        self._world = world
        self.completed: list[int] = []
        """Nodes that finish in the round under way: what only they read is dropped once it is committed."""
        self.has_more = False
        """Whether a round left something due: it had become long, or had to wait for a thread."""
        self.wake_at: int | None = None
        """When to look again for a retry, by the monotonic clock; None when there is none, or no room for one."""

    def fold(self, facts: RunFacts, command: Command, now: int, drafts: list[Draft]) -> bool:
        """Decide, and let the state run ahead of the append; true when the command applied."""
        run = facts.run
        events = decide(self._plan, run, command, now)
        key = command.key if type(command) is SucceedTask else None
        for event in events:
            draft = Draft(now, event, key)
            advance(self._plan, facts, run.version + 1, draft)
            drafts.append(draft)
        slot = getattr(command, "slot", None)
        if type(command) is FailTask and slot in run.retry_at:
            self._waiting.failed(run, command.slot, self._world.monotonic() + command.delay_us)
        if events and slot is not None and run.status[slot] in FINISHED:
            node = run.node(slot)
            if node not in run.maps or not run.maps[node].open:
                self.completed.append(node)
        return bool(events)

    async def due(self, facts: RunFacts, now: int, drafts: list[Draft], *, idle: bool) -> list[int]:
        """Decide on everything that is due, and on what that makes due; give the slots to run.

        What is started makes nothing else due; what is reused, skipped, blocked or mapped does. `idle` says that all
        bodies that were started have begun.
        """
        run, waiting = facts.run, self._waiting
        started = self._begin(facts, waiting.freed(IN_FLIGHT_MAX - run.running), now, drafts)
        while True:
            room = IN_FLIGHT_MAX - run.running
            due = ready(self._plan, run, None, room, waiting.passed)
            waiting.passed = due.passed
            slots = due.start
            if waiting.wake_at is not None:
                slots = slots + waiting.retries(run, self._world.monotonic(), room - len(slots))
            asked = await self._cache.ask(facts, slots, now) if self._plan.cached else map(StartTask, slots)
            starts = self._begin(facts, waiting.admit(run, asked), now, drafts)
            started += starts
            for slot in due.skip:
                self.fold(facts, SkipTask(slot, "an upstream was skipped"), now, drafts)
            for slot in due.block:
                self.fold(facts, BlockTask(slot, why_blocked(self._plan, facts.run, slot)), now, drafts)
            for slot in due.map:
                self.fold(facts, await map_or_block(self._plan, self._values, facts, slot), now, drafts)
            if due.finished:
                self.fold(facts, FinishRun(why_failed(self._plan, facts)), now, drafts)
            if len(starts) == len(slots) and not (due.skip or due.block or due.map):
                break
            if len(drafts) > ROUND_EVENTS_MAX:
                self.has_more = True
                break
        self.wake_at = waiting.wake_at if run.running < IN_FLIGHT_MAX else None
        if not started and idle:
            started = self._begin(facts, waiting.suspect(), now, drafts)
        return started

    def _begin(
        self, facts: RunFacts, commands: Sequence[Command], now: int, drafts: list[Draft]
    ) -> list[int]:
        """Decide on tasks that may start, or take a result instead; give the slots to run."""
        started: list[int] = []
        for command in commands:
            applied = self.fold(facts, command, now, drafts)
            if type(command) is StartTask:
                if applied:
                    started.append(command.slot)
                elif self._waiting.is_plain(facts.run, command.slot):
                    self._threads.give_up(1)
        return started
