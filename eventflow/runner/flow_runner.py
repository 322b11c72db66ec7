"""Brings one run to its end: owns it through a `RunLoop`, or follows the process that does.

    FlowRunner   hold the run or follow its owner; take over when the owner dies
    RunLoop      one ownership: claim, rounds, release
    RunWriter    the run's stream, as its owner writes it
    Inbox        reports that are not stored yet
    Round        reports in, one batch of events out
    Scheduler    everything that follows in a round: due tasks, cache hits, retries, the end
    Workers      the tasks of the event loop in which bodies run
    TaskRunner   one attempt of one task: inputs, body, result

Every ownership has new parts, so nothing is left of an earlier one, which was lost in the middle of something.
`RunLoop` says where later additions belong.
"""

from __future__ import annotations

from collections.abc import Mapping

from eventflow.machine import Phase
from eventflow.ports import Bindings, EventLog, Executor, World
from eventflow.projections import read_graph, read_graphs
from eventflow.runner import ownership
from eventflow.runner.body import Caller
from eventflow.runner.cache_lookup import CacheLookup
from eventflow.runner.compatibility import check_finished
from eventflow.runner.executor_calls import ExecutorCalls, check_importable
from eventflow.runner.failures import LiveErrors
from eventflow.runner.inbox import Inbox
from eventflow.runner.live_values import LiveValues
from eventflow.runner.ownership import OwnershipLost, check_known, check_not_awaited, is_over
from eventflow.runner.parameters import check_parameters
from eventflow.runner.request import Request
from eventflow.runner.retry_timers import RetryTimers
from eventflow.runner.run_loop import RunLoop
from eventflow.runner.run_writer import RunWriter
from eventflow.runner.scheduler import Scheduler
from eventflow.runner.start_gate import StartGate
from eventflow.runner.task_runner import TaskRunner
from eventflow.runner.workers import Workers
from eventflow.views.run import RunFacts, RunView
from eventflow.views.run_serializers import RunSerializers

__all__ = ["FlowRunner"]


class FlowRunner:
    """One run of one flow. Made for one call of `run` or `look`."""

    def __init__(
        self,
        view: RunView,
        serializers: RunSerializers,
        bindings: Bindings,
        log: EventLog,
        world: World,
        executor: Executor,
        request: Request,
    ) -> None:
        self._view = view
        self._serializers = serializers
        self._bindings = bindings
        self._log = log
        self._world = world
        self._executor = executor
        self._request = request
        self._errors = LiveErrors()

    @property
    def errors(self) -> Mapping[int, BaseException]:
        """Live exceptions of tasks that failed in this process, by slot."""
        return self._errors.by_slot

    async def look(self) -> RunFacts:
        """Return the state of the run in the log; starts, resumes and writes nothing. Raises as `run` does."""
        log, view, serializers, request = self._log, self._view, self._serializers, self._request
        graph = view.plan.graph
        facts = await ownership.read_run(log, view)
        run = facts.run
        if run.phase == Phase.NEW:
            return facts
        await read_graphs(log, facts, serializers.graphs)
        for recorded in serializers.graphs.values():
            facts.note_missing(recorded.requires)
        # A finished run, or one that a newer version wrote to, is only shown.
        is_continued = run.phase != Phase.FINISHED and not facts.is_newer
        if is_continued and run.flow != graph.digest and request.options["on_change"] != "keep":
            check_finished(await read_graph(log, run.flow), graph, facts, serializers, view.run_id)
        await check_parameters(log, view.run_id, serializers, facts, request)
        return facts

    async def run(self) -> RunFacts:
        """See the run to its end and return its state.

        A new id starts the run, an unfinished one is resumed, a finished one is only read. A run that is live elsewhere
        is followed, and taken over if its owner dies. Raises `FlowChanged` or `ParametersDiffer` before anything is
        appended, and `RunAwaitsItself` in a body of the very run.

        Cancelled, it cancels the bodies and gives them `CLEANUP_S` to clean up, records that they were interrupted,
        releases the run (within `RELEASE_S`) and passes the cancellation on; the run can be resumed. A body that runs
        for longer is left behind, and its task is named in a warning.
        """
        caller, is_fresh = Caller(), self._request.options["run_id"] is None
        while True:
            async with self._log.hold(self._view.run_id) as held:
                if held:
                    try:
                        return await self._own(caller, is_fresh=is_fresh)
                    except OwnershipLost:
                        is_fresh = False
            head = await self._log.head()
            facts = await self.look()
            if is_over(facts):
                return facts
            check_not_awaited(self._view.run_id)
            await ownership.watch(self._log, self._view, head)

    async def _own(self, caller: Caller, *, is_fresh: bool) -> RunFacts:
        """See the run to its end as its owner; `is_fresh` says that its id was made for this call, so the log has no record of it."""
        facts = self._view.initial()
        if not is_fresh:
            facts = await self.look()
        check_known(facts, self._view.run_id)
        if is_over(facts):
            return facts
        check_importable(self._executor, self._view.plan.graph.tasks, self._bindings)
        writer = RunWriter(self._view, self._log, self._world, self._request, facts, caller)
        await self._loop(writer, caller).run(self._request)
        return writer.facts

    def _loop(self, writer: RunWriter, caller: Caller) -> RunLoop:
        """Make the parts of one ownership."""
        view, log, world, executor = self._view, self._log, self._world, self._executor
        inbox = Inbox()
        values = LiveValues(self._serializers, self._bindings, log)
        gate = StartGate(executor, values, inbox)
        cache = CacheLookup(view, values, log, world)
        scheduler = Scheduler(view.plan, values, cache, gate, RetryTimers(world), inbox)
        workers = Workers(view.run_id, inbox)
        calls = ExecutorCalls(executor, log, world.monotonic)
        task_runner = TaskRunner(view, values, world, calls, workers, inbox, caller, self._errors)
        return RunLoop(writer, values, scheduler, task_runner, workers, inbox, executor, world.monotonic)
