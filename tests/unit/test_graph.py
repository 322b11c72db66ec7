"""The graph as a value: digests, text, JSON and back."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from eventflow.graph import (
    CachePolicy,
    Const,
    DictOf,
    Graph,
    Input,
    ListOf,
    ParameterNode,
    Policy,
    Ref,
    TaskDef,
    TaskNode,
    TupleOf,
    TypeDef,
    refs,
)
from eventflow.machine import Plan
from eventflow.result import Inline
from eventflow.views.mermaid import to_mermaid

DAY = ParameterNode("day", annotation="str")
FETCH = TaskNode("fetch", 0, (Input("day", Ref(0)),))
ENRICH = TaskNode(
    "enrich",
    1,
    (Input("order", Ref(1), True), Input("rate", Const(Inline("msgpack", b"\x01", b"d" * 16)))),
    mapped=True,
)
TOTAL = TaskNode("total", 2, (Input("orders", DictOf(("a", 1), (Ref(2), Ref(1, ("x", 0))))),), after=(1,))
REPORT = TaskNode("report", 2, (Input("orders", ListOf((TupleOf((Ref(0),)),))),), after=(3,))
GRAPH = Graph(
    "nightly",
    tuple(TaskDef(name, f"m:{name}", name.encode(), Policy()) for name in ("fetch", "enrich", "total")),
    (DAY, FETCH, ENRICH, TOTAL, REPORT),
    Ref(3),
)


def test_what_is_derived_from_a_graph() -> None:
    """Neighbours, ends and names follow from the nodes."""
    plan = Plan(GRAPH)
    assert plan.upstreams == [(), (), (1,), (2, 1), (3,)]
    assert plan.whole == [(), (2, 3), (3,), (4,), ()]
    assert plan.judged == (4,)
    assert GRAPH.index["total"] == 3
    assert list(GRAPH.parameters) == ["day"]
    assert GRAPH.task_of(4).name == "total"


def test_leaves_come_left_to_right() -> None:
    """The order of an argument's leaves is the order in which they were written."""
    arg = ListOf(
        (
            Ref(3),
            DictOf(
                ("k", "l"), (TupleOf((Ref(1, (0,)), Const(Inline("msgpack", b"\xc0", b"d" * 16)))), Ref(2))
            ),
        )
    )
    assert list(refs(arg)) == [Ref(3), Ref(1, (0,)), Ref(2)]


def test_a_graph_survives_json_and_msgpack() -> None:
    """A graph is data: encoded and decoded it is equal, with the same digests."""
    for codec in (msgspec.json, msgspec.msgpack):
        again = codec.decode(codec.encode(GRAPH), type=Graph)
        assert again == GRAPH
        assert again.digests == GRAPH.digests
        assert again.digest == GRAPH.digest
    assert msgspec.to_builtins(GRAPH)["name"] == "nightly"


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        (replace(GRAPH, name="weekly"), {"shape"}),
        (replace(GRAPH, nodes=(DAY, FETCH, ENRICH, TOTAL)), {"shape"}),
        (replace(GRAPH, nodes=(*GRAPH.nodes[:4], replace(REPORT, after=()))), {"shape"}),
        (replace(GRAPH, nodes=(*GRAPH.nodes[:2], replace(ENRICH, mapped=False), *GRAPH.nodes[3:])), {"shape"}),
        (replace(GRAPH, nodes=(replace(DAY, annotation="int"), *GRAPH.nodes[1:])), {"shape"}),
        (replace(GRAPH, value=Ref(4)), {"shape"}),
        (replace(GRAPH, reference=(1,)), {"shape"}),
        (replace(GRAPH, tasks=(replace(GRAPH.tasks[0], name="get"), *GRAPH.tasks[1:])), {"shape"}),
        (replace(GRAPH, tasks=(replace(GRAPH.tasks[0], code=b"new"), *GRAPH.tasks[1:])), {"code"}),
        (replace(GRAPH, tasks=(replace(GRAPH.tasks[0], policy=Policy(retries=1)), *GRAPH.tasks[1:])), {"policy"}),
        (replace(GRAPH, tasks=(replace(GRAPH.tasks[0], entry="other:fetch"), *GRAPH.tasks[1:])), set()),
    ],
)  # fmt: skip
def test_each_digest_covers_its_part_and_no_other(changed: Graph, parts: set[str]) -> None:
    """Shape, code and policy are told apart; where the code lies is part of none."""
    was, now = GRAPH.digests, changed.digests
    assert {name for name in ("shape", "code", "policy") if getattr(was, name) != getattr(now, name)} == parts
    assert changed.digest != GRAPH.digest


