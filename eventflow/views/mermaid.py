"""A flow as a run_states: the text of a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from eventflow.graph import Graph, TaskNode, refs

__all__ = ["to_mermaid"]


def to_mermaid(graph: Graph) -> str:
    """Return a flow as the text of a Mermaid flowchart: equal graphs give equal text.

    Round boxes are parameters, square ones tasks, double-sided ones mapped tasks. An arrow has the
    name of its argument, is thick where it is mapped over, and dotted where it only orders.
    """
    lines = ["flowchart TD"]
    for i, node in enumerate(graph.nodes):
        left, right = "([", "])"
        if i in graph.task_nodes:
            left, right = ("[[", "]]") if graph.task_nodes[i].mapped else ("[", "]")
        lines.append(f"    n{i}{left}{_quoted(node.name)}{right}")
    for i, task in graph.task_nodes.items():
        lines += [f"    {arrow} n{i}" for arrow in _arrows(task)]
    return "\n".join(lines) + "\n"


def _arrows(node: TaskNode) -> Iterator[str]:
    """One arrow for each node that an argument needs, and one for each that is only waited for."""
    needed: set[int] = set()
    for item in node.inputs:
        line = "==>" if item.each else "-->"
        for ref in dict.fromkeys(refs(item.arg)):
            needed.add(ref.node)
            part = "".join(f"[{key!r}]" for key in ref.path)
            yield f"n{ref.node} {line}|{_quoted(f'{item.name} = {part}' if part else item.name)}|"
    for up in node.after:
        if up not in needed:
            yield f"n{up} -.->"


def _quoted(text: str) -> str:
    """A Mermaid label; whatever could mean something to Mermaid or HTML is written as its number."""
    plain = " _-.,:()=*+/"
    safe = (c if (c.isalnum() or c in plain) and c.isprintable() else f"#{ord(c)};" for c in text)
    return '"' + "".join(safe) + '"'
