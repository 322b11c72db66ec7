"""A pickle counts only if it gives back the whole value, and what can be read only once is no value."""

from __future__ import annotations

import array
import asyncio
import collections
import functools
import io
import itertools
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import attrs
import msgspec
import pytest

from eventflow.equality.identical import identical
from eventflow.result import SerializationError
from eventflow.serializers import JSONSerializer, Keyring, Serializer

KEEP = Serializer(keyring=Keyring({"k": b"k" * 32}))


class Decorated(str):
    """A text that is decorated when it is made, so once more when it is opened."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Decorate."""
        return super().__new__(cls, f"<{text}>")


class Dropper:
    """Leaves an attribute out of its pickle."""

    def __init__(self, name: str) -> None:
        self.kept = 1
        setattr(self, name, "secret")

    def __getstate__(self) -> Any:
        return {"kept": self.kept}


class Resetter(Dropper):
    """Sets what it left out to something else."""

    def __setstate__(self, state: Any) -> None:
        self.__init__("token")  # type: ignore[misc]
        self.token = "other"


class Slotted:
    """Leaves a slot out of its pickle."""

    __slots__ = ("kept", "lost")

    def __init__(self) -> None:
        self.kept, self.lost = 1, 2

    def __getstate__(self) -> Any:
        return None, {"kept": self.kept}


class Reduced:
    """Comes back without an attribute that was set later."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        return Reduced, (self.size,)


class Told(Exception):
    """Its message is made of its code again when it is opened."""

    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")


class HiddenList(list[int]):
    """Says that it is empty."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


class Stamped(collections.OrderedDict[str, int]):
    """A class of a library with an attribute that its pickle does not know."""

    def __reduce__(self) -> Any:
        return Stamped, (dict(self),)


class Stream:
    """An iterator that a pickle could keep."""

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> int:
        return 1


class Holder:
    """Has whatever it is given."""

    def __init__(self, part: Any) -> None:
        self.part = part


class Guarded:
    """Makes its lock again, as a class with one must."""

    def __init__(self) -> None:
        self.rows = [1, 2]
        self.lock = threading.Lock()
        self.ready = threading.Event()

    def __getstate__(self) -> Any:
        return {"rows": self.rows}

    def __setstate__(self, state: Any) -> None:
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state)


class Lazy:
    """Does not keep what it can compute again."""

    @functools.cached_property
    def square(self) -> int:
        """Nine."""
        return 9

    def __getstate__(self) -> Any:
        return {}


class Member:
    """A node of a tree whose branches are sets, in no order that would last."""

    def __init__(self, above: Member | None = None) -> None:
        self.above = above
        self.below: set[Member] = set()
        self.name = "name"
        if above is not None:
            above.below.add(self)


class Tagged:
    """Has a large set of texts, whose order changes with its history."""

    def __init__(self) -> None:
        self.tags = {f"tag {i}" for i in range(3000)} - {f"tag {i}" for i in range(0, 3000, 2)}


