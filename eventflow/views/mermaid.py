"""A flow as a picture: the text of a Mermaid flowchart."""

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
        if i in graph.parameter_nodes:
            left, right = "([", "])"
        elif graph.task_nodes[i].mapped:
            left, right = "[[", "]]"
        else:
            left, right = "[", "]"
        lines.append(f"    n{i}{left}{_quoted(node.name)}{right}")
    for i, task in graph.task_nodes.items():
        lines += [f"    {arrow} n{i}" for arrow in _arrows(task)]
    return "\n".join(lines) + "\n"


def _arrows(node: TaskNode) -> Iterator[str]:
    """Yield an arrow for each node that an argument needs, and one for each that is only waited for."""
    needed: set[int] = set()
    for item in node.inputs:
        line = "==>" if item.each else "-->"
        for ref in dict.fromkeys(refs(item.arg)):
            needed.add(ref.node)
            label = item.name
            if ref.path:
                label += " = " + "".join(f"[{key!r}]" for key in ref.path)
            yield f"n{ref.node} {line}|{_quoted(label)}|"
    for up in node.after:
        if up not in needed:
            yield f"n{up} -.->"


def _quoted(text: str) -> str:
    """Return a Mermaid label; a character that could mean something to Mermaid or HTML is written as its number."""
    label = ""
    for character in text:
        is_plain = character.isalnum() or character in " _-.,:()=*+/"
        label += character if is_plain and character.isprintable() else f"#{ord(character)};"
    return f'"{label}"'
