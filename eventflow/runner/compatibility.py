"""Whether a run may be resumed with today's flow.

Policies may change, and so may the code of tasks that have not finished; both are recorded with the next claim.  The names
of tasks, edges, mapping and parameters must not change.  The code of finished tasks and the declared types of recorded values
must not change either, unless the caller keeps the results (`on_change="keep"`).  Even then a value of another
type is not opened if its bytes would mean something else.  The error has a table of the differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias, assert_never

import msgspec

from eventflow.fingerprints.type_defs import Difference, differences
from eventflow.graph import Arg, Const, DictOf, Graph, ListOf, Ref, TupleOf, consts
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
"""If the code of finished tasks changed: refuse to resume the run, or keep the results."""

_ROWS_MAX: Final = 20
_CELL_MAX: Final = 48
_NAMED_MAX: Final = 5


class Change(msgspec.Struct, frozen=True):
    """One row of the table: a difference of a task or parameter."""

    name: str
    then: str
    """At the start of the run."""
    now: str


class FlowChanged(ValueError):
    """The run was started with a flow that differs in a way that is not allowed; `changes` lists the differences."""

    def __init__(self, message: str, changes: tuple[Change, ...] = (), fix: str = "") -> None:
        parts = [message, *(f"\n{line}" for line in _table(changes)), fix and f"\n{fix}"]
        super().__init__("".join(parts))
        self.changes = changes


def check_shape(recorded: Graph, today: Graph, run_id: str) -> None:
    """Raise `FlowChanged` for another flow, or a flow of another shape."""
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
    """Raise `FlowChanged` if the code of finished tasks or the types of recorded values differ; shapes are equal."""
    _check_code(recorded, today, facts, run_id)
    _check_types(serializers, today, facts, run_id)


def _check_code(recorded: Graph, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Raise `FlowChanged` if the code of finished tasks differs; shapes are equal."""
    changes = tuple(
        Change(node.name, recorded.task_of(i).code.hex()[:8], today.task_of(i).code.hex()[:8])
        for i, node in today.task_nodes.items()
        if facts.run.status[i] in FINISHED and _differ(recorded.task_of(i).code, today.task_of(i).code)
    )
    if changes:
        raise FlowChanged(
            f"run {run_id!r}: the code of tasks changed that have finished, so today's code might "
            "give other results:",
            changes,
            f"keep these results: go on with `options(on_change='keep')`, or in a new run with `rerun({run_id!r})`; to have "
            "them made again, start a new run",
        )


def _check_types(serializers: RunSerializers, today: Graph, facts: RunFacts, run_id: str) -> None:
    """Raise `FlowChanged` if a recorded value was of another declared type than today's."""
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
        if changed := serializers.differences_of(node, flow):
            held[serializers.describe(node)] = changed
        then = serializers.graphs.get(flow)
        if then is not None and not is_parameter:
            held.update(constants_differ(then, node, today, node))
    if held:
        raise of_another_type(
            f"run {run_id!r} holds values whose type is another one today",
            held,
            f"have them made again by a new run: `rerun({run_id!r})`, or go on with `options(on_change='keep')`, which opens the values that do "
            "not depend on it",
        )


def of_another_type(message: str, held: Mapping[str, tuple[Difference, ...]], fix: str) -> FlowChanged:
    """Return the error for values whose types differ; `held` has them in words, such as `the result of 'fetch'`."""
    names = [*held]
    more = ""
    if len(names) > _NAMED_MAX:
        more = f" and {len(names) - _NAMED_MAX} more"
    rows = dict.fromkeys(row for value_differences in held.values() for row in value_differences)
    return FlowChanged(
        f"{message} ({', '.join(names[:_NAMED_MAX])}{more}):",
        tuple(Change(row.name, row.then, row.now) for row in rows),
        fix,
    )


def constants_differ(
    then: Graph, node: int, now: Graph, other: int
) -> Iterator[tuple[str, tuple[Difference, ...]]]:
    """Yield the arguments of a task that are constants of another type than today's, with the differences."""
    task_node = now.task_nodes[other]
    before, after = dict(then.task_of(node).takes), dict(now.task_of(other).takes)
    for item in task_node.inputs:
        pair = before.get(item.name, b""), after.get(item.name, b"")
        if pair[0] != pair[1] and not all(map(_opens_alone, consts(item.arg))):
            yield (
                f"argument {item.name!r} of {task_node.name!r}",
                differences(then.descriptions.get(pair[0]), now.descriptions.get(pair[1])),
            )


def _opens_alone(const: Const) -> bool:
    return isinstance(const.value, Inline) and opens_alone(const.value.codec)


def _differ(before: bytes, now: bytes) -> bool:
    """Return whether two code digests prove a change; an empty digest means that the source could not be read."""
    return bool(before and now) and before != now


def _rows(graph: Graph) -> dict[str, str]:
    """Describe each node in words, and the flow itself."""
    rows = {node.name: _describe(graph, i) for i, node in enumerate(graph.nodes)}
    judged = ", ".join(graph.nodes[i].name for i in graph.reference) or "the terminal tasks"
    returned = "nothing"
    if graph.value is not None:
        returned = _text(graph, graph.value)
    return {**rows, "(the flow)": f"returns {returned}; judged on {judged}"}


def _describe(graph: Graph, index: int) -> str:
    if index in graph.parameter_nodes:
        parameter = graph.parameter_nodes[index]
        default = "required"
        if not parameter.required:
            default = f"default {_text(graph, parameter.default)}"
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
        case ListOf(items=items) | TupleOf(items=items):
            return f"[{', '.join(_text(graph, item) for item in items)}]"
        case None:
            return "none"
        case _:
            assert_never(arg)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Change]:
    """Yield the rows that differ; if none does, only the order of the nodes can."""
    names = dict.fromkeys((*then, *now))
    changed = [
        Change(name, then.get(name, "(not there)"), now.get(name, "(not there)"))
        for name in names
        if then.get(name) != now.get(name)
    ]
    yield from changed or [Change("(the flow)", ", ".join(then), ", ".join(now))]


def _table(changes: tuple[Change, ...]) -> Iterator[str]:
    """Yield the lines of the table."""
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
    if len(text) <= _CELL_MAX:
        return text
    return f"{text[: _CELL_MAX - 1]}…"
