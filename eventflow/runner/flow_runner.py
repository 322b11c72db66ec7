"""The loop: open, claim, recover, ask what is due, decide, commit, act, until the run has finished.

Evolve first, append second, act third.  A round folds the reports that wait into the run's state, asks
`ready` what follows, decides that too, and commits all of it in one append; only then do bodies start.
So "A succeeded" and "B started" share one commit.  When an append fails, the state that ran ahead of it
is thrown away and folded again from the log.

Three shapes carry the speed, and each is here for its measured worth:

* The worker that reports drives the round itself.  In a chain one coroutine goes body, commit, body,
  without a task switch.  If somebody else is driving, it ends: the driver finds its report.
* Workers grow by one, and only while there is more in the queue: a successor runs once all before it
  are suspended.  Bodies that never suspend cost one spawn for all, others one each.
* At most `IN_FLIGHT_MAX` tasks are started and not finished.

The *keeper* is the task that called `run`: it waits for timers and for threads' outcomes, and starts
workers when nobody else does.  Scopes of the caller's reach only the keeper; it stops the workers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from logging import getLogger
from typing import Any, Final

import anyio

from eventflow.events import Draft
from eventflow.machine import Phase
from eventflow.machine.commands import (
    AbandonTask,
    ClaimRun,
    Command,
    ReleaseRun,
    StartRun,
)  # fmt: skip
from eventflow.ports import (
    Bindings,
    Conflict,
    EventLog,
    OutcomeUnknown,
    ThreadExecutor,
    Ticket,
    Value,
    World,
    Write,
)
from eventflow.projections import read_graph, read_graphs
from eventflow.runner import ownership
from eventflow.runner.body import CLEANUP_S
from eventflow.runner.cache_lookup import Cache
from eventflow.runner.compatibility import check_finished
from eventflow.runner.graph_record import Definition
from eventflow.runner.live_values import LiveValues
from eventflow.runner.ownership import Lost, check_known, check_not_awaited
from eventflow.runner.parameters import check_parameters
from eventflow.runner.request import Request
from eventflow.runner.round import IN_FLIGHT_MAX, Decider
from eventflow.runner.task_runner import TaskRunner
from eventflow.runner.waiting import Waiting
from eventflow.runner.workers import Workers
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_serializers import RunSerializers

__all__ = ["FlowRunner"]

_logger: Final = getLogger("eventflow.runner")

YIELD_US: Final = 5_000
"""How long a worker may go on before timers and other runs get their turn."""
RELEASE_S: Final = 5.0
"""How long a stopped runner may take to leave its run in order, after its bodies have cleaned up."""


class FlowRunner:
    """Brings one run of one flow to its end. Made for one call of `run`."""

    def __init__(
        self,
        view: RunView,
        serializers: RunSerializers,
        bindings: Bindings,
        log: EventLog,
        world: World,
        threads: ThreadExecutor,
        request: Request,
    ) -> None:
        self._view = view
        self._plan = view.plan
        self._log = log
        self._world = world
        self._threads = threads
        self._request = request
        self._serializers = serializers
        self._values = LiveValues(serializers, bindings, log)
        self._cache = Cache(view, self._values, log, world)
        self._runner = TaskRunner(
            view,
            self._values,
            world,
            threads,
            self._take_report,
            self._wake_keeper,
            self._is_cancelled,
            self._cache.keys,
        )
        self._facts = view.initial()
        self._workers: Workers
        self._waiting = Waiting(self._plan, threads, self._values.is_plain, self._look_again)
        self._decider = Decider(self._plan, self._values, self._cache, self._waiting, threads, world)
        self._queue: deque[int] = deque()
        self._queued_us = 0
        self._reports: list[Command] = []
        self._in_round: list[Command] = []
        self._beside: list[Value] = []
        self._driving = False
        self._yielded_us = 0
        self._claim = 0
        """Version of our `RunClaimed`; 0 while nothing is claimed."""
        self._position = 0
        """Of the last record that is known to stand."""
        self._ticket: Ticket | None = None
        """The last round that was submitted and not waited for."""
        self._over = False
        """The end is in the log; the state alone, which runs ahead of it, proves nothing."""
        self._nudge = anyio.Event()
        self._definition = Definition(log, self._plan.graph)
        self._host: asyncio.Task[Any] | None = None
        """The task that called `run`, and is the keeper."""
        self._asked = 0
        """How often it had been asked to stop before that."""

    @property
    def errors(self) -> Mapping[int, BaseException]:
        """Live exceptions of tasks that failed in this process, by slot."""
        return self._runner.errors

    def dissolve(self) -> None:
        """Let go of the parts that refer back to it, so that the garbage collector has nothing to do; the last call."""
        vars(self).clear()

    # -- from outside -----------------------------------------------------------------------------

    async def look(self) -> RunFacts:
        """Give what the log says of the run; starts, resumes and writes nothing. Raises as `run` does."""
        await self._read()
        return self._facts

    async def run(self) -> RunFacts:
        """See the run to its end and give its facts.

        A new id starts the run, an unfinished one is resumed, a finished one is only read, one that is
        live elsewhere is followed and taken over if its owner dies. Raises `FlowChanged` or `ParametersDiffer` before anything is appended.

        Cancelled, it cancels the bodies and gives them `CLEANUP_S` to clean up, writes down that they were
        interrupted, lets go of the run (which takes at most `RELEASE_S`) and passes the cancellation on; the run
        can be resumed. A body that goes on for longer is left behind, and its task is named in a warning.
        Raises `RunAwaitsItself` in a body of the very run.
        """
        self._host = host = asyncio.current_task()
        assert host is not None, "awaited in a task"
        self._asked = host.cancelling()
        while True:
            async with self._log.hold(self._view.run_id) as held:
                if held:
                    try:
                        await self._own()
                    except Lost:
                        pass
                    else:
                        return self._facts
            head = await self._log.head()
            await self._read()
            if ownership.is_over(self._facts):
                return self._facts
            check_not_awaited(self._view.run_id)
            await ownership.watch(self._log, self._view, head)

    def _is_cancelled(self) -> bool:
        """Whether the caller is being cancelled, as all tasks are when their loop ends."""
        return self._host is not None and self._host.cancelling() > self._asked

    async def _own(self) -> None:
        self._workers = self._runner.workers = Workers(self._view.run_id, self._work, self._nudge_keeper)
        try:
            await self._open()
            if ownership.is_over(self._facts):
                return
            await self._keep()
            await ownership.keep_snapshot(self._log, self._view, self._facts, self._position)
        except BaseException as error:
            await self._let_go(error)
            raise

    # -- open, claim, recover ---------------------------------------------------------------------

    async def _read(self) -> None:
        """Fold what is there; refuse a run that today's flow may not go on with."""
        log, graph, run_id, request = self._log, self._plan.graph, self._view.run_id, self._request
        self._facts = facts = await ownership.fold(log, self._view)
        if facts.run.phase == Phase.NEW:
            return
        await read_graphs(log, facts, self._serializers.graphs)
        may_go_on = facts.run.phase != Phase.FINISHED  # what has finished is only shown
        if may_go_on and facts.run.flow != graph.digest and request.on_change != "keep":
            check_finished(await read_graph(log, facts.run.flow), graph, facts, self._serializers, run_id)
        await check_parameters(log, run_id, self._serializers, facts, request)

    async def _open(self) -> None:
        """Fold what is there, begin what is not, and claim the run."""
        run, graph, request = self._facts.run, self._plan.graph, self._request
        if not request.fresh or self._claim:
            await self._read()
            run = self._facts.run
            check_known(self._facts, self._view.run_id)
        if run.phase == Phase.FINISHED:
            return
        self._forget()
        commands: list[Command] = []
        born = run.phase == Phase.NEW
        if born:
            commands.append(
                StartRun(
                    graph.digest,
                    request.parameters,
                    request.durability,
                    request.labels,
                    request.origin,
                    request.entry,
                    request.why,
                )
            )
        defined = () if run.flow == graph.digest else self._definition.writes(self._world.now())
        commands.append(ClaimRun(self._world.new_id(), ownership.environment(request.entry), graph.digest))
        commands += [AbandonTask(slot, run.attempt[slot], "lost") for slot in run.active()]
        commands += request.first if born else ()
        self._values.recount(run)
        self._values.lend(request.beside if born else ())
        self._waiting.recount(self._facts, self._world.now(), self._world.monotonic())
        self._claim = run.version + (2 if born else 1)
        try:
            await self._commit(commands, defined, request.beside if born else ())
        except (Conflict, OutcomeUnknown) as conflict:
            if isinstance(conflict, Conflict) and conflict.stream != self._view.stream:
                self._definition.note()  # it is there, in the words of another version
            raise Lost(f"run {self._view.run_id!r} was claimed by another runner") from conflict
        self._definition.note()

    def _forget(self) -> None:
        """Nothing is left of an earlier ownership, which was lost in whatever it was doing."""
        self._queue.clear()
        self._reports.clear()
        self._in_round.clear()
        self._beside.clear()
        self._claim = 0
        self._ticket = None
        self._decider.completed.clear()
        self._values.forget()
        self._cache.forget()
        self._decider.has_more = False

    # -- the keeper and its workers ---------------------------------------------------------------

    async def _keep(self) -> None:
        """See the run to its end; at its end no body is left, so the workers end by themselves."""
        workers = self._workers
        while not self._over:
            self._nudge = nudge = anyio.Event()
            if workers.failure is not None:
                raise workers.failure
            if self._queue and not workers.successor:
                workers.spawn()
            if (self._reports or self._decider.has_more) and not self._driving:
                await self._drive()
            elif self._decider.wake_at is None:
                await nudge.wait()
            else:
                left = max(0.0, (self._decider.wake_at - self._world.monotonic()) / 1e6)
                with anyio.move_on_after(left) as timer:
                    await nudge.wait()
                if timer.cancelled_caught and not self._driving:
                    await self._drive()
        await workers.end()

    async def _work(self) -> None:
        """Run what is queued; drive the round when there is something to report and nobody drives."""
        workers = self._workers
        workers.successor = False
        worker = asyncio.current_task()
        assert worker is not None, "a worker is a task of the event loop"
        while True:
            while self._queue:
                slot = self._queue.popleft()
                if self._queue and not workers.successor:
                    workers.spawn()
                if self._waiting.has_suspects:
                    self._look_again()
                elif self._reports:
                    self._wake_keeper()  # what is reported does not wait for a long body
                ended = await self._runner.attempt(self._facts, slot, self._queued_us, worker)
                if ended is None:
                    return  # left behind: nothing here is this worker's business any more
                if ended - self._yielded_us > YIELD_US:
                    await asyncio.sleep(0)
                    self._yielded_us = self._world.monotonic()
                if workers.stopping:
                    return
            if self._driving or not self._reports:
                return
            await self._drive()

    def _take_report(self, command: Command, beside: Value | None) -> None:
        self._reports.append(command)
        if beside is not None:
            self._beside.append(beside)

    def _wake_keeper(self) -> None:
        """Have the keeper see to what has been reported, unless somebody drives, who will."""
        if not self._driving:
            self._nudge.set()

    def _nudge_keeper(self) -> None:
        self._nudge.set()

    def _look_again(self) -> None:
        """Something may be started that could not be before."""
        self._decider.has_more = True
        self._wake_keeper()

    # -- the round --------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Do rounds until no report waits."""
        self._driving = True
        try:
            while True:
                await self._round()
                if not self._reports and not self._decider.has_more:
                    break
        finally:
            self._driving = False
        if self._over or self._decider.wake_at is not None:
            self._nudge.set()

    async def _round(self) -> None:
        """Decide on the reports and on all that follows, commit it in one append, then act."""
        self._in_round, self._reports = self._reports, []
        self._decider.has_more = False
        beside = tuple(self._beside)  # they stay there until they are stored, for whoever lets go of the run
        while True:
            base = self._facts.run.version
            try:
                await self._commit(self._in_round, beside=beside)
                break
            except (Conflict, OutcomeUnknown):
                await self._refold(base)
        self._in_round = []
        del self._beside[: len(beside)]

    async def _commit(
        self, commands: list[Command], defined: tuple[Write, ...] = (), beside: tuple[Value, ...] = ()
    ) -> None:
        facts = self._facts
        run = facts.run
        base = run.version
        now = max(self._world.now(), run.at)
        drafts: list[Draft] = []
        for command in commands:
            self._decider.fold(facts, command, now, drafts)
        started = (
            await self._decider.due(facts, now, drafts, idle=not self._queue)
            if run.phase == Phase.CLAIMED
            else []
        )
        if not drafts:
            return
        write = Write(self._view.stream, base, drafts)
        try:
            with self._world.outside():
                await self._store(*defined, write, values=beside)
        except OutcomeUnknown as unknown:
            if self._is_cancelled():  # it has taken the place of the cancellation, which goes on
                raise asyncio.CancelledError from unknown
            raise
        self._over = run.phase == Phase.FINISHED
        self._values.stored()
        self._values.release(self._decider.completed)
        self._decider.completed.clear()
        if started:
            self._queued_us = self._world.monotonic()
            self._queue.extend(started)

    async def _store(self, *writes: Write, values: tuple[Value, ...]) -> None:
        """Have a round stored, at the run's durability; pipelined ones only wait at the run's two ends."""
        log, before, phase = self._log, self._ticket, self._facts.run.phase
        if self._request.durability != "pipelined" or writes[-1].expect < self._claim:
            records = await log.append(*writes, values=values, durability=self._request.durability)
            self._position = records[-1].position
            self._yielded_us = self._world.monotonic()
            return
        try:
            if before is not None and before.error is not None:
                raise before.error
            self._ticket = ticket = await log.submit(*writes, values=values, after=before)
            if phase == Phase.FINISHED:
                self._position = (await ticket.wait())[-1].position
        except Conflict as conflict:  # bodies have gone on from a state that the log never had
            raise Lost(f"run {self._view.run_id!r} is not where its rounds left it") from conflict

    # -- when it does not go on -------------------------------------------------------------------

    async def _refold(self, base: int) -> None:
        """The append after version `base` did not go through: fold the run again, with what stands now.

        Raises `Lost` when the run is somebody else's. What was started after all is queued.
        """
        self._facts = await ownership.fold(self._log, self._view)
        check_known(self._facts, self._view.run_id)
        run = self._facts.run
        self._decider.completed.clear()
        self._values.recount(run)
        self._waiting.recount(self._facts, self._world.now(), self._world.monotonic())
        self._threads.give_up(IN_FLIGHT_MAX)  # bodies that start all the same wait for theirs
        if run.claim != self._claim or run.phase != Phase.CLAIMED:
            raise Lost(f"run {self._view.run_id!r} was claimed by another runner")
        self._queue.extend(slot for slot in run.active() if run.started[slot] > base)

    async def _let_go(self, error: BaseException) -> None:
        """Stop the bodies, then leave the run in order: record what is done and what was not, release it."""
        if not self._claim:
            return
        with anyio.CancelScope(shield=True):
            await self._stop()
        if isinstance(error, Lost):
            return
        with anyio.move_on_after(RELEASE_S, shield=True):
            try:
                with self._world.outside():
                    if self._ticket is not None:
                        with suppress(Exception):  # the fold shows what became of it
                            await self._ticket.wait()
                    self._facts = await ownership.fold(self._log, self._view)
                    if self._facts.run.phase != Phase.CLAIMED or self._facts.run.claim != self._claim:
                        return
                    try:
                        await self._release(self._in_round + self._reports, self._beside)
                    except Exception:  # noqa: BLE001 - what is reported cannot be written: let go without it
                        self._facts = await ownership.fold(self._log, self._view)
                        await self._release([], [])
            except Exception as second:  # noqa: BLE001 - the first error is the one to be told
                error.add_note(f"and the run could not be released: {second!r}")

    async def _stop(self) -> None:
        """Cancel the bodies and wait `CLEANUP_S` for them, and for those in threads, which cannot be stopped."""
        self._threads.drop_queued()
        until = anyio.current_time() + CLEANUP_S
        late = await self._workers.stop(self._runner.cancels, CLEANUP_S)
        names = self._runner.leave(late)
        if names:
            _logger.warning(
                "run %r was stopped, and these bodies did not end within %g s of being cancelled; they were left "
                "behind: %s", self._view.run_id, CLEANUP_S, ", ".join(names)
            )  # fmt: skip
        with anyio.CancelScope(deadline=until):
            while self._threads.unfinished:
                self._nudge = anyio.Event()
                await self._nudge.wait()

    async def _release(self, done: list[Command], beside: list[Value]) -> None:
        facts = self._facts
        now = max(self._world.now(), facts.run.at)
        base = facts.run.version
        drafts: list[Draft] = []
        for command in done:
            self._decider.fold(facts, command, now, drafts)
        for slot in list(facts.run.active()):
            self._decider.fold(facts, AbandonTask(slot, facts.run.attempt[slot], "interrupted"), now, drafts)
        self._decider.fold(facts, ReleaseRun("interrupted"), now, drafts)
        records = await self._log.append(Write(self._view.stream, base, drafts), values=beside)
        await ownership.keep_snapshot(self._log, self._view, facts, records[-1].position)
        run_id = self._view.run_id
        _logger.warning("run %r was interrupted; resume it with .options(run_id=%r).run()", run_id, run_id)
