"""Declared types are edited at random between store and resume; no value ever differs from what was recorded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from eventflow import Flow, MemoryLog, Parameter, inputs, task
from eventflow.ports import EventLog
from eventflow.result import DeserializationError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.states import State
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulate
from tests.edited import edit

KINDS = (
    "dataclass",
    "frozen",
    "struct",
    "array",
    "attrs",
    "namedtuple",
    "typeddict",
    "model",
    "plain",
    "enum",
)
HEADS = {
    "dataclass": "@dataclass(kw_only=True)\nclass Item:\n",
    "frozen": "@dataclass(kw_only=True, frozen=True, slots=True)\nclass Item:\n",
    "struct": "class Item(msgspec.Struct, kw_only=True, omit_defaults=True):\n",
    "array": "class Item(msgspec.Struct, kw_only=True, array_like=True):\n",
    "attrs": "@attrs.define(kw_only=True)\nclass Item:\n",
    "namedtuple": "class Item(NamedTuple):\n",
    "typeddict": "class Item(TypedDict):\n",
    "model": "class Item(pydantic.BaseModel):\n",
    "plain": "class Item:\n    def __init__(self, **given): self.__dict__.update(given)\n",
    "enum": "class Item(enum.Enum):\n",
}
NAMES = ("lat", "lon", "temp", "unit", "count")


@dataclass(frozen=True)
class Part:
    """A field, or the member of an enum."""

    name: str
    default: int | None = None
    type: str = "int"


@dataclass(frozen=True)
class Form:
    """A class as it is written."""

    kind: str
    parts: tuple[Part, ...]

    def source(self) -> str:
        """Its text, and the types that a task may declare."""
        some_default = any(part.default is not None for part in self.parts)
        lines = []
        for i, part in enumerate(self.parts):
            default = part.default
            if self.kind == "enum":
                lines.append(f"    {part.name} = {i + 1 if default is None else 10 + default}")
            elif self.kind == "typeddict" or not (
                some_default and (default is not None or self.kind == "namedtuple")
            ):
                lines.append(f"    {part.name}: {part.type}")
            else:
                lines.append(f"    {part.name}: {part.type} = {default or 0}")
        lists = "Items = list[Item]\nMaybe = dict[str, Item | None]\n"
        return f"{HEADS[self.kind]}{chr(10).join(lines)}\n{lists}"

    def make(self, module: Any, number: int) -> Any:
        """An instance with values that tell its fields apart."""
        if self.kind == "enum":
            return [*module.Item.__members__.values()][number % len(module.Item.__members__)]
        return module.Item(**{part.name: 100 * number + NAMES.index(part.name) for part in self.parts})


PARTS = st.lists(
    st.builds(Part, st.sampled_from(NAMES), st.none() | st.integers(0, 3)),
    min_size=1,
    max_size=4,
    unique_by=lambda part: part.name,
)
FORMS = st.builds(Form, st.sampled_from(KINDS), PARTS.map(tuple))


def edited(draw: st.DrawFn, form: Form) -> Form:
    """The form after an edit; perhaps the same."""
    parts = list(form.parts)
    at = draw(st.integers(0, len(parts) - 1))
    free = [name for name in NAMES if name not in {part.name for part in parts}]
    match draw(st.sampled_from(["none", "rename", "add", "remove", "swap", "default", "type", "kind"])):
        case "rename":
            parts[at] = replace(parts[at], name=draw(st.sampled_from(free)))
        case "add":
            parts.insert(at, Part(draw(st.sampled_from(free)), draw(st.none() | st.integers(0, 3))))
        case "remove" if len(parts) > 1:
            del parts[at]
        case "swap":
            other = draw(st.integers(0, len(parts) - 1))
            parts[at], parts[other] = parts[other], parts[at]
        case "default":
            parts[at] = replace(parts[at], default=draw(st.none() | st.integers(0, 3)))
        case "type" if form.kind != "enum":
            parts[at] = replace(parts[at], type=draw(st.sampled_from(["float", "int | None", "Any"])))
        case "kind" if form.kind != "enum":
            return replace(form, kind=draw(st.sampled_from(KINDS[:-1])))
        case _:
            pass
    return replace(form, parts=tuple(parts))


def view(value: Any) -> Any:
    """What a person sees of a value: each field that its class has today, with what it says."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [view(part) for part in value]
    if isinstance(value, dict):
        return {key: view(part) for key, part in value.items()}
    kind = type(value)
    if hasattr(kind, "__members__"):
        return value.name, value.value
    names = {
        name
        for base in kind.__mro__
        for name in (*vars(base).get("__annotations__", ()), *getattr(value, "__dict__", ()))
    }
    if not names:
        return type(value).__name__, value
    return {
        name: view(getattr(value, name, "not there")) for name in sorted(names) if not name.startswith("_")
    }


