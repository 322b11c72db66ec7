"""Types that were edited between two runs: what was recorded is never read as something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from eventflow import Flow, MemoryLog, flow, inputs, task
from eventflow.fingerprints.type_defs import TypeChanged
from eventflow.ports import EventLog
from eventflow.result import DeserializationError, Inline
from eventflow.runner.compatibility import FlowChanged
from eventflow.serializers import digest_of
from eventflow.states import Cached
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.edited import edit

READING = "@dataclass\nclass Reading:\n    place: str\n    temp: float = 1.0\n"
RENAMED = "@dataclass\nclass Reading:\n    place: str\n    temperature: float = 0.0\n"
COLOUR = "class Colour(enum.Enum):\n    RED = enum.auto()\n    GREEN = enum.auto()\n"
INSERTED = (
    "class Colour(enum.Enum):\n    BLUE = enum.auto()\n    RED = enum.auto()\n    GREEN = enum.auto()\n"
)
POINT = "class Point(NamedTuple):\n    lat: float\n    lon: float\n"
SWAPPED = "class Point(NamedTuple):\n    lon: float\n    lat: float\n"

SEEN: list[Any] = [
    pytest.param(READING, RENAMED, lambda m: m.Reading("roof", 25.0), "Reading", id="dataclass"),
    pytest.param(COLOUR, INSERTED, lambda m: m.Colour.GREEN, "Colour", id="enum"),
    pytest.param(POINT, SWAPPED, lambda m: m.Point(48.1, 11.6), "Point", id="namedtuple"),
]
DECLARED = pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "undeclared"])


def pipe(
    module: Any, make: Callable[[Any], Any], name: str | None, ran: list[str], seen: list[Any], **caching: Any
) -> Flow[[], Any]:
    """A task that makes a value, and one that looks at it; with `name` the type of both is declared."""
    declared = Any if name is None else getattr(module, name)

    def make_() -> Any:
        ran.append("make")
        return make(module)

    def look(value: Any) -> str:
        seen.append(value)
        return "looked"

    make_.__annotations__["return"] = declared
    made = task(version="1", name="make", **caching)(make_)
    looked = task(version="1", name="look")(look)

    with Flow("pipe") as found:
        looked(made())
    return found


async def die(found: Flow[[], Any], log: EventLog, world: VirtualWorld) -> None:
    """Run until the first task has succeeded and the second one has not."""
    with pytest.raises(Crash):
        await found.options(log=CrashingLog(log, crash_at=3), world=world, run_id="r").run()


@DECLARED
@pytest.mark.parametrize(("before", "after", "make", "name"), SEEN)
@simulated
async def test_a_value_is_never_read_as_another_type(
    before: str, after: str, make: Any, name: str, is_declared: bool, world: VirtualWorld
) -> None:
    """Refused on resume, or the consumer's failure; unreadable in a finished run; made again by rerun and cache."""
    declared = name if is_declared else None

    log = MemoryLog()
    ran: list[str] = []
    seen: list[Any] = []
    shop = edit(before)
    cached = pipe(shop, make, declared, ran, seen, cache_on=inputs())
    await die(pipe(shop, make, declared, ran, seen), log, world)
    await cached.options(log=log, world=world, run_id="finished").run()
    ran.clear()
    seen.clear()
    shop = edit(after)
    today = pipe(shop, make, declared, ran, seen)
    if is_declared:
        with pytest.raises(FlowChanged, match=f"the result of 'make'[^!]*{name}"):
            await today.options(log=log, world=world, run_id="r").run()
    state = await today.options(log=log, world=world, run_id="r", on_change="keep").run()
    assert state.result["look"].is_failed()
    assert "TypeChanged" in state.result["look"].message
    assert name in state.result["look"].message
    assert (ran, seen) == ([], [])

    finished = await (
        pipe(shop, make, declared, ran, seen, cache_on=inputs())
        .options(log=log, world=world, run_id="finished")
        .run()
    )
    assert finished.is_successful()
    with pytest.raises(TypeChanged, match=name):
        _ = finished.result["make"].result

    again = await today.options(log=log, world=world).rerun("finished")
    assert (again.is_successful(), ran, len(seen)) == (True, ["make"], 1)
    assert seen[0] == make(shop)
    ran.clear()
    state = await pipe(shop, make, declared, ran, seen, cache_on=inputs()).options(log=log, world=world).run()
    assert (state.is_successful(), ran) == (True, ["make"])


