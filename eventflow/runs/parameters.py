"""The parameters of a flow: their types, their defaults, and the values that a run gives them.

Values are converted to the declared type before anything runs, by msgspec's rules: a dict becomes a dataclass,
`"2026-11-22"` a date, 3 a 3.0, but "3" is no number.  Instances of a declared class stay as they are.  The
converted values are recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, EnumMeta
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin
from uuid import UUID

import msgspec

__all__ = ["FlowParameter", "ParameterError", "from_text", "type_text"]


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
        """Convert a value to the declared type. An instance of a declared class stays as it is.

        Raises `msgspec.ValidationError` for a value of another type, `TypeError` for a type that cannot be checked.
        """
        return _convert(self.type, value)

    def checked(self) -> FlowParameter:
        """Return it with its default converted; raise `TypeError` if msgspec cannot check the type, or the default."""
        declared = type_text(self.type)
        try:
            self.convert(None)
        except msgspec.ValidationError:
            pass  # None is refused, so the type can be checked
        except RecursionError:
            raise TypeError(
                f"parameter {self.name!r} has type {declared}, an alias that contains itself, which cannot be checked: "
                "make it a class"
            ) from None
        except TypeError as error:
            raise TypeError(
                f"parameter {self.name!r} has type {declared}, which cannot be checked: {error}"
            ) from None
        if self.required:
            return self
        try:
            return msgspec.structs.replace(self, default=self.convert(self.default))
        except msgspec.ValidationError as error:
            raise TypeError(
                f"parameter {self.name!r} is declared as {declared}, but its default is "
                f"{_shown(self.default)}: {error}"
            ) from None

    def value(self, flow: str, given: Mapping[str, Any]) -> Any:
        """Return its value in a run: the given one, converted, or else a copy of the default.

        Raises `ParameterError` for a value that is missing or of another type.
        """
        if self.name not in given:
            if self.required:
                declared = type_text(self.type)
                raise ParameterError(
                    f"flow {flow!r} needs parameter {self.name!r} ({declared}): write {self.name}=..."
                )
            return deepcopy(self.default)  # a run may change its parameters
        value = given[self.name]
        try:
            return self.convert(value)
        except msgspec.ValidationError as error:
            declared = type_text(self.type)
            raise ParameterError(
                f"flow {flow!r}: parameter {self.name!r} is declared as {declared}, but got {_shown(value)} "
                f"({type_text(type(value))}): {error}"
            ) from None


_SHORT: Final = ((Any, "Any"), (None, "None"), (NoneType, "None"), (..., "..."))


def type_text(declared: Any) -> str:
    """A type as people write it, the same in every process and Python version."""
    if isinstance(declared, list):  # the arguments of a Callable
        return f"[{', '.join(map(type_text, declared))}]"
    for known, short in _SHORT:
        if declared is known:  # not a look-up: a type annotated with a list has no hash
            return short
    origin, args = get_origin(declared), get_args(declared)
    if origin is Annotated:
        return type_text(args[0])
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, args))
    if origin is not None:
        name = getattr(origin, "__qualname__", None) or str(origin).rpartition(".")[2]
        show: Callable[[Any], str] = repr if name == "Literal" else type_text
        return f"{name}[{', '.join(map(show, args)) or '()'}]"
    return getattr(declared, "__qualname__", None) or str(declared).rpartition(".")[2]


def _shown(value: Any) -> str:
    """A value for a message, shortened. A `repr` that raises does no harm."""
    try:
        return f"{value!r:.80}"
    except Exception:  # noqa: BLE001 - code of the value's own
        return f"<{type(value).__qualname__}, which has no repr>"


_STRICT: Final = frozenset(
    {bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict, set, frozenset, NoneType}
    | {date, datetime, time, timedelta, Decimal, UUID}
)
"""Classes for which `isinstance` says too little: True is no int here, and a datetime no date."""


_IMMUTABLE: Final = frozenset({bool, int, float, str, bytes, NoneType})
"""Classes whose instances msgspec returns as they are."""


def _convert(declared: Any, value: Any) -> Any:
    """Convert a value to a declared type, or to one type of a union.

    Raises `msgspec.ValidationError`, and `TypeError` for a type that cannot be checked.
    """
    if declared is Any or (type(value) is declared and declared in _IMMUTABLE):
        return value
    if get_origin(declared) is Annotated and _only_instances(get_args(declared)[0]):
        declared = get_args(declared)[0]
    parts = _parts(declared)
    if any(_is_instance(part, value) for part in parts):
        return value
    makes = tuple(part for part in parts if not _only_instances(part))
    if not makes:
        return _instance(declared, value)
    if makes != parts:
        declared = Union[makes]  # noqa: UP007
    return msgspec.convert(value, declared, dec_hook=_instance)


def _parts(declared: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    if get_origin(declared) in (Union, UnionType):
        return get_args(declared)
    return (declared,)


def _is_instance(declared: Any, value: Any) -> bool:
    if not isinstance(declared, type) or declared in _STRICT:
        return False
    try:
        return isinstance(value, declared)
    except TypeError:  # a TypedDict, a protocol that is not checked at run time
        return False


def _only_instances(declared: Any) -> bool:
    """Whether msgspec can make no value of the type, so that only an instance is accepted."""
    asked: list[Any] = []
    try:
        msgspec.convert(None, declared, dec_hook=lambda kind, _: asked.append(kind))
    except msgspec.ValidationError:
        pass
    except TypeError:  # an enum whose values are neither all text nor all whole numbers, or a bare protocol
        return bool(asked) or isinstance(declared, EnumMeta)
    return bool(asked)


def _instance(declared: type, value: Any) -> Any:
    """Check a value against a type that msgspec does not know: an instance stays as it is."""
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
    """Return the value of a parameter from the text of a command line; raises `ValueError` with the reason.

    The text itself is the value if the declared type takes text (`str`, `str | None`, paths, enums by value or else
    by name, dates, UUID, Decimal). If not, the text is JSON. If the type takes both, as `int | str` and `Any` do,
    text that reads as a number, list, object or bool is one. With `as_json` the text must be JSON.
    """
    parsed: Any = None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        if as_json:
            raise ValueError(f"it is no JSON: {error}") from None
        return _lenient(parameter.type, text)
    if as_json or parameter.type in (Any, object):
        return _lenient(parameter.type, parsed)
    try:
        converted = _lenient(parameter.type, text)
    except msgspec.ValidationError as refused:
        try:
            return _lenient(parameter.type, parsed)
        except msgspec.ValidationError:
            if str(refused).startswith("Expected"):  # no text at all is wanted
                raise
            raise refused from None
    if type(converted) is not str or isinstance(parsed, str | None):
        return converted
    try:
        return _lenient(parameter.type, parsed)
    except msgspec.ValidationError:
        return converted


def _lenient(declared: Any, value: Any) -> Any:
    """Convert as `_convert` does, and also text to paths, and names to members of enums."""
    try:
        return _convert(declared, value)
    except msgspec.ValidationError as refused:
        for part in _parts(declared):
            if isinstance(part, type) and issubclass(part, Enum):
                if value in part.__members__:
                    return part[value]
                refused = msgspec.ValidationError(f"{refused}; its names are {', '.join(part.__members__)}")
        try:
            return msgspec.convert(value, declared, dec_hook=_path)
        except (msgspec.ValidationError, TypeError) as second:
            if str(second).startswith(_NO_PATH):
                raise second from None
            raise refused from None


_NO_PATH: Final = "An empty path"


def _path(declared: Any, value: Any) -> Any:
    if isinstance(value, str) and isinstance(declared, type) and issubclass(declared, PurePath):
        if not value:
            raise msgspec.ValidationError(f"{_NO_PATH}; write . for the current folder")
        return declared(value)
    return _instance(declared, value)
