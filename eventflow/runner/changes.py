"""What may differ between the flow with which a run was started and today's, and what may not.

Policies may, and the code of tasks that have not finished: both are recorded with the next claim.  Names of
tasks, edges, mapping and parameters may not, nor the code of tasks that have finished, unless their results
are kept as they are, on the caller's word (`on_change="keep"`).  The error is a table of what differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from eventflow.graph import Arg, Const, DictOf, Graph, ParameterNode, Ref, TaskNode
from eventflow.machine import FINISHED
from eventflow.result import Inline, Payload
from eventflow.runfacts import RunFacts

__all__ = [
    "Change",
    "FlowChanged",
    "OnChange",
    "ParametersDiffer",
    "check_code",
    "check_parameters",
    "check_shape",
]

OnChange: TypeAlias = Literal["refuse", "keep"]
"""What to do when the code of finished tasks changed: refuse to go on, or keep their results."""

_ROWS_MAX: Final = 20
_CELL_MAX: Final = 48


class Change(msgspec.Struct, frozen=True):
    """One row of the table: a task or parameter, and what of it differs."""

    name: str
    then: str
    """What the run was started with."""
    now: str


class FlowChanged(ValueError):
    """The run was started with a flow that differs where it may not; `changes` says in what."""

    def __init__(self, said: str, changes: tuple[Change, ...] = (), way_out: str = "") -> None:
        parts = [said, *(f"\n{line}" for line in _table(changes)), way_out and f"\n{way_out}"]
        super().__init__("".join(parts))
        self.changes = changes


class ParametersDiffer(ValueError):
    """The run was started with other parameters."""


def check_shape(recorded: Graph, today: Graph, run_id: str) -> None:
    """Refuse to go on with another flow, or with one of another shape."""
    if recorded.name != today.name:
        raise FlowChanged(
            f"run {run_id!r} is a run of flow {recorded.name!r}, not of {today.name!r}: "
            "use another run_id, or resume it with its own flow"
        )
    if recorded.digests.shape != today.digests.shape:
        raise FlowChanged(
            f"run {run_id!r} was started with another shape of flow {today.name!r}:",
            tuple(_differences(_rows(recorded), _rows(today))),
            f"finish it with the old code, or begin again with `rerun({run_id!r})`",
        )


def check_code(recorded: Graph, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Refuse to go on with a flow that has other code for tasks that have finished; shapes are equal."""
    changes = tuple(
        Change(node.name, recorded.task_of(i).code.hex()[:8], today.task_of(i).code.hex()[:8])
        for i, node in enumerate(today.nodes)
        if isinstance(node, TaskNode)
        and facts.run.status[i] in FINISHED
        and _differ(recorded.task_of(i).code, today.task_of(i).code)
    )
    if changes:
        raise FlowChanged(
            f"run {run_id!r}: the code of tasks changed that have finished, so their results are not what "
            "today's code gives:",
            changes,
            f"begin again with `rerun({run_id!r})`, or keep the results: `options(on_change='keep')`",
        )


def check_parameters(recorded: Mapping[str, Payload], today: Mapping[str, Payload], run_id: str) -> None:
    """Refuse to resume with other parameters."""
    differing = [
        name
        for name, payload in today.items()
        if name not in recorded or _digest_of(recorded[name]) != _digest_of(payload)
    ]
    if differing:
        raise ParametersDiffer(
            f"run {run_id!r} was started with other values of {', '.join(map(repr, differing))}: "
            "leave them out to resume it, or use another run_id"
        )


def _digest_of(payload: Payload) -> bytes | None:
    return getattr(payload, "digest", None)


def _differ(before: bytes, now: bytes) -> bool:
    """Whether two code digests prove a change; an empty one is code whose source nobody could read."""
    return bool(before and now) and before != now


def _rows(graph: Graph) -> dict[str, str]:
    """Each node in words, and what the flow itself says."""
    found = {node.name: _describe(graph, i) for i, node in enumerate(graph.nodes)}
    judged = ", ".join(graph.nodes[i].name for i in graph.reference) or "the terminal tasks"
    returned = "nothing" if graph.value is None else _text(graph, graph.value)
    return {**found, "(the flow)": f"returns {returned}; judged on {judged}"}


def _describe(graph: Graph, index: int) -> str:
    node = graph.nodes[index]
    if isinstance(node, ParameterNode):
        default = "required" if node.required else f"default {_text(graph, node.default)}"
        return f"parameter: {node.annotation or 'any type'}, {default}"
    inputs = [f"{item.name}={'each of ' * item.each}{_text(graph, item.arg)}" for item in node.inputs]
    after = [f"after {graph.nodes[up].name}" for up in node.after]
    return f"{graph.tasks[node.task].name}({', '.join([*inputs, *after])})"


def _text(graph: Graph, arg: Arg | None) -> str:
    match arg:
        case Ref(node=node, path=path):
            return graph.nodes[node].name + "".join(f"[{key!r}]" for key in path)
        case Const(value=Inline(codec="msgpack", data=data)):
            return repr(msgspec.msgpack.decode(data))
        case Const(value=payload):
            return f"a constant {(getattr(payload, 'digest', None) or b'').hex()[:8]}"
        case DictOf(keys=keys, items=items):
            return f"{{{', '.join(f'{k!r}: {_text(graph, v)}' for k, v in zip(keys, items, strict=True))}}}"
        case None:
            return "none"
        case _:
            return f"[{', '.join(_text(graph, item) for item in arg.items)}]"


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    """Rows that are not the same; when all are, only their order can differ."""
    names = dict.fromkeys((*then, *now))
    changed = [
        Change(name, then.get(name, "(not there)"), now.get(name, "(not there)"))
        for name in names
        if then.get(name) != now.get(name)
    ]
    yield from changed or [Change("(the flow)", ", ".join(then), ", ".join(now))]


def _table(changes: tuple[Change, ...]) -> Iterator[str]:
    """The rows in columns, each as wide as it must be."""
    if not changes:
        return
    rows = [("", "then", "now"), *((change.name, change.then, change.now) for change in changes[:_ROWS_MAX])]
    cells = [[_short(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for row in cells:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if len(changes) > _ROWS_MAX:
        yield f"  and {len(changes) - _ROWS_MAX} more"


def _short(text: str) -> str:
    return text if len(text) <= _CELL_MAX else f"{text[: _CELL_MAX - 1]}…"
