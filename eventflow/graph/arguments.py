"""Where the arguments of a task come from: constants, nodes, and parts of their values.

`node[key]`, unpacked tuples, and lists, tuples and dicts of nodes are *expressions* inside a task's inputs, not
nodes: they cost no event, and a value is stored once, under the task that produced it.

    Arg   = Const | Ref | ListOf | TupleOf | DictOf
    Ref   = a node, and a path of subscripts into its value
    each  = this input is mapped over: one element per child

The leaves of an input (`Ref`s, left to right) are what `TaskStarted.inputs` lists sources for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from eventflow.result import Payload

__all__ = [
    "Arg",
    "Const",
    "DictOf",
    "Input",
    "ListOf",
    "Ref",
    "Subscript",
    "TupleOf",
    "consts",
    "refs",
]

Subscript: TypeAlias = int | str
"""An index or key of `node[…]`."""


class Const(msgspec.Struct, frozen=True, array_like=True, tag="const", gc=False):
    """A value that was known when the flow was built, serialized."""

    value: Payload
    """`Inline` in every graph of this version; a reader raises `ResultNotLoaded` for any other."""


class Ref(msgspec.Struct, frozen=True, array_like=True, tag="ref", gc=False):
    """The value of a node, or the part of it under `path`."""

    node: int
    path: tuple[Subscript, ...] = ()


class ListOf(msgspec.Struct, frozen=True, array_like=True, tag="list"):
    """A list with nodes in it."""

    items: tuple[Arg, ...]


class TupleOf(msgspec.Struct, frozen=True, array_like=True, tag="tuple"):
    """A tuple with nodes in it."""

    items: tuple[Arg, ...]


class DictOf(msgspec.Struct, frozen=True, array_like=True, tag="dict"):
    """A dict with nodes among its values; order is kept."""

    keys: tuple[Subscript, ...]
    items: tuple[Arg, ...]


Arg: TypeAlias = Const | Ref | ListOf | TupleOf | DictOf


class Input(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One argument of a task: its name, where it comes from, and whether it is mapped over."""

    name: str
    arg: Arg
    each: bool = False


def refs(arg: Arg) -> Iterator[Ref]:
    """Yield the leaves of an argument, left to right."""
    if isinstance(arg, Ref):
        yield arg
    elif not isinstance(arg, Const):
        for item in arg.items:
            yield from refs(item)


def consts(arg: Arg) -> Iterator[Const]:
    """Yield the constants in an argument, left to right."""
    if isinstance(arg, Const):
        yield arg
    elif not isinstance(arg, Ref):
        for item in arg.items:
            yield from consts(item)
