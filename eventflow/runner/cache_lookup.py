"""Asks the cache before tasks start: whether an entry may stand for their work.

An entry is the last success that bears the key (see `eventflow.runner.cache_keys`).  It must be in time by the clock
that is recorded, by what it said then and by what the task says today, and not be from the future.  Its bytes must
be there and be sound, and open as the task's consumers will open them.  Otherwise the task runs, and its success is
the next entry.

Nothing is decided here: what is found goes to the machine as commands, `ReuseTask` for a hit and `StartTask` with the
reason for a miss.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from logging import getLogger
from typing import Final, TypeAlias, TypeVar

from eventflow.events import CacheMiss, LogDamaged, Origin, Record, TaskSucceeded, run_of
from eventflow.machine import ReuseTask, StartTask, Status
from eventflow.ports import EventLog, World
from eventflow.result import Inline, Stored, UnknownEncoding
from eventflow.runner.cache_keys import Declined, KeyMaker, Opaque
from eventflow.runner.failures import brief
from eventflow.runner.live_values import LiveValues
from eventflow.serializers import has_digest
from eventflow.views.run import RunFacts, RunView

__all__ = ["Cache"]

_logger: Final = getLogger("eventflow.cache")
_READ_MAX: Final = 16 << 20
"""Bytes of entries' values that are in memory at once while they are checked."""
_Name = TypeVar("_Name", str, bytes)
_Found = TypeVar("_Found")
_Miss: TypeAlias = tuple[str, str]
"""Reason and detail of a `CacheMiss`."""


