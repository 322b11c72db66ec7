"""Digests of declared types: whether bytes would open as the same thing."""

# ruff: noqa: D101 - classes to be looked at, not used

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, Union

import msgspec
import pytest

from eventflow.fingerprints.types import schema_of


@dataclass
class Order:
    number: int
    lines: list[Line]


@dataclass
class Line:
    text: str
    order: Order | None = None


class Price(msgspec.Struct):
    amount: Decimal


class Pair(NamedTuple):
    left: int
    right: str


class Options(TypedDict):
    deep: bool


class Colour(Enum):
    RED = 1


class Plain:
    pass


DISTINCT: list[Any] = [
    Any, None, int, str, bool, list, list[int], list[str], dict[str, int], tuple[int, ...], tuple[int, int], set[int],
    int | None, int | str, Literal["a"], Literal["b"], Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=1)],
    Order, Line, list[Order], Price, Pair, Options, Colour, Plain, "forward", Decimal,
]  # fmt: skip


def test_different_types_have_different_digests() -> None:
    """Whatever is within them."""
    assert len({schema_of(declared) for declared in DISTINCT}) == len(DISTINCT)


def test_the_same_type_spelled_otherwise() -> None:
    """`Optional` and `Union` are `|`."""
    assert schema_of(Optional[int]) == schema_of(int | None)  # noqa: UP045 - the other spelling
    assert schema_of(Union[int, str]) == schema_of(int | str)  # noqa: UP007 - the other spelling


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([("a", int)], [("a", str)]),
        ([("a", int)], [("b", int)]),
        ([("a", int)], [("a", int), ("b", int)]),
        ([("a", list[int])], [("a", list[float])]),
    ],
)
def test_an_edited_class_is_another_type(before: list[Any], after: list[Any]) -> None:
    """Under one name: its fields and their types, also deep inside."""
    one, other = (make_dataclass("Row", fields) for fields in (before, after))
    assert schema_of(one) == schema_of(make_dataclass("Row", before))
    assert schema_of(one) != schema_of(other)
    assert schema_of(dict[str, list[one]]) != schema_of(dict[str, list[other]])  # type: ignore[valid-type]


def test_an_edited_enum_is_another_type() -> None:
    """Members and their values."""
    one, other = (Enum("Kind", members) for members in ({"A": 1}, {"A": 2}))  # type: ignore[call-overload]
    assert schema_of(one) != schema_of(other)


def test_annotations_that_do_not_resolve() -> None:
    """They count by their text, and break nothing."""

    @dataclass
    class Riddle:
        x: Nowhere  # type: ignore[name-defined]  # noqa: F821

    assert len(schema_of(Riddle)) == 16
