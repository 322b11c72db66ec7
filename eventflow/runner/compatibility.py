"""What may differ between the flow with which a run was started and today's, and what may not.

Policies may, and the code of tasks that have not finished: both are recorded with the next claim.  Names of
tasks, edges, mapping and parameters may not, nor the code of tasks that have finished, nor the declared types of
values that the run holds, unless these are kept as they are, on the caller's word (`on_change="keep"`).  Even then
a value of another type is not opened where its bytes would mean something else.  The error is a table of what
differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from eventflow.fingerprints.type_defs import Difference, differences
from eventflow.graph import Arg, Const, DictOf, Graph, Ref, consts
from eventflow.machine import FINISHED, Status
from eventflow.result import Inline
from eventflow.serializers.recorded import opens_alone
from eventflow.views.run import RunFacts
from eventflow.views.run_serializers import RunSerializers

__all__ = [
    "Change",
    "FlowChanged",
    "OnChange",
    "check_finished",
    "check_shape",
    "constants_differ",
    "of_another_type",
]

OnChange: TypeAlias = Literal["refuse", "keep"]
"""What to do when the code of finished tasks changed: refuse to go on, or keep their results."""

_ROWS_MAX: Final = 20
_CELL_MAX: Final = 48
_NAMED_MAX: Final = 5


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
            f"finish it with the old code, or keep the results that still fit in a new run: `rerun({run_id!r})`",
        )


def check_finished(
    recorded: Graph, today: Graph, facts: RunFacts, serializers: RunSerializers, run_id: str
) -> None:
    """Refuse to go on with a flow for which what has finished is not what it was; shapes are equal."""
    _check_code(recorded, today, facts, run_id)
    _check_types(serializers, today, facts, run_id)


def _check_code(recorded: Graph, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Refuse to go on with a flow that has other code for tasks that have finished; shapes are equal."""
    changes = tuple(
        Change(node.name, recorded.task_of(i).code.hex()[:8], today.task_of(i).code.hex()[:8])
        for i, node in today.task_nodes.items()
        if facts.run.status[i] in FINISHED and _differ(recorded.task_of(i).code, today.task_of(i).code)
    )
    if changes:
        raise FlowChanged(
            f"run {run_id!r}: the code of tasks changed that have finished, so their results are not what "
            "today's code gives:",
            changes,
            f"keep these results: go on with `options(on_change='keep')`, or in a new run with `rerun({run_id!r})`; to have "
            "them made again, start a new run",
        )


def _check_types(serializers: RunSerializers, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Refuse to go on where a value that the run holds was kept as another type than it is declared to be today."""
    held: dict[str, tuple[Difference, ...]] = {}
    seen: set[tuple[str, int]] = set()
    for slot, status in enumerate(facts.run.status):
        node = facts.run.node(slot)
        is_parameter = node in today.parameter_nodes
        if not is_parameter and status not in (Status.SUCCEEDED, Status.REUSED):
            continue
        flow = facts.flow_at(serializers.made_at(slot, facts))
        if flow == today.digest or (flow, node) in seen:
            continue
        seen.add((flow, node))
        if found := serializers.differences_of(node, flow):
            held[serializers.describe(node)] = found
        then = serializers.graphs.get(flow)
        if then is not None and not is_parameter:
            held.update(constants_differ(then, node, today, node))
    if held:
        raise of_another_type(
            f"run {run_id!r} holds values whose type is another one today",
            held,
            f"have them made again by a new run: `rerun({run_id!r})`, or go on with `options(on_change='keep')`, which opens what does "
            "not depend on it",
        )


def of_another_type(said: str, held: Mapping[str, tuple[Difference, ...]], way_out: str) -> FlowChanged:
    """The error for values (in words, as `the result of 'fetch'`) whose types differ so."""
    whose = [*held]
    more = f" and {len(whose) - _NAMED_MAX} more" if len(whose) > _NAMED_MAX else ""
    rows = dict.fromkeys(row for found in held.values() for row in found)
    return FlowChanged(
        f"{said} ({', '.join(whose[:_NAMED_MAX])}{more}):",
        tuple(Change(row.name, row.then, row.now) for row in rows),
        way_out,
    )


def constants_differ(
    then: Graph, node: int, now: Graph, other: int
) -> Iterator[tuple[str, tuple[Difference, ...]]]:
    """The arguments of a task that are constants of a type which is another one today, with what differs."""
    found = now.task_nodes[other]
    before, after = dict(then.task_of(node).takes), dict(now.task_of(other).takes)
    for item in found.inputs:
        pair = before.get(item.name, b""), after.get(item.name, b"")
        if pair[0] != pair[1] and not all(map(_opens_alone, consts(item.arg))):
            yield (
                f"argument {item.name!r} of {found.name!r}",
                differences(then.descriptions.get(pair[0]), now.descriptions.get(pair[1])),
            )


def _opens_alone(const: Const) -> bool:
    return isinstance(const.value, Inline) and opens_alone(const.value.codec)


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
    if index in graph.parameter_nodes:
        parameter = graph.parameter_nodes[index]
        default = "required" if parameter.required else f"default {_text(graph, parameter.default)}"
        return f"parameter: {parameter.annotation or 'any type'}, {default}"
    node = graph.task_nodes[index]
    inputs = [f"{item.name}={'each of ' * item.each}{_text(graph, item.arg)}" for item in node.inputs]
    after = [f"after {graph.nodes[up].name}" for up in node.after]
    shortest = ["as many as the shortest"] if node.zip_shortest else []
    return f"{graph.tasks[node.task].name}({', '.join([*inputs, *after, *shortest])})"


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
