"""eventflow: an async, event-sourced workflow engine.

Write tasks, join them into a flow, and run the flow.  Each state transition is an immutable event in an
append-only log.  Everything else (states, cached inputs, retries, dashboards) is a fold of that log.

```python
from eventflow import flow, task

@task
def double(number: int) -> int:
    return 2 * number

@flow
def doubled(numbers: list[int]) -> list[int]:
    return double.map(numbers)

print(await doubled.value(numbers=[1, 2, 3]))
```
```text
[2, 4, 6]
```
"""

from types import FunctionType
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from eventflow.authoring.arguments import unmapped
from eventflow.authoring.flows import Flow, Parameter
from eventflow.authoring.nodes import BuildError, NodeIsNotAValue
from eventflow.authoring.option_values import exponential, inputs, nothing, parameters
from eventflow.authoring.options import TaskOptions
from eventflow.authoring.tasks import task
from eventflow.authoring.traced_flow import flow
from eventflow.fingerprints.type_defs import TypeChanged
from eventflow.logs.memory import MemoryLog
from eventflow.logs.open import open_log
from eventflow.logs.urls import InvalidLogURL
from eventflow.ports import (
    Conflict,
    LogClosed,
    LogForked,
    LogOfAnotherLoop,
    LogReplaced,
    LogUnusable,
    LogWriteFailed,
    OutcomeUnknown,
)
from eventflow.projections import (
    Fold,
    Projection,
    RunNotFound,
    Runs,
    RunStates,
    RunView,
    Timeline,
    follow,
    open_run,
    replay,
    run_report,
)
from eventflow.records import LogDamaged
from eventflow.result import (
    DeserializationError,
    KeyUnavailable,
    NoResult,
    PickleNotTrusted,
    Result,
    ResultError,
    ResultNotLoaded,
    ResultSerializer,
    SerializationError,
    UnknownEncoding,
    UnknownSerializer,
)
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.live_values import InputError
from eventflow.runner.ownership import RunAwaitsItself, UnknownEvents
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runner.request import RunOptions
from eventflow.runner.task_context import NoContext, Skip, context
from eventflow.runs.launch import Launch, NoValue, state_of
from eventflow.runs.parameters import ParameterError
from eventflow.runs.rerun import RunNotFinished
from eventflow.states import State, TaskError

if TYPE_CHECKING:
    from eventflow.logs.sqlite import SQLiteLog

__all__ = [
    "BuildError",
    "Conflict",
    "DeserializationError",
    "Flow",
    "FlowChanged",
    "Fold",
    "InputError",
    "InvalidLogURL",
    "KeyUnavailable",
    "Launch",
    "LogClosed",
    "LogDamaged",
    "LogForked",
    "LogOfAnotherLoop",
    "LogReplaced",
    "LogUnusable",
    "LogWriteFailed",
    "MemoryLog",
    "NoContext",
    "NoResult",
    "NoValue",
    "NodeIsNotAValue",
    "OutcomeUnknown",
    "Parameter",
    "ParameterError",
    "ParametersDiffer",
    "PickleNotTrusted",
    "Projection",
    "Result",
    "ResultError",
    "ResultNotLoaded",
    "ResultSerializer",
    "RunAwaitsItself",
    "RunNotFinished",
    "RunNotFound",
    "RunOptions",
    "RunStates",
    "RunView",
    "Runs",
    "SQLiteLog",
    "SerializationError",
    "Skip",
    "State",
    "TaskError",
    "TaskOptions",
    "Timeline",
    "TypeChanged",
    "UnknownEncoding",
    "UnknownEvents",
    "UnknownSerializer",
    "context",
    "exponential",
    "flow",
    "follow",
    "inputs",
    "nothing",
    "open_log",
    "open_run",
    "parameters",
    "replay",
    "run_report",
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


def _pin_names() -> None:
    """Set `__module__` of public classes and functions to `eventflow`.

    Pickles, failures and types in a log name classes by their modules, so a class may move to another file.
    A Struct keeps its own module, in which msgspec looks up the types of its fields; `State` is the only one.
    """
    for thing in map(globals().get, __all__):
        if isinstance(thing, FunctionType) or (isinstance(thing, type) and not issubclass(thing, Struct)):
            thing.__module__ = __name__


_pin_names()
