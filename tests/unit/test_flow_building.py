"""Building a flow: what ends up in the graph, and every misuse with its one clear error."""

from __future__ import annotations

import enum
import linecache
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.authoring.arguments import unmapped
from eventflow.authoring.flows import Flow, Parameter
from eventflow.authoring.nodes import BuildError, Node
from eventflow.authoring.tasks import task
from eventflow.authoring.traced_flow import flow
from eventflow.fingerprints.types import schema_of
from eventflow.graph import Const, DictOf, Input, ListOf, ParameterNode, Ref, TaskNode, TupleOf, refs
from eventflow.result import Inline
from eventflow.runs.parameters import ParameterError
from eventflow.serializers import digest_of

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForTypes


@dataclass
class Order:
    """What is bought."""

    item: str
    count: int = 1


class Engine:
    """Something that msgspec does not know."""


@task
def fetch(day: str) -> list[Order]:
    """Get the orders of a day."""
    return [Order(day)]


@task
def enrich(order: Order, rate: float = 1.0) -> Order:
    """Work on one order."""
    return order


@task
def total(orders: list[Order], *, by: str = "item") -> int:
    """Reduce."""
    return len(orders)


@task
def pair(orders: Any = None) -> tuple[int, str]:
    """Give two things."""
    return 1, "a"


@task
async def anything(value: Any, other: Any = None) -> Any:
    """Take whatever comes."""
    return value


def const(value: object) -> Const:
    """A plain constant as the graph keeps it."""
    data = msgspec.msgpack.encode(value)
    return Const(Inline("msgpack", data, digest_of(data)))


def inputs(f: Flow[..., Any], name: str) -> tuple[Input, ...]:
    """The inputs of a task node."""
    node = f.graph.nodes[f.graph.index[name]]
    assert isinstance(node, TaskNode)
    return node.inputs


# ── what is built ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_and_a_function_build_the_same() -> None:
    """The two spellings differ only in that a function has a value."""

    @flow(name="nightly")
    def traced(day: str) -> int:
        return total(enrich.map(fetch(day)))

    with Flow("nightly") as block:
        day = Parameter("day", type=str)
        total(enrich.map(fetch(day)))
    assert traced.graph == msgspec.structs.replace(block.graph, value=Ref(3))
    assert traced.graph.value == Ref(3)
    assert block.graph.value is None
    assert block.graph.nodes == (
        ParameterNode("day", True, None, "str", schema_of(str)),
        TaskNode("fetch", 0, (Input("day", Ref(0)),)),
        TaskNode("enrich", 1, (Input("order", Ref(1), True),), (), True),
        TaskNode("total", 2, (Input("orders", Ref(2)),)),
    )
    assert [definition.name for definition in block.graph.tasks] == ["fetch", "enrich", "total"]
    assert list(block.built.bindings) == ["fetch", "enrich", "total"]
    assert block.built.bindings["fetch"].call is fetch.fn


def test_a_function_is_traced_once_and_not_before_its_first_use() -> None:
    """Decoration calls nothing; the graph is one object for ever."""
    traced = []

    @flow
    def nightly(day: str) -> None:
        traced.append(day)
        fetch(day)

    assert traced == []
    first = nightly.graph
    assert nightly.graph is first
    assert len(traced) == 1
    assert nightly.entry == f"{__name__}:{nightly.__wrapped__.__qualname__}"  # type: ignore[attr-defined]


def test_a_trace_that_raised_is_tried_again() -> None:
    """A failed attempt leaves nothing behind."""
    fails = [True, False]

    @flow
    def nightly(day: str) -> int:
        found = total(fetch(day))
        if fails.pop(0):
            raise RuntimeError("not yet")
        return found

    with pytest.raises(RuntimeError, match="not yet"):
        _ = nightly.graph
    assert [node.name for node in nightly.graph.nodes] == ["day", "fetch", "total"]


