"""Records a flow's graph in a log, once: a process remembers which graphs a log has."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from eventflow.events import Draft, FlowDefined, flow_stream
from eventflow.graph import Graph
from eventflow.ports import EventLog, Write

__all__ = ["GraphRecord"]

_known: Final[WeakKeyDictionary[EventLog, set[str]]] = WeakKeyDictionary()
"""Digests of the graphs that a log is known to have."""


class GraphRecord:
    """The record of one graph in one log, as far as this process knows."""

    def __init__(self, log: EventLog, graph: Graph) -> None:
        self._log = log
        self._graph = graph
        self._is_stored = False
        with suppress(TypeError):  # a log that has no hash or weak reference is written to again
            self._is_stored = graph.digest in _known.get(log, ())

    def writes(self, now: int) -> tuple[Write, ...]:
        """Return the writes that the log needs in order to have the graph."""
        if self._is_stored:
            return ()
        return (Write(flow_stream(self._graph.digest), 0, [Draft(now, FlowDefined(graph=self._graph))]),)

    def note(self) -> None:
        """Remember that the log has the graph."""
        self._is_stored = True
        with suppress(TypeError):
            _known.setdefault(self._log, set()).add(self._graph.digest)
