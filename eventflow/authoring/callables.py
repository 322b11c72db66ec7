"""The signature of a function: its parameters in order, and their declared types.

Arguments are recorded by name.  So a function that takes `*args`, `**kwargs` or positional-only parameters is refused.

Types are resolved when the function is decorated, with the names that its author can see there.  Names that are not
defined yet are resolved at first use.  If that fails, too, the type is `Any`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, get_args, get_origin, get_type_hints

from eventflow.runs.argument_names import ArgumentNames

__all__ = ["Signature", "in_class", "unaliased"]

_Empty: Final = inspect.Parameter.empty
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature(ArgumentNames):
    """Parameters and types of one function. `TypeError` for a function whose arguments have no names."""

    __slots__ = ("_fn", "_hints", "_open", "defaults")

    defaults: Mapping[str, Any]

    def __init__(self, label: str, fn: Callable[..., Any], visible: Mapping[str, Any] | None = None) -> None:
        """Read the signature of `fn`; `visible` are the local names where it was written."""
        parameters = list(inspect.signature(fn).parameters.values())
        for p in parameters:
            if p.kind not in _BY_NAME:
                raise TypeError(_unnameable(label, p))
        names = tuple(p.name for p in parameters)
        positional = sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
        self.defaults = {p.name: p.default for p in parameters if p.default is not _Empty}
        required = tuple(name for name in names if name not in self.defaults)
        super().__init__(label, "argument", names, positional, required)
        self._fn = inspect.unwrap(fn)
        self._hints: dict[str, Any] = {}
        self._open = {k: v for k, v in self._fn.__annotations__.items() if k == "return" or k in names}
        self._resolve(visible)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return every given argument by its name, in the order of declaration. Defaults are left out.

        Raises `TypeError` for an argument that is missing, unknown, given twice, or one too many.
        """
        given = self.match(args, kwargs)
        if len(given) < len(self.names):
            missing = [name for name in self.required if name not in given]
            if missing:
                raise TypeError(f"{self.label} misses {_arguments(missing)}: it takes ({self})")
        return given

    def type_of(self, name: str) -> Any:
        """Return the declared type of a parameter, or of `return`; Any if there is none."""
        if self._open:
            self._resolve(None)
        return unaliased(self._hints.get(name, Any))

    def unresolved(self, name: str) -> str | None:
        """Return the annotation of a parameter, as written, if a name in it cannot be found; else None."""
        if name not in self._open:
            return None
        return str(self._open[name])

    def _resolve(self, visible: Mapping[str, Any] | None) -> None:
        """Evaluate the annotations that are still open, one by one: one that fails does not affect the others."""
        scope = getattr(self._fn, "__globals__", {})
        for name, annotation in list(self._open.items()):
            try:
                self._hints[name] = _evaluated(annotation, scope, visible)
            except Exception:  # noqa: BLE001, S112 - an annotation is any expression
                continue
            del self._open[name]


def _evaluated(annotation: Any, scope: dict[str, Any], visible: Mapping[str, Any] | None) -> Any:
    """The type that an annotation means; raises as the annotation does."""
    if isinstance(annotation, str):
        annotation = eval(_compiled(annotation), scope, visible)  # noqa: S307 - written by the function's author
    if type(annotation) is type:
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(holder, scope, visible, include_extras=True)["it"]


@lru_cache(maxsize=1024)
def _compiled(annotation: str) -> types.CodeType:
    """The code of an annotation: functions made in a loop repeat theirs, and compiling costs more than all else."""
    return compile(annotation, "<annotation>", "eval", dont_inherit=True)


def unaliased(declared: Any) -> Any:
    """Return the type behind an alias that a `type` statement made (PEP 695); any other type is returned unchanged.

    So is an alias whose definition cannot be evaluated. Aliases inside the type stay.
    """
    alias = get_origin(declared) or declared
    while type(alias).__name__ == "TypeAliasType":  # of typing, or of typing_extensions before 3.12
        try:
            value = alias.__value__
            if get_origin(declared) is alias:
                given = dict(zip(alias.__type_params__, get_args(declared), strict=True))
                value = value[tuple(given[parameter] for parameter in value.__parameters__)]
        except Exception:  # noqa: BLE001 - an alias is any expression
            return declared
        declared = value
        alias = get_origin(declared) or declared
    return declared


def in_class(fn: types.FunctionType) -> bool:
    """Whether a function was written in a class, as a method that takes its object or class."""
    nested = "." in fn.__qualname__.rpartition("<locals>.")[2]
    return nested and fn.__code__.co_varnames[:1] in (("self",), ("cls",))


def _arguments(names: list[str]) -> str:
    listed = ", ".join(map(repr, names))
    if len(names) == 1:
        return f"argument {listed}"
    return f"arguments {listed}"


def _unnameable(label: str, parameter: inspect.Parameter) -> str:
    name = parameter.name
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL:
            kind, fix = f"*{name}", f"take one list instead: `{name}: list[...]`"
        case inspect.Parameter.VAR_KEYWORD:
            kind, fix = f"**{name}", f"take one dict instead: `{name}: dict[str, ...]`"
        case _:
            kind, fix = f"the positional-only parameter {name!r}", "remove the `/` from its signature"
    return f"{label} takes {kind}, but arguments are recorded by name: {fix}"
