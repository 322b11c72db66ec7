"""An entry of the cache counts only if its value opens as a consumer will open it, and if it is not from the future."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from eventflow import Flow, MemoryLog, flow, inputs, task
from eventflow.events import CacheMiss, Draft, Record, TaskReused, TaskStarted, TaskSucceeded
from eventflow.ports import Value, Write
from eventflow.result import Inline, Stored
from eventflow.serializers import Serializer, digest_of
from eventflow.testing.virtual import VirtualWorld, simulated

ran: list[int] = []


@dataclass
class Point:
    """What a task returns."""

    x: int = 0


@task(cache_on=inputs())
async def point(x: int) -> Point:
    """Kept as `typed`."""
    ran.append(x)
    return Point(x)


@task(cache_on=inputs())
async def pair(x: int) -> Any:
    """Kept as `tagged`."""
    ran.append(x)
    return (x, x)


@task(cache_for=timedelta(hours=1))
async def number(x: int) -> int:
    """Kept as `msgpack`."""
    ran.append(x)
    return x


@task
async def read(value: Any) -> str:
    """A consumer."""
    return repr(value)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


def used(name: str) -> Flow[..., Any]:
    """A flow in which the result of a cached task is read."""
    made = {"point": point, "pair": pair, "number": number}[name]

    @flow(name="used")
    def found() -> str:
        return read(made(3))  # type: ignore[arg-type]  # any of the three

    return found


async def entry_of(log: MemoryLog) -> Record:
    """The one entry of the cache."""
    (found,) = [record async for record in log.read() if record.key is not None]
    return found


async def put(log: MemoryLog, entry: Record, payload: Inline | Stored, at: int, *values: Value) -> None:
    """Record an entry in place of another one, as another run would have."""
    assert isinstance(entry.event, TaskSucceeded)
    event = msgspec.structs.replace(entry.event, result=payload)
    await log.append(Write("run/other", 0, [Draft(at, event, entry.key)]), values=values)


async def reasons(log: MemoryLog, run_id: str) -> list[str]:
    """Why the cache had no answer."""
    events = [record.event async for record in log.read(stream=f"run/{run_id}")]
    misses = [event.cache for event in events if isinstance(event, TaskStarted)]
    return [miss.reason for miss in misses if isinstance(miss, CacheMiss)]


OTHER_FIELDS = msgspec.msgpack.encode({"x": "three"})
UNKNOWN_EXTENSION = msgspec.msgpack.encode(msgspec.msgpack.Ext(100, b""))
CASES = {
    "typed, of other fields": ("point", "typed", OTHER_FIELDS),
    "typed, no message": ("point", "typed", b"\xc1"),
    "tagged, by a newer version": ("pair", "tagged", UNKNOWN_EXTENSION),
    "tagged, cut off": ("pair", "tagged", b"\x92\x01"),
    "plain, cut off": ("number", "msgpack", b"\x92\x01"),
    "a codec that is not here": ("pair", "arrow", b"1"),
    "a pickle of an unknown key": ("pair", "pickle+hmac:other", b"1" * 64),
}


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("case", CASES)
@simulated
async def test_what_does_not_open_is_a_miss(case: str, is_stored: bool, world: VirtualWorld) -> None:
    """Whatever the codec, and wherever the bytes are: the task runs, its consumer succeeds, and the event says why."""
    name, codec, data = CASES[case]

    log = MemoryLog()
    await used(name).options(log=log, world=world).run()
    inline = Inline(codec, data, digest_of(data))
    payload = Stored(codec, inline.digest, len(data), "log") if is_stored else inline
    values = (Value(inline.digest, codec, data),) if is_stored else ()
    await put(log, await entry_of(log), payload, world.now(), *values)
    state = await used(name).options(log=log, world=world, run_id="two").run()
    assert state.is_successful()
    assert ran == [3, 3]
    assert await reasons(log, "two") == ["unreadable"]
    await used(name).options(log=log, world=world, run_id="three").run()
    assert ran == [3, 3]  # the new success is the entry


@simulated
async def test_a_pickle_whose_class_refuses_is_a_miss(world: VirtualWorld) -> None:
    """Opening runs the class's own code, which may even end the program."""
    log = MemoryLog()
    await used("pair").options(log=log, world=world).run()
    await put(log, await entry_of(log), Serializer(keyring=log.keyring).serialize(Refusing()), world.now())
    Refusing.refuses = True
    try:
        state = await used("pair").options(log=log, world=world, run_id="two").run()
    finally:
        Refusing.refuses = False
    assert state.is_successful()
    assert await reasons(log, "two") == ["unreadable"]


class Refusing:
    """Does not come out of its pickle any more."""

    refuses = False

    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: Any) -> None:
        if Refusing.refuses:
            raise SystemExit
        self.__dict__.update(state)


@pytest.mark.parametrize(
    ("ahead_us", "is_taken"), [(1, False), (3_600_000_000, False), (0, True), (-1, True)]
)
@simulated
async def test_an_entry_from_the_future_is_not_taken(
    ahead_us: int, is_taken: bool, world: VirtualWorld
) -> None:
    """One that a clock has stamped that was ahead, by however little; else it would be good for too long."""
    log = MemoryLog()
    await used("number").options(log=log, world=world).run()
    entry = await entry_of(log)
    assert isinstance(entry.event, TaskSucceeded)
    assert isinstance(entry.event.result, Inline)
    await put(log, entry, entry.event.result, world.now() + ahead_us)
    state = await used("number").options(log=log, world=world, run_id="two").run()
    assert state.is_successful()
    assert await reasons(log, "two") == ([] if is_taken else ["future"])
    assert ran == ([3] if is_taken else [3, 3])
    events = [record.event async for record in log.read(stream="run/two")]
    assert sum(isinstance(event, TaskReused) for event in events) == is_taken
