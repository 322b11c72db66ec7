"""The default serializer: which codec keeps what, that the identical value comes back, and what is refused."""

from __future__ import annotations

import dataclasses
import enum
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple, TypedDict
from uuid import UUID, uuid1
from zoneinfo import ZoneInfo

import msgspec
import pytest

from eventflow.codecs import registry
from eventflow.result import (
    DeserializationError,
    Inline,
    SerializationError,
    UnknownSerializer,
    identical,
)
from eventflow.serializers import (
    JSONSerializer,
    Keyring,
    Serializer,
    digest_of,
    is_immutable,
    register_codec,
    reopen,
)

MOMENT = datetime.fromisoformat("2026-10-25T02:30:01.999999")


class Order(msgspec.Struct):
    """A struct."""

    id: int
    rows: Any = None


class Derived(Order):
    """Its child, which the declared parent would flatten."""


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    lock: Any = None


class Colour(enum.Enum):
    """An enum."""

    RED = 1


class Pair(NamedTuple):
    """A tuple with names."""

    a: int
    b: str


class Row(TypedDict):
    """A dict with a type."""

    at: datetime


class Hex:
    """A codec for ranges, whose answers are as its fields say."""

    name = "hex"

    def __init__(self, *, lossless: bool = False, opens_as: Any = None) -> None:
        self.lossless = lossless
        self.opens_as = opens_as
        self.opened = 0

    def encode(self, value: Any, _declared: Any, /) -> bytes | None:
        """Take slices."""
        return repr((value.start, value.stop)).encode() if type(value) is slice else None

    def decode(self, data: bytes, _declared: Any, /) -> Any:
        """Give a slice back, or what was asked for."""
        self.opened += 1
        start, stop = data.decode().strip("()").split(", ")
        return self.opens_as or slice(int(start), int(stop))


class Failing(Hex):
    """A codec that raises."""

    name = "failing"

    def encode(self, value: Any, _declared: Any, /) -> bytes | None:
        """Raise whatever comes."""
        raise RuntimeError("boom")


@pytest.fixture(autouse=True)
def _own_registry() -> Iterator[None]:
    present = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(present)


def cyclic() -> list[Any]:
    """A list that contains itself."""
    value: list[Any] = [1]
    value.append(value)
    return value


def kept(value: Any, declared: Any = Any, codec: str = "msgpack") -> Inline:
    """Serialize, and check codec, digest and what comes back, also from a pickled twin."""
    serializer = Serializer(declared)
    payload = serializer.serialize(value)
    assert payload.codec == codec
    assert payload.digest == digest_of(payload.data)
    assert identical(value, pickle.loads(pickle.dumps(serializer)).deserialize(payload))
    return payload


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        float("nan"),
        -0.0,
        "Łódź",
        b"\xc4\xc5\xc6",
        {"i": 5, "ok": True},
        {"b": 1, "a": [None, {1: 2, "x": 3.5}]},
        {"bytes": b"x", "text": "Łódź"},
        {(1, 2): 3, None: 4, 2.5: 5},
        [MOMENT.replace(tzinfo=UTC)],
        [MOMENT.replace(tzinfo=UTC), "Łódź" * 1000],
        [{"blob": b"x" * 50, "name": f"Łódź {i}"} for i in range(200)],
    ],
)
def test_plain_data_is_msgpack(value: Any) -> None:
    """Exact builtin types (and moments in UTC inside) need neither tags nor a declared type, whatever is declared."""
    kept(value)
    kept(value, list[int])


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        (Order(1, [1]), Order),
        ([Order(1), Order(2, {"b": 1, "a": 2})], list[Order]),
        (Point(1), Point),
        (Colour.RED, Colour),
        ({"c": Colour.RED}, dict[str, Colour]),
        (Pair(1, "x"), Pair),
        ({"at": MOMENT}, Row),
        (Decimal("1.50"), Decimal),
        ((1, 2), tuple[int, ...]),
        (Order(1), Order | None),
    ],
)
def test_declared_types_are_typed(value: Any, declared: Any) -> None:
    """What msgspec knows is kept as the declared type."""
    kept(value, declared, "typed")


def test_typed_bytes_need_the_declared_type() -> None:
    """Opening without it, or with one that does not fit, is a named error with the way out."""
    payload = kept(Order(1), Order, "typed")
    with pytest.raises(DeserializationError, match="declared type"):
        Serializer().deserialize(payload)
    with pytest.raises(DeserializationError, match="typed"):
        Serializer(list[int]).deserialize(payload)


def test_a_declared_type_that_would_change_the_value_is_passed_over() -> None:
    """A child flattened to its parent, or a tuple in a field of no type, is not kept that way."""
    for value in (Derived(1), Order(1, (1, 2))):
        with pytest.raises(SerializationError):
            Serializer(Order).serialize(value)
    kept({"a": (1, 2)}, dict, "tagged")
    kept((1, 2), "no type at all", "tagged")


