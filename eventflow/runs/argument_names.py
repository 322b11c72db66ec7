"""Match the arguments of a call to names: those of a task's function, or of a flow's parameters.

`inspect.Signature.bind` costs more than the rest of building a node, so arguments are matched here.  The rules are
Python's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventflow.runner.request import RunOptions
from eventflow.suggestions import did_you_mean

__all__ = ["ArgumentNames"]


class ArgumentNames:
    """The names that a call may give, in order; the first `positional` of them by position, too."""

    __slots__ = ("_known", "kind", "label", "names", "positional", "required")

    label: str
    """The callee, for messages: `task 'fetch'`."""
    kind: str
    """`argument` or `parameter`, for messages."""
    names: tuple[str, ...]
    positional: int
    required: tuple[str, ...]

    def __init__(
        self, label: str, kind: str, names: tuple[str, ...], positional: int, required: tuple[str, ...]
    ) -> None:
        self.label = label
        self.kind = kind
        self.names = names
        self.positional = positional
        self.required = required
        self._known = frozenset(names)

    def match(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return every given argument by its name, in the order of declaration.

        Raises `TypeError` for an argument that is unknown, given twice, or one too many.
        """
        if len(args) > self.positional:
            raise TypeError(self._too_many(len(args)))
        given = dict(zip(self.names, args, strict=False))
        if not kwargs:
            return given
        for name, value in kwargs.items():
            if name in given:
                raise TypeError(f"{self.label} got {self.kind} {name!r} twice: by position and by name")
            if name not in self._known:
                raise TypeError(f"{self.label} has no parameter {name!r}{self._hint(name)}")
            given[name] = value
        return {name: given[name] for name in self.names if name in given}

    def __str__(self) -> str:
        shown = [name if name in self.required else f"{name}=…" for name in self.names]
        if self.positional < len(shown):
            shown.insert(self.positional, "*")
        return ", ".join(shown)

    def _too_many(self, given: int) -> str:
        were_given = "1 was given" if given == 1 else f"{given} were given"
        if not self.names:
            return f"{self.label} takes no {self.kind}s, but {were_given}"
        limit = f"{self.positional} positional {self.kind}"
        if self.positional != 1:
            limit += "s"
        return f"{self.label} takes {limit} ({self}), but {were_given}"

    def _hint(self, name: str) -> str:
        if self.kind == "parameter" and name in RunOptions.__annotations__:
            return f"; options go into ….options({name}=...).run(...)"
        return did_you_mean(name, self.names)
