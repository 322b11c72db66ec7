"""The parameters of a flow: their types, their defaults, and the values that a run gives them.

Values are converted to the declared type before anything runs, by msgspec's rules (a dict becomes a
dataclass, `"2026-11-22"` a date, 3 a 3.0, but "3" no number); instances of any other class are taken as they
are if `isinstance` holds.  What comes out is what is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, get_origin

import msgspec

from eventflow.nodes import BuildError
from eventflow.signatures import nearest, type_text

__all__ = ["FlowParameter", "ParameterError", "bind"]


class ParameterError(TypeError):
    """A run was given parameters that its flow does not take; nothing was started."""


class FlowParameter(msgspec.Struct, frozen=True):
    """One parameter of a flow."""

    name: str
    type: Any = Any
    default: Any = msgspec.UNSET
    """Already of the declared type; `msgspec.UNSET` when a value is required."""
    keyword_only: bool = False

    @property
    def required(self) -> bool:
        """Whether a run must give a value."""
        return self.default is msgspec.UNSET

    def convert(self, value: Any) -> Any:
        """The value in the declared type; raises `msgspec.ValidationError`.

        What msgspec would not convert is taken as it is if it is an instance of the declared class: a
        subclass, a flag, an enumeration of values that msgspec does not know.
        """
        if self.type is Any:
            return value
        is_class = isinstance(self.type, type) and self.type.__module__ != "builtins"  # True is no int here
        try:
            return msgspec.convert(value, self.type, dec_hook=_instance)
        except msgspec.ValidationError:
            if is_class and isinstance(value, self.type):
                return value
            raise
        except TypeError:  # msgspec does not know the class at all
            if not is_class:
                raise
            return _instance(self.type, value)

    def checked(self, flow: str) -> FlowParameter:
        """Itself with its default converted; `BuildError` if type and default cannot serve."""
        what = f"in flow {flow!r}, parameter {self.name!r}"
        try:
            msgspec.convert(None, self.type, dec_hook=_instance)
        except msgspec.ValidationError:
            pass  # that None is no value of the type proves that the type can be checked
        except TypeError as error:
            if isinstance(self.type, type):
                return self._with_default(what)  # to be judged by `isinstance` alone
            raise BuildError(
                f"{what} has type {type_text(self.type)}, which cannot be checked: {error}"
            ) from None
        return self._with_default(what)

    def _with_default(self, what: str) -> FlowParameter:
        if self.required:
            return self
        try:
            return msgspec.structs.replace(self, default=self.convert(self.default))
        except msgspec.ValidationError as error:
            raise BuildError(
                f"{what} is declared as {type_text(self.type)}, but its default is {self.default!r:.80}: {error}"
            ) from None


def bind(
    flow: str, parameters: Mapping[str, FlowParameter], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Give every parameter its converted value, in the order of declaration.

    Raises `ParameterError` for the first that is unknown, given twice, missing, or of another type.
    """
    places = [name for name, parameter in parameters.items() if not parameter.keyword_only]
    if len(args) > len(places):
        takes = f"takes {len(places)} by position ({', '.join(places) or 'none'})"
        raise ParameterError(f"flow {flow!r} {takes}, but {len(args)} were given")
    given = dict(zip(places, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            raise ParameterError(f"flow {flow!r} got parameter {name!r} twice: by position and by name")
        if name not in parameters:
            raise ParameterError(f"flow {flow!r} has no parameter {name!r}{nearest(name, list(parameters))}")
        given[name] = value
    return {name: _value(flow, parameter, given) for name, parameter in parameters.items()}


def _value(flow: str, parameter: FlowParameter, given: Mapping[str, Any]) -> Any:
    name, expected = parameter.name, type_text(parameter.type)
    if name not in given:
        if parameter.required:
            raise ParameterError(f"flow {flow!r} needs parameter {name!r} ({expected}): write {name}=...")
        return deepcopy(parameter.default)  # a run may change what it is given
    value = given[name]
    try:
        return parameter.convert(value)
    except msgspec.ValidationError as error:
        raise ParameterError(
            f"flow {flow!r}: parameter {name!r} is declared as {expected}, but got {value!r:.80} "
            f"({type_text(type(value))}): {error}"
        ) from None


def _instance(declared: type, value: Any) -> Any:
    """For types that msgspec leaves to us: an instance is taken as it is."""
    wanted = get_origin(declared) or declared
    try:
        fits = isinstance(value, wanted)
    except TypeError:  # a protocol that is not checked at run time
        return value
    if not fits:
        raise msgspec.ValidationError(f"Expected `{type_text(declared)}`, got `{type_text(type(value))}`")
    return value
