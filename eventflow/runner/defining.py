"""Writes a flow's graph into a log, once: a process remembers which graphs it has seen there."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from eventflow.events import Draft, FlowDefined
from eventflow.graph import Graph
from eventflow.ports import EventLog, Write

__all__ = ["definition", "note_defined"]

_known: Final[WeakKeyDictionary[EventLog, set[str]]] = WeakKeyDictionary()
"""Digests of the graphs that are known to stand in a log."""


def definition(log: EventLog, graph: Graph, now: int) -> tuple[Write, ...]:
    """What has to be appended for the log to hold the graph."""
    with suppress(TypeError):  # a log that cannot be looked up is told again
        if graph.digest in _known.get(log, ()):
            return ()
    return (Write(f"flow/{graph.digest}", 0, [Draft(now, FlowDefined(graph=graph))]),)


def note_defined(log: EventLog, graph: Graph) -> None:
    """Remember that the log holds the graph."""
    with suppress(TypeError):
        _known.setdefault(log, set()).add(graph.digest)