class Rebuilt:
    """Like a tensor: a function makes it again of its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _rebuild, (self.data,)


def _rebuild(data: bytes) -> Rebuilt:
    return Rebuilt(data)


class Model:
    """Like an estimator: its state has a version beside its attributes."""

    def __init__(self) -> None:
        self.weights = array.array("d", [0.5, 1.5])

    def __getstate__(self) -> Any:
        return {**self.__dict__, "_version": "1"}

    def __setstate__(self, state: Any) -> None:
        state.pop("_version")
        self.__dict__.update(state)


@dataclass(frozen=True, slots=True)
class Frozen:
    """A dataclass that writes its own state."""

    number: int


@attrs.define
class Defined:
    """An attrs class that writes its own state."""

    number: int = 1


class Record(msgspec.Struct, dict=True):
    """A Struct that can have more than its fields."""

    number: int = 1


def stamped() -> Stamped:
    """One with an attribute that is lost."""
    found = Stamped(a=1)
    found.origin = "here"  # type: ignore[attr-defined]
    return found


def reduced() -> Reduced:
    """One with an attribute that is lost."""
    found = Reduced(3)
    found.color = "red"  # type: ignore[attr-defined]
    return found


def record() -> Record:
    """One with an attribute that is lost."""
    found = Record()
    found.extra = "more"  # type: ignore[attr-defined]
    return found


def caused() -> ValueError:
    """An exception with a cause."""
    found = ValueError("no")
    found.__cause__ = KeyError("why")
    return found


def in_context() -> BaseException:
    """An exception that was raised while another one was handled."""
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904 - that is what is tested
    except ValueError as error:
        return error


def tree() -> Member:
    """A tree with links in both directions."""
    root = Member()
    for _ in range(20):
        Member(Member(root))
    return root


def lazy() -> Lazy:
    """One that has computed its property."""
    found = Lazy()
    assert found.square == 9
    return found


NOT_WHOLE = {
    "decorated text": (lambda: Decorated("a"), "lost or changed"),
    "a dropped attribute": (lambda: Dropper("token"), r"\.token"),
    "a dropped private attribute": (lambda: Dropper("_rows"), r"\._rows"),
    "an attribute that is set anew": (lambda: Resetter("token"), r"\.token"),
    "a dropped slot": (Slotted, r"\.lost"),
    "an attribute that a reduction does not know": (reduced, r"\.color"),
    "an exception's cause": (caused, "cause"),
    "an exception's context": (in_context, "cause"),
    "an exception that makes its message again": (lambda: Told(3), "lost or changed"),
    "a list that hides its items": (lambda: HiddenList([1, 2]), "content as a list"),
    "an attribute on a class of a library": (stamped, r"\.origin"),
    "an attribute beside a Struct's fields": (record, r"\.extra"),
}
WHOLE: dict[str, Callable[[], Any]] = {
    "locks that are made again": Guarded,
    "a cached property": lazy,
    "links in both directions": tree,
    "a large set": Tagged,
    "a tensor": lambda: Rebuilt(b"1"),
    "an estimator": Model,
    "a frozen dataclass": lambda: [Frozen(1), {1}],
    "an attrs class": lambda: [Defined(), {1}],
    "a Struct in a list": lambda: [Record(), Holder(1)],
    "an exception": lambda: ValueError("no", 3),
    "an exception that shows no context": lambda: [
        OSError(2, "no", "file"),
        ExceptionGroup("g", [KeyError(1)]),
    ],
    "a regular expression": lambda: re.compile("a+"),
    "a function": lambda: tree,
    "a partial": lambda: functools.partial(int, base=2),
    "an ordered dict": lambda: collections.OrderedDict(a=1),
    "a default dict": lambda: collections.defaultdict(list, a=[1]),
    "a deque": lambda: collections.deque([1], 3),
    "a user dict": lambda: collections.UserDict(a=1),
    "an array": lambda: array.array("d", [1.5]),
    "chance": lambda: random.Random(1),
    "a fraction": lambda: Fraction(1, 3),
    "a namespace": lambda: SimpleNamespace(a=1),
    "not a number in a set": lambda: Holder({float("nan"), 1}),
    "a path": lambda: Holder(Path("/a/b")),
    "equal texts": lambda: [Holder("part"), Holder("part")],
}


@pytest.mark.parametrize("case", NOT_WHOLE)
@pytest.mark.parametrize("within", [lambda value: value, lambda value: {"rows": [value]}])
def test_what_a_pickle_does_not_give_back_is_refused(case: str, within: Callable[[Any], Any]) -> None:
    """Bytes and attributes of the whole graph are compared; the message names what is lost."""
    make, named = NOT_WHOLE[case]
    with pytest.raises(SerializationError, match=named):
        KEEP.serialize(within(make()))


@pytest.mark.parametrize("case", WHOLE)
def test_what_a_pickle_gives_back_is_kept(case: str) -> None:
    """Classes that pickle themselves wholly pass, whatever order or sharing does to their bytes."""
    value = WHOLE[case]()
    payload = KEEP.serialize(value)
    assert payload.codec.startswith("pickle")
    assert type(KEEP.deserialize(payload)) is type(value)


def test_a_codec_is_held_to_the_whole_value_too() -> None:
    """`identical`, by which codecs are judged, sees what a pickle leaves out."""
    one, other = Dropper("token"), Dropper("token")
    assert identical(one, other)
    other.token = "other"  # type: ignore[attr-defined]
    assert not identical(one, other)
    assert not identical(caused(), ValueError("no"))
    assert identical(tree().name, tree().name)


def test_a_large_plain_graph_costs_two_pickles() -> None:
    """The proof of 20,000 objects is made by C: no attribute of them is compared by Python."""
    value = [Holder(i) for i in range(20_000)]
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event == "call"

    import sys

    sys.setprofile(count)
    try:
        KEEP.serialize(value)
    finally:
        sys.setprofile(None)
    assert calls < 60_000  # one for each object and pickle, and a few more


async def _steps() -> Any:
    yield 1


ONCE: dict[str, Callable[[], Any]] = {
    "map": lambda: map(str, [1]),
    "zip": lambda: zip([1], [2], strict=True),
    "iter": lambda: iter([1]),
    "enumerate": lambda: enumerate([1]),
    "filter": lambda: filter(None, [1]),
    "reversed": lambda: reversed([1]),
    "itertools": lambda: itertools.chain([1]),
    "generator": lambda: (i for i in [1]),
    "async generator": _steps,
    "a class with __next__": Stream,
    "bytes in memory": lambda: io.BytesIO(b"abc"),
    "text in memory": lambda: io.StringIO("abc"),
}


@pytest.mark.parametrize("case", ONCE)
@pytest.mark.parametrize(
    ("within", "place"),
    [
        (lambda value: value, "value: "),
        (lambda value: {"rows": [value]}, re.escape("value['rows'][0]: ")),
        (lambda value: [Holder((value,))], re.escape("value[0].part[0]: ")),
    ],
)
def test_what_can_be_read_only_once_is_no_value(case: str, within: Callable[[Any], Any], place: str) -> None:
    """Refused wherever it is, with its place and what to return instead."""
    with pytest.raises(SerializationError, match=f"{place}.*read only once; return (a list|its content)"):
        KEEP.serialize(within(ONCE[case]()))


def test_an_open_file_is_no_value(tmp_path: Path) -> None:
    """Its content or path is; also a file cannot be chosen for JSON."""
    with (tmp_path / "file").open("w") as file:
        for serializer in (KEEP, JSONSerializer()):
            with pytest.raises(SerializationError, match="return its content or its path"):
                serializer.serialize(file)


def test_an_iterator_that_is_begun_again_is_not_the_same() -> None:
    """A class that makes its iterator anew is refused, for nothing says where the iterator was."""
    with pytest.raises(SerializationError):
        KEEP.serialize(Restarted())


class Restarted:
    """Begins its iteration again when it is opened."""

    def __init__(self) -> None:
        self.steps = iter([1, 2])

    def __getstate__(self) -> Any:
        return {}

    def __setstate__(self, state: Any) -> None:
        self.__init__()  # type: ignore[misc]


def test_awaitables_have_no_value() -> None:
    """A future belongs to its loop."""
    loop = asyncio.new_event_loop()
    try:
        with pytest.raises(SerializationError, match="Future"):
            KEEP.serialize(loop.create_future())
    finally:
        loop.close()
