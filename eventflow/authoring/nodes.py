"""The nodes of a flow that is being built: placeholders for values.

A flow is written as if values existed already: `total(fetch(day))`.  In fact a call returns a `Node`, which only knows
where its value will come from.  A node can be passed on, indexed with `node[key]`, unpacked if its declared type has
a fixed length, compared with other nodes, and printed with `repr`.  All other operations need the value, and raise
`NodeIsNotAValue`.  These include `==`, `!=` and `in` with anything that is not a node: `if env == "prod"` would
otherwise take the wrong branch silently.

A node has no public attribute, so that every attribute of its value fails with the same clear message.  The table at
the end of this module lists all refused operations.
"""

from __future__ import annotations

import os
import sys
from collections import abc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import Annotated, Any, Final, NamedTuple, NoReturn, Protocol, Union, get_args, get_origin

import msgspec

from eventflow.authoring.callables import unaliased
from eventflow.graph import Ref, Subscript

__all__ = [
    "BuildError",
    "Node",
    "NodeIsNotAValue",
    "Owner",
    "declared_type",
    "element_type",
    "owner_of",
    "ref_of",
]


_STANDARD_LIBRARY: Final = (str(Path(os.__file__).parent), "<frozen")
_INSTALLED: Final = "site-packages"
_BOTTOMS: Final = frozenset({"asyncio", "concurrent", "threading", "runpy"})
"""Frames below these started a loop or a thread: they are not part of the flow."""


def _author_line() -> tuple[str, int] | None:
    """Return file and line of the innermost frame of the author's code: neither the engine's nor Python's.

    A file comes before code of packages, and before code without a file (which a dataclass makes, or a prompt).
    """
    second: tuple[str, int] | None = None
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - no other way to the caller's line at this price
    while frame is not None:
        module, file = frame.f_globals.get("__name__", ""), frame.f_code.co_filename
        root = module.partition(".")[0]
        if root in _BOTTOMS:
            break
        if root != "eventflow" or module.startswith("eventflow.demo"):
            if _INSTALLED in file or (file.startswith("<") and not file.startswith(_STANDARD_LIBRARY)):
                second = second or (file, frame.f_lineno)
            elif not file.startswith(_STANDARD_LIBRARY):
                return file, frame.f_lineno
        frame = frame.f_back
    return second


class BuildError(TypeError):
    """A flow cannot be built as it is written.

    The message names the task or flow, the fix, and the file and line in the author's code, which `location` has too.
    """

    location: tuple[str, int] | None
    """File and line; None if no code of an author led here."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.location = _author_line()

    def __str__(self) -> str:
        said = str(self.args[0])
        if self.location is None:
            return said
        file, line = self.location
        return f"{said} ({file}:{line})"


class NodeIsNotAValue(BuildError, AttributeError):
    """An operation on a node needs its value, which exists only while the flow runs."""


class Owner(Protocol):
    """The flow that a node belongs to, as far as a node must know it."""

    name: str

    def name_of(self, index: int) -> str:
        """The name of the flow's node with that index."""
        ...


# A Struct, because one is made for every call of a task: it costs a quarter of a plain class, and without
# `gc` the collector does not go through all nodes of a large flow again and again (nothing points back here).
class Node(msgspec.Struct, eq=False, gc=False):
    """A placeholder for one value of one flow. A node equals itself only; its hash is by identity."""

    _owner: Owner
    _ref: Ref
    _type: Any = Any

    def __repr__(self) -> str:
        return f"<node {_text(self)} of flow {self._owner.name!r}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            _refuse_comparison(self, "==", other)
        return self is other

    def __ne__(self, other: object) -> bool:
        if not isinstance(other, Node):
            _refuse_comparison(self, "!=", other)
        return self is not other

    __hash__ = object.__hash__

    def __dir__(self) -> list[str]:
        return []  # else Python would offer our fields as "did you mean"

    def __copy__(self) -> Node:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Node:
        return self

    def __getitem__(self, key: Subscript) -> Node:
        kind = type(key)
        if kind is not int and kind is not str:
            raise NodeIsNotAValue(_bad_key(self, key))
        try:
            msgspec.msgpack.encode(key)
        except (OverflowError, UnicodeEncodeError) as error:
            raise NodeIsNotAValue(f"{_what(self)} cannot be indexed with {key!r:.60}: {error}") from error
        length = _fixed_length(self._type)
        if length is not None and (kind is str or not -length <= int(key) < length):
            raise NodeIsNotAValue(
                f"{_what(self)} is declared as a tuple of {length}: it has no item [{key!r}]; "
                f"use a number from 0 to {length - 1}, or mend the return annotation"
            )
        ref = Ref(self._ref.node, (*self._ref.path, key))
        return Node(self._owner, ref, element_type(self._type, key))

    def __iter__(self) -> Iterator[Node]:
        length = _fixed_length(self._type)
        if length is None:
            _refuse(self, "iterating over it (`for`, `*`, unpacking)", _EACH)
        return (self[i] for i in range(length))

    def __getattr__(self, name: str) -> NoReturn:
        _refuse(self, f"`.{name}`", _ATTRIBUTE)