def test_names_are_unique() -> None:
    """Later nodes get numbers, also where a name was chosen or belongs to a parameter."""
    with Flow("f"):
        Parameter("fetch", type=str)
        made = [
            fetch("a"),
            fetch("b"),
            fetch.named("first")("c"),
            fetch.named("first")("d"),
            fetch.named("fetch-4")("e"),
            fetch("f"),
        ]
    assert [repr(node).split()[1] for node in made] == [
        "fetch-2", "fetch-3", "first", "first-2", "fetch-4", "fetch-5",
    ]  # fmt: skip


def test_two_functions_of_one_name_are_two_tasks() -> None:
    """Bindings are found by the task's name, so that is unique too."""

    def other() -> None:
        pass

    twin = task(name="fetch")(other)
    with Flow("f") as f:
        fetch("a")
        twin()
        twin.after(fetch("b"))()
        twin.named("last")()
    assert [definition.name for definition in f.graph.tasks] == ["fetch", "fetch-2"]
    assert f.built.bindings["fetch-2"].call is other
    assert [node.task for node in f.graph.nodes if isinstance(node, TaskNode)] == [0, 1, 0, 1, 1]


def test_arguments_are_recorded_by_name_in_order_of_declaration() -> None:
    """How they were written does not show; defaults are left out."""
    with Flow("f") as f:
        d = Parameter("d")
        anything.named("a")(d, 1)
        anything.named("b")(other=1, value=d)
        anything.named("c")(d)
    assert inputs(f, "a") == inputs(f, "b") == (Input("value", Ref(0)), Input("other", const(1)))
    assert inputs(f, "c") == (Input("value", Ref(0)),)


def test_nodes_in_containers_stay_expressions() -> None:
    """Lists, tuples and dicts with nodes in them nest; what has none is one constant."""
    with Flow("f") as f:
        a, b = pair.named("ab")()
        anything([a, (1, b), {"k": [a], 2: "x"}], [1, [2], {"a": None}])
    value, other = inputs(f, "anything")
    assert value.arg == ListOf(
        (
            Ref(0, (0,)),
            TupleOf((const(1), Ref(0, (1,)))),
            DictOf(("k", 2), (ListOf((Ref(0, (0,)),)), const("x"))),
        )
    )
    assert other.arg == const([1, [2], {"a": None}])


def test_indexing_and_unpacking_make_paths_and_no_nodes() -> None:
    """A part of a value costs nothing: it is a path in the reference."""
    with Flow("f") as f:
        number, text = pair()
        anything(fetch("a")[0], number)
        anything(text)
    assert len(f.graph.nodes) == 4
    assert [ref for i in (2, 3) for item in f.graph.nodes[i].inputs for ref in refs(item.arg)] == [  # type: ignore[union-attr]
        Ref(1, (0,)),
        Ref(0, (0,)),
        Ref(0, (1,)),
    ]


def test_after_orders_without_data() -> None:
    """Order-only upstreams add up, each once; a part of a node stands for its task."""
    with Flow("f") as f:
        a, b = fetch("a"), fetch("b")
        number, _ = pair()
        fetch.named("last").after(a).after(b, a, number)("c")
    assert f.graph.nodes[-1] == TaskNode("last", 0, (Input("day", const("c")),), (0, 1, 2))


def test_mapping() -> None:
    """Mapped inputs are marked; unmapped ones go whole; a mapped node is a list."""
    with Flow("f") as f:
        orders = fetch("a")
        enriched = enrich.map(orders, unmapped(2.0))
        enrich.map(order=enriched, rate=[1.0, 2.0])
        total(enriched)
    assert inputs(f, "enrich") == (Input("order", Ref(0), True), Input("rate", const(2.0)))
    assert inputs(f, "enrich-2") == (
        Input("order", Ref(1), True),
        Input("rate", ListOf((const(1.0), const(2.0))), True),
    )
    assert inputs(f, "total") == (Input("orders", Ref(1)),)
    assert [node.mapped for node in f.graph.nodes if isinstance(node, TaskNode)] == [False, True, True, False]


