"""Turn the argument of a call into an expression of the graph.

    a node                                    Ref
    a list, tuple or dict with nodes in it    ListOf, TupleOf, DictOf
    anything else                             Const: serialized now, by the declared type, never pickled

A constant that cannot be kept is an error here, before anything runs.
"""

from __future__ import annotations

from functools import lru_cache
from types import NoneType
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_origin

import msgspec

from eventflow.authoring.callables import unaliased
from eventflow.authoring.nodes import BuildError, Node, Owner, declared_type, element_type, owner_of, ref_of
from eventflow.equality.pickle_parts import is_once
from eventflow.graph import Arg, Const, DictOf, ListOf, Ref, Subscript, TupleOf
from eventflow.result import Inline, ResultSerializer, SerializationError
from eventflow.serializers import Serializer, digest_of
from eventflow.serializers.faults import describe_fault
from eventflow.views.sequences import elements_of, refused, refused_type

__all__ = [
    "Location",
    "Unmapped",
    "argument",
    "constant",
    "each_argument",
    "own_ref",
    "quick",
    "serializer_for",
    "unmapped",
]

T = TypeVar("T")


class Unmapped(Generic[T]):
    """An argument of `.map` that every child gets as a whole; made by `unmapped`."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


def unmapped(value: T) -> Unmapped[T]:
    """Mark an argument of `.map` that is not mapped over: every child gets the whole of it.

    ```python
    from eventflow import MemoryLog, flow, task, unmapped

    @task
    def price(amount: int, rates: list[float]) -> float:
        return amount * sum(rates)

    @flow
    def prices() -> list[float]:
        return price.map([1, 2, 3], unmapped([0.5, 1.5]))

    print(await prices.options(log=MemoryLog()).value())
    ```

    ```text
    [2.0, 4.0, 6.0]
    ```
    """
    return Unmapped(value)


class Location(NamedTuple):
    """The use of a value in a flow, for messages."""

    flow: Owner
    text: str
    """`task 'total', argument 'orders'`."""

    def __str__(self) -> str:
        return f"in flow {self.flow.name!r}, {self.text}"


_CONTAINERS: Final = frozenset((list, tuple, dict))
_SCALARS: Final = frozenset((str, int, float, bool, bytes, NoneType))
_encode: Final = msgspec.msgpack.Encoder().encode


@lru_cache(maxsize=4096)
def _plain_constant(data: bytes) -> Const:
    """The constant with these bytes. Equal ones share it: a large flow repeats few values many times."""
    return Const(Inline("msgpack", data, digest_of(data)))


def quick(value: Any, flow: Owner) -> Arg | None:
    """Return the expression of a node of this flow or a small plain value; None for anything else.

    Nearly every argument is one of these, so they are tried before anything that takes longer.
    """
    kind = type(value)
    if kind is Node:
        if value._owner is not flow:  # noqa: SLF001
            return None
        ref: Ref = value._ref  # noqa: SLF001
        return ref
    if kind in _SCALARS:
        try:
            data = _encode(value)
        except (OverflowError, UnicodeEncodeError):
            return None  # beyond msgpack: the serializer has another way, or the error message
        return _plain_constant(data)
    return None


def argument(value: Any, declared: Any, location: Location) -> Arg:
    """Return the expression of an argument; `BuildError` for a value that cannot be part of the graph."""
    plain = quick(value, location.flow)
    if plain is not None:
        return plain
    if isinstance(value, Node):
        return own_ref(value, location)
    if isinstance(value, Unmapped):
        raise BuildError(f"{location}: unmapped() has a meaning only inside .map(); pass the value itself")
    if type(value) in _CONTAINERS and _holds_node(value):
        return _container(value, declared, location, ())
    return constant(value, declared, location)


def own_ref(node: Node, location: Location) -> Ref:
    """Return the reference of a node; `BuildError` if the node belongs to another flow."""
    if owner_of(node) is not location.flow:
        raise BuildError(
            f"{location}: {node!r} belongs to another flow; a node means something only in the flow in which it was "
            f"made: call the task here too, or make the value a Parameter"
        )
    return ref_of(node)


def each_argument(value: Any, declared: Any, location: Location) -> Arg:
    """Return the expression of an argument that is mapped over; `declared` is the type of one element."""
    if isinstance(value, Node):
        written = unaliased(declared_type(value))
        refusal = refused_type(get_origin(written) or written)
        if refusal is not None:
            problem = f"{value!r:.80} is {refusal.what}, which is not mapped over"
            raise _not_mapped(location, problem, f"{refusal.fix} in a task")
        return argument(value, declared, location)
    refusal = refused(value)
    if refusal is not None:
        problem = f"{refusal.what} is not mapped over ({value!r:.80})"
        if refused_type(type(value)) is not None:
            problem = f"{value!r:.80} is {refusal.what}, which is not mapped over"
        fix = refusal.fix
        if is_once(value):
            fix = "write list(...) around it"
        raise _not_mapped(location, problem, fix)
    parts = value
    if type(value) not in (list, tuple):
        parts = elements_of(value)
    # A constant for each element, so that no child opens the others.
    return ListOf(tuple([_part(part, i, declared, location) for i, part in enumerate(parts)]))


def _not_mapped(location: Location, problem: str, fix: str) -> BuildError:
    return BuildError(
        f"{location}: {problem}: {fix}; or wrap it in unmapped() to give it whole to every child"
    )


def constant(value: Any, declared: Any, location: Location) -> Const:
    """Serialize a constant by its declared type; `BuildError` if nothing can keep it."""
    try:
        payload = serializer_for(declared).serialize(value)
    except SerializationError as error:
        raise BuildError(f"{location}: {_why_not(value)}") from error
    return Const(payload)


@lru_cache(maxsize=512)
def _serializer_for(declared: Any) -> ResultSerializer:
    return Serializer(declared)


def serializer_for(declared: Any) -> ResultSerializer:
    """Return the serializer of a declared type. Tasks that declare one type share it."""
    try:
        return _serializer_for(declared)
    except TypeError:  # a type with unhashable metadata
        return Serializer(declared)


def _holds_node(container: Any) -> bool:
    """Whether a node is in nested lists, tuples and dicts. Each of them is visited once."""
    seen: set[int] = set()
    todo = [container]
    while todo:
        part = todo.pop()
        kind = type(part)
        if kind is Node:
            return True
        if kind in _CONTAINERS and id(part) not in seen:
            seen.add(id(part))
            if kind is dict:
                todo.extend(key for key in part if type(key) is Node)
                part = part.values()
            todo.extend(part)
    return False


def _part(value: Any, key: Subscript, declared: Any, location: Location) -> Arg:
    return quick(value, location.flow) or argument(
        value, declared, Location(location.flow, f"{location.text}[{key!r:.60}]")
    )


def _container(value: Any, declared: Any, location: Location, outer: tuple[int, ...]) -> Arg:
    """Turn a list, tuple or dict with nodes in it into an expression, item by item."""
    if id(value) in outer:
        raise BuildError(f"{location}: the {type(value).__name__} contains itself, which is a cycle")
    within = (*outer, id(value))

    def item(key: Subscript, part: Any) -> Arg:
        plain = quick(part, location.flow)
        if plain is not None:
            return plain
        inner = element_type(declared, key)
        if type(part) in _CONTAINERS and _holds_node(part):
            return _container(part, inner, Location(location.flow, f"{location.text}[{key!r:.60}]"), within)
        return _part(part, key, inner, location)

    if type(value) is not dict:
        items = tuple([item(i, part) for i, part in enumerate(value)])
        form = ListOf if type(value) is list else TupleOf
        return form(items)
    for key in value:
        if type(key) not in (str, int) or quick(key, location.flow) is None:
            raise BuildError(
                f"{location}: a dict with nodes in it has int or str keys, not {key!r:.80}; "
                f"pass a list of pairs and make the dict in the task"
            )
    return DictOf(tuple(value), tuple([item(key, part) for key, part in value.items()]))


def _why_not(value: Any) -> str:
    if _hides_node(value, set()):
        return (
            f"a {type(value).__qualname__} cannot hold a node, only lists, tuples and dicts can; pass the node "
            f"as an argument of its own, or build the {type(value).__qualname__} in a task"
        )
    if callable(value):
        return f"{value!r:.80} cannot be kept in a graph; if it is a task, call it to get its node"
    return (
        f"a constant is part of the graph, and nothing can keep {describe_fault(value)}; annotate the parameter "
        f"with a type that msgspec knows, or make the value in a task"
    )


def _hides_node(value: Any, seen: set[int]) -> bool:
    """Whether a node is inside something that cannot hold one."""
    if isinstance(value, Node):
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    else:
        slots = getattr(type(value), "__slots__", ())
        parts = [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]
    return any(_hides_node(part, seen) for part in parts)
