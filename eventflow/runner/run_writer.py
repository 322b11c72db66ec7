"""Writes the stream of one run, as its owner: claims it, stores rounds, folds it again after a conflict, releases it.

The writer holds the run's state.  A `Round` folds that state ahead; `store` makes it true.  When an append fails the
state is wrong, and `refold` replaces it by the fold of the log.  At durability `pipelined` rounds are only submitted, and
the run's end waits for the last one.

Leases, and every other rule about the right to append, belong here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from logging import getLogger
from typing import Final

from eventflow.events import RunClaimed, RunStarted
from eventflow.machine import Phase
from eventflow.machine.commands import AbandonTask, ClaimRun, ReleaseRun, StartRun
from eventflow.ports import Conflict, EventLog, OutcomeUnknown, Ticket, World, Write
from eventflow.runner import ownership
from eventflow.runner.body import Caller
from eventflow.runner.graph_record import GraphRecord
from eventflow.runner.inbox import Report
from eventflow.runner.ownership import OwnershipLost
from eventflow.runner.request import Request
from eventflow.runner.round import Round
from eventflow.views.run import RunFacts, RunView

__all__ = ["RunWriter"]

_logger: Final = getLogger("eventflow.runner")


class RunWriter:
    """The stream of one run, while it is owned."""

    def __init__(
        self, view: RunView, log: EventLog, world: World, request: Request, facts: RunFacts, caller: Caller
    ) -> None:
        """`facts` are those of the log; nothing is claimed yet."""
        self._view = view
        self._log = log
        self._world = world
        self._request = request
        self._caller = caller
        self._graph_record = GraphRecord(log, view.plan.graph)
        self._position = 0
        """Of the last record that is known to be stored."""
        self._ticket: Ticket | None = None
        """The last round that was submitted and not waited for."""
        self.facts = facts
        """The run's state, ahead of the log by the round under way."""
        self.claim = 0
        """Version of the `RunClaimed` of this ownership; 0 before the attempt to append it."""
        self.is_over = False
        """Whether the end of the run is stored."""

    def begin_round(self) -> Round:
        """Begin a round now; its moment is never before that of an earlier one."""
        return Round(self._view.plan, self.facts, max(self._world.now(), self.facts.run.at))

    # -- claim ------------------------------------------------------------------------------------

    def begin_claim(self) -> Round:
        """Begin the first round: start the run if it is new, claim it, abandon the attempts of a dead owner."""
        run, graph, request = self.facts.run, self._view.plan.graph, self._request
        is_new = run.phase == Phase.NEW
        claim_round = self.begin_round()
        if run.flow != graph.digest:
            claim_round.other_writes = self._graph_record.writes(claim_round.now)
        if is_new:
            claim_round.add(self._start_run())
            claim_round.values.extend(request.extra_values)
        owner, environment = self._world.new_id(), ownership.environment(request.entry)
        claim_round.add(ClaimRun(RunClaimed(owner=owner, environment=environment, flow=graph.digest)))
        self.claim = run.claim
        for slot in list(run.active()):
            claim_round.add(AbandonTask(slot, run.attempt[slot], "lost"))
        if is_new:
            for command in request.first:
                claim_round.add(command)
        return claim_round

    def _start_run(self) -> StartRun:
        request = self._request
        event = RunStarted(
            flow=self._view.plan.graph.digest,
            parameters=request.parameters,
            durability=request.options["durability"],
            labels=request.options["labels"] or {},
            origin=request.origin,
            entry=request.entry,
            why=request.why,
        )
        return StartRun(event)

    # -- rounds -----------------------------------------------------------------------------------

    async def store(self, this_round: Round) -> bool:
        """Append a round at the run's durability; returns whether it is committed, and not only submitted.

        Raises `OwnershipLost` when another runner claimed the run, `Conflict` or `OutcomeUnknown` when the run must be
        folded again. Cancelled, it learns the outcome of the append first, as `EventLog.append` does.
        """
        is_claim = this_round.base < self.claim
        has_ended = self.facts.run.phase == Phase.FINISHED
        pipelined = self._request.options["durability"] == "pipelined" and not is_claim
        writes = (*this_round.other_writes, Write(self._view.stream, this_round.base, this_round.drafts))
        try:
            if pipelined:
                await self._submit(writes, this_round, wait=has_ended)
            else:
                durability = self._request.options["durability"]
                records = await self._log.append(*writes, values=this_round.values, durability=durability)
                self._position = records[-1].position
        except (Conflict, OutcomeUnknown) as error:
            if isinstance(error, OutcomeUnknown) and self._caller.is_cancelled:
                raise asyncio.CancelledError from error  # it took the place of the cancellation
            if is_claim:
                raise self._lost_claim(error) from error
            raise
        if is_claim:
            self._graph_record.note()
        self.is_over = has_ended
        return not pipelined

    async def _submit(self, writes: Sequence[Write], this_round: Round, *, wait: bool) -> None:
        before = self._ticket
        try:
            if before is not None and before.error is not None:
                raise before.error
            self._ticket = ticket = await self._log.submit(*writes, values=this_round.values, after=before)
            if wait:
                self._position = (await ticket.wait())[-1].position
        except Conflict as conflict:  # bodies have continued from a state that the log never had
            raise OwnershipLost(f"run {self._view.run_id!r} is not where its rounds left it") from conflict

    def _lost_claim(self, error: Conflict | OutcomeUnknown) -> OwnershipLost:
        if isinstance(error, Conflict) and error.stream != self._view.stream:
            self._graph_record.note()  # another version of eventflow has written the graph
        return OwnershipLost(f"run {self._view.run_id!r} was claimed by another runner")

    async def refold(self) -> None:
        """Fold the run again after an append that failed; raises `OwnershipLost` when another runner claimed it."""
        self.facts = await ownership.read_run(self._log, self._view)
        ownership.check_known(self.facts, self._view.run_id)
        if not self._is_owned():
            raise OwnershipLost(f"run {self._view.run_id!r} was claimed by another runner")

    def _is_owned(self) -> bool:
        run = self.facts.run
        return run.phase == Phase.CLAIMED and run.claim == self.claim

    # -- the end ----------------------------------------------------------------------------------

    async def keep_snapshot(self) -> None:
        """Have the log keep the fold of a long run that has ended."""
        await ownership.keep_snapshot(self._log, self._view, self.facts, self._position)

    async def release(self, reports: Sequence[Report]) -> None:
        """Record the reports and the attempts that were interrupted, then release the run.

        Does nothing when another runner has claimed it. Reports that cannot be stored are left out.
        """
        if self._ticket is not None:
            with suppress(Exception):  # the fold shows its outcome
                await self._ticket.wait()
        self.facts = await ownership.read_run(self._log, self._view)
        if not self._is_owned():
            return
        try:
            await self._append_release(reports)
        except Exception:  # noqa: BLE001 - the reports cannot be written: release the run without them
            self.facts = await ownership.read_run(self._log, self._view)
            await self._append_release(())

    async def _append_release(self, reports: Sequence[Report]) -> None:
        last, run = self.begin_round(), self.facts.run
        for report in reports:
            last.take(report)
        for slot in list(run.active()):
            last.add(AbandonTask(slot, run.attempt[slot], "interrupted"))
        last.add(ReleaseRun("interrupted"))
        write = Write(self._view.stream, last.base, last.drafts)
        records = await self._log.append(write, values=last.values)
        self._position = records[-1].position
        await self.keep_snapshot()
        run_id = self._view.run_id
        _logger.warning("run %r was interrupted; resume it with .options(run_id=%r).run()", run_id, run_id)