def test_mapping_over_a_written_list() -> None:
    """Each element is an argument of its own: node, part of one, or constant."""
    with Flow("f") as f:
        number, text = pair()
        anything.map([number, 7, [text]], other=(1, 2, 3))
        anything.map([])
    value, other = inputs(f, "anything")
    assert value == Input("value", ListOf((Ref(0, (0,)), const(7), ListOf((Ref(0, (1,)),)))), True)
    assert other == Input("other", ListOf((const(1), const(2), const(3))), True)
    assert inputs(f, "anything-2") == (Input("value", ListOf(()), True),)


def test_a_map_of_unmapped_arguments_is_a_plain_call() -> None:
    """With nothing to map over the body runs once."""
    with Flow("f") as f:
        orders = fetch("a")
        enrich.map(unmapped(orders[0]), unmapped(2.0))
    assert f.graph.nodes[1] == TaskNode(
        "enrich", 1, (Input("order", Ref(0, (0,))), Input("rate", const(2.0)))
    )


@pytest.mark.parametrize(
    ("call", "name", "path", "value"),
    [
        (lambda: enrich(Order("pen", 2)), "order", (), Order("pen", 2)),
        (lambda: total([Order("pen"), Order("cap")]), "orders", (), [Order("pen"), Order("cap")]),
        (lambda: total([Order("pen"), fetch("a")[0]]), "orders", (0,), Order("pen")),
        (lambda: enrich.map([Order("pen")]), "order", (0,), Order("pen")),
        (lambda: anything({1, 2}), "value", (), {1, 2}),
        (lambda: anything((date(2026, 11, 22), 10**30, "\ud800")), "value", (), (date(2026, 11, 22), 10**30, "\ud800")),
        (lambda: anything(10**30), "value", (), 10**30),
    ],
)  # fmt: skip
def test_constants_open_as_what_was_written(
    call: Any, name: str, path: tuple[int, ...], value: object
) -> None:
    """A constant is serialized by the declared type of its place, and opens by it."""
    with Flow("f") as f:
        call()
    node = f.graph.nodes[-1]
    assert isinstance(node, TaskNode)
    arg: Any = next(item.arg for item in node.inputs if item.name == name)
    for key in path:
        arg = arg.items[key]
    assert isinstance(arg, Const)
    assert isinstance(arg.value, Inline)
    assert not arg.value.codec.startswith("pickle")
    opened = f.built.bindings[f.graph.tasks[node.task].name].constant(name, () if node.mapped else path, arg)
    assert opened == value
    assert type(opened) is type(value)


def test_parameters_have_types_and_defaults() -> None:
    """Both spellings give the same; defaults are in the graph, in the declared type."""

    @flow(name="f")
    def traced(day: date, n: float = 3, *, order: Order | None = None) -> None:
        pass

    with Flow("f") as block:
        Parameter("day", type=date)
        Parameter("n", type=float, default=3)
        Parameter("order", type=Order | None, default=None)
    assert traced.graph == block.graph
    assert [(p.name, p.required, p.type) for p in traced.parameters.values()] == [
        ("day", True, date), ("n", False, float), ("order", False, Order | None),
    ]  # fmt: skip
    assert traced.graph.nodes[1] == ParameterNode("n", False, const(3.0), "float", schema_of(float))
    assert [node.annotation for node in traced.graph.nodes if isinstance(node, ParameterNode)] == [
        "date", "float", "Order | None",
    ]  # fmt: skip


def test_types_of_an_enclosing_function_are_known() -> None:
    """Annotations may name a class that only the author's own function sees."""

    @dataclass
    class Local:
        n: int

    @flow
    def local(value: Local) -> Local:
        return keep(value)

    @task
    def keep(value: Local) -> Local:
        return value

    assert local.parameters["value"].type is Local
    assert local.built.bind((), {"value": {"n": 1}}) == {"value": Local(1)}