class Cache:
    """The cache, as one run asks it."""

    def __init__(self, view: RunView, values: LiveValues, log: EventLog, world: World) -> None:
        self._view = view
        self._plan = view.plan
        self._maker = KeyMaker(values)
        self._serializers = values.serializers
        self._log = log
        self._world = world
        self._told: set[str] = set()
        """Tasks of which it was said that they are not cached."""
        self.keys: dict[int, str] = {}
        """Slots of attempts under way → the key that their success will bear."""

    def forget(self) -> None:
        """The run is folded anew, and perhaps by others' records: keep nothing of what it was."""
        self.keys.clear()
        self._maker.forget()

    async def ask(self, facts: RunFacts, slots: Sequence[int], now: int) -> list[StartTask | ReuseTask]:
        """What is to be decided on each of these slots, which are due, at `now`; one look-up for all."""
        run = facts.run
        self._maker.recheck_code()
        commands: dict[int, StartTask | ReuseTask] = {}
        asked: dict[int, bytes] = {}
        for slot in slots:
            if run.node(slot) not in self._plan.cached:
                commands[slot] = StartTask(slot)
                continue
            try:
                parts = await self._maker.parts(facts, slot)
            except Opaque as error:
                why = brief(error)
                self.keys.pop(slot, None)
                if not isinstance(error, Declined):
                    self._tell(facts, slot, why)
                commands[slot] = StartTask(slot, CacheMiss(b"", "opaque", why))
                continue
            self.keys[slot] = self._maker.key(run.node(slot), parts)
            if run.status[slot] == Status.RETRYING:
                commands[slot] = StartTask(slot, CacheMiss(parts, "retry"))
            else:
                commands[slot] = StartTask(slot, CacheMiss(parts, "new"))
                asked[slot] = parts
        if asked:
            found = await _sound(self._log.latest, [self.keys[slot] for slot in asked])
            if found:
                commands.update(await self._judge(facts, asked, found, now))
        return [commands[slot] for slot in slots]

    def _tell(self, facts: RunFacts, slot: int, why: str) -> None:
        """Tell once in a run of a task that is not cached though it says so; its events tell of every call."""
        task = self._plan.graph.task_of(facts.run.node(slot)).name
        if task not in self._told:
            self._told.add(task)
            name, run_id = facts.run.name(self._plan, slot), self._view.run_id
            _logger.warning("task %r of run %r is not cached: %s", name, run_id, why)

    async def _judge(
        self, facts: RunFacts, asked: Mapping[int, bytes], found: Mapping[str, Record | None], now: int
    ) -> dict[int, StartTask | ReuseTask]:
        """What becomes of the slots for whose keys there are entries."""
        answers: dict[int, StartTask | ReuseTask] = {}
        hits: list[ReuseTask] = []
        for slot, parts in asked.items():
            if self.keys[slot] not in found:
                continue
            entry = found[self.keys[slot]]
            event = None if entry is None else entry.event
            if entry is None or not isinstance(event, TaskSucceeded):
                answers[slot] = StartTask(
                    slot, CacheMiss(parts, "lost", "the record of its entry cannot be read")
                )
            elif entry.at > max(now, self._world.now()):  # which may be of a moment after this round began
                answers[slot] = StartTask(slot, CacheMiss(parts, "future", _in_the_future(entry, now)))
            elif (since := self._expired(facts.run.node(slot), entry, event, now)) is not None:
                answers[slot] = StartTask(slot, CacheMiss(parts, "expired", _out_of_date(entry, since)))
            else:
                hits.append(
                    ReuseTask(
                        slot,
                        event.result,
                        Origin(entry.stream, entry.version),
                        "cache",
                        parts,
                        event.content,
                        event.expires_at,
                        event.body_us + event.encode_us,
                    )
                )
        unsound = await self._unsound(facts, hits)
        for hit in hits:
            if hit.slot in unsound:
                answers[hit.slot] = StartTask(hit.slot, CacheMiss(hit.parts, *unsound[hit.slot]))
            else:
                answers[hit.slot] = hit
                del self.keys[hit.slot]
        return answers

    def _expired(self, node: int, entry: Record, event: TaskSucceeded, now: int) -> int | None:
        """How long ago an entry went out of date, by its own word or by the task's of today; None if it did not."""
        ends = [] if event.expires_at is None else [event.expires_at]
        policy = self._plan.graph.task_of(node).policy.cache
        if policy is not None and policy.for_us:
            ends.append(entry.at + policy.for_us)
        over = now - min(ends, default=now + 1)
        return over if over >= 0 else None

    async def _unsound(self, facts: RunFacts, hits: Sequence[ReuseTask]) -> dict[int, _Miss]:
        """Slots whose entries' values cannot be had."""
        unsound: dict[int, _Miss] = {}
        batch: list[tuple[int, Stored]] = []
        size = 0
        for hit in hits:
            payload = hit.result
            if isinstance(payload, Inline):
                self._check(facts, hit.slot, payload, unsound)
            elif isinstance(payload, Stored):
                if size + payload.size > _READ_MAX and batch:
                    await self._check_stored(facts, batch, unsound)
                    batch, size = [], 0
                batch.append((hit.slot, payload))
                size += payload.size
            else:
                unsound[hit.slot] = ("lost", f"the value was not kept: {payload.reason}")
        if batch:
            await self._check_stored(facts, batch, unsound)
        return unsound

    async def _check_stored(
        self, facts: RunFacts, batch: Sequence[tuple[int, Stored]], unsound: dict[int, _Miss]
    ) -> None:
        found = await _sound(self._log.values, [payload.digest for _, payload in batch])
        for slot, payload in batch:
            value = found.get(payload.digest)
            if value is None:
                unsound[slot] = (
                    "lost",
                    f"the bytes of {payload.digest.hex()} are gone, damaged or of a newer eventflow",
                )
            else:
                self._check(facts, slot, Inline(payload.codec, value.data, payload.digest), unsound)

    def _check(self, facts: RunFacts, slot: int, payload: Inline, unsound: dict[int, _Miss]) -> None:
        """See that a value opens as its consumers will open it."""
        try:
            if not has_digest(payload.data, payload.digest):
                unsound[slot] = ("lost", f"the bytes of {payload.digest.hex()} are damaged")
                return
            self._serializers.serializer_of(slot, facts.run).deserialize(payload)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - opening runs what users wrote
            unsound[slot] = ("unreadable", f"{type(error).__qualname__}: {brief(error)}")


async def _sound(
    read: Callable[[Sequence[_Name]], Awaitable[Mapping[_Name, _Found]]], names: Sequence[_Name]
) -> Mapping[_Name, _Found | None]:
    """What `read` finds under these names; None for what is damaged, which shows when each is read alone."""
    different = list(dict.fromkeys(names))
    found: dict[_Name, _Found | None] = {}
    try:
        found.update(await read(different))
    except (LogDamaged, UnknownEncoding):
        for name in different:
            try:
                found.update(await read([name]))
            except (LogDamaged, UnknownEncoding):
                found[name] = None
    return found


def _in_the_future(entry: Record, now: int) -> str:
    run = run_of(entry.stream)
    return f"event {entry.version} of run {run} was recorded {(entry.at - now) / 1e6:.0f} s in the future"


def _out_of_date(entry: Record, since_us: int) -> str:
    run = run_of(entry.stream)
    return f"event {entry.version} of run {run} is out of date since {since_us / 1e6:.0f} s"
