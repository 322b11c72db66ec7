"""`docs/format.md` says what the code does, and enough of it: a reader that knows only the page reads the golden log."""

from __future__ import annotations

import ast
import hmac
import pickletools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints
from zlib import crc32

import msgspec
import pytest

from eventflow import events, graph
from eventflow.codecs.registry import RESERVED
from eventflow.codecs.tagged import Extension
from eventflow.events import Draft, Known, TaskSucceeded
from eventflow.fingerprints import type_defs as typedefs
from eventflow.logs.sqlite import files, packs, schema
from eventflow.records import decode, encode
from eventflow.result import Payload
from eventflow.runner import stored_values
from tests.golden import make

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/format.md").read_text(encoding="utf-8")
SCHEMA = (ROOT / "eventflow/logs/sqlite/schema.sql").read_text(encoding="utf-8")

Table: TypeAlias = list[list[str]]
ABSENT: dict[str, Any] = {
    "required": msgspec.NODEFAULT,
    "nil": None,
    "{}": {},
    "[]": (),
    "empty": b"",
    "true": True,
    "false": False,
}
STRUCTS: dict[str, type[msgspec.Struct]] = {
    **{str(kind.__struct_config__.tag): kind for kind in (*get_args(Known), *get_args(Payload))},
    **{str(kind.__struct_config__.tag): kind for kind in (*get_args(graph.GraphNode), *get_args(graph.Arg))},
    **{kind.__name__: kind for kind in (events.Origin, events.Failure, events.CacheMiss)},
    **{
        kind.__name__: kind
        for kind in (graph.Graph, graph.TaskDef, graph.Policy, graph.CachePolicy, graph.Input, graph.TypeDef)
    },
    **{kind.__name__: kind for kind in (typedefs.Type, typedefs.ClassDef, typedefs.FieldDef)},
}


