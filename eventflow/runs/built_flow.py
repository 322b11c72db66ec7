"""A flow once it is built, as a value: all that is needed to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from eventflow.graph import Graph, Ref
from eventflow.machine import Plan
from eventflow.ports import Bindings
from eventflow.result import Inline, ResultSerializer, SerializationError
from eventflow.runs.argument_names import ArgumentNames
from eventflow.runs.parameters import FlowParameter, ParameterError
from eventflow.serializers import Keyring, Serializer

__all__ = ["BuiltFlow"]


class BuiltFlow(msgspec.Struct, frozen=True, kw_only=True):
    """A flow's graph with its live parts."""

    name: str
    entry: str
    """Where its code can be loaded from: `module:qualname`, `file:qualname` of a script, or module or file of its block."""
    returns: bool
    """Whether the flow has a value: a function under `@flow` has, even if it returns nothing; a `with` block has not."""
    graph: Graph
    plan: Plan
    """Derived from the graph, once for all runs."""
    bindings: Bindings
    """The live side of every task, by the name of its `TaskDef`."""
    parameters: Mapping[str, FlowParameter]
    """By name, in order of declaration."""
    serializers: Mapping[str, ResultSerializer]
    """For each parameter, the serializer of its declared type."""
    locate: Callable[[object], Ref]
    """Return the node index and path of a node of this flow; raises `BuildError` for anything else."""

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that a caller gives, by name, and does not leave to the defaults.

        Raises `ParameterError` for a parameter that is unknown or given twice.
        """
        parameters = self.parameters.values()
        names = ArgumentNames(
            f"flow {self.name!r}",
            "parameter",
            tuple(self.parameters),
            sum(not parameter.keyword_only for parameter in parameters),
            tuple(parameter.name for parameter in parameters if parameter.required),
        )
        try:
            return names.match(args, kwargs)
        except TypeError as error:
            raise ParameterError(str(error)) from None

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of every parameter, converted to its declared type, in order of declaration.

        Raises `ParameterError` for a parameter that is unknown, missing, given twice, or of another type.
        """
        return self.convert(self.given(args, kwargs))

    def convert(self, given: Mapping[str, Any], *, only_given: bool = False) -> dict[str, Any]:
        """Return the value of every parameter, as `bind` does, from the values that a caller gives by name.

        With `only_given`, parameters that are not given are left out.
        """
        return {
            name: parameter.value(self.name, given)
            for name, parameter in self.parameters.items()
            if name in given or not only_given
        }

    def serializer(self, parameter: str, keyring: Keyring | None) -> ResultSerializer:
        """Return the serializer of a parameter, with a log's signing keys."""
        serializer = self.serializers[parameter]
        if isinstance(serializer, Serializer):
            return serializer.with_keyring(keyring)
        return serializer

    def serialize(self, parameter: str, value: Any, keyring: Keyring | None) -> Inline:
        """Serialize the value of a parameter; `SerializationError` names flow and parameter."""
        try:
            return self.serializer(parameter, keyring).serialize(value)
        except SerializationError as error:
            raise SerializationError(f"flow {self.name!r}, parameter {parameter!r}: {error}") from error
