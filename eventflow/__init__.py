"""eventflow: an async, event-sourced workflow engine.

Write tasks, join them into a flow, and `await flow.run()`.  Each state transition is an immutable event
in an append-only log, and everything else (state, cached inputs, retries, dashboards) is a fold of it.
"""

from eventflow.context import Skip, context
from eventflow.flows import Flow, Parameter, ParameterError, flow
from eventflow.logs.memory import MemoryLog
from eventflow.nodes import BuildError, NodeIsNotAValue
from eventflow.projections import Fold, Projection, Runs, Timeline, follow, replay
from eventflow.result import NoResult, Result, ResultSerializer
from eventflow.runview import Picture, RunNotFound, RunView
from eventflow.states import State, TaskError
from eventflow.tasks import exponential, task, unmapped

__all__ = [
    "BuildError",
    "Flow",
    "Fold",
    "MemoryLog",
    "NoResult",
    "NodeIsNotAValue",
    "Parameter",
    "ParameterError",
    "Picture",
    "Projection",
    "Result",
    "ResultSerializer",
    "RunNotFound",
    "RunView",
    "Runs",
    "Skip",
    "State",
    "TaskError",
    "Timeline",
    "context",
    "exponential",
    "flow",
    "follow",
    "replay",
    "task",
    "unmapped",
]
