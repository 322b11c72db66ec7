"""Asks the cache before tasks start, whether an entry has the result already.

An entry is the last success that was recorded with the key of the call (see `eventflow.runner.cache_keys`).  A hit is an
entry that has not expired, by its own record and by the task's options of today, and is not from the future; its bytes
are there and sound, and open as the task's declared type.  Otherwise the task runs, and its success is the next entry.

Nothing is decided here.  The answers are commands for the machine: `ReuseTask` for a hit, `StartTask` with the reason for
a miss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import getLogger
from typing import Final, TypeAlias, TypeVar

from eventflow.events import CacheMiss, Origin, Record, TaskSucceeded, run_of
from eventflow.machine import ReuseTask, StartTask, Status
from eventflow.ports import EventLog, World, inline_of
from eventflow.records import LogDamaged
from eventflow.result import Inline, Stored, UnknownEncoding
from eventflow.runner.cache_keys import Declined, KeyMaker, Opaque
from eventflow.runner.failures import one_line
from eventflow.runner.live_values import LiveValues
from eventflow.serializers import has_digest
from eventflow.views.run import RunFacts, RunView

__all__ = ["CacheLookup"]

_logger: Final = getLogger("eventflow.cache")
_BATCH_BYTES_MAX: Final = 16 << 20
"""Bytes of entries' values that are in memory at once while they are checked."""
_Name = TypeVar("_Name", str, bytes)
_Item = TypeVar("_Item")
_Miss: TypeAlias = tuple[str, str]
"""Reason and detail of a `CacheMiss`."""


class CacheLookup:
    """Looks up the results of one run's calls."""

    def __init__(self, view: RunView, values: LiveValues, log: EventLog, world: World) -> None:
        self._view = view
        self._plan = view.plan
        self._maker = KeyMaker(values)
        self._serializers = values.serializers
        self._log = log
        self._world = world
        self._warned: set[str] = set()
        """Names of tasks with a warning that they are not cached; each is given once in a run."""

    def restore(self) -> None:
        """Continue from facts that were folded from the log: entries may be other ones than in the round that failed."""
        self._maker.restore()

    async def ask(self, facts: RunFacts, slots: Sequence[int], now: int) -> list[StartTask | ReuseTask]:
        """Return a command for each of these slots, which are due at `now`; all keys are looked up at once."""
        run = facts.run
        self._maker.recheck_code()
        commands: dict[int, StartTask | ReuseTask] = {}
        asked: list[StartTask] = []
        for slot in slots:
            if run.node(slot) not in self._plan.cached:
                commands[slot] = StartTask(slot)
                continue
            try:
                parts = await self._maker.parts(facts, slot)
            except Opaque as error:
                commands[slot] = self._opaque(facts, slot, error)
                continue
            key = self._maker.key(run.node(slot), parts)
            if run.status[slot] == Status.RETRYING:
                commands[slot] = StartTask(slot, CacheMiss(parts, "retry"), key)
            else:
                commands[slot] = start = StartTask(slot, CacheMiss(parts, "new"), key)
                asked.append(start)
        if asked:
            entries = await _read_sound(self._log.latest, [_key_of(start) for start in asked])
            if entries:
                commands.update(await self._judge(facts, asked, entries, now))
        return [commands[slot] for slot in slots]

    def _opaque(self, facts: RunFacts, slot: int, error: Opaque) -> StartTask:
        """Start a call that has no key; a task that should be cached is warned about, once in a run."""
        reason = one_line(error)
        task = self._plan.graph.task_of(facts.run.node(slot)).name
        if not isinstance(error, Declined) and task not in self._warned:
            self._warned.add(task)
            name, run_id = facts.run.name(self._plan, slot), self._view.run_id
            _logger.warning("task %r of run %r is not cached: %s", name, run_id, reason)
        return StartTask(slot, CacheMiss(b"", "opaque", reason))

    async def _judge(
        self, facts: RunFacts, asked: Sequence[StartTask], entries: Mapping[str, Record | None], now: int
    ) -> dict[int, StartTask | ReuseTask]:
        """Return the commands for those of the starts that have an entry."""
        commands: dict[int, StartTask | ReuseTask] = {}
        starts: dict[int, StartTask] = {}
        hits: list[ReuseTask] = []
        for start in asked:
            slot, key = start.slot, _key_of(start)
            if key not in entries:
                continue
            answer = self._hit_or_miss(facts.run.node(slot), entries[key], now)
            if isinstance(answer, tuple):
                commands[slot] = _missed(start, answer)
            else:
                starts[slot] = start
                hits.append(_reuse(slot, _parts_of(start), answer))
        unusable = await self._unusable(facts, hits)
        for hit in hits:
            miss = unusable.get(hit.slot)
            commands[hit.slot] = hit if miss is None else _missed(starts[hit.slot], miss)
        return commands

    def _hit_or_miss(self, node: int, entry: Record | None, now: int) -> Record | _Miss:
        """Return an entry that may be reused by its record alone, or the reason why not."""
        if entry is None or not isinstance(entry.event, TaskSucceeded):
            return "lost", "the record of its entry cannot be read"
        if entry.at > max(now, self._world.now()):  # the entry may be made after this round began
            return "future", _in_the_future(entry, now)
        since = self._expired_us(node, entry, entry.event, now)
        if since is not None:
            return "expired", _out_of_date(entry, since)
        return entry

    def _expired_us(self, node: int, entry: Record, event: TaskSucceeded, now: int) -> int | None:
        """Return the time since an entry expired, by its record or by the task's options of today; None if it did not."""
        ends: list[int] = []
        if event.expires_at is not None:
            ends.append(event.expires_at)
        policy = self._plan.graph.task_of(node).policy.cache
        if policy is not None and policy.for_us:
            ends.append(entry.at + policy.for_us)
        if not ends or min(ends) > now:
            return None
        return now - min(ends)

    async def _unusable(self, facts: RunFacts, hits: Sequence[ReuseTask]) -> dict[int, _Miss]:
        """Return the slots whose entries have no usable value, each with the reason."""
        unusable: dict[int, _Miss] = {}
        batch: list[tuple[int, Stored]] = []
        size = 0
        for hit in hits:
            payload = hit.result
            if isinstance(payload, Inline):
                self._check(facts, hit.slot, payload, unusable)
            elif isinstance(payload, Stored):
                if size + payload.size > _BATCH_BYTES_MAX and batch:
                    await self._check_stored(facts, batch, unusable)
                    batch, size = [], 0
                batch.append((hit.slot, payload))
                size += payload.size
            else:
                unusable[hit.slot] = ("lost", f"the value was not kept: {payload.reason}")
        if batch:
            await self._check_stored(facts, batch, unusable)
        return unusable

    async def _check_stored(
        self, facts: RunFacts, batch: Sequence[tuple[int, Stored]], unusable: dict[int, _Miss]
    ) -> None:
        values = await _read_sound(self._log.values, [payload.digest for _, payload in batch])
        for slot, payload in batch:
            value = values.get(payload.digest)
            if value is None:
                unusable[slot] = (
                    "lost",
                    f"the bytes of {payload.digest.hex()} are gone, damaged or of a newer eventflow",
                )
            else:
                self._check(facts, slot, inline_of(payload, value), unusable)

    def _check(self, facts: RunFacts, slot: int, payload: Inline, unusable: dict[int, _Miss]) -> None:
        """Check that a value opens as downstream tasks will open it."""
        try:
            if not has_digest(payload.data, payload.digest):
                unusable[slot] = ("lost", f"the bytes of {payload.digest.hex()} are damaged")
                return
            self._serializers.serializer_of(slot, facts.run).deserialize(payload)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - opening runs code of users
            unusable[slot] = ("unreadable", f"{type(error).__qualname__}: {one_line(error)}")