def test_a_value_of_several_nodes() -> None:
    """A function may return nodes in lists, tuples and dicts, or nothing."""

    @flow
    def several(day: str) -> Any:
        orders = fetch(day)
        return {"orders": orders, "sum": (total(orders), 1)}

    @flow
    def nothing(day: str) -> None:
        fetch(day)

    @flow
    def echo(day: str) -> str:
        return day

    assert several.graph.value == DictOf(("orders", "sum"), (Ref(1), TupleOf((Ref(2), const(1)))))
    assert nothing.graph.value is None
    assert echo.graph.value == Ref(0)


def test_reference_tasks() -> None:
    """Success may be judged on named tasks, on every call of a task, or on nodes."""

    @flow(reference=["last", fetch])
    def traced(day: str) -> None:
        fetch(day)
        total.named("last")(fetch(day))

    with Flow("f", reference=[fetch]) as block:
        made = fetch("a")
        block.reference(total(made), made)
    assert traced.graph.reference == (3, 1, 2)
    assert block.graph.reference == (1, 0)


def test_nodes_are_found_again() -> None:
    """A handle leads to index and path, also after the flow was built."""
    with Flow("f") as f:
        number, _ = pair()
    assert f.built.locate(number) == Ref(0, (0,))
    assert f.built.locate(number["x"]) == Ref(0, (0, "x"))  # type: ignore[index]
    with Flow("g") as g:
        pair()
    with pytest.raises(BuildError, match=r"of flow 'f'.*another flow"):
        g.built.locate(number)
    with pytest.raises(BuildError, match="its nodes, not for 'pair'"):
        f.built.locate("pair")


def test_an_empty_flow_is_a_flow() -> None:
    """Nothing to do is done."""
    with Flow("empty") as f:
        pass
    assert f.graph.nodes == ()


def test_threads_build_their_own_flows() -> None:
    """Which flow is meant is known per thread."""
    names: list[list[str]] = []
    meet = threading.Barrier(2)

    def build(name: str) -> None:
        with Flow(name) as f:
            meet.wait(5)
            fetch.named(name)("a")
            meet.wait(5)
        names.append([node.name for node in f.graph.nodes])

    threads = [threading.Thread(target=build, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == [["a"], ["b"]]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans(), st.booleans()), max_size=30))
def test_a_node_refers_only_to_nodes_before_it(steps: list[tuple[int, bool, bool]]) -> None:
    """So a cycle cannot be written, whatever is called in whatever order."""
    with Flow("f") as f:
        made: list[Any] = [Parameter("d")]
        for at, mapped, ordered in steps:
            up = made[at % len(made)]
            chosen = anything.after(up) if ordered and up is not made[0] else anything
            made.append(chosen.map(up) if mapped else chosen([up, at]))
    for i, node in enumerate(f.graph.nodes):
        if isinstance(node, TaskNode):
            ups = [ref.node for item in node.inputs for ref in refs(item.arg)]
            assert all(up < i for up in (*ups, *node.after))
    assert len(f.graph.index) == len(f.graph.nodes)


SCRIPT = """
from eventflow import Flow, Parameter, task, unmapped
@task
def get(what: set[str], more: dict[str, object]) -> list[str]: ...
with Flow("f") as f:
    day = Parameter("day", type=str, default="x")
    a = get({"a", "b", "c", "d"}, {"z": frozenset("xyz"), "a": 1})
    get.map(unmapped(a), more=[{"k": day}])
print(f.graph.digests.shape.hex(), f.graph.digests.code.hex(), f.graph.digest)
"""


