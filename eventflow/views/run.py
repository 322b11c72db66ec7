"""The projection of one run: its stream of records, folded into `RunFacts`.

`RunFacts` holds the machine's state and the data of the records that people and tasks ask for: payloads of at most
512 bytes (larger values are stored outside the events), how each task ended, and the sources of its inputs.  The facts
are encodable, so a snapshot of them is a snapshot of the run.  The runner folds the same projection, so its decisions,
the states that it returns and a replay agree.

`eventflow.views.run_states` shows the facts as States.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final

import msgspec

from eventflow.events import (
    Draft,
    Event,
    Failure,
    Origin,
    Record,
    RunClaimed,
    RunFinished,
    RunStarted,
    Source,
    TaskBlocked,
    TaskFailed,
    TaskReused,
    TaskSkipped,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    kind_of,
    missing_features,
    run_stream,
)
from eventflow.machine import IllegalEvent, Plan, RunState, causes
from eventflow.machine.evolve import evolve, evolve_beyond
from eventflow.records import LogDamaged
from eventflow.result import Payload

__all__ = ["Ending", "Reused", "RunFacts", "RunView", "advance", "cut", "why_failed"]

_LINE_MAX: Final = 2_000
"""Characters of a failure's first line that are repeated elsewhere; the engine's own messages are shorter."""


class RunView:
    """Projection: one run's stream → `RunFacts`.

    ```python
    from eventflow import MemoryLog, RunStates, flow, open_run, task


    @task
    def double(number: int) -> int:
        return 2 * number


    @flow
    def doubled(number: int) -> int:
        return double(number)


    log = MemoryLog()
    await doubled.options(log=log, run_id="a").run(number=21)
    view = await open_run(log, "a")
    facts = view.initial()
    async for record in log.read(stream=view.stream):
        facts = view.apply(facts, record)
        states = RunStates(view, facts)
        print(record.version, type(record.event).__name__, type(states["double"]).__name__)
    ```

    ```text
    1 RunStarted Pending
    2 RunClaimed Pending
    3 TaskStarted Running
    4 TaskSucceeded Success
    5 RunFinished Success
    ```
    """

    name: Final = "run"
    version: Final = 1
    modules: Final = (
        "eventflow.events",  # which features are known
        "eventflow.records",
        "eventflow.machine.evolve",
        "eventflow.machine.state",
        "eventflow.machine.rules",
        "eventflow.machine.plan",
    )

    def __init__(self, run_id: str, plan: Plan) -> None:
        """View a run of the flow behind `plan`; `eventflow.open_run` finds the plan by the run's id."""
        self.run_id = run_id
        self.plan = plan
        self.stream: Final = run_stream(run_id)
        """The stream that is folded."""
        self.snapshot_name: Final = f"{self.stream}/{plan.graph.digest}"
        """The name of this fold's snapshot in the log; a fold depends on the graph, so the name contains its digest."""

    def initial(self) -> RunFacts:
        """Return the facts before the first record."""
        return RunFacts.initial(self.plan)

    def apply(self, state: RunFacts, record: Record) -> RunFacts:
        """Fold one record of the run's stream.

        Raises `ValueError` for a record of another stream, and `LogDamaged` for one that cannot follow the records
        before it.
        """
        if record.stream != self.stream:
            raise ValueError(
                f"the view of run {self.run_id!r} was given a record of {record.stream!r}: fold one stream, "
                f"with replay(log, view, stream=view.stream)"
            )
        try:
            return advance(self.plan, state, record.version, record)
        except IllegalEvent as error:
            raise LogDamaged(
                f"record {record.position} of {record.stream!r} is not legal at its version: {error}"
            ) from error


class Ending(msgspec.Struct, frozen=True, array_like=True, tag="ending"):
    """How a task ended without a result, or why it waits for another attempt."""

    message: str
    failure: Failure | None = None
    delay_us: int = 0
    """From a failure to the attempt that is to follow it."""


class Reused(msgspec.Struct, frozen=True, array_like=True):
    """Where a result came from, and until when it is good there."""

    source: Origin
    expires_at: int | None


class RunFacts(msgspec.Struct):
    """The fold of one run: the machine's state, and the data of its records by version or by slot."""

    run: RunState
    parameters: dict[str, Payload]
    kept: dict[int, Payload | Ending]
    """Version of the record that ended a task → its payload, or how it ended without one."""
    inputs: dict[int, tuple[Source, ...]]
    """Slot → the sources of its last attempt."""
    retrying: dict[int, Ending]
    contents: dict[int, bytes]
    """Version of the record of a result → the content digest of its value, where that was recorded."""
    reused: dict[int, Reused]
    """Version of the record of a reused result → the result's origin."""
    flows: list[tuple[int, str]]
    """Pairs of a version and a digest: from that version on, the graph with that digest was in force."""
    is_foreign: bool = False
    """Whether a graph other than the plan's was ever in force, so that values may be of other types."""
    started_us: int = 0
    unknown: tuple[str, ...] = ()
    """Kinds of events that this version of eventflow does not know; if there are any, the facts may be incomplete."""
    missing: tuple[str, ...] = ()
    """Features that the run or its graph requires, and that this version of eventflow does not know."""
    message: str = ""
    """Why the finished run failed."""

    @classmethod
    def initial(cls, plan: Plan) -> RunFacts:
        """Return the facts before the first record."""
        facts = cls(RunState.initial(plan), {}, {}, {}, {}, {}, {}, [])
        facts.note_missing(plan.graph.requires)
        return facts

    @property
    def is_newer(self) -> bool:
        """Whether a newer version wrote to the run, by rules that are not known here."""
        return bool(self.unknown or self.missing)

    def note_missing(self, requires: Iterable[str]) -> None:
        """Note those of the required features that this version does not know."""
        missing = missing_features(requires)
        if missing:
            self.missing = tuple(dict.fromkeys((*self.missing, *missing)))

    def flow_at(self, version: int) -> str:
        """Return the digest of the graph that was in force when a record was written."""
        following = bisect_right(self.flows, version, key=itemgetter(0))
        return self.flows[following - 1][1]