@simulated
async def test_what_did_not_change_is_kept_as_ever(world: VirtualWorld) -> None:
    """The module is imported anew, its classes are others by identity, and everything is read, kept and hit."""
    make = SEEN[0].values[2]

    for declared in ("Reading", None):
        log = MemoryLog()
        ran: list[str] = []
        seen: list[Any] = []
        await die(pipe(edit(READING), make, declared, ran, seen, cache_on=inputs()), log, world)
        ran.clear()
        seen.clear()
        shop = edit("# another comment\n" + READING + "\n    def hot(self):\n        return self.temp > 30\n")
        today = pipe(shop, make, declared, ran, seen, cache_on=inputs())
        assert (await today.options(log=log, world=world, run_id="r").run()).is_successful()
        assert type((await today.options(log=log, world=world).run()).result["make"]) is Cached
        assert type((await today.options(log=log, world=world).rerun("r")).result["make"]) is Cached
        assert ran == []
        assert seen == [make(shop)] * len(seen)


@simulated
async def test_the_difference_is_a_table(world: VirtualWorld) -> None:
    """Which values are held, and what of their types was and is."""
    log = MemoryLog()
    await die(pipe(edit(READING), SEEN[0].values[2], "Reading", [], []), log, world)
    head = await log.head()
    with pytest.raises(FlowChanged) as caught:
        await (
            pipe(edit(RENAMED), SEEN[0].values[2], "Reading", [], [])
            .options(log=log, world=world, run_id="r")
            .run()
        )
    way_out = (
        "have them made again by a new run: `rerun('r')`, or go on with `options(on_change='keep')`, which opens the values "
        "that do not depend on it"
    )
    assert str(caught.value).splitlines() == [
        "run 'r' holds values whose type is another one today (the result of 'make'):",
        "                       then         now",
        "  Reading.temp         float = 1.0  (not there)",
        "  Reading.temperature  (not there)  float = 0.0",
        way_out,
    ]
    assert await log.head() == head


@simulated
async def test_a_plain_value_whose_type_grew_is_kept_on_request(world: VirtualWorld) -> None:
    """Its bytes say all, so with `keep` the very value is handed on; without, the change is told."""
    log = MemoryLog()
    seen: list[Any] = []
    first = "class Options(TypedDict):\n    deep: bool\n"
    await die(pipe(edit(first), lambda _: {"deep": True}, "Options", [], seen), log, world)
    seen.clear()
    today = pipe(edit(first + "    wide: NotRequired[bool]\n"), lambda _: {}, "Options", [], seen)
    with pytest.raises(FlowChanged, match=r"Options\.wide +\(not there\) +NotRequired\[bool\] optional"):
        await today.options(log=log, world=world, run_id="r").run()
    state = await today.options(log=log, world=world, run_id="r", on_change="keep").run()
    assert state.is_successful()
    assert seen == [{"deep": True}]


@simulated
async def test_results_of_two_graphs_in_one_run_are_told_apart(world: VirtualWorld) -> None:
    """A task that ran after the change is of today's type, one that ran before is not, in every later process."""
    ran: list[str] = []

    def build(shop: Any) -> Flow[[], Any]:
        def make() -> Any:
            ran.append("make")
            return shop.Reading("roof", 25.0)

        def join(one: Any, two: Any) -> str:
            return f"{one} {two}"

        make.__annotations__["return"] = shop.Reading
        one, two = (task(version="1", name=name)(make) for name in ("one", "two"))
        with Flow("pair") as found:
            first = one()
            task(version="1", name="join")(join)(first, two.after(first)())
        return found

    log = MemoryLog()
    await die(build(edit(READING)), log, world)
    today = build(edit(RENAMED))
    for _ in range(2):
        state = await today.options(log=log, world=world, run_id="r", on_change="keep").run()
        assert state.result["two"].result.temperature == 25.0
        with pytest.raises(TypeChanged, match="the result of 'one'"):
            _ = state.result["one"].result
        assert "TypeChanged" in state.result["join"].message
    assert ran == ["make"] * 3  # the second task was under way when the process died


def taking(shop: Any, name: str, seen: list[Any]) -> Flow[..., Any]:
    """A flow with a parameter of a type, and a task that looks at it in its second attempt."""

    @task(version="1", name="look")
    def look(value: Any) -> str:
        seen.append(value)
        return "looked"

    def taken(value: Any) -> Any:
        return look(value)

    taken.__annotations__["value"] = getattr(shop, name)
    return flow(name="taken")(taken)