def owner_of(node: Node) -> Owner:
    """The flow that a node belongs to."""
    return node._owner  # noqa: SLF001 - the handle has no public attribute on purpose


def ref_of(node: Node) -> Ref:
    """Where the value of a node comes from."""
    return node._ref  # noqa: SLF001 - the handle has no public attribute on purpose


def declared_type(node: Node) -> Any:
    """Return the declared type of a node's value; Any if it is unknown."""
    return node._type  # noqa: SLF001 - the handle has no public attribute on purpose


def element_type(declared: Any, key: Subscript) -> Any:
    """Return the declared type of `value[key]`; Any if the declaration does not give it."""
    declared = _bare(declared)
    origin, args = get_origin(declared), get_args(declared)
    if origin in _MAPPINGS:
        return args[1]
    if isinstance(key, str):
        return Any
    length = _fixed_length(declared)
    if length is None:
        return args[0] if origin in _SEQUENCES else Any
    inside = args or list(declared.__annotations__.values())
    if not -length <= key < length == len(inside) or isinstance(inside[key], str):
        return Any
    return inside[key]


_MAPPINGS: Final = frozenset((dict, abc.Mapping, abc.MutableMapping))
_SEQUENCES: Final = frozenset((list, tuple, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable))


def _bare(declared: Any) -> Any:
    """The type without alias, metadata and `| None`."""
    declared = unaliased(declared)
    if get_origin(declared) is Annotated:
        return _bare(get_args(declared)[0])
    if get_origin(declared) in (Union, UnionType):
        some = [part for part in get_args(declared) if part is not NoneType]
        if len(some) == 1:
            return _bare(some[0])
    return declared


def _fixed_length(declared: Any) -> int | None:
    """How many items a value of that type has, if the type says so."""
    declared = _bare(declared)
    if get_origin(declared) is tuple:
        args = get_args(declared)
        if Ellipsis in args:
            return None
        return len(args)
    if isinstance(declared, type) and issubclass(declared, tuple) and hasattr(declared, "_fields"):
        return len(declared._fields)
    return None


def _text(node: Node) -> str:
    ref = ref_of(node)
    return owner_of(node).name_of(ref.node) + "".join(f"[{key!r}]" for key in ref.path)


def _what(node: Node) -> str:
    return f"{_text(node)!r}, a node of flow {owner_of(node).name!r},"


def _bad_key(node: Node, key: object) -> str:
    if isinstance(key, slice):
        tried, instead = "a slice", "Cut it in a task, or take single items: node[0]."
    elif isinstance(key, Node):
        tried, instead = f"node {_text(key)!r}", "Pass both to a task that does the look-up."
    else:
        tried, instead = f"the {type(key).__qualname__} {key!r:.60}", "Do the look-up in a task."
    return f"{_what(node)} is indexed by an int or a str that is known now, not by {tried}. {instead}"


def _refuse(node: Node, tried: str, instead: str) -> NoReturn:
    raise NodeIsNotAValue(
        f"{tried} needs the value of {_what(node)} which exists only when the flow runs. "
        f"{instead.replace('NODE', _text(node))}"
    )


def _refuse_comparison(node: Node, operator: str, other: object) -> NoReturn:
    """Refuse a comparison with anything but a node, and show the code to write instead."""
    tried = f"the comparison `{operator}` (or `in`) with"
    if other is None:
        _refuse(node, f"{tried} None", _IS_NONE)
    shown = brief(other)
    instead = _COMPARE.replace("OPERATOR", operator).replace("OTHER", shown)
    _refuse(node, f"{tried} the {type(other).__qualname__} {shown}", instead)


