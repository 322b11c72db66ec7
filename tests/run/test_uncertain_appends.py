"""An append that does not go through, or of which nobody knows whether it did: fold again, and go on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import msgspec
import pytest

from eventflow import Flow, MemoryLog, State, inputs, task
from eventflow.events import Draft, TaskSucceeded
from eventflow.ports import Conflict, OutcomeUnknown, Value, Write
from eventflow.result import Stored
from eventflow.serializers import Serializer
from eventflow.testing.virtual import VirtualWorld, simulate, simulated


class Uncertain(MemoryLog):
    """A log that at one append raises, before or after it stored what it was given."""

    def __init__(self, at: int, error: Exception, *, stored: bool) -> None:
        super().__init__()
        self.appends = 0
        self.at = at
        self.error = error
        self.stored = stored

    async def append(self, *writes: Write, **options: Any) -> Any:
        """Append, but for the one time."""
        self.appends += 1
        if self.appends != self.at:
            return await super().append(*writes, **options)
        if self.stored:
            await super().append(*writes, **options)
        raise self.error


def example(ran: Counter[str]) -> Flow[..., Any]:
    """Appends for every reason: a birth, a report, a retry whose moment has come, a map, an end."""

    @task(retries=1, retry_delay=30, version="1")
    async def flaky() -> list[int]:
        ran["flaky"] += 1
        if ran["flaky"] == 1:
            raise ValueError
        return list(range(600))

    @task(version="1")
    async def each(number: int) -> int:
        ran[f"each {number}"] += 1
        await anyio.sleep(number % 3)
        return number

    @task(version="1")
    async def total(numbers: list[int]) -> int:
        ran["total"] += 1
        return sum(numbers)

    with Flow("uncertain") as flow:
        total(each.map(flaky()))
    return flow


@pytest.mark.parametrize("at", range(2, 8))
@pytest.mark.parametrize(
    ("kind", "given", "stored"),
    [(OutcomeUnknown, (), False), (OutcomeUnknown, (), True), (Conflict, ("run/r", 1, 2), False)],
    ids=["unknown-not-stored", "unknown-stored", "conflict"],
)
def test_the_run_goes_on(kind: type[Exception], given: tuple[Any, ...], stored: bool, at: int) -> None:
    """No body runs twice, none is forgotten, and the end is the same, whichever append it was."""
    ran: Counter[str] = Counter()

    async def main(world: VirtualWorld) -> State:
        error = kind(*given)  # one for each test: an error that is raised again keeps its old causes
        log = Uncertain(at, error, stored=stored)
        state = await example(ran).options(log=log, world=world, run_id="r").run()
        assert log.appends >= at
        return state

    state = simulate(main)
    assert state.result["total"].result == sum(range(600))
    assert ran.pop("flaky") == 2
    assert set(ran.values()) == {1}
    assert len(ran) == 601


class Overtaken(Uncertain):
    """A log in which another run records an entry just before one append is refused."""

    def __init__(self) -> None:
        super().__init__(0, Conflict("run/r", 1, 2), stored=False)

    async def append(self, *writes: Write, **options: Any) -> Any:
        """Record the entry, then append or refuse."""
        if self.appends + 1 == self.at:
            (entry,) = [record async for record in self.read() if record.key is not None]
            assert isinstance(entry.event, TaskSucceeded)
            made = Serializer().serialize([7] * 5_000)
            stored = Stored(made.codec, made.digest, len(made.data), "log")
            draft = Draft(
                entry.at, msgspec.structs.replace(entry.event, result=stored, content=None), entry.key
            )
            value = Value(made.digest, made.codec, made.data)
            await MemoryLog.append(self, Write("run/other", 0, [draft]), values=[value])
        return await super().append(*writes, **options)


@simulated
async def test_another_entry_after_a_refused_append(world: VirtualWorld) -> None:
    """A value that was reused in the refused round is forgotten: downstream tasks get the one that is recorded."""

    @task(version="1")
    async def before() -> int:
        return 1

    @task(version="1", cache_on=inputs())
    async def many() -> list[int]:
        return [1] * 4_999

    @task(version="1", cache_on=inputs())
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    with Flow("first") as first:
        many()
    with Flow("second") as second:
        total(many.after(before())())

    log = Overtaken()
    await first.options(log=log, world=world, run_id="first").run()
    log.at = log.appends + 2
    state = await second.options(log=log, world=world, run_id="r").run()
    assert state.result["many"].is_cached()
    assert state.result["total"].result == sum(state.result["many"].result) == 7 * 5_000


@simulated
async def test_finished_work_is_recorded_although_an_append_raised(world: VirtualWorld) -> None:
    """A round that failed is not made again on the state that ran ahead of it: its reports are stored on release."""
    ran: Counter[str] = Counter()

    @task(version="1")
    async def pay(number: int) -> int:
        ran[f"pay {number}"] += 1
        return number

    @task(version="1")
    async def wait(number: int) -> int:
        await anyio.sleep(1)
        return number

    with Flow("payments") as payments:
        pay(1)
        pay(2)
        wait(3)
    log = Uncertain(2, OSError("disk full"), stored=False)
    options = payments.options(log=log, world=world, run_id="r")
    with pytest.raises(OSError, match="disk full"):
        await options.run()
    assert (await options.run()).is_successful()
    assert ran == {"pay 1": 1, "pay 2": 1}


class Slow(Uncertain):
    """A log whose uncertain append takes two seconds."""

    async def append(self, *writes: Write, **options: Any) -> Any:
        """Append, and take two seconds the one time."""
        if self.appends + 1 == self.at:
            await anyio.sleep(2)
        return await super().append(*writes, **options)


@simulated
async def test_a_retry_that_comes_due_while_an_append_is_uncertain(world: VirtualWorld) -> None:
    """Its timer cancels no task, so an append whose outcome is unknown is not taken for an interruption."""
    ran: Counter[str] = Counter()

    @task(retries=1, retry_delay=10, version="1")
    async def flaky() -> int:
        ran["flaky"] += 1
        if ran["flaky"] == 1:
            raise ValueError
        return 1

    @task(version="1")
    async def steady() -> int:
        ran["steady"] += 1
        await anyio.sleep(9)
        return 2

    with Flow("both") as both:
        flaky()
        steady()
    log = Slow(3, OutcomeUnknown(), stored=False)  # the append of `steady`, from second 9 to 11
    state = await both.options(log=log, world=world, run_id="r").run()
    assert state.is_successful()
    assert log.appends > 3
    assert ran == {"flaky": 2, "steady": 1}
