"""eventflow: an async, event-sourced workflow engine.

Write tasks, join them into a flow, and `await flow.run()`.  Each state transition is an immutable event
in an append-only log, and everything else (state, cached inputs, retries, dashboards) is a fold of it.
"""

from typing import TYPE_CHECKING, Any

from eventflow.caching import inputs, nothing, parameters
from eventflow.context import Skip, context
from eventflow.flows import Flow, Parameter, ParameterError, flow
from eventflow.logs.memory import MemoryLog
from eventflow.nodes import BuildError, NodeIsNotAValue
from eventflow.projections import Fold, Projection, Runs, Timeline, follow, replay
from eventflow.result import NoResult, Result, ResultNotLoaded, ResultSerializer, SerializationError
from eventflow.runner.changes import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runs import NoValue, RunNotFinished, state_of
from eventflow.runview import Picture, RunNotFound, RunView
from eventflow.settings import open_log
from eventflow.states import State, TaskError
from eventflow.tasks import exponential, task, unmapped

if TYPE_CHECKING:
    from eventflow.logs.sqlite import SQLiteLog

__all__ = [
    "BuildError",
    "Flow",
    "FlowChanged",
    "Fold",
    "MemoryLog",
    "NoResult",
    "NoValue",
    "NodeIsNotAValue",
    "Parameter",
    "ParameterError",
    "ParametersDiffer",
    "Picture",
    "Projection",
    "Result",
    "ResultNotLoaded",
    "ResultSerializer",
    "RunNotFinished",
    "RunNotFound",
    "RunView",
    "Runs",
    "SQLiteLog",
    "SerializationError",
    "Skip",
    "State",
    "TaskError",
    "Timeline",
    "context",
    "exponential",
    "flow",
    "follow",
    "inputs",
    "nothing",
    "open_log",
    "parameters",
    "replay",
    "state_of",
    "task",
    "unmapped",
]


def __getattr__(name: str) -> Any:
    """`SQLiteLog` and `__version__`, looked up when they are asked for: both take longer than all the rest."""
    if name == "SQLiteLog":
        from eventflow.logs.sqlite import SQLiteLog  # noqa: PLC0415

        return SQLiteLog
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("eventflow")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
