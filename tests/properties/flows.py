"""Random flows, and a tiny interpreter that says what each must come to.

A `Sketch` is a flow as plain data: steps that take constants, parameters, earlier steps, parts of them and
containers of them, that map over lists, over mapped steps and over written lists, that sleep, fail, are
retried and skip.  `build` makes a real flow of it; `expected` works out the outcome of every task with
nothing of the engine but the two values below, which are the "user code" that both share.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zlib import crc32

from hypothesis import strategies as st

from eventflow import Flow, Parameter, RunStates, Skip, State, context, task, unmapped
from eventflow.events import TaskStarted, TaskSucceeded
from eventflow.ports import EventLog, World

__all__ = [
    "Journal",
    "Sketch",
    "Step",
    "build",
    "expected",
    "outcomes_of",
    "run_sketch",
    "seen",
    "sketches",
    "succeeded_in",
]

PARAMETER = [10, 20]
"""The value of the one parameter of every flow."""


@dataclass(frozen=True)
class Whole:
    """The value of a step; -1 is the parameter."""

    step: int


@dataclass(frozen=True)
class Part:
    """`node[key]`."""

    step: int
    key: int | str


@dataclass(frozen=True)
class Many:
    """A list, tuple or dict of expressions."""

    kind: str
    items: tuple[Expr, ...]


Expr: TypeAlias = int | Whole | Part | Many


@dataclass(frozen=True)
class Step:
    """One task of a sketch."""

    args: tuple[Expr, ...]
    """Of a plain step: what it takes. Of a mapped one: what it takes whole."""
    overs: tuple[Expr, ...] = ()
    """What it is mapped over: `Whole`, or a `Many` list; none for a plain step."""
    after: tuple[int, ...] = ()
    shape: str = "int"
    size: int = 0
    delay_ms: int = 0
    retries: int = 0
    retry_delay_ms: int = 0
    trouble: str = ""
    """`flaky` fails as often as it may be retried, `broken` always fails, `skip` skips."""
    troubled: int = 0
    """Which child has the trouble (modulo 3); a plain step always has it."""


@dataclass(frozen=True)
class Sketch:
    """A flow as data."""

    steps: tuple[Step, ...]


@dataclass
class Journal:
    """What the bodies of one process did."""

    started: Counter[str] = field(default_factory=Counter)
    running: int = 0
    most: int = 0


class Broken(Exception):
    """What a troubled body raises."""


# ── the user code that both sides share ──────────────────────────────────────────────────────────────────


def has_trouble(step: Step, index: int) -> bool:
    """Whether this child (or plain step: -1) is the troubled one."""
    return index < 0 or index % 3 == step.troubled


def value_of(step: Step, name: str, arguments: Mapping[str, Any]) -> Any:
    """What a body gives: it depends on its name and on exactly what it was given, types included."""
    number = crc32(f"{name}{sorted(arguments.items())!r}".encode()) % 1000
    match step.shape:
        case "list":
            return [number + i for i in range(step.size)]
        case "dict":
            return {"k": number, "l": [number]}
        case "tuple":
            return (number, str(number))
        case "text":
            return f"{number:04d}" * 200
        case "large":
            return [f"{number:04d}" * 300] * 4  # more than 4 KiB, which is shared
        case _:
            return number


# ── the real flow ────────────────────────────────────────────────────────────────────────────────────────


def build(
    sketch: Sketch, journal: Journal, task_of: Callable[[str, Step, Journal], Any] | None = None
) -> Flow[..., Any]:
    """A flow that does what the sketch says, and keeps the journal; `task_of` makes a task of a step."""
    nodes: list[Any] = []
    with Flow("sketch") as flow:
        parameter = Parameter("p", default=PARAMETER)

        def node_of(expr: Expr) -> Any:
            match expr:
                case Whole(step):
                    return parameter if step < 0 else nodes[step]
                case Part(step, key):
                    return (parameter if step < 0 else nodes[step])[key]
                case Many("dict", items):
                    return {f"k{i}": node_of(item) for i, item in enumerate(items)}
                case Many("tuple", items):
                    return tuple(node_of(item) for item in items)
                case Many(_, items):
                    return [node_of(item) for item in items]
                case _:
                    return expr

        for number, step in enumerate(sketch.steps):
            made = (task_of or _task)(f"s{number}", step, journal).after(*[nodes[up] for up in step.after])
            taken = {f"a{i}": node_of(arg) for i, arg in enumerate(step.args)}
            if step.overs:
                whole = {name: unmapped(arg) for name, arg in taken.items()}
                each = {f"e{i}": node_of(over) for i, over in enumerate(step.overs)}
                nodes.append(made.mapping(zip_shortest=True).map(**each, **whole))
            else:
                nodes.append(made(**taken))
    return flow


def _task(name: str, step: Step, journal: Journal) -> Any:
    delay = step.retry_delay_ms / 1000 if step.retries else None

    @task(name=name, retries=step.retries, retry_delay=delay, version="1")
    async def body(a0: Any = None, a1: Any = None, e0: Any = None, e1: Any = None) -> Any:
        here = context.task
        journal.started[here] += 1
        journal.running += 1
        journal.most = max(journal.most, journal.running)
        try:
            if step.delay_ms:
                await asyncio.sleep(step.delay_ms / 1000)
        finally:
            journal.running -= 1
        index = int(here.partition("[")[2].rstrip("]") or -1)
        if step.trouble and has_trouble(step, index):
            if step.trouble == "skip":
                raise Skip("nothing to do")
            if step.trouble == "broken" or journal.started[here] <= step.retries:
                raise Broken(f"{here} broke")
        given = {"a0": a0, "a1": a1, "e0": e0, "e1": e1}
        return value_of(step, here, {key: value for key, value in given.items() if value is not None})

    return body


async def run_sketch(
    sketch: Sketch, journal: Journal, log: EventLog, world: World, run_id: str = "r"
) -> State:
    """Run (or resume) the sketch's flow, with nothing kept from an earlier process."""
    return await build(sketch, journal).options(run_id=run_id, log=log, world=world).run()


