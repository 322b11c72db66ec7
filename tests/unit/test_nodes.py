"""A node stands for a value and is none: what it can do, and how it refuses the rest."""

from __future__ import annotations

import copy
import functools
import math
import operator
import pickle
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest

from eventflow.authoring.nodes import Node, NodeIsNotAValue, element_type, owner_of, ref_of
from eventflow.graph import Ref


class Owner:
    """A flow, as far as a node knows it."""

    name = "nightly"

    def name_of(self, index: int) -> str:
        """Every node of this flow has a speaking name."""
        return ["fetch", "total"][index]


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    label: str


OWNER = Owner()


def a_node(declared: Any = Any) -> Any:
    """A node of the flow, typed as a value, as in a flow."""
    return Node(OWNER, Ref(0), declared)


def matched(node: Any) -> str:
    """Compare as `match` does."""
    match node:
        case "prod":
            return "prod"
        case _:
            return "other"


REFUSED: dict[str, Callable[[Any], Any]] = {
    "bool": bool, "not": operator.not_, "len": len, "iter": iter, "list": list, "in": lambda n: 1 in n,
    "reversed": reversed, "next": next, "str": str, "f-string": lambda n: f"{n}", "format": lambda n: f"{n:>3}",
    "percent": lambda n: "%s" % n,  # noqa: UP031
    "bytes": bytes, "int": int, "float": float, "complex": complex, "index": operator.index, "range": range,
    "+": lambda n: n + 1, "r+": lambda n: 1 + n, "+=": lambda n: operator.iadd(n, 1), "str +": lambda n: "a" + n,
    "-": lambda n: n - 1, "*": lambda n: 2 * n, "/": lambda n: n / 2, "//": lambda n: n // 2, "%": lambda n: n % 2,
    "**": lambda n: n**2, "r**": lambda n: 2**n, "@": lambda n: n @ n, "divmod": lambda n: divmod(n, 2),
    "<<": lambda n: n << 1, "&": lambda n: n & 1, "r|": lambda n: 1 | n, "^": lambda n: n ^ 1,
    "neg": operator.neg, "pos": operator.pos, "abs": abs, "~": operator.inv, "round": round,
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc,
    "==": lambda n: n == "prod", "r==": lambda n: "prod" == n, "!=": lambda n: n != 1, "== None": lambda n: n == None,  # noqa: E711, SIM300
    "in list": lambda n: n in ["prod", "dev"], "in tuple": lambda n: "prod" in (1, n), "in values": lambda n: n in {"a": 1}.values(),
    "count": [1, 2].count, "index of": [1].index, "match": matched,
    "<": lambda n: n < 1, "<=": lambda n: n <= 1, ">": lambda n: n > 1, ">=": lambda n: n >= 1,
    "sort": lambda n: sorted([n, a_node()]),
    "attribute": lambda n: n.total, "name": lambda n: n.name, "call": lambda n: n(), "method": lambda n: n.get("a"),
    "set attribute": lambda n: setattr(n, "total", 1), "set private": lambda n: setattr(n, "_ref", 1),
    "del attribute": lambda n: delattr(n, "total"), "set item": lambda n: operator.setitem(n, 0, 1),
    "del item": lambda n: operator.delitem(n, 0), "await": lambda n: n.__await__(), "with": lambda n: n.__enter__(),
    "async with": lambda n: n.__aenter__(), "async for": lambda n: n.__aiter__(), "pickle": pickle.dumps,
    "slice": lambda n: n[1:], "float key": lambda n: n[1.5], "bool key": lambda n: n[True], "None key": lambda n: n[None],
    "node key": lambda n: n[a_node()], "huge key": lambda n: n[2**64], "broken key": lambda n: n["\ud800"],
    "fspath": open,
}  # fmt: skip


@pytest.mark.parametrize("tried", REFUSED)
def test_what_needs_a_value_is_refused_by_name(tried: str) -> None:
    """Each use that needs the value raises the one error, which names the node and its flow."""
    with pytest.raises(NodeIsNotAValue) as caught:
        REFUSED[tried](a_node())
    assert "'fetch'" in str(caught.value)
    assert "'nightly'" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, AttributeError)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ("bool", "@task def decide"),
        ("iter", "some_task.map(fetch)"),
        ("+", "the operator `+`"),
        ("<", "the comparison `<`"),
        ("==", "the comparison `==` (or `in`) with the str 'prod'"),
        ("!=", "return value != 1`, then `check(fetch)`"),
        ("in list", "with the str 'prod'"),
        ("== None", "`fetch is None`"),
        ("attribute", "`.total`"),
        ("f-string", "f'{node!r}'"),
        ("await", "leave out `await`"),
        ("slice", "a slice"),
        ("node key", "Pass both to a task"),
    ],
)
def test_the_refusal_says_what_was_tried_and_what_to_write(tried: str, said: str) -> None:
    """The message quotes the attempt or shows the way out, with the node's own name in it."""
    with pytest.raises(NodeIsNotAValue) as caught:
        REFUSED[tried](a_node())
    assert said in str(caught.value)