@pytest.mark.parametrize(
    "value",
    [
        (),
        (1, [2, (3,)]),
        {1, "a", None},
        frozenset({(1, 2), frozenset({b"x"})}),
        {"t": {(1, "a"): {2}}},
        {1: "a", (2, 3): "b", Decimal(4): "c", "d": ()},
        2**64,
        -(2**200),
        [-(2**63) - 1],
        "\ud800 lone",
        {"\udcff": "\udcff"},
        bytearray(b"ab"),
        [bytearray(b"\xc4")],
        complex(-0.0, float("nan")),
        Decimal("sNaN12"),
        Decimal("1E+400"),
        date(2026, 11, 22),
        time(1, 2, 3, 4, fold=1),
        time(1, tzinfo=UTC),
        MOMENT,
        MOMENT.replace(tzinfo=UTC, fold=1),
        MOMENT.replace(tzinfo=timezone(timedelta(hours=-5, microseconds=1))),
        MOMENT.replace(tzinfo=timezone(timedelta(hours=1), "X")),
        MOMENT.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
        datetime.fromisoformat("0001-01-01T00:00"),
        timedelta(-1, 5, 7),
        UUID(int=7),
        uuid1(),
        range(0, 2**70, 3),
        PurePosixPath("/a/b"),
        PurePosixPath("\udcff"),
        PureWindowsPath("C:/A"),
    ],
)
def test_standard_types_are_tagged(value: Any) -> None:
    """Without any declaration, alone and anywhere inside."""
    kept(value, codec="tagged")
    kept([{"deep": [value, 1.5]}], codec="tagged")


def test_an_unknown_tag_names_the_remedy() -> None:
    """Bytes of a newer version are refused by name, not guessed."""
    data = msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b""))
    with pytest.raises(DeserializationError, match=r"extension 99.*newer"):
        Serializer().deserialize(Inline("tagged", data, digest_of(data)))


def test_set_bytes_do_not_depend_on_the_hash_seed() -> None:
    """Three processes with three seeds give one digest, tagged and typed."""
    code = (
        "from eventflow.serializers import Serializer\n"
        "words = {f'word {i}' for i in range(50)}\n"
        "for s, v in ((Serializer(), {'w': words, 'f': frozenset(words)}), (Serializer(set[str]), words)):\n"
        "    p = s.serialize(v); print(list(words)[:3], p.codec, p.digest.hex())\n"
    )
    orders, digests = set(), set()
    for seed in ("1", "2", "3"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            timeout=50,
        ).stdout
        lines = out.splitlines()
        orders.add(tuple(line.rsplit(" ", 2)[0] for line in lines))
        digests.add(tuple(line.rsplit(" ", 2)[1:][i] for line in lines for i in range(2)))
    assert len(orders) == 3
    assert len(digests) == 1


def test_damaged_bytes_are_found_by_their_digest() -> None:
    """Of every codec, also where they would still open."""
    for value in (5, (1, 2), {"a": 1}):
        payload = Serializer().serialize(value)
        damaged = bytes([*payload.data[:-1], payload.data[-1] ^ 1])
        with pytest.raises(DeserializationError, match="damaged"):
            Serializer().deserialize(Inline(payload.codec, damaged, payload.digest))


def test_bytes_that_are_no_msgpack_are_a_named_error() -> None:
    """A right digest over wrong bytes does not help."""
    for codec in ("msgpack", "tagged", "json"):
        with pytest.raises(DeserializationError, match=codec):
            Serializer().deserialize(Inline(codec, b"\xc1", digest_of(b"\xc1")))


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ({"rows": [1, 2, 3, Point(1, threading.Lock())]}, r"value\['rows'\]\[3\]\.lock: _thread\.lock"),
        (object(), r"value: object"),
        ([Order(1)], r"value\[0\]: .*\bOrder"),
        ((1, OrderedDict(a=1)), r"value\[1\]: collections\.OrderedDict"),
        ({"a": Colour.RED, "b": print}, r"value\['b'\]: builtin_function_or_method"),
        ({print: 1}, r"value\[.*print.*\] \(the key\): builtin_function_or_method"),
        ({"pair": Pair(1, print)}, r"value\['pair'\]\.b: builtin_function_or_method"),
        ({frozenset({print})}, r"value\{…\}\{…\}: builtin_function_or_method"),
        ({"me": cyclic()}, r"value\['me'\]\[1\]: list, which contains itself"),
    ],
)
def test_what_nothing_keeps_is_refused_with_path_and_fix(value: Any, fault: str) -> None:
    """The message names the first part at fault, its type, and what to do."""
    with pytest.raises(
        SerializationError, match=f"cannot keep {fault}.*annotate.*register_codec.*something else"
    ):
        Serializer().serialize(value)


def test_too_deep_is_refused() -> None:
    """A value deeper than the stack ends in the named error."""
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="too deeply"):
        Serializer().serialize(value)


