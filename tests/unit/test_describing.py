"""Descriptions of types: what they say, that they are the same everywhere, and how two of them differ."""

from __future__ import annotations

import subprocess
import sys
from http import HTTPStatus
from typing import Any

import msgspec
import pytest

from eventflow.fingerprints.type_defs import Description, TypeChanged, differences
from eventflow.fingerprints.type_describer import class_def, describe
from eventflow.graph import described
from eventflow.result import SerializationError
from eventflow.serializers import Keyring
from eventflow.serializers.signed import changed_pickle, open_pickle, sign_pickle
from tests.edited import edit

KEYS = Keyring({"k": bytes(16)})

EDITS: dict[str, tuple[str, str, list[tuple[str, str, str]]]] = {
    "added": (
        "@dataclass\nclass T:\n    a: int\n",
        "@dataclass\nclass T:\n    a: int\n    b: float = 0.0\n",
        [("T.b", "(not there)", "float = 0.0")],
    ),
    "default": (
        "@dataclass\nclass T:\n    a: int = 1\n",
        "@dataclass\nclass T:\n    a: int = 2\n",
        [("T.a", "int = 1", "int = 2")],
    ),
    "default made by a lambda": (
        "@dataclass\nclass T:\n    a: float = field(default_factory=lambda: 0.0)\n",
        "@dataclass\nclass T:\n    a: float = field(default_factory=lambda: 1.0)\n",
        [("T.a", "float = edited_shop:T.<lambda>(0.0)", "float = edited_shop:T.<lambda>(1.0)")],
    ),
    "reordered": (
        "class T(NamedTuple):\n    lat: float\n    lon: float\n",
        "class T(NamedTuple):\n    lon: float\n    lat: float\n",
        [("T (order)", "lat, lon", "lon, lat")],
    ),
    "wire name": (
        "class T(msgspec.Struct):\n    a: int\n",
        "class T(msgspec.Struct, rename='upper'):\n    a: int\n",
        [("T.a", "int", "int written as 'A'")],
    ),
    "form": (
        "class T(msgspec.Struct):\n    a: int\n",
        "class T(msgspec.Struct, array_like=True, tag=True, forbid_unknown_fields=True):\n    a: int\n",
        [("T (form)", "plain", "tag type='T', array_like, forbid_unknown_fields")],
    ),
    "member": (
        "class T(enum.Enum):\n    A = enum.auto()\n",
        "class T(enum.Enum):\n    B = enum.auto()\n    A = enum.auto()\n",
        [("T.A", "int = 1", "int = 2"), ("T.B", "(not there)", "int = 1")],
    ),
    "kind of enum": (
        "class T(enum.Enum):\n    A = 1\n",
        "class T(enum.IntFlag):\n    A = 1\n",
        [("T (form)", "plain", "of int, flag")],
    ),
    "attrs": (
        "@attrs.define\nclass T:\n    a: int\n    b: list = attrs.Factory(list)\n",
        "@attrs.define\nclass T:\n    a: int\n    b: list = attrs.Factory(dict)\n",
        [("T.b", "list = list()", "list = dict()")],
    ),
    "not required": (
        "class T(TypedDict):\n    a: int\n",
        "class T(TypedDict, total=False):\n    a: int\n",
        [("T.a", "int", "int optional"), ("T (form)", "plain", "total=False")],
    ),
    "model": (
        "class T(pydantic.BaseModel):\n    a: int = pydantic.Field(alias='A')\n",
        "class T(pydantic.BaseModel):\n    a: int = pydantic.Field(alias='B')\n",
        [("T.a", "int written as 'A'", "int written as 'B'")],
    ),
    "constraint of a model": (
        "class T(pydantic.BaseModel):\n    a: int = pydantic.Field(ge=1)\n",
        "class T(pydantic.BaseModel):\n    a: int = pydantic.Field(ge=2)\n",
        [("T (schema)", '…: {"a":…', "")],
    ),
    "plain class": (
        "class T:\n    rate: float = 0.2\n",
        "class T:\n    rate: float = 0.3\n",
        [("T.rate", "float = 0.2", "float = 0.3")],
    ),
    "deep inside": (
        "@dataclass\nclass U:\n    a: int\n@dataclass\nclass T:\n    us: dict[str, list[U | None]]\n",
        "@dataclass\nclass U:\n    a: str\n@dataclass\nclass T:\n    us: dict[str, list[U | None]]\n",
        [("U.a", "int", "str")],
    ),
    "literal": ("T = Literal['a']\n", "T = Literal['a', 'b']\n", [("type", "Literal['a']", "Literal['a', 'b']")]),
    "constraint": (
        "T = Annotated[int, msgspec.Meta(ge=0)]\n",
        "T = Annotated[int, msgspec.Meta(ge=1)]\n",
        [("type", "Annotated[int, ge=0]", "Annotated[int, ge=1]")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_told_in_words(name: str) -> None:
    """What it was and what it is, under the name of the field or member; and an unedited type is the same again."""
    before, after, told = EDITS[name]
    then, again, now = (describe(edit(source).T) for source in (before, before, after))
    assert then == again
    assert differences(then, again) == ()
    found = differences(then, now)
    if name == "constraint of a model":
        assert [row.name for row in found] == ["T (schema)"]
    else:
        assert [(row.name, row.then, row.now) for row in found] == told


@pytest.mark.parametrize(
    "name", [name for name in EDITS if name not in {"literal", "constraint", "not required"}]
)
def test_a_pickle_is_refused_while_its_classes_are_others(name: str) -> None:
    """Before an instance of them is made; and it opens when they are as they were."""
    before, after, _ = EDITS[name]
    shop = edit(before)
    inner = [shop.U(1)] if name == "deep inside" else []
    value = {"member": lambda: shop.T.A, "kind of enum": lambda: shop.T.A}.get(
        name, lambda: [shop.T.__new__(shop.T), *inner] if name == "plain class" else [*_made(shop), *inner]
    )()
    signed = sign_pickle(value, KEYS)
    assert signed is not None
    edit(before)
    assert changed_pickle(*signed, KEYS) is None
    open_pickle(*signed, KEYS)
    edit(after)
    with pytest.raises(TypeChanged, match="U" if inner else "T"):
        open_pickle(*signed, KEYS)
    changed = changed_pickle(*signed, KEYS)
    assert changed is not None
    assert changed.differences
    edit("")
    assert "cannot be found" in str(changed_pickle(*signed, KEYS))


_WAYS = {
    "dict": "@dataclass\nclass T:\n    a: int\n    b: int\n",
    "slots": "@dataclass(slots=True)\nclass T:\n    a: int\n    b: int\n",
    "frozen slots": "@dataclass(frozen=True, slots=True)\nclass T:\n    a: int\n    b: int\n",
    "own": (
        "@dataclass\nclass T:\n    a: int\n    b: int\n"
        "    def __getstate__(self): return (self.b, self.a)\n"
        "    def __setstate__(self, state): self.b, self.a = state\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("then", _WAYS)
@pytest.mark.parametrize("now", _WAYS)
def test_a_class_with_the_same_fields_and_another_way_of_pickling(then: str, now: str) -> None:
    """Its old pickles open as the same value or not at all: an example is `slots=True` added to a frozen dataclass."""
    signed = sign_pickle(edit(_WAYS[then]).T(1, 2), KEYS)
    assert signed is not None
    shop = edit(_WAYS[now])
    try:
        opened = open_pickle(*signed, KEYS)
    except (TypeChanged, AttributeError):  # which a serializer makes a `DeserializationError`
        assert then != now
    else:
        assert (type(opened), opened.a, opened.b) == (shop.T, 1, 2)


def _made(shop: Any) -> list[Any]:
    """An instance of `T`, whatever it takes."""
    for given in ({"a": 1}, {"A": 3}, {"lat": 1.0, "lon": 2.0}, {"us": {}}):
        try:
            return [shop.T(**given)]
        except (TypeError, ValueError):
            continue
    raise AssertionError("no values for T")


def test_classes_that_reach_themselves_and_unlike_ones_of_one_name() -> None:
    """Each stands once, by name, numbered where a name is taken; the graph has equal ones of several types once."""
    shop = edit("@dataclass\nclass T:\n    next: 'T | None' = None\n")
    other = edit("class T(enum.Enum):\n    A = 1\n", "edited_other")
    other.T.__module__ = "edited_shop"
    one = describe(dict[shop.T, other.T])  # type: ignore[name-defined]
    two = describe(list[shop.T])  # type: ignore[name-defined]
    assert one is not None
    assert two is not None
    assert one.type.text(full=True) == "dict[edited_shop:T, edited_shop:T#2]"
    assert [known.name for known in one.classes] == ["edited_shop:T", "edited_shop:T#2"]
    types, classes = described({one.digest: one, two.digest: two})
    assert [found.classes for found in types] == [(0, 1), (0,)]
    assert len(classes) == 2
    again = [Description(found.type, tuple(classes[i] for i in found.classes)) for found in types]
    assert [found.digest for found in again] == [found.digest for found in types]


def test_a_description_is_data() -> None:
    """It comes back from MessagePack and JSON as it was."""
    found = describe(edit(EDITS["model"][0] + EDITS["deep inside"][0].replace("T", "V")).T)
    for codec in (msgspec.msgpack, msgspec.json):
        assert codec.decode(codec.encode(found), type=Description) == found


def test_what_comes_with_python_is_known_by_name() -> None:
    """Its enums grow from version to version; and a class that pickles itself has a format of its own."""
    assert describe(HTTPStatus) == Description(describe(HTTPStatus).type)  # type: ignore[union-attr]
    assert class_def(HTTPStatus) is None
    own = edit("class T:\n    x: int = 1\n    def __getstate__(self):\n        return {}\n")
    assert class_def(own.T) is None
    assert describe(Any) is None


PROGRAM = """
from tests.unit.test_describing import EDITS, describe, edit
for before, after, _ in EDITS.values():
    for source in (before, after):
        print(describe(edit(source).T).digest.hex())
"""


def test_descriptions_are_the_same_in_every_process() -> None:
    """Under another hash seed, with everything imported anew."""
    mine = [describe(edit(source).T) for before, after, _ in EDITS.values() for source in (before, after)]
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == [found.digest.hex() for found in mine if found is not None]


def test_forms_before_a_pickle_are_signed_too() -> None:
    """Nobody can say that a class was what it is today."""
    from eventflow.result import PickleNotTrusted

    signed = sign_pickle(_made(edit(EDITS["added"][0])), KEYS)
    assert signed is not None
    codec, data = signed
    with pytest.raises(PickleNotTrusted):
        open_pickle(codec, data[:32] + bytes(4) + data[36:], KEYS)


def test_values_without_classes_of_ones_own_carry_seven_bytes() -> None:
    """What popular values pay for it."""
    signed = sign_pickle(range(3), KEYS)
    assert signed is not None
    assert signed[1][32:39] == b"\0\0\0\3\x92\xa0\x90"
    with pytest.raises(SerializationError):
        sign_pickle(lambda: 0, KEYS)
