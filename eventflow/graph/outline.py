"""Read the graph of a later version as far as this version can: the flow's name, and its nodes by name.

A run of such a graph can be shown, and must not be owned.  An outline has no edges, types or policies, so it says
nothing about which event may follow which.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from eventflow.graph.flow_graph import Graph, GraphNode, ParameterNode, TaskNode
from eventflow.graph.tasks import Policy, TaskDef

__all__ = ["outline"]

_T = TypeVar("_T")

_TASK: Final = TaskDef("", "", b"", Policy())
"""The task of every node: which tasks there are is not known."""


def outline(kind: str, data: bytes) -> Graph:
    """Return the outline of a graph whose `flow_defined` does not decode; `data` are the bytes of the event.

    The outline requires all that the graph does; of an unknown kind, that kind too. So no runner takes it for a whole
    graph.

    ```python
    import msgspec
    from eventflow.graph.outline import outline

    graph = {"name": "nightly", "nodes": [{"kind": "loop", "name": "poll"}], "requires": ["loops"]}
    shown = outline("flow_defined", msgspec.msgpack.encode(["flow_defined", graph]))
    print(shown.name, list(shown.index), shown.requires)
    ```

    ```text
    nightly ['poll'] ('loops',)
    ```
    """
    try:
        fields = msgspec.msgpack.decode(data, type=list)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = []
    graph = _as(dict, fields[1] if len(fields) > 1 else None, {})
    nodes = _as(list, graph.get("nodes"), [])
    requires = tuple(_as(str, word, "") for word in _as(list, graph.get("requires"), []))
    return Graph(
        name=_as(str, graph.get("name"), ""),
        tasks=(_TASK,),
        nodes=tuple(_node(number, _as(dict, node, {})) for number, node in enumerate(nodes)),
        requires=requires if kind == "flow_defined" else (*requires, kind),
    )


def _node(number: int, fields: dict[object, object]) -> GraphNode:
    """Return a node by its name; every node that is no parameter may have events of its own, as a task has."""
    name = _as(str, fields.get("name"), f"node {number}")
    if fields.get("kind") == "parameter":
        return ParameterNode(name)
    return TaskNode(name, 0, mapped=fields.get("mapped") is True)


def _as(kind: type[_T], value: object, default: _T) -> _T:
    return value if isinstance(value, kind) else default
