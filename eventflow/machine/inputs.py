"""Where a task's inputs come from, and how they are put together again.

`sources` gives the addresses, leaf by leaf; `bind` rebuilds the arguments from whatever stands for each
leaf (values for a body, Results for `cached_inputs`).  Both walk the inputs in the same order, so the
list of sources in a `TaskStarted` and the leaves of the graph always pair up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from eventflow.events import Source
from eventflow.graph import Arg, Const, DictOf, ListOf, Ref, Subscript, TupleOf
from eventflow.machine.plan import Plan
from eventflow.machine.state import RunState, Status

__all__ = ["Leaf", "bind", "causes", "leaf_of", "leaves", "sources", "width_max"]


class Leaf:
    """One place a task takes a value from: a slot of the run, and a path into its value."""

    __slots__ = ("children", "is_element", "label", "path", "slot")

    def __init__(
        self, label: str, slot: int, path: tuple[Subscript, ...] = (), children: range | None = None
    ) -> None:
        self.label = label
        """The argument's name, and where in it this leaf stands: `orders`, `orders[2]`."""
        self.slot = slot
        self.path = path
        self.children = children
        """Of a mapped upstream that is taken whole, the slots of its children."""
        self.is_element = False
        """Whether the path ends with the position of an element that is mapped over, and not with a key."""

    @property
    def slots(self) -> Sequence[int]:
        """Where the values are."""
        return (self.slot,) if self.children is None else self.children


def sources(plan: Plan, run: RunState, slot: int) -> tuple[Source, ...]:
    """The address of every value that the task in `slot` is given, in the order of its leaves."""
    if slot < len(plan.plain):
        simple = plan.plain[slot]
        if simple is not None:
            where = run.source
            return tuple([where[up] for up in simple])
    return tuple([_source(plan, run, leaf) for leaf in leaves(plan, run, slot)])


def _source(plan: Plan, run: RunState, leaf: Leaf) -> Source:
    slot, path = leaf.slot, leaf.path
    version = run.source[slot]
    if slot in plan.parameters:
        return (version, plan.parameters[slot].name, *path)
    return (version, *path) if path else version


def leaves(plan: Plan, run: RunState, slot: int) -> Iterator[Leaf]:
    """The leaves of a task's inputs; of a mapped child's, only those of its own elements."""
    parent = run.parent[slot]
    nth = -1 if parent < 0 else slot - run.maps[parent].base
    for item in plan.tasks[run.node(slot)].inputs:
        if item.each and nth >= 0:
            yield from _element(run, item.name, item.arg, nth)
        else:
            yield from _leaves(run, item.name, item.arg)


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


def leaf_of(run: RunState, label: str, ref: Ref) -> Leaf:
    """Where a reference leads in this run: to one slot, or to all children of a mapped task."""
    up, path = ref.node, ref.path
    children = run.maps.get(up)
    if children is None:
        return Leaf(label, up, path)
    if path and isinstance(path[0], int) and -children.width <= path[0] < children.width:
        return Leaf(label, children.base + path[0] % children.width, path[1:])
    return Leaf(label, up, path, range(children.base, children.base + children.width))


def _leaf_of_element(run: RunState, label: str, ref: Ref) -> Leaf:
    """Where the position at the end of a reference leads."""
    leaf = leaf_of(run, label, ref)
    leaf.is_element = bool(leaf.path)  # else it leads to a child, and has been followed
    return leaf


def _element(run: RunState, label: str, arg: Arg, nth: int) -> Iterator[Leaf]:
    """The leaves of element `nth` of an input that is mapped over."""
    match arg:
        case Ref(node=up, path=path):
            yield _leaf_of_element(run, label, Ref(up, (*path, nth)))
        case ListOf(items=items) | TupleOf(items=items):
            yield from _leaves(run, label, items[nth])
        case _:
            return


def causes(plan: Plan, run: RunState, slots: Iterable[int]) -> list[int]:
    """The tasks that failed by themselves and made `slots` fail, the one that failed first before the others.

    A map leads to its children that failed, a task whose trigger refused to the inputs that failed.
    """
    found: list[int] = []
    seen: set[int] = set()
    todo = [slot for slot in slots if run.ends(slot)[0]]
    while todo:
        slot = todo.pop()
        if slot in seen:
            continue
        seen.add(slot)
        below: list[int] = []
        if run.status[slot] == Status.MAPPED:
            children = run.maps[slot]
            below = [up for up in range(children.base, children.base + children.width) if run.ends(up)[0]]
        elif run.status[slot] == Status.BLOCKED:
            below = [leaf.slot for leaf in leaves(plan, run, slot) if run.ends(leaf.slot)[0]]
            below = below or [up for up in plan.upstreams[run.node(slot)] if run.ends(up)[0]]
        if below:
            todo += below
        else:
            found.append(slot)
    return sorted(found, key=lambda slot: run.source[slot])


def width_max(plan: Plan, run: RunState, slot: int) -> int | None:
    """How many children a mapped task can have by what is known without opening a value.

    None when nothing limits it, -1 when what it should follow child by child has no children.
    """
    limits: list[int] = []
    for item in plan.tasks[slot].inputs:
        arg = item.arg
        if plan.follows(item):
            assert isinstance(arg, Ref)
            children = run.maps.get(arg.node)
            limits.append(-1 if children is None else children.width)
        elif item.each and isinstance(arg, ListOf | TupleOf):
            limits.append(len(arg.items))
    return min(limits, default=None)


def bind(
    plan: Plan,
    run: RunState,
    slot: int,
    take: Callable[[Leaf], Any],
    constant: Callable[[str, tuple[Subscript, ...], Const], Any],
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """Rebuild a task's arguments by name, all or only some.

    `take` gives what stands for a leaf; `constant` what stands for a constant: it is told the argument's
    name and the path to the constant inside it.
    """
    parent = run.parent[slot]
    nth = -1 if parent < 0 else slot - run.maps[parent].base
    binding = _Binding(run, take, constant)
    return {
        item.name: binding.element(item.name, item.arg, nth)
        if item.each and nth >= 0
        else binding.build(item.name, (), item.arg)
        for item in plan.tasks[run.node(slot)].inputs
        if only is None or item.name in only
    }


class _Binding:
    """Rebuilds arguments; a class, for functions that call themselves would be garbage in a cycle."""

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

    def element(self, name: str, arg: Arg, nth: int) -> Any:
        match arg:
            case Ref(node=up, path=path):
                return self._take(_leaf_of_element(self._run, name, Ref(up, (*path, nth))))
            case ListOf(items=items) | TupleOf(items=items):
                return self.build(name, (), items[nth])
            case _:
                raise AssertionError(f"{arg!r} is never mapped over; refused when the flow is built")
