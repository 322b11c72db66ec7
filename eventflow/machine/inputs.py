"""The inputs of a task in one run: the addresses of their values, and the arguments made of them.

`sources` gives the address of each leaf. `bind` rebuilds the arguments from one object for each leaf: a value for a body, a
Result for `cached_inputs`. Both walk the inputs in the same order, so the sources in a `TaskStarted` and the leaves of the
graph always pair up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, assert_never

from eventflow.events import Source
from eventflow.graph import Arg, Const, DictOf, Input, ListOf, Ref, Subscript, TupleOf
from eventflow.machine.plan import Plan
from eventflow.machine.state import RunState, Status

__all__ = ["Leaf", "bind", "causes", "leaf_of", "leaves", "sources", "width_max"]


class Leaf:
    """One value that a task takes: a slot of the run, and a path into the value of that slot."""

    __slots__ = ("children", "is_element", "label", "path", "slot")

    def __init__(
        self, label: str, slot: int, path: tuple[Subscript, ...] = (), children: range | None = None
    ) -> None:
        self.label = label
        """The name of the argument, and the position of the leaf in it: `orders`, `orders[2]`."""
        self.slot = slot
        self.path = path
        self.children = children
        """The slots of the children, for a mapped upstream that is taken whole."""
        self.is_element = False
        """Whether the path ends with the position of an element that is mapped over, instead of a key."""

    @property
    def slots(self) -> Sequence[int]:
        """The slots that hold the values."""
        if self.children is None:
            return (self.slot,)
        return self.children


def sources(plan: Plan, run: RunState, slot: int) -> tuple[Source, ...]:
    """Return the address of each value that a task takes, in the order of its leaves."""
    if slot < len(plan.plain):
        upstreams = plan.plain[slot]
        if upstreams is not None:
            source = run.source
            return tuple([source[up] if type(up) is int else up for up in upstreams])
    return tuple([_source(plan, run, leaf) for leaf in leaves(plan, run, slot)])


def _source(plan: Plan, run: RunState, leaf: Leaf) -> Source:
    slot, path = leaf.slot, leaf.path
    version = run.source[slot]
    if slot in plan.parameters:
        return (version, plan.parameters[slot].name, *path)
    if path:
        return (version, *path)
    return version


def leaves(plan: Plan, run: RunState, slot: int) -> Iterator[Leaf]:
    """Yield the leaves of a task's inputs. A child of a map takes only its own element of each mapped input."""
    nth = _position(run, slot)
    for item in plan.tasks[run.node(slot)].inputs:
        part = _element(run, item, nth) if item.each and nth >= 0 else item.arg
        if isinstance(part, Leaf):
            yield part
        else:
            yield from _leaves(run, item.name, part)


def _position(run: RunState, slot: int) -> int:
    """Return the position of a child in its map; -1 for a node."""
    parent = run.parent[slot]
    if parent < 0:
        return -1
    return slot - run.maps[parent].base


def _leaves(run: RunState, label: str, arg: Arg) -> Iterator[Leaf]:
    match arg:
        case Ref():
            yield leaf_of(run, label, arg)
        case Const():
            return
        case DictOf(keys=keys, items=items):
            for key, part in zip(keys, items, strict=True):
                yield from _leaves(run, f"{label}[{key!r}]", part)
        case ListOf(items=items) | TupleOf(items=items):
            for nth, part in enumerate(items):
                yield from _leaves(run, f"{label}[{nth}]", part)
        case _:
            assert_never(arg)


def leaf_of(run: RunState, label: str, ref: Ref) -> Leaf:
    """Return the leaf of a reference: one slot, or all children of a mapped task."""
    up, path = ref.node, ref.path
    children = run.maps.get(up)
    if children is None:
        return Leaf(label, up, path)
    if path and isinstance(path[0], int) and -children.width <= path[0] < children.width:
        return Leaf(label, children.base + path[0] % children.width, path[1:])
    return Leaf(label, up, path, range(children.base, children.base + children.width))