def brief(value: object) -> str:
    """The start of a value's `repr`, or its type if that raises."""
    try:
        return f"{value!r:.60}"
    except Exception:  # noqa: BLE001 - anything may be compared
        return f"<{type(value).__qualname__}>"


_COMPARE: Final = (
    "Compare in a task: `@task def check(value): return value OPERATOR OTHER`, then `check(NODE)`. To run other tasks "
    "depending on the answer, let the deciding task do the work of both branches, or raise Skip in the tasks of the "
    "branch that is not taken."
)
_IS_NONE: Final = (
    "To ask whether a node was given at all, write `NODE is None`; to compare its value, do so in a task."
)
_COMPUTE: Final = (
    "Put the computation into a task (`@task def compute(value): ...`) and write `compute(NODE)` here."
)
_DECIDE: Final = (
    "Put the decision into a task that takes the value: `@task def decide(value): ...`, then `decide(NODE)`. "
    "To ask whether two nodes are the same, use `is`; whether one was given at all, `is None`."
)
_EACH: Final = (
    "To run a task on each element, write `some_task.map(NODE)`; to reduce it, pass it whole: "
    "`some_task(NODE)`; for single elements use `NODE[0]` or `NODE['key']`, or annotate the task to return a "
    "tuple of fixed length (`-> tuple[int, str]`) and unpack that."
)
_ATTRIBUTE: Final = (
    "Read the attribute in a task that takes the value: `some_task(NODE)`. Items of a list, tuple or dict "
    "need no task: `NODE[0]`, `NODE['key']`."
)
_TEXT: Final = (
    "Make the text in a task: `@task def describe(value): return f'... {value}'`. To print the node itself, "
    "use `repr(node)` or `f'{node!r}'`."
)
_CHANGE: Final = "Values are not changed in place: let a task take NODE and return the new value."
_AWAIT: Final = (
    "A call of an async task already stands for its awaited value: leave out `await`, `async for` and "
    "`async with`, and pass NODE on."
)


class _Refused(NamedTuple):
    methods: str
    tried: str
    """The expression as a person wrote it; `{}` is the operator."""
    instead: str


_OPERATORS: Final = {
    "add": "+", "sub": "-", "mul": "*", "matmul": "@", "truediv": "/", "floordiv": "//", "mod": "%",
    "divmod": "divmod", "pow": "**", "lshift": "<<", "rshift": ">>", "and": "&", "xor": "^", "or": "|",
}  # fmt: skip
_REFUSED: Final = (
    *(_Refused(f"{op} r{op}", f"the operator `{symbol}`", _COMPUTE) for op, symbol in _OPERATORS.items()),
    *(
        _Refused(op, f"the comparison `{symbol}`", _DECIDE)
        for op, symbol in {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items()
    ),
    _Refused("bool", "asking whether it is true (`if`, `while`, `and`, `or`, `not`, `assert`)", _DECIDE),
    _Refused("contains", "`in`", _DECIDE),
    _Refused("len length_hint", "`len()`", _EACH),
    _Refused("reversed next", "iterating over it", _EACH),
    _Refused("str format", "turning it into text (`str()`, `print()`, `format()`, an f-string)", _TEXT),
    _Refused("bytes fspath", "turning it into bytes or a path", _COMPUTE),
    _Refused("int float complex index", "turning it into a number", _COMPUTE),
    _Refused("neg pos abs invert round trunc floor ceil", "arithmetic", _COMPUTE),
    _Refused("setattr delattr setitem delitem", "changing it", _CHANGE),
    _Refused("call", "calling it", _COMPUTE),
    _Refused("reduce_ex", "pickling it", "Hand it to a task as an argument: `some_task(NODE)`."),
    _Refused("await aiter anext aenter aexit", "awaiting it", _AWAIT),
    _Refused("enter exit", "entering it with `with`", _COMPUTE),
)


def _refusal(refused: _Refused) -> Callable[..., NoReturn]:
    def method(self: Node, *_: object, **__: object) -> NoReturn:
        _refuse(self, refused.tried, refused.instead)

    return method


for _row in _REFUSED:
    for _method in _row.methods.split():
        setattr(Node, f"__{_method}__", _refusal(_row))
