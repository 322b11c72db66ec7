"""Appending: whole or absent, at the expected versions, once; ownership of a run; cancellation."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from anyio.lowlevel import checkpoint

from eventflow.events import Draft, Record, TaskMapped, Unknown
from eventflow.ports import Conflict, Durability, EventLog, Write
from eventflow.testing.conformance.hooks import NOON, L, LogHooks, claim, collect, facts, stored, value, write

__all__ = ["Appending"]

DURABILITIES: tuple[Durability, ...] = ("full", "normal", "pipelined")


class Appending(LogHooks[L]):
    """The tests of `EventLog.append`."""

    async def test_records_are_given_and_stand(self) -> None:
        """An append returns the same records as a reader: in order, dense, content unchanged."""
        async with self.open() as log:
            drafts = [*facts(1, 2), *facts(3, at=NOON + 5, key="k")]
            first = await log.append(Write("run/a", 0, drafts))
            second = await log.append(write("run/b", 0, 4), write("run/a", 3, 5))
            assert [r.position for r in (*first, *second)] == [1, 2, 3, 4, 5]
            assert [(r.stream, r.version) for r in second] == [("run/b", 1), ("run/a", 4)]
            assert [(r.at, r.key, r.event) for r in first] == [(d.at, d.key, d.event) for d in drafts]
            assert await collect(log.read()) == [*first, *second]

    async def test_every_durability_is_visible_on_return(self) -> None:
        """At every durability, a reader finds the records that an append returned."""
        async with self.open() as log:
            for number, durability in enumerate(DURABILITIES):
                await log.append(write("run/a", number, number), durability=durability)
                assert await stored(log) == list(range(number + 1))

    async def test_submitted_appends_are_stored_in_order(self) -> None:
        """A submitted append is stored after earlier ones, or fails together with the append that it builds on."""
        async with self.open() as log:
            first = await log.submit(write("run/a", 0, 1))
            second = await log.submit(write("run/a", 1, 2), values=[value(b"v")], after=first)
            wrong = await log.submit(write("run/a", 5, 3), after=second)
            third = await log.submit(write("run/a", 2, 4), after=wrong)
            assert [record.version for record in await second.wait()] == [2]
            for ticket in (wrong, third):
                with pytest.raises(Conflict):
                    await ticket.wait()
                assert isinstance(ticket.error, Conflict)
            assert (first.error, await stored(log)) == (None, [1, 2])
            assert value(b"v").digest in await log.values([value(b"v").digest])

    async def test_conflict_stores_nothing(self) -> None:
        """If one write expects a wrong version, nothing of the append is stored, not even its values."""
        async with self.open() as log:
            await log.append(write("run/a", 0, 1, 2))
            kept = value(b"kept")
            for expect in (0, 1, 3, -1):
                with pytest.raises(Conflict) as caught:
                    await log.append(write("run/b", 0, 7), write("run/a", expect, 8), values=[kept])
                assert (caught.value.stream, caught.value.expected, caught.value.actual) == (
                    "run/a",
                    expect,
                    2,
                )
            with pytest.raises(Conflict):
                await log.append(write("run/c", 1, 9))
            assert await stored(log) == [1, 2]
            assert (await log.head(), await log.head("run/b"), await log.head("run/c")) == (2, 0, 0)
            assert await log.values([kept.digest]) == {}

    async def test_what_cannot_be_encoded_stores_nothing(self) -> None:
        """If a draft cannot be encoded, its whole append fails, and the log still works."""
        async with self.open() as log:
            broken: Sequence[Draft] = [Draft(NOON, TaskMapped(claim=1, task=(0,), width=object()))]  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await log.append(write("run/a", 0, 1), Write("run/b", 0, broken))
            assert await log.head() == 0
            await log.append(write("run/a", 0, 2))
            assert await stored(log) == [2]

    async def test_writes_to_one_stream_chain(self) -> None:
        """Writes of one append may follow each other in a stream, if each expects the version after the last one."""
        async with self.open() as log:
            records = await log.append(write("run/a", 0, 1), write("run/b", 0, 2), write("run/a", 1, 3))
            assert [(r.stream, r.version) for r in records] == [("run/a", 1), ("run/b", 1), ("run/a", 2)]
            for expect in (2, 4):
                with pytest.raises(Conflict):
                    await log.append(write("run/a", 2, 4), write("run/a", expect, 5))
            assert await stored(log, "run/a") == [1, 3]

    async def test_empty_appends(self) -> None:
        """An empty append succeeds; values may come without records; an empty write must expect the right version."""
        async with self.open() as log:
            assert list(await log.append()) == []
            assert list(await log.append(Write("run/a", 0, []), values=[value(b"alone")])) == []
            assert list(await log.values([value(b"alone").digest])) == [value(b"alone").digest]
            with pytest.raises(Conflict):
                await log.append(Write("run/a", 1, []))
            assert await log.head() == 0

    async def test_sending_again_succeeds_again(self) -> None:
        """A write that is already stored succeeds again: the same records, nothing new, also after later appends."""
        async with self.open() as log:
            writes = [write("run/a", 0, 1, 2), write("run/b", 0, 3), write("run/a", 2, 4)]
            first = list(await log.append(*writes))
            assert list(await log.append(*writes)) == first
            await log.append(write("run/a", 3, 5))
            later = Write("run/a", 0, facts(1, 2, at=NOON + 99))
            assert list(await log.append(later, *writes[1:])) == first
            assert list(await log.append(write("run/a", 1, 2))) == first[1:2]
            assert await stored(log) == [1, 2, 3, 4, 5]

    async def test_sending_something_else_conflicts(self) -> None:
        """A write with another event or key, or only partly stored, is not a resend."""
        async with self.open() as log:
            await log.append(write("run/a", 0, 1, 2))
            for drafts in (facts(1, 3), facts(1, 2, key="k"), facts(1, 2, 3), facts(2, 1)):
                with pytest.raises(Conflict):
                    await log.append(Write("run/a", 0, drafts))
            assert await stored(log) == [1, 2]

    async def test_satisfied_and_new_writes_mix(self) -> None:
        """Each write is checked alone: a stored one does not block a new one, a conflict blocks all."""
        async with self.open() as log:
            await log.append(write("flow/f", 0, 1))
            records = await log.append(write("flow/f", 0, 1), write("run/a", 0, 2))
            assert [(r.position, r.stream) for r in records] == [(1, "flow/f"), (2, "run/a")]
            with pytest.raises(Conflict):
                await log.append(write("flow/f", 0, 1), write("run/b", 0, 3), write("run/a", 0, 4))
            assert await stored(log) == [1, 2]

    async def test_time_never_goes_back_within_a_stream(self) -> None:
        """`at` is raised to the last `at` of its stream, within and across appends; other streams do not matter."""
        async with self.open() as log:
            drafts = [*facts(1, at=NOON), *facts(2, at=NOON - 5), *facts(3, at=NOON + 5)]
            early = facts(4, at=NOON - 9)
            first = await log.append(Write("run/a", 0, drafts), Write("run/a", 3, early))
            second = await log.append(Write("run/a", 4, early), Write("run/b", 0, early))
            assert [r.at - NOON for r in (*first, *second)] == [0, 0, 5, 5, 5, -9]
            assert await collect(log.read()) == [*first, *second]
            assert list(await log.append(Write("run/a", 0, drafts))) == list(first)[:3]

    async def test_unknown_kinds_pass_through(self) -> None:
        """An event of a later version keeps its kind and its bytes, and can be sent again."""
        async with self.open() as log:
            event = Unknown("task_teleported@2", b"\x93\xb1task_teleported@2\x07\x81\xa1x\xc0")
            sent = Write("run/a", 0, [Draft(NOON, event, "k"), *facts(1)])
            first = list(await log.append(sent))
            assert (await collect(log.read(), 1))[0].event == event
            assert (await log.latest(["k"]))["k"] == first[0]
            assert list(await log.append(sent)) == first

    async def test_two_claimants_one_winner(self) -> None:
        """If several runners claim a run at one version, exactly one wins, and the others get `Conflict`."""
        async with self.open() as one, self.reopen(one) as two:
            for turn in range(20):
                run = f"run/{turn}"
                await one.append(write(run, 0, turn))
                won: list[str] = []
                lost: list[Conflict] = []

                async def race(log: EventLog, owner: str, run: str = run, won=won, lost=lost) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
                    try:
                        await log.append(claim(run, 1, owner))
                        won.append(owner)
                    except Conflict as conflict:
                        lost.append(conflict)

                async with anyio.create_task_group() as tasks:
                    for log, owner in [(one, "a"), (two, "b"), (one, "c")][:: -1 if turn % 2 else 1]:
                        tasks.start_soon(race, log, owner)
                assert (len(won), [c.actual for c in lost]) == (1, [2, 2])
                assert await one.head(run) == 2

    async def test_a_lost_owner_cannot_write(self) -> None:
        """After a foreign claim, the former owner's next write conflicts, and the winner's is stored."""
        async with self.open() as one, self.reopen(one) as two:
            await one.append(write("run/a", 0, 1), claim("run/a", 1, "one"))
            await two.append(claim("run/a", 2, "two"))
            with pytest.raises(Conflict):
                await one.append(write("run/a", 2, 7))
            await two.append(write("run/a", 3, 8))
            assert await stored(one, "run/a") == [1, 8]

    async def test_cancelled_before_it_was_taken_up(self) -> None:
        """An append in a cancelled scope stores nothing."""
        async with self.open() as log:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await log.append(write("run/a", 0, 1), values=[value(b"v")])
            assert scope.cancelled_caught
            assert await log.head() == 0
            assert await log.values([value(b"v").digest]) == {}

    async def test_cancelled_at_any_turn(self) -> None:
        """A cancelled append is stored whole or not at all; this is settled on return, and a resend completes it."""
        async with self.open() as log:
            for turns in range(16):
                stream = f"run/{turns}"
                given: list[Sequence[Record]] = []

                async def send(stream: str = stream, given: list[Sequence[Record]] = given) -> None:
                    given.append(await log.append(write(stream, 0, 1, 2), write(f"{stream}/x", 0, 3)))

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(send)
                    for _ in range(turns):
                        await checkpoint()
                    tasks.cancel_scope.cancel()
                settled = await log.head(stream), await log.head(f"{stream}/x")
                assert settled in ((2, 1), (0, 0))
                assert settled == (2, 1) or not given
                await log.append(write(f"{stream}/y", 0, 4))
                assert settled == (await log.head(stream), await log.head(f"{stream}/x"))
                await log.append(write(stream, 0, 1, 2), write(f"{stream}/x", 0, 3))
                assert [await stored(log, s) for s in (stream, f"{stream}/x")] == [[1, 2], [3]]
