"""Writes a flow's graph into a log, once: a process remembers which graphs it has seen there."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from eventflow.events import Draft, FlowDefined, flow_stream
from eventflow.graph import Graph
from eventflow.ports import EventLog, Write

__all__ = ["Definition"]

_known: Final[WeakKeyDictionary[EventLog, set[str]]] = WeakKeyDictionary()
"""Digests of the graphs that are known to stand in a log."""


class Definition:
    """Whether a log holds a graph, as far as this process knows."""

    def __init__(self, log: EventLog, graph: Graph) -> None:
        self._log = log
        self._graph = graph
        self._stands = False
        with suppress(TypeError):  # a log that cannot be looked up is told again
            self._stands = graph.digest in _known.get(log, ())

    def writes(self, now: int) -> tuple[Write, ...]:
        """What has to be appended for the log to hold the graph."""
        if self._stands:
            return ()
        return (Write(flow_stream(self._graph.digest), 0, [Draft(now, FlowDefined(graph=self._graph))]),)

    def note(self) -> None:
        """Remember that the log holds it."""
        self._stands = True
        with suppress(TypeError):
            _known.setdefault(self._log, set()).add(self._graph.digest)