# ── the interpreter ──────────────────────────────────────────────────────────────────────────────────────

Outcome: TypeAlias = tuple[Any, ...]
"""("Success", value) | ("Failed",) | ("Skipped",) | ("TriggerFailed",) | ("Mapped", [outcome, …])"""


def expected(sketch: Sketch) -> dict[str, Outcome]:
    """The outcome of every task by name, and under "" that of the run."""
    done: list[Outcome] = []
    for number, step in enumerate(sketch.steps):
        done.append((_mapped if step.overs else _plain)(f"s{number}", step, done))
    found: dict[str, Outcome] = {}
    for number, outcome in enumerate(done):
        found[f"s{number}"] = outcome
        if outcome[0] == "Mapped":
            found |= {f"s{number}[{i}]": child for i, child in enumerate(outcome[1])}
    awaited = {
        up
        for step in sketch.steps
        for up in (*step.after, *(ref for expr in (*step.args, *step.overs) for ref in _refs(expr)))
    }
    ends = [_flat(outcome) for number, outcome in enumerate(done) if number not in awaited]
    failed = any(_failed(outcome) for end in ends for outcome in end)
    found[""] = ("Failed",) if failed else ("Success",)
    return found


def _refs(expr: Expr) -> list[int]:
    match expr:
        case Whole(step) | Part(step, _):
            return [step] if step >= 0 else []
        case Many(_, items):
            return [ref for item in items for ref in _refs(item)]
        case _:
            return []


def _flat(outcome: Outcome) -> list[Outcome]:
    return list(outcome[1]) if outcome[0] == "Mapped" else [outcome]


def _failed(outcome: Outcome) -> bool:
    return outcome[0] in ("Failed", "TriggerFailed")


def _value(outcome: Outcome) -> Any:
    return [child[1] for child in outcome[1]] if outcome[0] == "Mapped" else outcome[1]