def advance(plan: Plan, facts: RunFacts, version: int, draft: Draft | Record) -> RunFacts:
    """Fold one event into `facts`, in place; raises `IllegalEvent` as `evolve` does.

    An event of an unknown kind changes only the version and the list of unknown kinds. An event that is illegal here is
    legal by the rules of a newer version if it follows one of an unknown kind, or if the run or the event itself
    requires features that are not known here. Then it changes nothing about tasks, and the phase of the run follows it.
    """
    event = draft.event
    if isinstance(event, Unknown):
        return _note_unknown(facts, version, draft)
    if type(event) is RunStarted or type(event) is RunClaimed:
        facts.note_missing(event.requires)
    try:
        evolve(plan, facts.run, version, draft)
    except IllegalEvent:
        if not facts.is_newer:
            raise
        evolve_beyond(facts.run, version, draft)
        if type(event) is RunFinished:
            _keep_finished(facts, version, event)
    else:
        keep = _KEEPERS.get(type(event))
        if keep is not None:
            keep(facts, version, event)
    if version == 1:
        facts.started_us = draft.at
    if type(event) is RunStarted or type(event) is RunClaimed:
        _keep_flow(plan, facts, version, event.flow)
    return facts


def _keep_flow(plan: Plan, facts: RunFacts, version: int, flow: str) -> None:
    if not facts.flows or facts.flows[-1][1] != flow:
        facts.flows.append((version, flow))
    facts.is_foreign = facts.is_foreign or flow != plan.graph.digest


def _note_unknown(facts: RunFacts, version: int, draft: Draft | Record) -> RunFacts:
    """Note an event of a kind that a newer version of eventflow wrote; its meaning is not known here."""
    evolve_beyond(facts.run, version, draft)
    if version == 1:
        facts.started_us = draft.at
    facts.unknown = tuple(dict.fromkeys((*facts.unknown, kind_of(draft.event))))
    return facts


def why_failed(plan: Plan, facts: RunFacts) -> str:
    """Say which task made the run fail, the first if there were several, and why; empty if none did.

    The runner records this text once, as the message of `RunFinished`.
    """
    run = facts.run
    failed = causes(plan, run, plan.judged)
    if not failed:
        return ""
    ending = facts.kept[run.source[failed[0]]]
    assert isinstance(ending, Ending), "a failed task has no result"
    name = run.name(plan, failed[0])
    first_line = ending.message.partition("\n")[0]
    if len(failed) == 1:
        return f"{name} failed: {cut(first_line)}"
    return f"{len(failed)} tasks failed, first {name}: {cut(first_line)}"


def cut(text: str) -> str:
    """Shorten a text that is far longer than any message of the engine; others stay whole, with the advice at their end.

    The shortened text says how much was left out.
    """
    more = len(text) - _LINE_MAX
    if more <= 0:
        return text
    return f"{text[:_LINE_MAX]}… ({more} more characters)"


def _keep_finished(facts: RunFacts, _version: int, event: RunFinished) -> None:
    facts.message = event.message


def _keep_started(facts: RunFacts, _version: int, event: TaskStarted) -> None:
    if event.inputs:
        task = event.task
        facts.inputs[task[0] if len(task) == 1 else facts.run.slot(task)] = event.inputs


def _keep_result(facts: RunFacts, version: int, event: TaskSucceeded | TaskReused) -> None:
    facts.kept[version] = event.result
    if event.content is not None:
        facts.contents[version] = event.content


def _keep_reused(facts: RunFacts, version: int, event: TaskReused) -> None:
    _keep_result(facts, version, event)
    facts.reused[version] = Reused(event.source, event.expires_at)


def _keep_failed(facts: RunFacts, version: int, event: TaskFailed) -> None:
    message = f"{event.failure.type}: {event.failure.message}"
    if event.retry_at is None:
        facts.kept[version] = Ending(message, event.failure)
    else:
        delay_us = max(0, event.retry_at - facts.run.at)
        facts.retrying[facts.run.slot(event.task)] = Ending(message, event.failure, delay_us)


def _keep_skipped(facts: RunFacts, version: int, event: TaskSkipped) -> None:
    facts.kept[version] = Ending(event.reason)


def _keep_blocked(facts: RunFacts, version: int, event: TaskBlocked) -> None:
    failure = Failure(type="eventflow.TriggerFailed", message=event.message)
    facts.kept[version] = Ending(f"trigger {event.trigger!r} refused: {event.message}", failure)


def _keep_parameters(facts: RunFacts, _version: int, event: RunStarted) -> None:
    facts.parameters.update(event.parameters)


_KEEPERS: Final[dict[type[Event], Callable[[RunFacts, int, Any], None]]] = {
    TaskStarted: _keep_started,
    TaskSucceeded: _keep_result,
    TaskReused: _keep_reused,
    TaskFailed: _keep_failed,
    TaskSkipped: _keep_skipped,
    TaskBlocked: _keep_blocked,
    RunStarted: _keep_parameters,
    RunFinished: _keep_finished,
}