@pytest.mark.parametrize(("before", "after", "make", "name"), SEEN)
@simulated
async def test_a_parameter_is_never_read_as_another_type(
    before: str, after: str, make: Any, name: str, world: VirtualWorld
) -> None:
    """Nor opened at all while nobody asks for it: the finished run is read, resume and rerun say what changed."""
    log = MemoryLog()
    seen: list[Any] = []
    shop = edit(before)
    with pytest.raises(Crash):
        await (
            taking(shop, name, seen)
            .options(log=CrashingLog(log, crash_at=2), world=world, run_id="r")
            .run(make(shop))
        )
    await taking(shop, name, seen).options(log=log, world=world, run_id="finished").run(make(shop))
    seen.clear()
    today = taking(edit(after), name, seen)
    with pytest.raises(FlowChanged, match=f"parameter 'value'[^!]*{name}"):
        await today.options(log=log, world=world, run_id="r").run()
    with pytest.raises(FlowChanged, match="parameter 'value'"):
        await today.options(log=log, world=world).rerun("finished")
    state = await today.options(log=log, world=world, run_id="finished").run()
    assert state.result["look"].result == "looked"
    with pytest.raises(TypeChanged, match="parameter 'value'"):
        _ = state.result["value"].result
    kept = await today.options(log=log, world=world, run_id="r", on_change="keep").run()
    assert "TypeChanged" in kept.result["look"].message
    assert seen == []


@simulated
async def test_a_parameter_of_a_wider_type_is_carried_into_a_rerun(world: VirtualWorld) -> None:
    """Plain data that today's type takes as it is stands for what it was."""
    log = MemoryLog()
    seen: list[Any] = []
    before, after = "Days = Literal['mon', 'tue']\n", "Days = Literal['mon', 'tue', 'wed']\n"
    await taking(edit(before), "Days", seen).options(log=log, world=world, run_id="r").run("tue")
    today = taking(edit(after), "Days", seen)
    state = await today.options(log=log, world=world).rerun("r")
    assert (state.is_successful(), state.result["value"].result) == (True, "tue")
    other = taking(edit("Days = Literal['mon']\n"), "Days", seen)
    with pytest.raises(FlowChanged, match=r"Literal\['mon', 'tue'\] +Literal\['mon'\]"):
        await other.options(log=log, world=world).rerun("r")


@pytest.mark.parametrize("is_rerun", [False, True])
@simulated
async def test_a_constant_of_a_changed_type_is_another_constant(is_rerun: bool, world: VirtualWorld) -> None:
    """Though its bytes are equal: what was made of it is refused on resume, and made again by a rerun."""
    ran: list[str] = []

    def build(shop: Any) -> Flow[[], Any]:
        def use(point: Any) -> float:
            ran.append("use")
            return float(point.lat)

        use.__annotations__["point"] = shop.Point
        used = task(version="1")(use)
        with Flow("constant") as found:
            used.after(used(shop.Point(1.0, 2.0)))(shop.Point(3.0, 4.0))
        return found

    log = MemoryLog()
    await die(build(edit(POINT)), log, world)
    today = build(edit(SWAPPED))
    if is_rerun:
        ran.clear()
        state = await today.options(log=log, world=world).rerun("r")
        assert (state.result["use"].result, ran) == (2.0, ["use", "use"])
        return
    with pytest.raises(
        FlowChanged, match=r"argument 'point' of 'use'[^!]*Point \(order\) +lat, lon +lon, lat"
    ):
        await today.options(log=log, world=world, run_id="r").run()


@simulated
async def test_what_a_serializer_of_ones_own_wrote_needs_the_same_settings(world: VirtualWorld) -> None:
    """Its class and settings are recorded for every task, not only for cached ones."""

    class Scaled(msgspec.Struct, frozen=True):
        unit: float

        def serialize(self, value: Any) -> Inline:
            data = repr(value / self.unit).encode()
            return Inline("scaled", data, digest_of(data))

        def deserialize(self, payload: Inline) -> Any:
            return float(payload.data) * self.unit

    def build(unit: float, seen: list[Any]) -> Flow[[], Any]:
        return pipe(None, lambda _: 8.0, None, [], seen, serializer=Scaled(unit))

    log = MemoryLog()
    seen: list[Any] = []
    await die(build(2.0, seen), log, world)
    seen.clear()
    with pytest.raises(FlowChanged, match="serializer"):
        await build(4.0, seen).options(log=log, world=world, run_id="r").run()
    state = await build(4.0, seen).options(log=log, world=world, run_id="r", on_change="keep").run()
    assert (seen, "TypeChanged" in state.result["look"].message) == ([], True)
    assert (await build(2.0, seen).options(log=log, world=world).rerun("r")).is_successful()
    assert seen == [8.0]


def test_a_changed_type_is_a_failure_to_open() -> None:
    """Whoever catches `DeserializationError` catches it."""
    assert issubclass(TypeChanged, DeserializationError)