@dataclass
class World:
    """One program: its types as they are now, and what happens in its bodies."""

    module: Any
    form: Form
    number: int
    declared: str
    shape: str
    is_given: bool
    """Whether the parameter is of the type, too; if so, a rerun is refused for it already."""
    made: list[Any] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)

    def value(self) -> Any:
        """What the task makes."""
        item = self.form.make(self.module, self.number)
        return {"Item": item, "Items": [item, item], "Maybe": {"a": item, "b": None}}[self.shape]

    def item(self) -> Any:
        """What is given as a parameter."""
        return self.form.make(self.module, self.number) if self.is_given else 7

    @property
    def flow(self) -> Flow[..., Any]:
        """Make (cached) → look; and a parameter that another task looks at."""
        declared = getattr(self.module, self.declared) if self.declared else Any

        def make() -> Any:
            self.made.append(1)
            return self.value()

        def look(value: Any) -> int:
            self.seen.append(view(value))
            return len(self.seen)

        make.__annotations__["return"] = declared
        looked = task(version="1", name="look")(look)
        with Flow("edited") as found:
            given = Parameter("given", type=self.module.Item if self.declared and self.is_given else Any)
            made = task(version="1", name="make", cache_on=inputs())(make)()
            looked.after(made)(given)
            looked(made)
        return found


async def begin(before: World, log: EventLog, world: VirtualWorld) -> Any:
    """One run that ends, and one that dies when everything has been made and looked at for the first time."""
    item = before.item()
    state = await before.flow.options(log=log, world=world, run_id="finished").run(given=item)
    assert state.is_successful()
    with suppress(Crash):
        dying = CrashingLog(log, crash_at=3)
        await before.flow.options(log=dying, world=world, run_id="dead").run(given=item)
    return [view(before.value()), view(item)]


def read(state: State, name: str) -> list[Any]:
    """What a person reads of a task in a state: nothing where it does not open."""
    try:
        return [view(state.result[name].result)] if state.result[name].is_successful() else []
    except DeserializationError:
        return []


async def go_on(after: World, how: str, log: EventLog, world: VirtualWorld) -> State | None:
    """The run after the edit; None where it is refused."""
    options = after.flow.options
    try:
        match how:
            case "resume":
                return await options(log=log, world=world, run_id="dead").run()
            case "keep":
                return await options(log=log, world=world, run_id="dead", on_change="keep").run()
            case "read":
                return await options(log=log, world=world, run_id="finished").run()
            case "rerun":
                return await options(log=log, world=world).rerun("finished")
            case _:
                return await options(log=log, world=world).run(given=after.item())
    except (FlowChanged, ParametersDiffer, DeserializationError):
        return None


@settings(max_examples=2 * settings().max_examples)  # forms of types and edits are many
@given(
    data=st.data(),
    form=FORMS,
    number=st.integers(0, 3),
    shape=st.sampled_from(["Item", "Items", "Maybe"]),
    is_declared=st.booleans(),
    is_given=st.booleans(),
    how=st.sampled_from(["resume", "keep", "read", "rerun", "cache"]),
)
def test_no_value_is_read_as_something_else(
    data: st.DataObject, form: Form, number: int, shape: str, is_declared: bool, is_given: bool, how: str
) -> None:
    """What a body is given and what a person reads is what was recorded, or was made by today's code; else it is an error."""
    after_form = data.draw(st.composite(edited)(form))

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        declared = shape if is_declared else ""
        before = World(edit(form.source()), form, number, declared, shape, is_given)
        recorded = await begin(before, log, world)
        after = World(edit(after_form.source()), after_form, number, declared, shape, is_given)
        state = await go_on(after, how, log, world)
        of_today = [view(after.value())] if after.made else []
        of_today += [view(after.item())] if how == "cache" else []
        for found in (
            *after.seen,
            *(read(state, "make") + read(state, "given") if state is not None else ()),
        ):
            assert repr(found) in map(repr, [*recorded, *of_today])  # 1.0 is not 1
        if form == after_form:
            assert state is not None
            assert state.is_successful()
            assert not after.made

    simulate(main)
