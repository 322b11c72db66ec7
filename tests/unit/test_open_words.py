"""Words of open lists: a reader takes one that it does not know for the most general one, and shows it."""

from __future__ import annotations

import msgspec
import pytest

from eventflow.events import (
    CacheMiss,
    Draft,
    Event,
    Failure,
    Origin,
    Record,
    RunStarted,
    TaskAbandoned,
    TaskFailed,
    TaskReused,
    TaskStarted,
)
from eventflow.graph import Policy
from eventflow.machine import Status
from eventflow.machine.rules import outcome_of
from eventflow.records import decode, encode
from eventflow.result import Forgotten, Inline, Withheld
from tests.unit.machines import machine, task

INLINE = Inline("msgpack", b"\xc0", b"d" * 16)
WORDS: list[tuple[Event, str]] = [
    (TaskFailed(claim=2, task=(0,), attempt=1, failure=Failure("E", "m"), reason="moon"), "reason"),
    (TaskAbandoned(claim=2, task=(0,), attempt=1, reason="moon"), "reason"),
    (TaskReused(claim=2, task=(0,), result=INLINE, source=Origin("run/x", 1), why="moon"), "why"),
]


def again(event: Event) -> Record:
    """The record as another process reads it."""
    return decode(7, "run/x", encode("run/x", 3, Draft(5, event)))


@pytest.mark.parametrize(("event", "field"), WORDS, ids=lambda it: type(it).__name__)
def test_a_record_with_an_unknown_word_is_read(event: Event, field: str) -> None:
    """It is no damage, and the word comes through as it was written."""
    assert getattr(again(event).event, field) == "moon"


def test_an_unknown_reason_of_a_miss_is_read() -> None:
    """Likewise, within its event."""
    found = again(TaskStarted(claim=2, task=(0,), attempt=1, cache=CacheMiss(b"", "moon"))).event
    assert isinstance(found, TaskStarted)
    assert found.cache == CacheMiss(b"", "moon")


def test_an_unknown_reason_of_a_failure_means_failed() -> None:
    """The task has failed, and its run goes on from there."""
    assert outcome_of(WORDS[0][0]) is Status.FAILED


@pytest.mark.parametrize(
    ("reason", "crashes"), [("lost", 1), ("worker_lost", 1), ("cancelled", 0), ("moon", 0)]
)
def test_only_a_lost_process_or_worker_counts_as_a_crash(reason: str, crashes: int) -> None:
    """Any other ending without an outcome leaves the task as if it had not been started."""
    m = machine(a=task())
    m.start("a")
    m.fold(m.event(TaskAbandoned, "a", attempt=1, reason=reason))
    assert m.status("a") == Status.PENDING
    assert m.run.crashes.get(m.slot("a"), 0) == crashes


def test_an_unknown_backoff_is_read() -> None:
    """A policy of a later version does not make its graph unreadable."""
    assert (
        msgspec.msgpack.decode(msgspec.msgpack.encode(Policy(backoff="moon")), type=Policy).backoff == "moon"
    )


def test_a_birth_may_tell_its_parent_reason_code_and_options() -> None:
    """Fields that child runs, forks and schedules will fill; they come back as they were written."""
    born = RunStarted(
        flow="f",
        parameters={},
        durability="full",
        origin=Origin("run/old", 9),
        entry="shop.flows:nightly",
        parent=Origin("run/parent", 4),
        why="fork",
        options={"queue": "big", "priority": 3, "timeout_s": 1.5, "urgent": True, "pool": None},
    )
    assert again(born).event == born


def test_what_is_not_at_hand_tells_what_it_was() -> None:
    """Size and digest survive, and both may be unknown for a secret."""
    for payload in (
        Withheld("secret"),
        Withheld("above 64 KiB", b"d" * 16, 70_000),
        Forgotten(b"d" * 16, "old", "json", 9),
    ):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(payload), type=type(payload)) == payload
