"""What a function takes and gives: parameters in order, their declared types, and a quick binder.

`inspect.Signature.bind` costs more than the rest of building a node, so arguments are matched by hand; the
rules are Python's, the messages name the task or flow.  Arguments are recorded by name, which is why a
function that takes `*args`, `**kwargs` or positional-only parameters cannot be used.

Types are resolved when the function is decorated, with the names its author can see there, and those that
are not defined yet once more at first use.  What cannot be resolved then is `Any`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from eventflow.suggestions import did_you_mean

__all__ = ["Signature", "in_class", "type_text", "unaliased"]

_Empty: Final = inspect.Parameter.empty
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Signature:
    """Parameters and types of one function. `TypeError` for a function whose arguments have no names."""

    __slots__ = ("_fn", "_hints", "_known", "_open", "defaults", "label", "names", "positional", "required")

    label: str
    """Whose signature it is, for messages: `task 'fetch'`."""
    names: tuple[str, ...]
    """Every parameter, in order."""
    positional: int
    """How many of them may be given by position; the rest are keyword-only."""
    required: tuple[str, ...]
    defaults: Mapping[str, Any]

    def __init__(self, label: str, fn: Callable[..., Any], visible: Mapping[str, Any] | None = None) -> None:
        """Read the signature of `fn`; `visible` are the local names where it was written."""
        parameters = list(inspect.signature(fn).parameters.values())
        for p in parameters:
            if p.kind not in _BY_NAME:
                raise TypeError(_unnameable(label, p))
        self.label = label
        self.names = tuple(p.name for p in parameters)
        self.positional = sum(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)
        self.defaults = {p.name: p.default for p in parameters if p.default is not _Empty}
        self.required = tuple(name for name in self.names if name not in self.defaults)
        self._fn = inspect.unwrap(fn)
        self._known = frozenset(self.names)
        self._hints: dict[str, Any] = {}
        self._open = {k: v for k, v in self._fn.__annotations__.items() if k == "return" or k in self._known}
        self._resolve(visible)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Name every argument, in the order of declaration; defaults are left out.

        Raises `TypeError` for one that is missing, unknown, given twice, or one too many.
        """
        if len(args) > self.positional:
            raise TypeError(self._too_many(len(args)))
        bound = dict(zip(self.names, args, strict=False))
        if kwargs:
            for name, value in kwargs.items():
                if name in bound:
                    raise TypeError(f"{self.label} got argument {name!r} twice: by position and by name")
                if name not in self._known:
                    raise TypeError(f"{self.label} has no parameter {name!r}{did_you_mean(name, self.names)}")
                bound[name] = value
            bound = {name: bound[name] for name in self.names if name in bound}
        if len(bound) < len(self.names):
            missing = [name for name in self.required if name not in bound]
            if missing:
                raise TypeError(f"{self.label} misses {_arguments(missing)}: it takes ({self})")
        return bound

    def type_of(self, name: str) -> Any:
        """The declared type of a parameter, or of `return`; Any when there is none."""
        if self._open:
            self._resolve(None)
        return unaliased(self._hints.get(name, Any))

    def unresolved(self, name: str) -> str | None:
        """The annotation of a parameter that names something which cannot be found, as written."""
        return str(self._open[name]) if name in self._open else None

    def __str__(self) -> str:
        shown = [name if name in self.required else f"{name}=…" for name in self.names]
        if self.positional < len(shown):
            shown.insert(self.positional, "*")
        return ", ".join(shown)

    def _resolve(self, visible: Mapping[str, Any] | None) -> None:
        """Evaluate the annotations that are still open, one by one, so that one riddle leaves the others."""
        scope = getattr(self._fn, "__globals__", {})
        for name, annotation in list(self._open.items()):
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                found = get_type_hints(holder, scope, visible, include_extras=True)[name]
            except Exception:  # noqa: BLE001, S112 - any expression may stand in an annotation
                continue
            self._hints[name] = found
            del self._open[name]

    def _too_many(self, given: int) -> str:
        limit = f"{self.positional} positional argument{'' if self.positional == 1 else 's'}"
        return f"{self.label} takes {limit} ({self}), but {given} were given"


def unaliased(declared: Any) -> Any:
    """The type that an alias made by a `type` statement (PEP 695) stands for; any other type is given back.

    An alias whose definition cannot be evaluated is given back too. Aliases inside the type stay.
    """
    alias = get_origin(declared) or declared
    while type(alias).__name__ == "TypeAliasType":  # of typing, or of typing_extensions before 3.12
        try:
            value = alias.__value__
            if get_origin(declared) is alias:
                given = dict(zip(alias.__type_params__, get_args(declared), strict=True))
                value = value[tuple(given[parameter] for parameter in value.__parameters__)]
        except Exception:  # noqa: BLE001 - any expression may stand in an alias
            return declared
        declared = value
        alias = get_origin(declared) or declared
    return declared


def in_class(fn: types.FunctionType) -> bool:
    """Whether a function was written in a class, as a method that is given its object or class."""
    nested = "." in fn.__qualname__.rpartition("<locals>.")[2]
    return nested and fn.__code__.co_varnames[:1] in (("self",), ("cls",))


_SHORT: Final = ((Any, "Any"), (None, "None"), (types.NoneType, "None"), (..., "..."))


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
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if origin is not None:
        name = getattr(origin, "__qualname__", None) or str(origin).rpartition(".")[2]
        shown = map(repr, args) if name == "Literal" else map(type_text, args)
        return f"{name}[{', '.join(shown) or '()'}]"
    return getattr(declared, "__qualname__", None) or str(declared).rpartition(".")[2]


def _arguments(names: list[str]) -> str:
    return f"argument{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _unnameable(label: str, parameter: inspect.Parameter) -> str:
    name = parameter.name
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL:
            what, fix = f"*{name}", f"take one list instead: `{name}: list[...]`"
        case inspect.Parameter.VAR_KEYWORD:
            what, fix = f"**{name}", f"take one dict instead: `{name}: dict[str, ...]`"
        case _:
            what, fix = f"the positional-only parameter {name!r}", "remove the `/` from its signature"
    return f"{label} takes {what}, but arguments are recorded by name: {fix}"