def _evaluate(expr: Expr, done: list[Outcome]) -> Any:
    match expr:
        case Whole(step):
            return PARAMETER if step < 0 else _value(done[step])
        case Part(step, key):
            return _evaluate(Whole(step), done)[key]
        case Many("dict", items):
            return {f"k{i}": _evaluate(item, done) for i, item in enumerate(items)}
        case Many("tuple", items):
            return tuple([_evaluate(item, done) for item in items])
        case Many(_, items):
            return [_evaluate(item, done) for item in items]
        case _:
            return expr


def _call(step: Step, name: str, index: int, evaluate: Callable[[], dict[str, Any]]) -> Outcome:
    """One task whose upstreams are all well."""
    try:
        arguments = evaluate()
    except (LookupError, TypeError):
        return ("Failed",)
    if step.trouble in ("skip", "broken") and has_trouble(step, index):
        return ("Skipped",) if step.trouble == "skip" else ("Failed",)
    return ("Success", value_of(step, name, arguments))


def _trigger(upstreams: list[Outcome]) -> Outcome | None:
    if any(up[0] == "Skipped" for up in upstreams):
        return ("Skipped",)
    return ("TriggerFailed",) if any(_failed(up) for up in upstreams) else None


def _plain(name: str, step: Step, done: list[Outcome]) -> Outcome:
    ups = [*step.after, *(ref for arg in step.args for ref in _refs(arg))]
    refused = _trigger([end for up in ups for end in _flat(done[up])])
    if refused is not None:
        return refused
    return _call(step, name, -1, lambda: {f"a{i}": _evaluate(arg, done) for i, arg in enumerate(step.args)})


def _mapped(name: str, step: Step, done: list[Outcome]) -> Outcome:
    shared = [end for up in _shared(step) for end in _flat(done[up])]
    over = [done[o.step] for o in step.overs if isinstance(o, Whole) and o.step >= 0]
    refused = _trigger([*shared, *over])
    if refused == ("Skipped",) or any(_failed(up) for up in over):
        return refused or ("TriggerFailed",)
    widths: list[int] = []
    for expr in step.overs:
        if isinstance(expr, Many):
            widths.append(len(expr.items))
        elif expr.step >= 0 and done[expr.step][0] == "Mapped":
            widths.append(len(done[expr.step][1]))
        else:
            elements = _evaluate(expr, done)
            if not isinstance(elements, list | tuple):
                return ("Failed",)
            widths.append(len(elements))
    return ("Mapped", [_child(name, step, done, shared, index) for index in range(min(widths))])


def _shared(step: Step) -> list[int]:
    return [*step.after, *(ref for arg in step.args for ref in _refs(arg))]


def _child(name: str, step: Step, done: list[Outcome], shared: list[Outcome], index: int) -> Outcome:
    own: list[Outcome] = []
    for expr in step.overs:
        if isinstance(expr, Many):
            own += [end for up in _refs(expr.items[index]) for end in _flat(done[up])]
        elif expr.step >= 0 and done[expr.step][0] == "Mapped":
            own.append(done[expr.step][1][index])
    refused = _trigger([*shared, *own])
    if refused is not None:
        return refused

    def arguments() -> dict[str, Any]:
        each = {f"e{i}": _element(expr, done, index) for i, expr in enumerate(step.overs)}
        return each | {f"a{i}": _evaluate(arg, done) for i, arg in enumerate(step.args)}

    return _call(step, f"{name}[{index}]", index, arguments)


def _element(expr: Expr, done: list[Outcome], index: int) -> Any:
    if isinstance(expr, Many):
        return _evaluate(expr.items[index], done)
    assert isinstance(expr, Whole)
    if expr.step >= 0 and done[expr.step][0] == "Mapped":
        return done[expr.step][1][index][1]
    return _evaluate(expr, done)[index]


# ── what a run came to ───────────────────────────────────────────────────────────────────────────────────


def seen(sketch: Sketch, state: State) -> dict[str, Outcome]:
    """A run's final State in the interpreter's words."""
    found = outcomes_of(sketch, state.result)
    found[""] = (type(state).__name__,)
    return found


