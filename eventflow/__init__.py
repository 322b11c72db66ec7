"""eventflow: an async, event-sourced workflow engine.

Write tasks, join them into a flow, and `await flow.run()`.  Each state transition is an immutable event
in an append-only log, and everything else (state, cached inputs, retries, dashboards) is a fold of it.
"""

from typing import TYPE_CHECKING, Any

from eventflow.authoring.cache_options import inputs, nothing, parameters
from eventflow.authoring.flows import Flow, Parameter, ParameterError, flow
from eventflow.authoring.nodes import BuildError, NodeIsNotAValue
from eventflow.authoring.tasks import exponential, task, unmapped
from eventflow.logs.memory import MemoryLog
from eventflow.logs.urls import open_log
from eventflow.projections import Fold, Projection, Runs, Timeline, follow, replay
from eventflow.result import NoResult, Result, ResultNotLoaded, ResultSerializer, SerializationError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runner.task_context import Skip, context
from eventflow.runs.launch import NoValue, RunNotFinished, state_of
from eventflow.states import State, TaskError
from eventflow.views.run import Picture, RunNotFound, RunView

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
