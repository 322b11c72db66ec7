"""The parameters of a flow: their types, their defaults, and the values that a run gives them.

Values are converted to the declared type before anything runs, by msgspec's rules (a dict becomes a
dataclass, `"2026-11-22"` a date, 3 a 3.0, but "3" no number); instances of a declared class are taken as they
are.  What comes out is what is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, EnumMeta
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin
from uuid import UUID

import msgspec

from eventflow.authoring.callables import type_text
from eventflow.authoring.nodes import BuildError
from eventflow.suggestions import did_you_mean

__all__ = ["FlowParameter", "ParameterError", "bind", "from_text"]


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

        An instance of a declared class is taken as it is. `TypeError` for a type that cannot be checked.
        """
        return _convert(self.type, value)

    def checked(self, flow: str) -> FlowParameter:
        """Itself with its default converted; `BuildError` if type and default cannot serve."""
        what = f"in flow {flow!r}, parameter {self.name!r}"
        try:
            self.convert(None)
        except msgspec.ValidationError:
            pass  # that None is no value of the type proves that the type can be checked
        except RecursionError:
            raise BuildError(
                f"{what} has type {type_text(self.type)}, an alias that contains itself, which cannot be checked: "
                "make it a class"
            ) from None
        except TypeError as error:
            raise BuildError(
                f"{what} has type {type_text(self.type)}, which cannot be checked: {error}"
            ) from None
        if self.required:
            return self
        try:
            return msgspec.structs.replace(self, default=self.convert(self.default))
        except msgspec.ValidationError as error:
            raise BuildError(
                f"{what} is declared as {type_text(self.type)}, but its default is "
                f"{_shown(self.default)}: {error}"
            ) from None


def bind(
    flow: str,
    parameters: Mapping[str, FlowParameter],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    only_given: bool = False,
) -> dict[str, Any]:
    """Give every parameter its converted value, in the order of declaration; with `only_given` those given.

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
            raise ParameterError(f"flow {flow!r} has no parameter {name!r}{did_you_mean(name, parameters)}")
        given[name] = value
    return {
        name: _value(flow, parameter, given)
        for name, parameter in parameters.items()
        if name in given or not only_given
    }


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
            f"flow {flow!r}: parameter {name!r} is declared as {expected}, but got {_shown(value)} "
            f"({type_text(type(value))}): {error}"
        ) from None


def _shown(value: Any) -> str:
    """A value for a message, however large, and whatever its class does for `repr`."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - code of the value's own
        return f"<{type(value).__qualname__}, which has no repr>"


_STRICT: Final = frozenset(
    {bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, NoneType}
    | {date, datetime, time, timedelta, Decimal, UUID}
)
"""Classes for which `isinstance` says too little: True is no int here, and a datetime no date."""


def _convert(declared: Any, value: Any) -> Any:
    """The value in a declared type, whole or one of a union; raises `msgspec.ValidationError`.

    `TypeError` for a type that cannot be checked.
    """
    if declared is Any:
        return value
    if get_origin(declared) is Annotated and _only_instances(get_args(declared)[0]):
        declared = get_args(declared)[0]
    parts = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
    if any(_is_instance(part, value) for part in parts):
        return value
    makes = tuple(part for part in parts if not _only_instances(part))
    if not makes:
        return _instance(declared, value)
    return msgspec.convert(value, declared if makes == parts else Union[makes], dec_hook=_instance)  # noqa: UP007


def _is_instance(declared: Any, value: Any) -> bool:
    if not isinstance(declared, type) or declared in _STRICT:
        return False
    try:
        return isinstance(value, declared)
    except TypeError:  # a TypedDict, a protocol that is not checked at run time
        return False


def _only_instances(declared: Any) -> bool:
    """Whether msgspec can make no value of the type, so that nothing but its instances will do."""
    asked: list[Any] = []
    try:
        msgspec.convert(None, declared, dec_hook=lambda kind, _: asked.append(kind))
    except msgspec.ValidationError:
        pass
    except TypeError:  # an enum whose values are neither all text nor all whole numbers, or a bare protocol
        return bool(asked) or isinstance(declared, EnumMeta)
    return bool(asked)


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


# -- from a shell ---------------------------------------------------------------------------------


def from_text(parameter: FlowParameter, text: str, *, as_json: bool = False) -> Any:
    """The value that text stands for, in the declared type; raises `ValueError` with the reason.

    It is the text itself where the type takes it as such (`str`, `str | None`, paths, enums by value or else by
    name, dates, UUID, Decimal), and JSON where it does not. Where it takes both, as `int | str` and `Any` do, a
    number, a list or the like is what it looks like. With `as_json` it is JSON and nothing else.
    """
    said: Any = None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        if as_json:
            raise ValueError(f"it is no JSON: {error}") from None
        return _lenient(parameter.type, text)
    if as_json or parameter.type in (Any, object):
        return _lenient(parameter.type, said)
    try:
        taken = _lenient(parameter.type, text)
    except msgspec.ValidationError as refused:
        try:
            return _lenient(parameter.type, said)
        except msgspec.ValidationError:
            if str(refused).startswith("Expected"):  # no text at all is wanted
                raise
            raise refused from None
    if type(taken) is not str or isinstance(said, str | None):
        return taken
    try:
        return _lenient(parameter.type, said)
    except msgspec.ValidationError:
        return taken


def _lenient(declared: Any, value: Any) -> Any:
    """As `_convert`, with paths of text, and enums by their names too."""
    try:
        return _convert(declared, value)
    except msgspec.ValidationError as refused:
        parts = get_args(declared) if get_origin(declared) in (Union, UnionType) else (declared,)
        for part in parts:
            if isinstance(part, type) and issubclass(part, Enum):
                if value in part.__members__:
                    return part[value]
                refused = msgspec.ValidationError(f"{refused}; its names are {', '.join(part.__members__)}")
        try:
            return msgspec.convert(value, declared, dec_hook=_path)
        except (msgspec.ValidationError, TypeError) as second:
            told = second if str(second).startswith(_NO_PATH) else refused
            raise told from None


_NO_PATH: Final = "An empty path"


def _path(declared: Any, value: Any) -> Any:
    if isinstance(value, str) and isinstance(declared, type) and issubclass(declared, PurePath):
        if not value:
            raise msgspec.ValidationError(f"{_NO_PATH}; write . for the current folder")
        return declared(value)
    return _instance(declared, value)
