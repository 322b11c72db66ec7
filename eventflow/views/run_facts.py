"""The fold of one run: the machine's state, and what its records hold that people and tasks ask for.

`evolve` keeps a run's state small; here the payloads (at most 512 bytes each, larger ones lie beside the
events), the endings and the sources of inputs are kept with it, by the version of their record.  Pure, and
encodable, so a snapshot of it is a snapshot of the run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
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
)
from eventflow.machine import IllegalEvent, Plan, RunState, causes
from eventflow.machine.evolve import evolve
from eventflow.result import Payload

__all__ = ["Ending", "Reused", "RunFacts", "advance", "cut", "why_failed"]

_LINE_MAX: Final = 2_000
"""Characters of a failure's first line that are repeated elsewhere; the engine's own messages are shorter."""


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
    """The fold of one run: the machine's state, and what its records hold that people ask for."""

    run: RunState
    parameters: dict[str, Payload]
    kept: dict[int, Payload | Ending]
    """Version of the record that ended a task → its payload, or how it ended without one."""
    inputs: dict[int, tuple[Source, ...]]
    """Slot → the sources of its last attempt."""
    retrying: dict[int, Ending]
    contents: dict[int, bytes]
    """Version of the record of a result → what its value is, where that was recorded."""
    reused: dict[int, Reused]
    """Version of the record of a reused result → where it came from."""
    flows: list[tuple[int, str]]
    """Versions from which on a graph was in force, with its digest: those of the birth and of claims with another."""
    is_foreign: bool = False
    """Whether a graph other than the plan's was ever in force, so that values may be of other types."""
    started_us: int = 0
    unknown: tuple[str, ...] = ()
    """Kinds of events that this version passed by: what it shows may be behind what happened."""
    message: str = ""
    """Why the finished run failed."""

    @classmethod
    def initial(cls, plan: Plan) -> RunFacts:
        """The facts before the first record."""
        return cls(RunState.initial(plan), {}, {}, {}, {}, {}, {}, [])

    def flow_at(self, version: int) -> str:
        """Digest of the graph that was in force when a record was written."""
        return self.flows[bisect_right(self.flows, version, key=_version_of) - 1][1]


def _version_of(entry: tuple[int, str]) -> int:
    return entry[0]


def advance(plan: Plan, facts: RunFacts, version: int, draft: Draft | Record) -> RunFacts:
    """Fold one event into the facts it owns; raises `IllegalEvent` as `evolve` does.

    An event of an unknown kind is counted and passed by.
    """
    event = draft.event
    if isinstance(event, Unknown):
        return _pass_by(facts, version, draft)
    evolve(plan, facts.run, version, draft)
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


def _pass_by(facts: RunFacts, version: int, draft: Draft | Record) -> RunFacts:
    """Count an event of a kind that a newer version wrote; what it changed is not known here."""
    if version != facts.run.version + 1:
        raise IllegalEvent(f"{kind_of(draft.event)} cannot be version {version} after {facts.run.version}")
    facts.run.version, facts.run.at = version, draft.at
    facts.unknown = tuple(dict.fromkeys((*facts.unknown, kind_of(draft.event))))
    return facts


def why_failed(plan: Plan, facts: RunFacts) -> str:
    """Which task made the run fail, the first if there were several, and why; empty if none did."""
    run = facts.run
    found = causes(plan, run, plan.judged)
    if not found:
        return ""
    ending = facts.kept[run.source[found[0]]]
    assert isinstance(ending, Ending), "a failed task has no result"
    name, why = run.name(plan, found[0]), cut(ending.message.partition("\n")[0])
    return f"{name} failed: {why}" if len(found) == 1 else f"{len(found)} tasks failed, first {name}: {why}"


def cut(text: str) -> str:
    """A text that is whole, advice at its end included, unless it is far longer than any message of the engine's.

    What is left out is said.
    """
    more = len(text) - _LINE_MAX
    return text if more <= 0 else f"{text[:_LINE_MAX]}… ({more} more characters)"


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