def tables() -> Iterator[tuple[str, Table]]:
    """Every table of the page under the heading before it, its first row being the names of its columns."""
    heading, rows = "", []
    for line in [*PAGE.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if rows:
            yield heading, [rows[0], *rows[2:]]
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")


def fields() -> dict[str, Table]:
    """The tables of structs, by tag, or by name where there is none."""
    found: dict[str, Table] = {}
    for heading, (header, *rows) in tables():
        columns = header[1:] if header[0] == "#" else header
        if columns[0].startswith("field"):
            name = columns[0].removeprefix("field").removeprefix(" of ").strip("`") or heading
            assert name not in found, f"{name} is there twice"
            found[name] = rows
    return found


def test_the_page_has_a_table_for_every_struct_and_no_other() -> None:
    """Every kind that can be written, and all that events are made of, down to the last."""
    assert fields().keys() == STRUCTS.keys()

    def inner(hint: Any) -> Iterator[type]:
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield hint
        for arg in get_args(hint):
            yield from inner(arg)

    for kind in STRUCTS.values():
        for hint in get_type_hints(kind).values():
            assert set(inner(hint)) <= set(STRUCTS.values())


@pytest.mark.parametrize("name", STRUCTS)
def test_a_table_has_exactly_the_fields_in_the_order_of_the_wire(name: str) -> None:
    """With the places of an array's, the values of absent ones, and the words of closed vocabularies."""
    kind = STRUCTS[name]
    config = kind.__struct_config__
    assert config.tag in (None, name)
    hints = get_type_hints(kind)
    first = 0 if config.tag is None else 1
    found = [[*row] for row in fields()[name]]
    if config.array_like:
        assert [int(row.pop(0)) for row in found] == [*range(first, first + len(found))]
    else:
        assert config.omit_defaults
        assert config.tag_field in (None, "kind")
    assert [row[0].strip("`") for row in found] == list(kind.__struct_fields__)
    for row, field in zip(found, msgspec.structs.fields(kind), strict=True):
        told = ABSENT[row[2]] if row[2] in ABSENT else ast.literal_eval(row[2])
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        assert (type(told), told) == (type(default), default), field.name
        hint = hints[field.name]
        words = re.findall(r"`(\w+)`", row[1]) if row[1].startswith("one of") else []
        assert words == list(get_args(hint) if get_origin(hint) is Literal else ()), field.name


def test_the_page_has_every_table_and_column_of_the_database() -> None:
    """As SQLite itself lists them, with their types and in their order."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        real = {
            name: [row[1:3] for row in connection.execute(f"SELECT * FROM pragma_table_info('{name}')")]
            for name in names
        }
    told = {
        heading: [(row[0].strip("`"), row[1]) for row in rows]
        for heading, (header, *rows) in tables()
        if header[0] == "column"
    }
    assert told == real


def test_the_page_has_every_extension_and_every_codec() -> None:
    """By number and name."""
    listed = {header[0]: rows for _, (header, *rows) in tables()}
    assert [(int(row[0]), row[1].strip("`")) for row in listed["number"]] == [
        (e.value, e.name) for e in Extension
    ]
    assert {row[0].strip("`") for row in listed["codec"]} == {*RESERVED, "pickle+hmac:<key id>"}


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    """Application, format, thresholds."""
    assert f"`application_id` {files.APPLICATION_ID:#x}" in PAGE
    assert f"`user_version` {files.FORMAT}, the number of the format" in PAGE
    assert f"values up to {stored_values.EVENT_INLINE_BYTES_MAX} bytes" in PAGE
    assert f"Values above {packs.ROW_BYTES_MAX >> 10} KiB" in PAGE


def test_the_page_says_which_tables_and_indices_may_be_added() -> None:
    """In the very expressions that the check of a file uses."""
    for pattern in (schema._LATER_TABLE, schema._PLAIN_INDEX):
        assert f"`{pattern.pattern}`" in PAGE


def test_the_record_in_hex_is_what_the_page_says() -> None:
    """Its bytes are those of the engine, and decode to what stands beside them and below."""
    lines, said = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    pairs = [re.split(r" {2,}", line, maxsplit=1) for line in lines.splitlines()]
    body = bytes.fromhex("".join(code for code, _ in pairs))
    told = ast.literal_eval(re.sub(r'bytes\.fromhex\("(\w+)"\)', lambda m: repr(bytes.fromhex(m[1])), said))
    assert msgspec.msgpack.decode(body) == told
    assert f"This record of {len(body)} bytes" in PAGE
    assert f"At position 9 its `crc` is {crc32(body, 9)}," in PAGE
    record = decode(9, "run/x", body)
    assert encode(record.stream, record.version, Draft(record.at, record.event, record.key)) == body
    event = record.event
    assert isinstance(event, TaskSucceeded)
    named: dict[str, Any] = {
        "stream": number_of(record.stream),
        "version": record.version,
        "at": record.at,
        "key": record.key,
    }
    named |= {name: getattr(event, name) for name in event.__struct_fields__}
    shown = [match.groups() for _, text in pairs if (match := re.match(r"(\w+) = (nil|\d+|\[\d+\])", text))]
    assert len(shown) == 12
    for name, text in shown:
        value = list(named[name]) if isinstance(named[name], tuple) else named[name]
        assert value == (None if text == "nil" else ast.literal_eval(text)), name


# ── a reader that knows only the page ────────────────────────────────────────────────────────────────────────


def digest(data: bytes, size: int = 16) -> bytes:
    """As the page says."""
    return sha256(data).digest()[:size]


def number_of(name: str) -> int:
    """The number of a name, as the page says."""
    return int.from_bytes(digest(name.encode(), 8), "big", signed=True)


class Reader:
    """Reads a log with SQLite, MessagePack and SHA-256, and nothing of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA application_id").fetchone() == (0x65766C67,)
            assert connection.execute("PRAGMA user_version").fetchone() == (1,)
            for row in connection.execute("SELECT * FROM stream"):
                assert row[2] == crc32(msgspec.msgpack.encode(row[1:2]))
            for table in ("info", "kind", "snapshot", "read_model", "read_row"):
                for *columns, crc in connection.execute(f"SELECT * FROM {table}"):
                    assert crc == crc32(msgspec.msgpack.encode(columns)), table
            self.streams = dict(connection.execute("SELECT id, name FROM stream"))
            self.kinds = dict(connection.execute("SELECT id, name FROM kind"))
            self.rows = connection.execute(
                "SELECT position, stream, version, kind, key, body, crc, mark FROM event ORDER BY position"
            ).fetchall()
            self.values = {row[0]: row[2:] for row in connection.execute("SELECT * FROM value")}
            self.info = dict(connection.execute("SELECT name, value FROM info"))

    def records(self) -> Iterator[tuple[str, int, str | None, list[Any], bytes]]:
        """Stream, version, key, event and the event's bytes."""
        versions: dict[str, int] = {}
        before: dict[str, int] = {}
        marked: dict[int, int] = {}
        for nth, (position, stream, number, kind, short, body, crc, mark) in enumerate(self.rows, 1):
            assert position == nth
            assert crc32(body, position) == crc
            assert mark == (None if marked.get(stream) == (position - 1) // 64 else 1)
            marked[stream] = (position - 1) // 64
            name = self.streams[stream]
            said, version, at, key, raw = msgspec.msgpack.decode(
                body, type=tuple[int, int, int, str | None, msgspec.Raw]
            )
            assert said == number_of(name)
            assert version == number == versions.get(name, 0) + 1
            assert at >= before.get(name, 0)
            versions[name], before[name] = version, at
            told = None if key is None else number_of(key)
            assert short == told
            event = msgspec.msgpack.decode(raw)
            assert event[0] == self.kinds[kind]
            yield name, version, key, event, bytes(raw)

    def bytes_of(self, payload: list[Any]) -> bytes:
        """The bytes of an `inline` or `stored`, checked."""
        if payload[0] == "inline":
            _, _, data, name = payload
        else:
            _, _, name, size, store = payload
            assert store == "log"
            encoding, length, data, pack, offset = self.values[name]
            assert not encoding
            assert length == size
            if data is None:
                with Path(f"{self.path}.packs/{pack:06d}.pack").open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
            assert len(data) == size
        assert digest(data) == name
        return bytes(data)


def key_of(task: dict[str, Any], parts: bytes) -> str:
    """The key of a call, made as the page says."""
    policy = task["policy"]["cache"]
    namespace = policy["namespace"].encode()
    assert not task.get("codeless")
    code, returns, keeper, keyer = (task.get(name, b"") for name in ("code", "returns", "keeper", "keyer"))
    lengths = f"{len(code)} {len(returns)} {len(keeper)} {len(keyer)} ".encode()
    count = f"{len(namespace)} ".encode()
    on = msgspec.msgpack.encode(
        [policy.get("inputs"), policy.get("parameters", []), policy.get("keyed", False)]
    )
    whole = (
        b"eventflow cache key 1 " + lengths + code + returns + keeper + keyer + on + count + namespace + parts
    )
    return digest(whole).hex()


def check_types(graph: dict[str, Any]) -> None:
    """Every type is there under its digest, and whatever refers to one finds it."""
    known, classes = set(), graph.get("classes", [])
    for entry in graph["types"]:
        reached = [classes[i] for i in entry.get("classes", [])]
        assert digest(msgspec.msgpack.encode([entry["type"], reached])) == entry["digest"]
        known.add(entry["digest"])
    used = [task.get("returns") for task in graph["tasks"]]
    used += [name for task in graph["tasks"] for _, name in task.get("takes", [])]
    used += [node.get("declared") for node in graph["nodes"] if node["kind"] == "parameter"]
    assert {name for name in used if name} == known


def part_of(what: str, name: str, content: bytes) -> bytes:
    """One part of a key."""
    return digest(f"{what} {len(name.encode())} {name}".encode() + content)


def extension(number: int, content: Any) -> msgspec.msgpack.Ext:
    """An extension of the codec `tagged`."""
    return msgspec.msgpack.Ext(number, msgspec.msgpack.encode(content))


def content(value: Any) -> bytes:
    """The content of what stands in its canonical form already."""
    return digest(msgspec.msgpack.encode(value))


def test_a_reader_made_from_the_page_reads_the_golden_log(tmp_path: Path) -> None:
    """Places, checksums, digests, payloads in all three places, pickles' signatures, keys of the cache."""
    reader = Reader(make.copy(make.FOLDER, tmp_path))
    graphs: dict[str, dict[str, Any]] = {}
    flows: dict[str, str] = {}
    parts: dict[tuple[str, tuple[int, ...]], bytes] = {}
    places, codecs = set(), set()
    by_name: dict[str, tuple[bytes, bytes | None]] = {}
    secret = bytes.fromhex(make.KEY)
    assert f"key:{digest(secret, 4).hex()}" in reader.info
    for stream, version, key, (kind, *found), raw in reader.records():
        match kind:
            case "flow_defined":
                _, graph_raw = msgspec.msgpack.decode(raw, type=tuple[str, msgspec.Raw])
                assert stream == f"flow/{digest(bytes(graph_raw)).hex()}"
                graphs[stream.removeprefix("flow/")] = found[0]
                check_types(found[0])
            case "run_started":
                assert version == 1
                flows[stream] = found[0]
            case "run_claimed":
                flows[stream] = found[2]
            case "task_started" if found[4] is not None and found[4][1] != "opaque":
                parts[stream, tuple(found[1])] = found[4][0]
            case "task_succeeded":
                payload = found[3]
                data, codec = reader.bytes_of(payload), payload[1]
                in_pack = payload[0] == "stored" and reader.values[payload[2]][2] is None
                places.add((payload[0], in_pack))
                codecs.add(codec.partition(":")[0])
                if codec.startswith("pickle"):
                    length = int.from_bytes(data[32:36], "big")
                    assert isinstance(msgspec.msgpack.decode(data[36 : 36 + length]), list)
                    assert pickletools.genops(data[36 + length :]).__next__()[0].name == "PROTO"
                    assert hmac.digest(secret, data[32:], "sha256") == data[:32]
                if key is not None:
                    address = tuple(found[1])
                    graph = graphs[flows[stream]]
                    node = graph["nodes"][address[0]]
                    name, number = node["name"], node["task"]
                    assert key == key_of(graph["tasks"][number], parts[stream, address])
                    by_name[name] = parts[stream, address], found[8]
    assert places == {("inline", False), ("stored", False), ("stored", True)}
    assert codecs == {"msgpack", "typed", "tagged", "pickle+hmac"}
    check_parts(by_name)


def check_parts(found: dict[str, tuple[bytes, bytes | None]]) -> None:
    """Parts of keys and contents of values, of which the reader knows what they are made of."""
    weights = {"a": extension(1, []), "b": extension(1, [1, 2])}
    kind = extension(18, ["golden:Kind", "MEAN", "mean"])
    fields_of_model = [["kind", kind], ["unit", "EUR"], ["value", 7 / 3], ["weights", weights]]
    model = content(extension(17, ["golden:Model", fields_of_model]))
    rates = content({"CHF": 0.9375, "EUR": 1.0})
    day = content("monday")
    of_fit = part_of("input", "rows", content([1, 2, 4])) + part_of("parameter", "day", day)
    models = part_of("input", "models", b"made of " + content([model]))
    assert found["rates"] == (part_of("input", "day", day), rates)
    assert found["fit"] == (of_fit, model)
    assert found["judge"][0] == models + part_of("input", "rates", rates)
    assert found["keyed"][0] == part_of("answer", "", content(5))
    assert found["large"][0] == b""
