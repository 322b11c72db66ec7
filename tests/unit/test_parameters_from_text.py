"""What the text of a shell stands for, by the type of the parameter."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest

from eventflow.runs.parameters import FlowParameter, from_text


class Color(Enum):
    """One member has a number's text for its value."""

    RED = "red"
    ONE = "1"


class Level(IntEnum):
    """Values are numbers."""

    LOW = 1


class Shape(Enum):
    """Values that no text stands for."""

    SQUARE = (1, 1)


ID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        (str, "7", "7"),
        (str, '"x"', '"x"'),
        (str | None, "7", "7"),
        (str | None, "null", "null"),
        (Annotated[str, msgspec.Meta(max_length=3)], "123", "123"),
        (Path, "2026", Path("2026")),
        (Path | None, "a/b", Path("a/b")),
        (list[Path], '["a", "b"]', [Path("a"), Path("b")]),
        (Color, "red", Color.RED),
        (Color, "1", Color.ONE),
        (Color | None, "RED", Color.RED),
        (Level, "1", Level.LOW),
        (Level, "LOW", Level.LOW),
        (Shape, "SQUARE", Shape.SQUARE),
        (Literal["1", "2"], "2", "2"),
        (date, "2026-11-22", date(2026, 11, 22)),
        (date | None, "null", None),
        (timedelta, "PT5M", timedelta(minutes=5)),
        (Decimal, "1.10", Decimal("1.10")),
        (UUID, ID, UUID(ID)),
        (int, "7", 7),
        (int | None, "null", None),
        (float, "3", 3.0),
        (bool, "true", True),
        (list[int], "[1, 2]", [1, 2]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (int | str, "7", 7),
        (int | str, "x", "x"),
        (Any, "7", 7),
        (Any, "null", None),
        (Any, "x y", "x y"),
    ],
)
def test_text_is_taken_as_the_type_wants_it(declared: Any, text: str, value: Any) -> None:
    """As text where the type takes text alone, as JSON where it does not, exactly of the declared type."""
    found = from_text(FlowParameter("p", declared), text)
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value)


@pytest.mark.parametrize(
    ("declared", "text", "said"),
    [
        (int, "many", "Expected `int`, got `str`"),
        (int, "1.5", "Expected `int`, got `float`"),
        (date, "2026", "Invalid RFC3339 encoded date"),
        (Path, "", "An empty path"),
        (Color, "blue", r"Invalid enum value 'blue'; its names are RED, ONE"),
        (list[int], "[1,", "Expected `array`, got `str`"),
    ],
)
def test_text_that_stands_for_nothing_says_why(declared: Any, text: str, said: str) -> None:
    """The reason is that of the reading which the type asks for."""
    with pytest.raises(ValueError, match=said):
        from_text(FlowParameter("p", declared), text)


def test_json_on_request_is_json_alone() -> None:
    """`NAME:=JSON` gives None to `str | None`, and refuses what is no JSON."""
    assert from_text(FlowParameter("p", str | None), "null", as_json=True) is None
    assert from_text(FlowParameter("p", int | str), '"7"', as_json=True) == "7"
    with pytest.raises(ValueError, match="it is no JSON"):
        from_text(FlowParameter("p", str), "x", as_json=True)