def test_equal_flows_have_equal_digests_in_every_process(tmp_path: Path) -> None:
    """A run can be resumed by another process, whatever its hash seed."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    found = {
        subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_building_is_linear() -> None:
    """Ten thousand nodes are far from a second, and each costs what one of a thousand does."""

    def build(n: int) -> float:
        began = time.process_time()
        with Flow("f") as f:
            day = Parameter("day", type=str)
            total([fetch(day) for _ in range(n)])  # type: ignore[arg-type]
        assert len(f.graph.nodes) == n + 2
        return time.process_time() - began

    small, large = min(build(1000) for _ in range(3)), min(build(10_000) for _ in range(3))
    assert large < 0.5
    assert large < 40 * small


# ── misuse ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (fetch, r"task 'fetch' misses argument 'day': it takes \(day\)"),
        (lambda: fetch("a", "b"), r"task 'fetch' takes 1 positional argument \(day\), but 2 were given"),
        (lambda: fetch("a", day="b"), "task 'fetch' got argument 'day' twice"),
        (lambda: fetch(dya="b"), "task 'fetch' has no parameter 'dya'; did you mean 'day'?"),
        (lambda: fetch("a", unit=1), "task 'fetch' has no parameter 'unit'; there is 'day'"),
        (lambda: total([], "item"), r"takes 1 positional argument \(orders, \*, by=…\)"),
        (fetch.map, "misses argument 'day'"),
        (lambda: anything(Engine()), "task 'anything', argument 'value': .* nothing can keep .*Engine; annotate"),
        (lambda: anything([1, Engine()]), r"argument 'value': .* value\[1\].*Engine"),
        (lambda: anything([pair(), Engine()]), r"argument 'value'\[1\]: .*Engine"),
        (lambda: anything(fetch), "if it is a task, call it"),
        (lambda: anything(unmapped(1)), "unmapped.. has a meaning only inside .map"),
        (lambda: anything({pair()}), "a set cannot hold a node"),
        (lambda: anything(Order(pair())), "a Order cannot hold a node"),  # type: ignore[arg-type]
        (lambda: anything({pair(): 1}), "int or str keys"),
        (lambda: anything({(1, 2): pair()}), "int or str keys"),
        (lambda: anything({True: pair()}), "int or str keys"),
        (lambda: anything({2**64: pair()}), "int or str keys"),
        (lambda: fetch.map("abc"), "'abc' is text, which is not mapped over"),
        (lambda: fetch.map({"a": 1}), "is a dict, which is not mapped over"),
        (lambda: enrich.map(fetch("a"), 2.0), r"argument 'rate': a float is not mapped over .*unmapped"),
        (lambda: fetch.map(iter(["a"])), "a list_iterator is not mapped over .*list"),
        (lambda: fetch.map(Parameter("p", type=str)), "is text, which is not mapped over"),
        (lambda: fetch.after("a"), "takes nodes, which calls of tasks return: not 'a'"),
        (lambda: fetch.after(fetch), "takes nodes, which calls of tasks return"),
        (lambda: fetch.after([pair()]), "takes nodes"),
        (lambda: fetch.after(Parameter("p")), "not parameter 'p'"),
        (lambda: [Parameter("p"), Parameter("p")], "'p' of a parameter is taken already"),
        (lambda: [fetch("a"), Parameter("fetch")], "declare them before the tasks"),
        (lambda: Parameter("p", type=int, default="a"), "declared as int, but its default is 'a'"),
        (lambda: Parameter("p", type=list[int | Engine]), r"parameter 'p' has type list\[int \| Engine\], which cannot"),
    ],
)  # fmt: skip
def test_misuse_in_a_flow_is_found_where_it_is_written(call: Any, said: str) -> None:
    """Each has one error that names the flow, the task and the argument."""
    with pytest.raises(BuildError, match=said) as caught, Flow("night"):  # noqa: PT012
        made = call()
        if hasattr(made, "named"):
            made("x")
    assert "'night'" in str(caught.value)


def test_a_list_that_contains_itself() -> None:
    """The one cycle that can be written is found."""
    ring: list[Any] = []
    with (  # noqa: PT012
        pytest.raises(BuildError, match=r"'value'\[1\]: the list contains itself, which is a cycle"),
        Flow("f"),
    ):
        ring += [pair(), ring]
        anything(ring)
    lonely: list[Any] = []
    lonely.append(lonely)
    with pytest.raises(BuildError, match="contains itself"), Flow("g"):
        anything(lonely)


def test_a_node_of_another_flow() -> None:
    """Both flows are named, whether the other one is built or the argument is nested."""
    with Flow("evening"):
        orders = fetch("a")
    for use in (
        lambda: total(orders),
        lambda: anything([[orders]]),
        lambda: enrich.map(orders),
        lambda: fetch.after(orders)("b"),
        lambda: total(orders[0]),  # type: ignore[arg-type]
    ):
        with (
            pytest.raises(BuildError, match=r"in flow 'night', .*'evening'> belongs to another flow"),
            Flow("night"),
        ):
            use()


def test_parameter_in_the_wrong_place() -> None:
    """A parameter belongs into a block."""
    with pytest.raises(BuildError, match="outside a flow"):
        Parameter("day")

    @flow
    def traced() -> None:
        Parameter("day")

    with pytest.raises(BuildError, match="add 'day' to the function's signature"):
        _ = traced.graph


def test_a_flow_is_not_built_or_called_in_a_flow() -> None:
    """Both names are told."""

    @flow
    def inner(day: str) -> None:
        fetch(day)

    @flow
    def outer(day: str) -> None:
        inner(day)

    with pytest.raises(BuildError, match=r"flow 'inner' was called inside flow 'outer'.*not possible"):
        _ = outer.graph
    with pytest.raises(BuildError, match="'inner' cannot be built inside flow 'block'"), Flow("block"):
        _ = inner.graph
    with pytest.raises(BuildError, match="'b' cannot be built inside flow 'a'"), Flow("a"), Flow("b"):
        pass
    with pytest.raises(BuildError, match=r"a flow is run"):
        inner("a")
    assert [node.name for node in inner.graph.nodes] == ["day", "fetch"]


def test_a_flow_that_is_not_built() -> None:
    """Before, during and after a failed block there is no graph, and the message says which."""
    f = Flow("f")
    with pytest.raises(BuildError, match="no `with` block yet"):
        _ = f.graph
    with pytest.raises(RuntimeError), f:  # noqa: PT012
        with pytest.raises(BuildError, match="still being built"):
            _ = f.graph
        raise RuntimeError
    with pytest.raises(BuildError, match="its `with` block raised"):
        _ = f.graph
    with pytest.raises(BuildError, match="a flow is built once"), f:
        pass
    with pytest.raises(BuildError, match="outside a flow"):
        fetch("a")


def test_a_built_flow_is_closed() -> None:
    """No second block, no late reference task, no block for a function."""
    with Flow("f") as f:
        made = fetch("a")
    with pytest.raises(BuildError, match="a flow is built once"), f:
        pass
    with pytest.raises(BuildError, match="belongs into its `with` block"):
        f.reference(made)

    @flow
    def traced() -> None:
        pass

    with pytest.raises(BuildError, match="made of a function"), traced:
        pass


@pytest.mark.parametrize("value", [5, "x", [], [1, 2], {}, {"a": 1}, {1, 2}, fetch])
def test_a_returned_value_that_no_task_made(value: object) -> None:
    """What is known already is no value of a flow."""

    @flow
    def plain() -> object:
        return value

    with pytest.raises(BuildError, match=r"flow 'plain', the returned value: .* was not made by a task"):
        _ = plain.graph


def test_a_reference_that_is_not_there() -> None:
    """A misspelt name is answered with the nearest; a task that is never called is named."""
    with (
        pytest.raises(BuildError, match=r"no task 'fetsh'.*did you mean 'fetch'"),
        Flow("f", reference=["fetsh"]),
    ):
        fetch("a")
    with pytest.raises(BuildError, match="never calls task 'total'"), Flow("g", reference=[total]):
        fetch("a")
    with pytest.raises(BuildError, match="not parameter 'p'"), Flow("h") as h:
        h.reference(Parameter("p"))


async def an_async_flow() -> None:
    """Not traceable."""


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (an_async_flow, "is async or a generator.*write a plain `def`"),
        (lambda *days: None, r"takes \*days"),
        (Order, "cannot be a flow"),
        (fetch, "cannot be a flow"),
    ],
)
def test_what_cannot_be_a_flow(fn: Any, said: str) -> None:
    """Found when it is decorated."""
    with pytest.raises(TypeError, match=said):
        flow(name="f")(fn)


def test_a_parameter_whose_type_is_not_there_at_run_time() -> None:
    """A value could not be checked, so the flow says so before it runs."""

    @flow
    def typed(part: OnlyForTypes) -> None:
        pass

    with pytest.raises(BuildError, match="'OnlyForTypes' of parameter 'part' is not known"):
        _ = typed.graph


# ── the values of a run ──────────────────────────────────────────────────────────────────────────────────────


class Sized(Protocol):
    """A protocol that is not checked at run time."""


@flow
def nightly(
    day: date,
    count: int = 1,
    orders: list[Order] = [],  # noqa: B006
    *,
    rate: float = 1,
    engine: Engine | None = None,
    sized: Sized | None = None,
) -> Any:
    """A flow with all kinds of parameters."""
    return anything(day)


def test_values_are_converted_and_completed() -> None:
    """What is recorded is of the declared type, in the order of declaration."""
    engine = Engine()
    bound = nightly.built.bind(("2026-11-22",), {"engine": engine, "rate": 2, "orders": [{"item": "pen"}]})
    assert list(bound) == ["day", "count", "orders", "rate", "engine", "sized"]
    assert bound == {
        "day": date(2026, 11, 22),
        "count": 1,
        "orders": [Order("pen")],
        "rate": 2.0,
        "engine": engine,
        "sized": None,
    }
    assert type(bound["rate"]) is float
    assert type(nightly.built.bind((date(2026, 1, 1),), {})["rate"]) is float


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((), {}, r"needs parameter 'day' \(date\): write day="),
        (("2026-11-22",), {"conut": 2}, "has no parameter 'conut'; did you mean 'count'?"),
        (("2026-11-22",), {"zzz": 2}, "has no parameter 'zzz'; there is 'day', 'count'"),
        (
            ("2026-11-22",),
            {"run_id": "a"},
            r"no parameter 'run_id'; options go into ….options\(run_id=...\).run",
        ),
        (("2026-11-22",), {"day": "2026-11-23"}, "parameter 'day' twice"),
        (
            ("2026-11-22", 1, [], 2.0),
            {},
            r"takes 3 positional parameters \(day, count=…, orders=…, \*, .*but 4 were given",
        ),
        (("soon",), {}, r"parameter 'day' is declared as date, but got 'soon' \(str\)"),
        (("2026-11-22", "1"), {}, "parameter 'count' is declared as int, but got '1'"),
        (("2026-11-22", True), {}, "parameter 'count' is declared as int, but got True"),
        (("2026-11-22", 1, [{"item": 3}]), {}, r"parameter 'orders' .* at `\$\[0\].item`"),
        (("2026-11-22",), {"engine": 3}, r"parameter 'engine' is declared as Engine | None, but got 3"),
        (("2026-11-22",), {"rate": None}, "parameter 'rate' is declared as float, but got None"),
    ],
)
def test_parameters_that_do_not_fit(args: tuple[Any, ...], kwargs: dict[str, Any], said: str) -> None:
    """One clear error each, before anything runs."""
    with pytest.raises(ParameterError, match=said) as caught:
        nightly.built.bind(args, kwargs)
    assert "flow 'nightly'" in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_defaults_are_not_shared_between_runs() -> None:
    """A run that changes its default list leaves the next one's alone."""
    nightly.built.bind(("2026-11-22",), {})["orders"].append(Order("pen"))
    assert nightly.built.bind(("2026-11-22",), {})["orders"] == []