def _key_of(start: StartTask) -> str:
    assert start.key is not None, "only calls with a key are looked up"
    return start.key


def _parts_of(start: StartTask) -> bytes:
    assert start.cache is not None, "only calls with a key are looked up"
    return start.cache.parts


def _missed(start: StartTask, miss: _Miss) -> StartTask:
    """Return a start with the reason why its entry is not reused."""
    return StartTask(start.slot, CacheMiss(_parts_of(start), *miss), start.key)


def _reuse(slot: int, parts: bytes, entry: Record) -> ReuseTask:
    event = entry.event
    assert isinstance(event, TaskSucceeded), "as in _hit_or_miss"
    return ReuseTask(
        slot,
        event.result,
        Origin(entry.stream, entry.version),
        "cache",
        parts,
        event.content,
        event.expires_at,
        event.body_us + event.encode_us,
    )


async def _read_sound(
    read: Callable[[Sequence[_Name]], Awaitable[Mapping[_Name, _Item]]], names: Sequence[_Name]
) -> Mapping[_Name, _Item | None]:
    """Read the items under these names; those that are damaged are None.

    If any is damaged, each is read alone, to find out which.
    """
    different = list(dict.fromkeys(names))
    items: dict[_Name, _Item | None] = {}
    try:
        items.update(await read(different))
    except (LogDamaged, UnknownEncoding):
        for name in different:
            try:
                items.update(await read([name]))
            except (LogDamaged, UnknownEncoding):
                items[name] = None
    return items


def _in_the_future(entry: Record, now: int) -> str:
    run = run_of(entry.stream)
    return f"event {entry.version} of run {run} was recorded {(entry.at - now) / 1e6:.0f} s in the future"


def _out_of_date(entry: Record, since_us: int) -> str:
    run = run_of(entry.stream)
    return f"event {entry.version} of run {run} is out of date since {since_us / 1e6:.0f} s"
