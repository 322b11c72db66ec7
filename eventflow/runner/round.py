"""One round: reports in, one batch of events out.

A round folds each event into the run's state as soon as it is decided, so the state runs ahead of the append.  When
the append fails, that state is thrown away and folded again from the log.  Nothing here does I/O.
"""

from __future__ import annotations

from eventflow.events import Draft
from eventflow.machine import FINISHED, Plan
from eventflow.machine.commands import Command, FailTask, StartTask, SucceedTask
from eventflow.machine.decide import decide
from eventflow.ports import Value, Write
from eventflow.runner.inbox import Report
from eventflow.views.run import RunFacts, advance

__all__ = ["Round"]


class Round:
    """The batch that one round appends, and the consequences of storing it."""

    __slots__ = (
        "base",
        "completed",
        "drafts",
        "facts",
        "failed",
        "now",
        "other_writes",
        "plan",
        "started",
        "values",
    )

    def __init__(self, plan: Plan, facts: RunFacts, now: int) -> None:
        """Begin a round at `now`, microseconds UTC; `facts` are folded ahead."""
        self.plan = plan
        self.facts = facts
        self.now = now
        self.base = facts.run.version
        """The run's version before the round."""
        self.drafts: list[Draft] = []
        self.values: list[Value] = []
        """Bytes to be stored in the same append."""
        self.other_writes: tuple[Write, ...] = ()
        """Writes to other streams that precede the run's own in the append."""
        self.started: list[StartTask] = []
        """The starts whose bodies begin once the round is stored."""
        self.completed: list[int] = []
        """Nodes that finish in this round: values that only they read are dropped once it is stored."""
        self.failed: list[FailTask] = []
        """Attempts that failed; those with a retry left need a timer."""

    def take(self, report: Report) -> None:
        """Decide on a report."""
        self.add(report.command)
        if report.value is not None:
            self.values.append(report.value)

    def add(self, command: Command) -> bool:
        """Decide on a command and fold its events; returns whether it applied."""
        plan, facts = self.plan, self.facts
        events = decide(plan, facts.run, command, self.now)
        if not events:
            return False
        key = command.key if type(command) is SucceedTask else None
        for event in events:
            draft = Draft(self.now, event, key)
            advance(plan, facts, facts.run.version + 1, draft)
            self.drafts.append(draft)
        if type(command) is StartTask:
            self.started.append(command)
        else:
            self._note_end(command)
        return True

    def _note_end(self, command: Command) -> None:
        """Note the nodes that are finished and the attempts that failed."""
        slot: int | None = getattr(command, "slot", None)
        if slot is None:
            return
        run = self.facts.run
        if run.status[slot] in FINISHED:
            node = slot if run.parent[slot] < 0 else run.node(slot)
            if node not in run.maps or not run.maps[node].open:
                self.completed.append(node)
        elif type(command) is FailTask:
            self.failed.append(command)