def test_a_default_opens_from_the_graph() -> None:
    """The default is recorded in its declared type's form."""
    node = nightly.graph.parameters["orders"]
    assert node.default is not None
    payload = node.default.value
    assert nightly.built.serializers["orders"].deserialize(payload) == []


def test_nodes_of_a_flow_are_nodes() -> None:
    """At run time a typed value in a flow is a handle."""
    with Flow("f"):
        assert isinstance(fetch("a"), Node)


def test_threads_that_need_a_flow_first_at_once_build_it_once() -> None:
    """All get the same graph, none the news that it is still being built."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    @task(version="1")
    async def step(value: int) -> int:
        return value

    @flow
    def long() -> int:
        value = step(0)
        for _ in range(500):
            value = step(value)
        return value

    together = Barrier(8)

    def graph() -> Any:
        together.wait()
        return long.graph

    with ThreadPoolExecutor(8) as threads:
        graphs = [future.result() for future in [threads.submit(graph) for _ in range(8)]]
    assert all(found is graphs[0] for found in graphs)


class Mode(enum.Enum):
    """Values that msgspec does not know."""

    FAST = (1, "a")
    SLOW = (2, "b")


class Rights(enum.Flag):
    """Bits."""

    READ = 1
    WRITE = 2


@dataclass
class Base:
    """A declared class."""

    size: int


@dataclass
class Derived(Base):
    """And one below it."""

    color: str = "red"


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Mode, Mode.SLOW),
        (Rights, Rights.READ | Rights.WRITE),
        (Base, Derived(3, "blue")),
        (Mode | None, Mode.FAST),
        (Base | None, Derived(3, "blue")),
        (Engine | int, Engine()),
        (Engine | int, 3),
        (int | Engine | Base, Derived(3, "blue")),
        (Annotated[Engine, ["a note"]], Engine()),
    ],
)
def test_an_instance_of_the_declared_class_is_taken_as_it_is(declared: Any, value: Any) -> None:
    """Whatever msgspec makes of the class, its instances are its instances."""
    with Flow("instances") as flow:
        Parameter("given", type=declared)
    assert flow.built.bind((value,), {})["given"] is value
    with pytest.raises(ParameterError, match="'given' is declared as"):
        flow.built.bind((object(),), {})


class Size(TypedDict):
    """A class that refuses `isinstance`."""

    width: int


class Shy:
    """Its objects cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not for your eyes")


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Size, {"width": "wide"}),
        (date, datetime(2026, 11, 22)),  # noqa: DTZ001
        (int | Engine, "3"),
        (Annotated[int, ["a note"]], "3"),
        (int, Shy()),
    ],
)
def test_what_does_not_fit_is_a_parameter_error_whatever_the_type(declared: Any, value: Any) -> None:
    """No class is too odd for a clear message, neither that of the declaration nor that of the value."""
    with Flow("odd") as flow:
        Parameter("given", type=declared)
    with pytest.raises(ParameterError, match="'given' is declared as"):
        flow.built.bind((value,), {})