def test_equality_and_hash_are_identity() -> None:
    """Two handles of the same value are different keys; a copy is the node itself."""
    one, other = a_node(), a_node()
    assert one == one  # noqa: PLR0124
    assert one != other
    assert {one: 1, other: 2}[one] == 1
    assert one in [other, one]
    assert one not in {other, a_node()}
    assert {1: "a", one: "b", "c": "d"}[one] == "b"
    assert copy.copy(one) is one
    assert copy.deepcopy([one])[0] is one


def test_repr_names_node_path_and_flow() -> None:
    """`repr` is the one text of a node."""
    assert repr(a_node()["rows"][3]) == "<node fetch['rows'][3] of flow 'nightly'>"


def test_a_person_is_not_offered_private_fields() -> None:
    """A failed attribute has no "did you mean", and asking with a default works."""
    assert dir(a_node()) == []
    assert getattr(a_node(), "total", "none") == "none"


def test_indexing_makes_a_longer_path() -> None:
    """`node[key]` is a new node of the same flow, with the key at the end of its path."""
    part = a_node()["a"][-1]
    assert ref_of(part) == Ref(0, ("a", -1))
    assert owner_of(part) is OWNER


@pytest.mark.parametrize(
    ("declared", "length"),
    [
        (tuple[int, str], 2),
        (tuple[()], 0),
        (Point, 2),
        (Annotated[tuple[int, int, int], "meta"], 3),
        (tuple[int, str] | None, 2),
    ],
)
def test_a_fixed_length_tuple_unpacks(declared: Any, length: int) -> None:
    """Unpacking gives one node for each declared item, in order."""
    assert [ref_of(part) for part in a_node(declared)] == [Ref(0, (i,)) for i in range(length)]


@pytest.mark.parametrize("declared", [Any, tuple, tuple[int, ...], list[int], int | str])
def test_what_has_no_fixed_length_does_not_unpack(declared: Any) -> None:
    """Without a declared length nobody knows how many nodes to make."""
    with pytest.raises(NodeIsNotAValue, match=r"-> tuple\[int, str\]"):
        _a, _b = a_node(declared)


def test_nested_tuples_unpack() -> None:
    """The declared type follows the path."""
    (a, b), _c = a_node(tuple[tuple[int, str], float])
    assert [ref_of(a), ref_of(b)] == [Ref(0, (0, 0)), Ref(0, (0, 1))]


@pytest.mark.parametrize("key", [2, -3, "x"])
def test_an_item_beyond_a_declared_tuple_is_refused(key: int | str) -> None:
    """What the annotation rules out is found before anything runs."""
    with pytest.raises(NodeIsNotAValue, match="declared as a tuple of 2"):
        a_node(tuple[int, str])[key]


@pytest.mark.parametrize(
    ("declared", "key", "inner"),
    [
        (list[int], 7, int),
        (tuple[int, ...], 7, int),
        (tuple[int, str], -1, str),
        (dict[str, float], "a", float),
        (dict[int, float], 1, float),
        (list[int], "a", Any),
        (list[int] | None, 0, int),
        (Any, 0, Any),
        (int, 0, Any),
        (dict, "a", Any),
    ],
)
def test_the_declared_type_of_an_item(declared: Any, key: int | str, inner: Any) -> None:
    """`element_type` follows what the declaration says, and says Any where it is silent."""
    assert element_type(declared, key) is inner


class Riddle:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_comparison_with_what_cannot_be_shown_is_refused_all_the_same() -> None:
    """By its type."""
    with pytest.raises(NodeIsNotAValue, match="with the Riddle <Riddle>"):
        _ = a_node() == Riddle()


def test_a_refusal_names_the_line_in_which_it_was_written() -> None:
    """Of the author's code, not of the engine's, and it survives pickling."""
    with pytest.raises(NodeIsNotAValue) as caught:
        _ = a_node() + 1
    line = caught.traceback[0].lineno + 1
    assert caught.value.location == (__file__, line)
    assert str(caught.value).endswith(f"({__file__}:{line})")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


@dataclass
class Setting:
    """Compared field by field, by code that the dataclass made."""

    value: Any


def test_the_line_is_the_authors_also_through_code_of_python_and_of_packages() -> None:
    """A dataclass compares, `functools` asks, a list searches: the line is the one that led there."""
    node = a_node()
    found = []
    for tried in (
        lambda: Setting(node) == Setting(1),
        lambda: functools.reduce(operator.eq, [node, 1]),
        lambda: [1, 2].index(node),
        lambda: textwrap.indent(node, ""),
    ):
        with pytest.raises(NodeIsNotAValue) as caught:
            tried()
        found.append(caught.value.location)
    line = found[0][1] if found[0] else 0
    assert found == [(__file__, line + nth) for nth in range(4)]


def test_at_a_prompt_the_line_is_that_of_the_prompt() -> None:
    """Code without a file is the author's where there is no other."""
    code = compile("def at_prompt(node):\n    return node == 1\n", "<stdin>", "exec")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(code, names)
    with ThreadPoolExecutor(1) as pool, pytest.raises(NodeIsNotAValue) as caught:
        pool.submit(names["at_prompt"], a_node()).result()  # below a thread there is no file of an author's
    assert caught.value.location == ("<stdin>", 2)