def test_mermaid_shows_nodes_edges_mapping_and_order() -> None:
    """Each kind of node and edge has its form; an order that data implies is not drawn again."""
    assert to_mermaid(GRAPH) == (
        "flowchart TD\n"
        '    n0(["day"])\n'
        '    n1["fetch"]\n'
        '    n2[["enrich"]]\n'
        '    n3["total"]\n'
        '    n4["report"]\n'
        '    n0 -->|"day"| n1\n'
        '    n1 ==>|"order"| n2\n'
        '    n2 -->|"orders"| n3\n'
        '    n1 -->|"orders = #91;#39;x#39;#93;#91;0#93;"| n3\n'
        '    n0 -->|"orders"| n4\n'
        "    n3 -.-> n4\n"
    )


@pytest.mark.parametrize(
    "name", ['say "hi"', "a]b", "<script>", "a;b", "#1", "`x`", "a\nb", "é-ü 日本", "{}|&\\"]
)
def test_mermaid_escapes_names(name: str) -> None:
    """No name can end its label: only harmless characters stand in it as they are."""
    text = to_mermaid(Graph("f", GRAPH.tasks, (TaskNode(name, 0),)))
    label = text.removeprefix('flowchart TD\n    n0["').removesuffix('"]\n')
    assert not set(label) & set('"<>[]{}|&\\`\n')
    shown = "".join(chr(int(part[1:])) if part.startswith("#") else part for part in _parts(label))
    assert shown == name


def _parts(label: str) -> list[str]:
    """Cut a label into plain runs and `#number` marks."""
    found: list[str] = []
    for piece in label.split(";"):
        plain, mark, number = piece.partition("#")
        found += [plain, mark + number] if mark else [plain]
    return found


def test_an_option_that_is_not_used_changes_no_byte() -> None:
    """A field with its default is left out, however the default was made, and read as the default."""
    empty = Graph("f", (TaskDef("t", "m:t", b"c", Policy()),), (ParameterNode("p"), TaskNode("t", 0)))
    data = msgspec.msgpack.encode(empty)
    plain = msgspec.msgpack.decode(data)
    assert plain == {
        "name": "f",
        "tasks": [{"name": "t", "entry": "m:t", "code": b"c", "policy": {}}],
        "nodes": [{"kind": "parameter", "name": "p"}, {"kind": "task", "name": "t", "task": 0}],
    }
    spelt_out = {
        **plain, "value": None, "reference": [], "types": [], "classes": [], "requires": [],
        "tasks": [{**plain["tasks"][0], "policy": {"retries": 0, "backoff": "", "share": False, "cache": None}, "takes": [], "returns": b"", "codeless": ""}],
        "nodes": [{**plain["nodes"][0], "required": True}, {**plain["nodes"][1], "inputs": [], "after": [], "mapped": False}],
    }  # fmt: skip
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(spelt_out), type=Graph)
    assert again == empty
    assert msgspec.msgpack.encode(again) == data
    assert again.digest == empty.digest
    made = replace(empty, requires=tuple(iter(())))
    assert msgspec.msgpack.encode(made) == data


@pytest.mark.parametrize(
    "kind", [CachePolicy, Graph, Input, ParameterNode, Policy, TaskDef, TaskNode, TypeDef]
)
def test_defaults_are_values_that_exist_once(kind: type[msgspec.Struct]) -> None:
    """Whether a default is left out is decided by identity, so another default would make two forms of one graph."""
    for field in msgspec.structs.fields(kind):
        assert field.default_factory is msgspec.NODEFAULT, field.name
        if field.default is not msgspec.NODEFAULT:
            assert field.default in (None, False, True, 0, "", b"", ()), field.name
