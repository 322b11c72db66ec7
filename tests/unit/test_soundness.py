"""A graph that leads nowhere or in a circle is found, and every graph that can be built is sound."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from eventflow import Flow, Parameter, task
from eventflow.events import Draft, FlowDefined
from eventflow.graph import (
    Arg,
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
    TypeDef,
)
from eventflow.graph.soundness import DEPTH_MAX, fault_of
from eventflow.records import LogDamaged, decode, encode
from eventflow.result import Inline

TASK = TaskDef("t", "m:t", b"c", Policy())
CACHED = TaskDef("u", "m:u", b"c", Policy(cache=CachePolicy("n", parameters=None)))
CONST = Const(Inline("msgpack", b"\x90", b"d" * 16))


def nested(levels: int) -> Arg:
    """A reference to the first node in so many lists."""
    arg: Arg = Ref(0)
    for _ in range(levels):
        arg = ListOf((arg,))
    return arg


def graph(*inputs: Input, **fields: Any) -> Graph:
    """A parameter, and a task with these inputs."""
    node = TaskNode(
        "b", fields.pop("task", 0), inputs, **{k: fields.pop(k) for k in ("after", "mapped") if k in fields}
    )
    return Graph("g", (TASK, CACHED), (ParameterNode("a"), node), **fields)


WIDE = Graph(
    "g",
    (CACHED,),
    (*(ParameterNode(f"p{i}") for i in range(4000)), *(TaskNode(f"t{i}", 0) for i in range(4000))),
)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (graph(Input("x", Ref(1))), "node 1 takes the value of node 1"),
        (graph(Input("x", Ref(2**40))), "which is not before it"),
        (graph(Input("x", Ref(-1))), "node -1"),
        (graph(Input("x", ListOf((Ref(0), Ref(5))))), "node 5"),
        (graph(Input("x", DictOf(("k",), (ListOf((Ref(7),)),)))), "node 7"),
        (graph(Input("x", DictOf(("k", "l"), ()))), "2 keys and 0 items"),
        (graph(Input("x", nested(DEPTH_MAX + 1))), "levels deep"),
        (graph(after=(1,)), "after node 1"),
        (graph(after=(-1,)), "after node -1"),
        (graph(task=2), "of task 2"),
        (graph(task=-1), "of task -1"),
        (graph(mapped=True), "mapped over nothing"),
        (graph(Input("x", CONST, each=True), mapped=True), "mapped over nothing"),
        (graph(value=Ref(2)), "the value takes the value of node 2"),
        (graph(reference=(2,)), "node 2, on which success is judged"),
        (graph(reference=(0,)), "node 0, on which success is judged"),
        (graph(types=(TypeDef(b"d", ("class", 0), (0,)),)), "among the 0 there are"),
        (Graph("g", (TASK,), (TaskNode("a", 0), TaskNode("a", 0))), "the same name"),
        (WIDE, "too many parameters"),
    ],
)
def test_a_fault_is_found_and_told(found: Graph, said: str) -> None:
    """It is told by number, and as damage of the record that holds the graph."""
    assert said in fault_of(found)
    with pytest.raises(ValueError, match=re.escape(fault_of(found))):
        FlowDefined(graph=found)
    body = encode("flow/x", 1, Draft(0, FlowDefined(graph=graph())))
    fields = msgspec.msgpack.decode(body)
    fields[4][1] = msgspec.to_builtins(found, builtin_types=(bytes,))
    with pytest.raises(LogDamaged, match="damaged 'flow_defined'"):
        decode(1, "flow/x", msgspec.msgpack.encode(fields))


def test_what_can_be_built_is_sound() -> None:
    """Maps, parts, lists and dicts of nodes, orders, constants and caches."""

    @task(version="1")
    def pair(x: object) -> tuple[int, int]:
        return 1, 2

    with Flow("all") as flow:
        a = Parameter("a")
        first, second = pair(a)
        listed = pair({"k": [first, (second, a)], 5: 1})
        pair.map([first, second, 3])
        pair.map(pair.after(listed)(a))
    assert fault_of(flow.graph) == ""
    assert fault_of(graph(Input("x", nested(DEPTH_MAX - 1)))) == ""