def test_with_a_declared_type_the_fix_names_it() -> None:
    """Who annotated already is not told to annotate."""
    with pytest.raises(SerializationError, match=r"declared type <class .*Order"):
        Serializer(Order).serialize(Order(1, print))


def test_serializers_are_values() -> None:
    """Equal by type and keyring."""
    ring = Keyring({"k": b"k" * 32})
    assert Serializer() == Serializer(Any)
    assert Serializer(int) != Serializer(str)
    assert Serializer(keyring=ring) == Serializer(keyring=Keyring({"k": b"k" * 32})) != Serializer()
    assert pickle.loads(pickle.dumps(Serializer(list[int], keyring=ring))) == Serializer(
        list[int], keyring=ring
    )


def test_a_registered_codec_keeps_what_nothing_else_does() -> None:
    """It is offered the value after the engine's own, and opens by its name."""
    register_codec(Hex())
    assert kept(slice(1, 2), codec="hex").data == b"(1, 2)"
    kept({"a": 1})


def test_a_codec_that_changes_the_value_is_passed_over_unless_it_is_lossless() -> None:
    """Others are opened once and compared; a lossless one is believed and not opened."""
    liar = Hex(opens_as=[1, 2])
    register_codec(liar)
    with pytest.raises(SerializationError):
        Serializer().serialize(slice(1, 2))
    assert liar.opened == 1
    trusted = Hex(lossless=True)
    register_codec(trusted)  # the same class again: replaces
    assert Serializer().serialize(slice(1, 2)).codec == "hex"
    assert trusted.opened == 0


def test_codec_names_are_unique() -> None:
    """Neither the engine's names nor a taken one."""
    for name in ("msgpack", "typed", "tagged", "json", "json+typed", "pickle+hmac:k", "pickle"):
        codec = Hex()
        codec.name = name
        with pytest.raises(ValueError, match="another name"):
            register_codec(codec)
    register_codec(Hex())
    other = Failing()
    other.name = "hex"
    with pytest.raises(ValueError, match=r"taken by .*Hex"):
        register_codec(other)


def test_an_unknown_codec_is_named_with_the_fix() -> None:
    """The bytes may be sound; this process lacks their codec."""
    with pytest.raises(UnknownSerializer, match=r"'arrow'.*register_codec"):
        Serializer().deserialize(Inline("arrow", b"x", digest_of(b"x")))


def test_a_codec_that_raises_is_named() -> None:
    """On encode and on decode, with its own error as the cause."""
    register_codec(Failing())
    with pytest.raises(SerializationError, match=r"'failing' failed.*boom") as caught:
        Serializer().serialize(slice(1, 2))
    assert isinstance(caught.value.__cause__, RuntimeError)
    data = b"no slice"
    with pytest.raises(DeserializationError, match="'failing' cannot open") as opening:
        Serializer().deserialize(Inline("failing", data, digest_of(data)))
    assert isinstance(opening.value.__cause__, ValueError)


def test_json_can_be_chosen() -> None:
    """Bytes that people can read, opened by any serializer; typed ones need the type."""
    plain = JSONSerializer().serialize({"a": [1, 2.5, None]})
    assert (plain.codec, plain.data) == ("json", b'{"a":[1,2.5,null]}')
    assert identical(Serializer().deserialize(plain), {"a": [1, 2.5, None]})
    typed = JSONSerializer(Order).serialize(Order(1))
    assert (typed.codec, typed.data) == ("json+typed", b'{"id":1,"rows":null}')
    assert identical(JSONSerializer(Order).deserialize(typed), Order(1))
    assert JSONSerializer(Decimal).serialize(Decimal("1.50")).codec == "json+typed"
    with pytest.raises(DeserializationError, match="declared type"):
        JSONSerializer().deserialize(typed)


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, (1,), b"x", Decimal(1), object()])
def test_json_refuses_what_it_would_change(value: Any) -> None:
    """NaN, number keys and all else that comes back as something different."""
    with pytest.raises(SerializationError, match="JSON cannot keep"):
        JSONSerializer().serialize(value)


def test_immutable_values() -> None:
    """Judged by exact type."""
    for value in (None, True, 1, 1.5, "a", b"a", Decimal(1), UUID(int=1)):
        assert is_immutable(value)
    for changeable in ([], {}, bytearray(b"a"), ([],), Order(1), OrderedDict()):
        assert not is_immutable(changeable)


@pytest.mark.parametrize(
    ("value", "serializer"),
    [
        ({"a": [1]}, Serializer()),
        (([],), Serializer()),
        (Order(1), Serializer(Order)),
        ({"a": [1]}, JSONSerializer()),
    ],
)
def test_a_reopened_value_is_a_fresh_identical_copy(value: Any, serializer: Serializer) -> None:
    """Every consumer gets its own."""
    payload = serializer.serialize(value)
    one, two = (reopen(payload, serializer) for _ in range(2))
    assert one is not value
    assert two is not one
    assert identical(one, value)
