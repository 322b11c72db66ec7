"""Aliases made by a `type` statement (PEP 695) stand for their type wherever a declared type is taken apart."""

from __future__ import annotations

import sys
from typing import Annotated, Any, TypeVar

import pytest
from typing_extensions import TypeAliasType

from eventflow import BuildError, Flow, Parameter, flow, task
from eventflow.authoring.callables import unaliased
from eventflow.authoring.nodes import element_type, ref_of
from eventflow.graph import Ref

T = TypeVar("T")
U = TypeVar("U")
Pair = TypeAliasType("Pair", tuple[int, str])
Swapped = TypeAliasType("Swapped", tuple[U, T], type_params=(T, U))
Twice = TypeAliasType("Twice", Pair)
Text = TypeAliasType("Text", str)


@task
def pair(day: str) -> Pair:
    """A tuple of two, by another name."""
    return len(day), day


@task
def text(day: str) -> Text:
    """Text, by another name."""
    return day


@pytest.mark.parametrize(
    ("declared", "stands_for"),
    [
        (Pair, tuple[int, str]),
        (Twice, tuple[int, str]),
        (Swapped[int, str], tuple[str, int]),
        (list[int], list[int]),
        (Any, Any),
    ],
)
def test_an_alias_stands_for_its_type(declared: Any, stands_for: Any) -> None:
    """Also one of an alias, and one with parameters, in the order of its definition."""
    assert unaliased(declared) == stands_for


@pytest.mark.parametrize(
    "declared", [Pair, Twice, Annotated[Pair, "note"], TypeAliasType("Maybe", Pair | None)]
)
def test_an_item_of_an_alias_has_its_declared_type(declared: Any) -> None:
    """Under metadata and `| None` too."""
    assert (element_type(declared, 0), element_type(declared, 1)) == (int, str)


async def test_an_aliased_tuple_is_unpacked() -> None:
    """Into nodes, each of which has its own value when the flow runs."""

    @flow
    def unpacks(day: str) -> tuple[str, int]:
        length, again = pair(day)
        assert (ref_of(length), ref_of(again)) == (Ref(1, (0,)), Ref(1, (1,)))  # type: ignore[arg-type]
        return again, length

    assert await unpacks.value("monday") == ("monday", 6)


def test_an_alias_of_text_is_not_mapped_over() -> None:
    """The rule about text looks through the alias."""
    with Flow("f"), pytest.raises(BuildError, match="is text, which is not mapped over"):
        text.map(text("monday"))


if sys.version_info >= (3, 12):  # the statement came with it; elsewhere such an alias cannot be written

    def test_an_alias_that_contains_itself_is_refused_by_name() -> None:
        """Nothing can check values against it; the error says what to write instead."""
        names: dict[str, Any] = {}
        exec("type Tree = dict[str, Tree] | int", names)
        refused = pytest.raises(
            BuildError, match="parameter 't' has type Tree, an alias that contains itself"
        )
        with refused, Flow("f"):
            Parameter("t", type=names["Tree"])
