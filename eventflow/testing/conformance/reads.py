"""Reading: order, bounds, pages, keys, values; and the detection of changed bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import product

import pytest

from eventflow.events import Record
from eventflow.ports import Checkpoint, Conflict, EventLog, RowsFound, Write
from eventflow.records import LogDamaged
from eventflow.testing.conformance.hooks import L, LogHooks, collect, facts, marks, stored, value, write

__all__ = ["Reading"]

MANY = 1_500
"""A number of records that needs several pages."""

KEYED = (("a", "k"), ("b", "k"), ("b", "l"), ("a", None), ("a", "k"), ("b", "l"))
"""Streams and keys."""


class Reading(LogHooks[L]):
    """The tests of `read`, `latest`, `head`, `values` and `peek`."""

    async def test_an_empty_log(self) -> None:
        """An empty log returns nothing for every query."""
        async with self.open() as log:
            assert await collect(log.read()) == await collect(log.read(stream="run/a", backwards=True)) == []
            assert (await log.head(), await log.head("run/a")) == (0, 0)
            assert (await log.latest(["k"]), await log.values([b"d" * 16])) == ({}, {})
            assert log.peek(b"d" * 16) is None

    async def test_all_bounds(self) -> None:
        """`after` and `until` are positions, with and without a stream, forwards and backwards."""
        async with self.open() as log:
            for number, name in enumerate(("a", "b", "a", "c", "b", "a")):
                await log.append(write(name, await log.head(name), number))
            everything = await collect(log.read())
            bounds = range(len(everything) + 2)
            for stream, after, until in product((None, "a", "b", "z"), bounds, (None, *bounds)):
                wanted = [
                    record
                    for record in everything
                    if stream in (None, record.stream)
                    and record.position > after
                    and (until is None or record.position <= until)
                ]
                found = await collect(log.read(stream=stream, after=after, until=until))
                back = await collect(log.read(stream=stream, after=after, until=until, backwards=True))
                assert (found, back) == (wanted, wanted[::-1])

    async def test_many_pages(self) -> None:
        """Several pages are read without loss, repetition or disorder, also with interleaved streams."""
        async with self.open() as log:
            await log.append(write("run/a", 0, *range(MANY)))
            for number in range(0, MANY, 100):
                one, two = range(number, number + 50), range(number + 50, number + 100)
                await log.append(write("run/b", number // 2, *one), write("run/c", number // 2, *two))
            numbers = list(range(MANY))
            assert await stored(log) == numbers * 2
            assert await stored(log, "run/a") == numbers
            assert await stored(log, "run/b") == [n for n in numbers if n % 100 < 50]
            assert marks(await collect(log.read(backwards=True))) == (numbers * 2)[::-1]
            assert marks(await collect(log.read(stream="run/a", backwards=True))) == numbers[::-1]

    async def test_heads_are_positions_and_versions(self) -> None:
        """The head of the log is a position, that of a stream a version."""
        async with self.open() as log:
            await log.append(write("run/a", 0, 1, 2), write("run/b", 0, 3))
            assert [await log.head(stream) for stream in (None, "run/a", "run/b", "run/c")] == [3, 2, 1, 0]

    async def test_writing_while_reading(self) -> None:
        """A reader takes no lock: appends may happen while it reads, and it still sees each old record once."""
        async with self.open() as log:
            await log.append(write("run/a", 0, *range(MANY)))
            found: list[Record] = []
            async for record in log.read():
                found.append(record)
                if record.version in (1, 600, MANY):
                    await log.append(write("run/b", await log.head("run/b"), 0))
            assert marks(found)[:MANY] == list(range(MANY))
            assert [r.position for r in found] == list(range(1, len(found) + 1))

    async def test_leaving_a_read_early(self) -> None:
        """A reader may stop at any point, and the log still works."""
        async with self.open() as log:
            await log.append(write("run/a", 0, *range(MANY)))
            for count in (1, 600):
                assert len(await collect(log.read(), count)) == count
            await log.append(write("run/a", MANY, MANY))
            assert await log.head() == MANY + 1

    async def test_latest_by_key(self) -> None:
        """`latest` returns the last record of each key, over all streams, up to any position; unknown keys are absent."""
        async with self.open() as log:
            for number, (stream, key) in enumerate(KEYED):
                drafts = facts(number, key=key)
                await log.append(Write(stream, await log.head(stream), drafts))
            everything = await collect(log.read())
            for until in (None, *range(len(everything) + 2)):
                known = everything if until is None else everything[:until]
                wanted = {record.key: record for record in known if record.key is not None}
                assert dict(await log.latest(["k", "l", "m"], until=until)) == wanted
            assert dict(await log.latest([])) == {}

    async def test_values_by_digest(self) -> None:
        """Values are returned byte for byte, one by one or together; missing ones are absent."""
        async with self.open() as log:
            kept = [value(bytes([n]) * n) for n in range(20)]
            await log.append(write("run/a", 0, 1), values=kept[:12])
            await log.append(write("run/a", 1, 2), values=iter(kept[7:]))
            assert dict(await log.values(v.digest for v in kept)) == {v.digest: v for v in kept}
            assert dict(await log.values([kept[3].digest, b"?" * 16])) == {kept[3].digest: kept[3]}
            assert [log.peek(kept[3].digest), log.peek(b"?" * 16)] == [self.at_hand(kept[3]), None]

    async def test_damage_is_named(self) -> None:
        """Reading a changed byte raises an error that names position and stream."""
        async with self.open() as log:
            await log.append(Write("run/a", 0, [*facts(1), *facts(2, key="k"), *facts(3)]))
            await self.damage(log, 2)
            for backwards, before in ((False, [1]), (True, [3])):
                for stream in (None, "run/a"):
                    read = log.read(stream=stream, backwards=backwards)
                    assert marks(await _until_damage(read, "2", "run/a")) == before
            with pytest.raises(LogDamaged, match="run/a"):
                await log.latest(["k"])
            assert marks(await collect(log.read(after=2))) == [3]

    async def test_a_lost_record_is_named(self) -> None:
        """A missing record is detected, in the log by its position and in a stream by its version."""
        async with self.open() as log:
            await log.append(write("run/b", 0, 0))
            await log.append(write("run/a", 0, 1, 2, 3, 4))
            await self.lose(log, 3)
            assert marks(await _until_damage(log.read(), "3", "run/a")) == [0, 1]
            assert marks(await _until_damage(log.read(stream="run/a"), "2", "run/a")) == [1]
            assert await stored(log, "run/b") == [0]

    async def test_damage_does_not_satisfy(self) -> None:
        """Sending a damaged record again does not succeed."""
        async with self.open() as log:
            await log.append(write("run/a", 0, 1))
            await self.damage(log, 1)
            with pytest.raises((LogDamaged, Conflict)):
                await log.append(write("run/a", 0, 1))

    async def test_another_handle_sees_the_same(self) -> None:
        """A handle reads the records of another handle, and both have the signing keys of the log."""
        async with self.open() as one, self.reopen(one) as two:
            kept = value(b"shared")
            await one.append(write("run/a", 0, 1), values=[kept])
            await two.append(write("run/a", 1, 2))
            looks: list[Callable[[EventLog], AsyncIterator[Record]]] = [
                lambda log: log.read(),
                lambda log: log.read(stream="run/a", backwards=True),
            ]
            for look in looks:
                assert await collect(look(one)) == await collect(look(two))
            assert (await two.head(), two.peek(kept.digest)) == (2, self.at_hand(kept))
            assert dict(one.keyring.keys) == dict(two.keyring.keys)

    async def test_a_snapshot_is_kept_until_another_takes_its_name(self) -> None:
        """Snapshots are stored by name, apart from the records, and can be replaced."""
        async with self.open() as log:
            assert await log.snapshot("run/a") is None
            await log.append(write("run/a", 0, 1))
            await log.keep_snapshot("run/a", b"one")
            await log.keep_snapshot("run/b", b"two")
            await log.keep_snapshot("run/a", b"three" * 100_000)
            assert await log.snapshot("run/a") == b"three" * 100_000
            assert await log.snapshot("run/b") == b"two"
            assert (await log.head(), await log.head("run/b")) == (1, 0)

    async def test_rows_are_kept_with_their_checkpoint(self) -> None:
        """Rows and checkpoint change together or not at all; other code starts over; other tables stay unchanged."""
        async with self.open() as log, self.reopen(log) as other:
            assert await log.rows("t") == RowsFound(None, {})
            first, second = Checkpoint("code", 1), Checkpoint("code", 5)
            assert await log.keep_rows("t", None, first, {"run/b": b"2", "run/a": b"1", "flow/x": b"3"})
            assert await log.keep_rows("u", None, first, {"run/a": b"other"})
            assert not await log.keep_rows("t", None, second, {"run/a": b"lost"})
            assert not await other.keep_rows("t", second, second, {"run/a": b"lost"})
            assert await other.rows("t", prefix="run/") == RowsFound(first, {"run/a": b"1", "run/b": b"2"})
            assert await other.keep_rows("t", first, second, {"run/a": b"new", "run/b": None, "run/c": None})
            assert await log.rows("t") == RowsFound(second, {"flow/x": b"3", "run/a": b"new"})
            assert await log.rows("t", ("run/b", "run/a")) == RowsFound(second, {"run/a": b"new"})
            assert await log.rows("t", ()) == RowsFound(second, {})
            changed = Checkpoint("changed", 1)
            assert await log.keep_rows("t", second, changed, {"run/z": b"z"})
            assert await other.rows("t") == RowsFound(changed, {"run/z": b"z"})
            assert await log.rows("u") == RowsFound(first, {"run/a": b"other"})
            assert await log.head() == 0


async def _until_damage(records: AsyncIterator[Record], *named: str) -> list[Record]:
    """Return the records before `LogDamaged`, whose message must contain each of the names."""
    found: list[Record] = []

    async def exhaust() -> None:
        async for record in records:
            found.append(record)  # noqa: PERF401 - the loop ends with an exception

    with pytest.raises(LogDamaged) as caught:
        await exhaust()
    assert all(name in str(caught.value) for name in named)
    return found