def _element(run: RunState, item: Input, nth: int) -> Leaf | Arg:
    """Return element `nth` of an input that is mapped over: a leaf of one value, or an argument of a written list."""
    match item.arg:
        case Ref(node=up, path=path):
            leaf = leaf_of(run, item.name, Ref(up, (*path, nth)))
            leaf.is_element = bool(leaf.path)  # without a path the leaf is already the child at that position
            return leaf
        case ListOf(items=items) | TupleOf(items=items):
            return items[nth]
        case Const() | DictOf():
            raise AssertionError(f"{item.arg!r} is never mapped over: no graph can have it")
        case _:
            assert_never(item.arg)


def causes(plan: Plan, run: RunState, slots: Iterable[int]) -> list[int]:
    """Return the tasks that failed by themselves and thereby made `slots` fail, in the order in which they failed.

    Follows a map to its failed children, and a task whose trigger refused to its failed upstreams.
    """
    roots: list[int] = []
    seen: set[int] = set()
    todo = [slot for slot in slots if run.ends(slot)[0]]
    while todo:
        slot = todo.pop()
        if slot in seen:
            continue
        seen.add(slot)
        failed = [up for up in _may_have_failed(plan, run, slot) if run.ends(up)[0]]
        if failed:
            todo += failed
        else:
            roots.append(slot)
    return sorted(roots, key=lambda slot: run.source[slot])


def _may_have_failed(plan: Plan, run: RunState, slot: int) -> Sequence[int]:
    """Return the tasks of which a failed one explains the failure of a task."""
    if run.status[slot] == Status.MAPPED:
        children = run.maps[slot]
        return range(children.base, children.base + children.width)
    if run.status[slot] != Status.BLOCKED:
        return ()
    inputs = [leaf.slot for leaf in leaves(plan, run, slot)]
    if any(run.ends(up)[0] for up in inputs):
        return inputs
    return plan.upstreams[run.node(slot)]


def width_max(plan: Plan, run: RunState, slot: int) -> int | None:
    """Return how many children a mapped task can have, as far as this is known without opening a value.

    None if there is no limit, -1 if a map that it follows child by child has no children yet.
    """
    limits = [
        len(item.arg.items)
        for item in plan.tasks[slot].inputs
        if item.each and isinstance(item.arg, ListOf | TupleOf)
    ]
    for up in plan.followed.get(slot, ()):
        children = run.maps.get(up)
        limits.append(-1 if children is None else children.width)
    return min(limits, default=None)


def bind(
    plan: Plan,
    run: RunState,
    slot: int,
    take: Callable[[Leaf], Any],
    constant: Callable[[str, tuple[Subscript, ...], Const], Any],
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """Rebuild the arguments of a task, by name; all of them, or those in `only`.

    `take` returns the object for a leaf. `constant` returns the object for a constant, by the name of the argument, the
    path in it, and the constant.
    """
    nth = _position(run, slot)
    build = _Binding(run, take, constant).build
    arguments = {}
    for item in plan.tasks[run.node(slot)].inputs:
        if only is not None and item.name not in only:
            continue
        part = _element(run, item, nth) if item.each and nth >= 0 else item.arg
        arguments[item.name] = take(part) if isinstance(part, Leaf) else build(item.name, (), part)
    return arguments


class _Binding:
    """Rebuild arguments. A class, since nested functions that call themselves would be a reference cycle."""

    __slots__ = ("_constant", "_run", "_take")

    def __init__(
        self,
        run: RunState,
        take: Callable[[Leaf], Any],
        constant: Callable[[str, tuple[Subscript, ...], Const], Any],
    ) -> None:
        self._run = run
        self._take = take
        self._constant = constant

    def build(self, name: str, path: tuple[Subscript, ...], arg: Arg) -> Any:
        build = self.build
        match arg:
            case Ref():
                return self._take(leaf_of(self._run, name, arg))
            case Const():
                return self._constant(name, path, arg)
            case ListOf(items=items):
                return [build(name, (*path, i), part) for i, part in enumerate(items)]
            case TupleOf(items=items):
                return tuple([build(name, (*path, i), part) for i, part in enumerate(items)])
            case DictOf(keys=keys, items=items):
                pairs = zip(keys, items, strict=True)
                return {key: build(name, (*path, key), part) for key, part in pairs}
            case _:
                assert_never(arg)