class Shop:
    """Holds what is no flow."""

    def __init__(self, rate: int) -> None:
        self.rate = rate

    @staticmethod
    def traced(day: str) -> int:
        """Takes no object."""
        return fetch(day)  # type: ignore[return-value]

    def nightly(self, day: str) -> int:
        """Takes one."""
        return fetch(day)  # type: ignore[return-value]


def test_a_method_is_no_flow() -> None:
    """Its object is no parameter that could be recorded; a static method takes none."""
    with pytest.raises(TypeError, match=r"flow 'nightly' is a method.*pass the parts"):
        flow(Shop.nightly)
    assert list(flow(Shop.traced).graph.parameters) == ["day"]


def test_an_error_about_a_flow_as_a_whole_names_its_function() -> None:
    """What it returns, and the types of its parameters, are found where the flow is used first."""

    def returns_text(day: str) -> str:
        fetch(day)
        return "done"

    made = flow(returns_text)
    with pytest.raises(BuildError) as caught:
        _ = made.graph
    assert caught.value.location == (__file__, returns_text.__code__.co_firstlineno)


def test_an_error_in_a_block_names_its_line() -> None:
    """That of the call."""
    with Flow("f"), pytest.raises(BuildError) as caught:
        fetch(print)
    assert caught.value.location is not None
    file, line = caught.value.location
    assert (file, linecache.getline(file, line).strip()) == (__file__, "fetch(print)")