def outcomes_of(sketch: Sketch, run_states: RunStates) -> dict[str, Outcome]:
    """The tasks' States in the interpreter's words."""
    found: dict[str, Outcome] = {}
    for number in range(len(sketch.steps)):
        name = f"s{number}"
        outcome = _outcome(run_states[name])
        found[name] = outcome
        if outcome[0] == "Mapped":
            found |= {f"{name}[{i}]": _outcome(run_states[f"{name}[{i}]"]) for i in range(len(outcome[1]))}
    return found


def _outcome(state: State) -> Outcome:
    kind = type(state).__name__
    if kind == "Mapped":
        return (kind, [_outcome(child) for child in state.map_states])
    return ("Success", state.result) if kind in ("Success", "Cached") else (kind,)


async def succeeded_in(log: EventLog, run_id: str = "r") -> tuple[set[tuple[int, ...]], int]:
    """Addresses of the tasks whose success the log holds; asserts that each succeeded only once."""
    counted: Counter[tuple[int, ...]] = Counter()
    starts = 0
    async for record in log.read(stream=f"run/{run_id}"):
        if isinstance(record.event, TaskSucceeded):
            counted[record.event.task] += 1
        starts += isinstance(record.event, TaskStarted)
    assert all(count == 1 for count in counted.values()), counted
    return set(counted), starts


# ── chance ───────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def _exprs(draw: st.DrawFn, steps: list[Step], depth: int = 1) -> Expr:
    kinds = ["const", "param", *(["whole"] * 4 + ["part"] if steps else []), *(["many"] if depth else [])]
    match draw(st.sampled_from(kinds)):
        case "whole":
            return Whole(draw(st.integers(0, len(steps) - 1)))
        case "part":
            up = draw(st.integers(0, len(steps) - 1))
            likely: list[int | str] = {
                "list": [0, -1],
                "large": [3],
                "dict": ["k", "l"],
                "tuple": [0, 1],
            }.get(steps[up].shape, [0])
            return Part(up, draw(st.sampled_from([0, 1] if steps[up].overs else likely)))
        case "many":
            items = draw(st.lists(_exprs(steps, depth - 1), max_size=3))
            return Many(draw(st.sampled_from(["list", "tuple", "dict"])), tuple(items))
        case "param":
            return Whole(-1)
        case _:
            return draw(st.integers(0, 9))


@st.composite
def _overs(draw: st.DrawFn, steps: list[Step]) -> Expr:
    lists = [i for i, step in enumerate(steps) if step.overs or step.shape == "list"]
    kind = draw(
        st.sampled_from(["param", "written", *(["list"] * 5 if lists else []), *(["any"] if steps else [])])
    )
    match kind:
        case "list":
            return Whole(draw(st.sampled_from(lists)))
        case "any":
            return Whole(draw(st.integers(0, len(steps) - 1)))
        case "written":
            return Many("list", tuple(draw(st.lists(_exprs(steps, 0), max_size=3))))
        case _:
            return Whole(-1)


@st.composite
def _steps(draw: st.DrawFn, steps: list[Step]) -> Step:
    mapped = draw(st.integers(0, 9)) < 4
    retries = draw(st.sampled_from([0, 0, 1, 2]))
    shape = draw(st.sampled_from(["int", "int", "list", "list", "dict", "tuple", "text", "large"]))
    return Step(
        args=tuple(draw(st.lists(_exprs(steps), max_size=1 if mapped else 2))),
        overs=tuple(draw(st.lists(_overs(steps), min_size=1, max_size=2))) if mapped else (),
        after=tuple(draw(st.lists(st.integers(0, len(steps) - 1), max_size=1))) if steps else (),
        shape=shape,
        size=draw(st.integers(0, 3)),
        delay_ms=draw(st.sampled_from([0, 0, 1, 2, 5, 30])),
        retries=retries,
        retry_delay_ms=draw(st.sampled_from([0, 3, 20])) if retries else 0,
        trouble=draw(st.sampled_from([""] * 5 + ["flaky", "flaky", "broken", "skip"])),
        troubled=draw(st.integers(0, 2)),
    )


@st.composite
def sketches(draw: st.DrawFn, max_steps: int = 7) -> Sketch:
    """Random flows."""
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, max_steps))):
        steps.append(draw(_steps(steps)))
    return Sketch(tuple(steps))
