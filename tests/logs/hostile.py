"""Log files as somebody might make them who wants harm done to whoever looks: each shape is a sound log, forged.

Checksums are right unless they are the point, so that nothing is refused for those. Run as a program it looks at
files, with bounds on memory and time: `python -m tests.logs.hostile FOLDER` prints a line of JSON for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import resource
import shutil
import signal
import sqlite3
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import msgspec

from eventflow import Flow, Parameter, Runs, SQLiteLog, inputs, open_run, replay, task
from eventflow.events import Known
from eventflow.logs.sqlite.checksums import sum_of
from eventflow.projections import CacheHits, Fold
from eventflow.read_models import ReadModel
from eventflow.records import LogDamaged, checksum, name_digest

__all__ = ["MEMORY_BYTES", "SECONDS", "SHAPES", "make", "write"]

MEMORY_BYTES: Final = 2 << 30
SECONDS: Final = 10
"""For all looks at one file."""
RUN: Final = "r"
HUGE: Final = 2**40

Connection: TypeAlias = sqlite3.Connection
Shape: TypeAlias = Callable[[Connection], object]

pack: Final = msgspec.msgpack.encode
_KINDS: Final = {kind.__struct_config__.tag: kind for kind in get_args(Known)}


@task(cache_on=inputs(), version="1")
async def square(n: int) -> int:
    """Cached."""
    return n * n


@task(version="1")
async def spread(n: int) -> list[int]:
    """So many numbers."""
    return list(range(n))


@task(version="1")
async def double(n: int) -> int:
    """Of one number."""
    return 2 * n


@task(version="1", retries=1)
async def fragile(n: int) -> str:
    """Fails, twice."""
    raise ValueError(f"no {n}")


@task(version="1")
async def large(n: int) -> str:
    """A value in a table, or in a pack."""
    return "x" * n * 40_000


async def make(path: Path) -> None:
    """The sound log: a run that fails, one that takes a result from the cache, and read models of both."""
    with Flow("hostile") as flow:
        n = Parameter("n", type=int)
        square(n)
        double.map(spread(n))
        fragile(n)
        large(n)
    async with SQLiteLog(path) as log:
        for run_id in (RUN, "other"):
            await flow.options(log=log, run_id=run_id).run(n=3)
        await ReadModel.of(log, Runs())
        await ReadModel.of(log, CacheHits())


# ── how to forge ─────────────────────────────────────────────────────────────────────────────────────────────


class Bytes(msgspec.Struct, frozen=True):
    """MessagePack as it stands, sound or not."""

    data: bytes


def packed(value: Any) -> bytes:
    """MessagePack of lists and maps with `Bytes` in them."""
    if isinstance(value, Bytes):
        return value.data
    if isinstance(value, list) and len(value) < 16:
        return bytes([0x90 | len(value)]) + b"".join(map(packed, value))
    if isinstance(value, dict) and len(value) < 16:
        return bytes([0x80 | len(value)]) + b"".join(
            pack(name) + packed(part) for name, part in value.items()
        )
    return pack(value)


def record_of(
    connection: Connection, kind: str, stream: str = f"run/{RUN}", nth: int = 0
) -> tuple[int, list[Any]]:
    """Position and envelope of a record of that kind."""
    rows = connection.execute(
        "SELECT position, body FROM event JOIN kind ON kind.id = event.kind JOIN stream ON stream.id = event.stream "
        "WHERE kind.name = ? AND stream.name LIKE ? ORDER BY position",
        (kind, stream),
    ).fetchall()
    position, body = rows[nth]
    return position, msgspec.msgpack.decode(body)


def put(connection: Connection, position: int, body: bytes) -> None:
    """Other bytes at a position, with their checksum."""
    row = (body, checksum(body, position), position)
    assert connection.execute("UPDATE event SET body = ?, crc = ? WHERE position = ?", row).rowcount == 1


def body_of(kind: str, body: bytes) -> Shape:
    """A record that consists of such bytes."""
    return lambda connection: put(connection, record_of(connection, kind)[0], body)


def event_of(kind: str, event: Any, nth: int = 0) -> Shape:
    """A record with another event."""

    def forge(connection: Connection) -> None:
        position, envelope = record_of(connection, kind, nth=nth)
        put(connection, position, packed([*envelope[:4], event]))

    return forge


def field_of(kind: str, nth: int = 0, stream: str = f"run/{RUN}", **fields: Any) -> Shape:
    """A record with other fields in its event."""

    def forge(connection: Connection) -> None:
        position, envelope = record_of(connection, kind, stream, nth)
        names = _KINDS[kind].__struct_fields__
        for name, value in fields.items():
            envelope[4][names.index(name) + 1] = value
        put(connection, position, packed([*envelope[:4], Bytes(packed_long(envelope[4]))]))

    return forge


def packed_long(values: list[Any]) -> bytes:
    """An array of any length, with `Bytes` among its elements."""
    return b"\xdc" + len(values).to_bytes(2, "big") + b"".join(map(packed, values))


def envelope_of(kind: str, **parts: Any) -> Shape:
    """A record with another envelope."""

    def forge(connection: Connection) -> None:
        position, envelope = record_of(connection, kind)
        for name, value in parts.items():
            envelope[("stream", "version", "at", "key").index(name)] = value
        put(connection, position, packed([*envelope[:4], Bytes(pack(envelope[4]))]))

    return forge


def graph_of(change: Callable[[dict[str, Any]], object]) -> Shape:
    """Another graph under the digest of the old one."""

    def forge(connection: Connection) -> None:
        position, envelope = record_of(connection, "flow_defined", "flow/%")
        change(envelope[4][1])
        put(connection, position, packed([*envelope[:4], Bytes(packed_long(envelope[4]))]))

    return forge


def sql(*statements: str) -> Shape:
    """What SQL does."""

    def forge(connection: Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    return forge


def schema(statement: str) -> Shape:
    """Other texts in the schema itself, unchecked."""
    return sql("PRAGMA writable_schema = ON", statement, "PRAGMA writable_schema = RESET")


def model_of(name: str, **columns: Any) -> Shape:
    """A read model with other columns, and the checksum of those."""

    def forge(connection: Connection) -> None:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM read_model WHERE name = ?", (name,)).fetchone())
        connection.row_factory = None
        row |= columns
        row["crc"] = sum_of(*[*row.values()][:-1])
        sets = ", ".join(f"{column} = ?" for column in row)
        connection.execute(f"UPDATE read_model SET {sets} WHERE name = ?", (*row.values(), name))

    return forge


def rows_of(name: str, data: Callable[[bytes], bytes]) -> Shape:
    """A read model whose rows say other things, and which knows it."""

    def forge(connection: Connection) -> None:
        (number,) = connection.execute("SELECT id FROM read_model WHERE name = ?", (name,)).fetchone()
        total = 0
        for row, old in connection.execute(
            "SELECT name, data FROM read_row WHERE model = ?", (number,)
        ).fetchall():
            new = data(old)
            crc = sum_of(number, row, new)
            total += crc
            connection.execute(
                "UPDATE read_row SET data = ?, crc = ? WHERE model = ? AND name = ?", (new, crc, number, row)
            )
        model_of(name, total=total % 2**32)(connection)

    return forge


def pruned(*ranges: tuple[int, int]) -> Shape:
    """Ranges that are said to have been given up."""

    def forge(connection: Connection) -> None:
        for first, last in ranges:
            connection.execute("INSERT INTO pruned VALUES (?, ?, ?)", (first, last, sum_of(first, last)))

    return forge


def moved_end(position: int) -> Shape:
    """The last record at another position, everything between them being pruned."""

    def forge(connection: Connection) -> None:
        (last, body) = connection.execute(
            "SELECT position, body FROM event ORDER BY 1 DESC LIMIT 1"
        ).fetchone()
        connection.execute(
            "UPDATE event SET position = ?, crc = ?, mark = 1 WHERE position = ?",
            (position, checksum(body, position), last),
        )
        pruned((last, position - 1))(connection)

    return forge


def snapshot_of(data: bytes) -> Shape:
    """A snapshot of the run."""

    def forge(connection: Connection) -> None:
        _, envelope = record_of(connection, "run_started")
        name = f"run/{RUN}/{envelope[4][1]}"
        connection.execute("REPLACE INTO snapshot VALUES (?, ?, ?)", (name, data, sum_of(name, data)))

    return forge


def overwritten(connection: Connection, table: str, fill: int) -> None:
    """The root page of a table, filled with one byte but for its own first one."""
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    _later.append((page * size - size + 1, bytes([fill]) * (size - 1)))


_later: Final[list[tuple[int, bytes]]] = []
"""Bytes to be put into the file once it is closed."""


def linked_in_a_circle(connection: Connection, table: str) -> None:
    """The root page of a table, an inner one all of whose children are itself."""
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    cell = page.to_bytes(4, "big") + b"\x01"
    head = b"\x05\x00\x00\x00\x01" + (size - len(cell)).to_bytes(2, "big") + b"\x00" + page.to_bytes(4, "big")
    body = head + (size - len(cell)).to_bytes(2, "big")
    _later.append((page * size - size, body + bytes(size - len(body) - len(cell)) + cell))


def fanned_out(connection: Connection, table: str) -> None:
    """A tree of five levels, each page of which has hundreds of children, which are all the same page."""
    (leaf,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("CREATE TABLE filler (x)")
    (start,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute("INSERT INTO filler VALUES (zeroblob(40000))")
    connection.execute("DROP TABLE filler")
    pages = [leaf, *range(start + 1, start + 7)]
    copy = pages.pop()
    path = _path_of(connection)
    connection.commit()
    old = path.read_bytes()[leaf * size - size : leaf * size]
    _later.append((copy * size - size, old))
    count = (size - 12) // 7
    for page, child in zip(pages, [*pages[1:], copy], strict=True):
        cell = child.to_bytes(4, "big") + b"\x7f"
        starts = [size - len(cell) * (i + 1) for i in range(count)]
        head = b"\x05\x00\x00" + count.to_bytes(2, "big") + starts[-1].to_bytes(2, "big") + b"\x00"
        data = head + child.to_bytes(4, "big") + b"".join(s.to_bytes(2, "big") for s in starts)
        _later.append((page * size - size, data + bytes(size - len(data) - len(cell) * count) + cell * count))


def _path_of(connection: Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])


def deep(levels: int) -> Bytes:
    """An array in an array, and so on."""
    return Bytes(b"\x91" * levels + b"\xc0")


def failures(levels: int) -> Any:
    """A failure with a cause, which has one, and so on."""
    data = b""
    for _ in range(levels):
        data += b"\x97\xa1T\xa1m\xa0"
    return Bytes(data + b"\xc0" * (4 * levels + 1)) if levels else None


ENDLESS: Final = (
    "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS position, 1 AS stream, x AS version, "
    "1 AS kind, NULL AS key, x'00' AS body, 0 AS crc, 1 AS mark FROM n"
)
TAGGED_RANGE: Final = [
    "inline",
    "tagged",
    msgspec.msgpack.encode(msgspec.msgpack.Ext(11, pack([0, HUGE, 1]))),
    b"d" * 16,
]
NON_TEXT: Final = Bytes(b"\xa2\xff\xfe")
ROW: Final = pack(["run", "r", "f", "n", 2**62, "running", "", {}, -(2**62), 2**62, {}, {}])


def _node(graph: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(node for node in graph["nodes"] if node["name"] == name)
    return found


def _set_inputs(graph: dict[str, Any], node: str, arg: Any) -> None:
    _node(graph, node)["inputs"] = [{"name": "n", "arg": arg}]


def _cached_on_all(graph: dict[str, Any]) -> None:
    square = next(task for task in graph["tasks"] if task["name"] == "square")
    square["policy"]["cache"] = {"namespace": "ns", "parameters": None}
    node = _node(graph, "square")
    graph["nodes"] = [{"kind": "parameter", "name": f"p{i}"} for i in range(20_000)]
    graph["nodes"] += [{"kind": "task", "name": f"t{i}", "task": node["task"]} for i in range(20_000)]
    graph.pop("value", None)
    graph.pop("reference", None)


# ── the shapes ───────────────────────────────────────────────────────────────────────────────────────────────

_RECORDS: Final[dict[str, Shape]] = {
    "a map as wide as 2**40": field_of("task_mapped", width=HUGE),
    "a map of a negative width": field_of("task_mapped", width=-1),
    "a map of a million over a list of three": field_of("task_mapped", width=1_000_000),
    "a map of a node that is not mapped": field_of("task_mapped", task=[1]),
    "a width that is no integer": field_of("task_mapped", width=1e300),
    "a claim of 2**63": field_of("task_started", claim=2**63),
    "a negative claim": field_of("task_started", claim=-1),
    "attempt 2**31 - 1": field_of("task_started", attempt=2**31 - 1),
    "attempt 0": field_of("task_started", attempt=0),
    "a negative attempt": field_of("task_succeeded", attempt=-5),
    "an address of nothing": field_of("task_started", task=[]),
    "a node beyond the graph": field_of("task_started", task=[2**31 - 1]),
    "a node before the graph": field_of("task_started", task=[-1]),
    "a node of 2**64": field_of("task_started", task=[2**64 - 1]),
    "an address a thousand deep": field_of("task_started", task=[1] * 1000),
    "a child of what is not mapped": field_of("task_started", task=[1, 0]),
    "a parameter that starts": field_of("task_started", task=[0]),
    "more inputs than there are": field_of("task_started", inputs=[1] * 5000),
    "no inputs": field_of("task_started", inputs=[]),
    "an input from nowhere": field_of("task_started", inputs=[[]]),
    "an input from a text": field_of("task_started", inputs=[["n", "n"]]),
    "an input from version 2**62": field_of("task_started", inputs=[2**62]),
    "a retry after the end of time": field_of("task_failed", retry_at=2**63 - 1),
    "a retry before 1970": field_of("task_failed", retry_at=-(2**62)),
    "an expiry after the end of time": field_of("task_succeeded", expires_at=2**62),
    "a negative duration": field_of("task_succeeded", body_us=-(2**63)),
    "a value of 2**60 bytes": field_of("task_succeeded", result=["stored", "msgpack", b"d" * 16, 2**60, "log"]),
    "a value of -1 bytes": field_of("task_succeeded", result=["stored", "msgpack", b"d" * 16, -1, "log"]),
    "a pickle": field_of("task_succeeded", result=["inline", "pickle+hmac:00000000", b"cos\nsystem\n.", b"d" * 16]),
    "a value that is no msgpack": field_of("task_succeeded", result=["inline", "msgpack", b"\xdd\xff\xff\xff\xff", b"d" * 16]),
    "a value that is an endless range": field_of("task_succeeded", nth=1, result=TAGGED_RANGE),
    "a payload of no kind": field_of("task_succeeded", result=["beamed", "msgpack", b""]),
    "a failure with 400 causes": field_of("task_failed", failure=failures(400)),
    "a failure with 100,000 causes": field_of("task_failed", failure=failures(100_000)),
    "a failure that is a number": field_of("task_failed", failure=5),
    "a success without a start": lambda c: field_of("task_started", task=record_of(c, "task_started", nth=1)[1][4][2])(c),
    "a cached task that says nothing of the cache": field_of("task_started", cache=None),
    "a task that is not cached and was asked for": field_of("task_started", nth=1, cache=[b"p" * 32, "new", ""]),
    "parts of a key of three bytes": field_of("task_started", cache=[b"abc", "new", ""]),
    "a hit from nowhere": field_of("task_reused", stream="run/other", source=["run/nowhere", 2**53]),
    "a hit of what is not cached": field_of("task_reused", stream="run/other", task=[2]),
    "a run of a flow that is not there": field_of("run_started", flow="0" * 32),
    "a run of a flow with a name for SQL": field_of("run_started", flow="' OR 1 --"),
    "a run without parameters": field_of("run_started", parameters={}),
    "parameters that are a list": field_of("run_started", parameters=[1, 2]),
    "a run that begins with a claim": lambda c: event_of("run_started", record_of(c, "run_claimed")[1][4])(c),
    "a run that starts twice": lambda c: event_of("run_claimed", record_of(c, "run_started")[1][4])(c),
    "a run claimed for another flow": field_of("run_claimed", flow="0" * 32),
    "a run that ends before its tasks": lambda c: event_of("task_mapped", record_of(c, "run_finished")[1][4])(c),
    "an outcome that is none": field_of("run_finished", outcome="glorious"),
    "a moment after the year 9999": envelope_of("task_mapped", at=2**63 - 1),
    "a moment before 1970": envelope_of("task_mapped", at=-1),
    "a moment that is a fraction": envelope_of("task_mapped", at=0.5),
    "version 2**63 - 1": envelope_of("task_mapped", version=2**63 - 1),
    "version 0": envelope_of("task_mapped", version=0),
    "a negative version": envelope_of("task_mapped", version=-7),
    "a record of another stream": envelope_of("task_mapped", stream=name_digest("run/other")),
    "a stream that is no text": envelope_of("task_mapped", stream=NON_TEXT),
    "a key that is no text": envelope_of("task_succeeded", key=NON_TEXT),
    "a key that is a number": envelope_of("task_succeeded", key=7),
    "an envelope of nothing": body_of("task_mapped", b"\x90"),
    "an envelope of 2**32 elements": body_of("task_mapped", b"\xdd\xff\xff\xff\xff"),
    "a body of nothing": body_of("task_mapped", b""),
    "a body that is a number": body_of("task_mapped", b"\x07"),
    "a body that ends in the middle": body_of("task_mapped", b"\x95\xa5run/r"),
    "an event that is nil": event_of("task_mapped", None),
    "an event of nothing": event_of("task_mapped", []),
    "an event of a kind that is a number": event_of("task_mapped", [5]),
    "an event of a kind that is no text": event_of("task_mapped", [NON_TEXT]),
    "an event 100,000 levels deep": event_of("task_mapped", ["unknown", deep(100_000)]),
    "an event of 2**32 elements": event_of("task_mapped", Bytes(b"\xdd\xff\xff\xff\xff")),
    "a body of 16 MB of nil": event_of("task_mapped", ["unknown", Bytes(b"\xdd\x01\x00\x00\x00" + b"\xc0" * (16 << 20))]),
}  # fmt: skip

_GRAPHS: Final[dict[str, Shape]] = {
    "a node that needs a later one": graph_of(lambda g: _set_inputs(g, "square", ["ref", 4, []])),
    "a node that needs itself": graph_of(lambda g: _set_inputs(g, "square", ["ref", 1, []])),
    "a node that needs no node": graph_of(lambda g: _set_inputs(g, "square", ["ref", -1, []])),
    "a node that needs node 2**40": graph_of(lambda g: _set_inputs(g, "square", ["ref", HUGE, []])),
    "a node that needs a list 300 deep": graph_of(lambda g: _set_inputs(g, "square", Bytes(b"\x92\xa4list\x91" * 300 + b"\x93\xa3ref\x00\x90"))),
    "a node that needs a list 50,000 deep": graph_of(lambda g: _set_inputs(g, "square", Bytes(b"\x92\xa4list\x91" * 50_000 + b"\x93\xa3ref\x00\x90"))),
    "a dict with more keys than items": graph_of(lambda g: _set_inputs(g, "square", ["dict", ["a", "b"], []])),
    "a node of no task": graph_of(lambda g: _node(g, "square").update(task=99)),
    "a node of task -1": graph_of(lambda g: _node(g, "square").update(task=-1)),
    "two nodes of one name": graph_of(lambda g: _node(g, "square").update(name="large")),
    "a node after node 2**40": graph_of(lambda g: _node(g, "square").update(after=[HUGE])),
    "a map over a constant": graph_of(lambda g: _node(g, "double").update(inputs=[{"name": "n", "arg": ["const", ["inline", "msgpack", b"\x90", b"d" * 16]], "each": True}])),
    "a map over nothing": graph_of(lambda g: _node(g, "double").update(inputs=[])),
    "success judged on node 2**40": graph_of(lambda g: g.update(reference=[HUGE])),
    "success judged on a parameter": graph_of(lambda g: g.update(reference=[0])),
    "a value of node -1": graph_of(lambda g: g.update(value=["ref", -1, []])),
    "a type of a class that is not there": graph_of(lambda g: g["types"].append({"digest": b"d" * 16, "type": {"name": "class"}, "classes": [77]})),
    "20,000 cached tasks on 20,000 parameters": graph_of(_cached_on_all),
    "a graph of nothing": graph_of(lambda g: [g.pop(name) for name in [*g][1:]]),
    "a graph without a name": graph_of(lambda g: g.clear()),
}  # fmt: skip

_TABLES: Final[dict[str, Shape]] = {
    "3,000,000,000 positions pruned": moved_end(3_000_000_000),
    "2**50 positions pruned": moved_end(2**50),
    "2**60 positions pruned": moved_end(2**60),
    "the last position there is": moved_end(2**63 - 1),
    "a position below zero": moved_end(-5),
    "pruned ranges that overlap": lambda c: (moved_end(100)(c), pruned((50, 60))(c)),
    "a pruned range that ends before it begins": pruned((5, -(2**60))),
    "a pruned range over records": pruned((1, 2**60)),
    "50,000 pruned ranges": pruned(*((i * 2 + 1000, i * 2 + 1000) for i in range(50_000))),
    "a pruned range with another checksum": sql("INSERT INTO pruned VALUES (2, 3, 0)", "DELETE FROM event WHERE position IN (2, 3)"),
    "a checkpoint at -2**62": model_of("runs", position=-(2**62)),
    "a checkpoint at 2**62": model_of("runs", position=2**62),
    "a checkpoint of the cache at -2**62": model_of("cache", position=-(2**62)),
    "a model of 2**62 rows": model_of("runs", rows=2**62),
    "a model with the number -1": model_of("runs", id=-1),
    "rows of nothing": rows_of("runs", lambda _: b""),
    "rows of 2**32 elements": rows_of("runs", lambda _: b"\xdd\xff\xff\xff\xff"),
    "rows 50,000 deep": rows_of("runs", lambda _: b"\x91" * 50_000),
    "rows that are numbers": rows_of("cache", lambda _: b"\x07"),
    "rows with huge numbers": rows_of("runs", lambda _: ROW),
    "rows of another checksum": sql("UPDATE read_row SET crc = crc + 1"),
    "rows that are gone": sql("DELETE FROM read_row"),
    "a log without an id": sql("DELETE FROM info"),
    "a snapshot of noise": snapshot_of(b"\xff" * 100),
    "a snapshot of 32 MB": snapshot_of(bytes(32 << 20)),
    "streams without records": sql("DELETE FROM event"),
    "streams without names": sql("DELETE FROM stream"),
    "a stream called NUL": sql("UPDATE stream SET name = char(0) WHERE name = 'run/r'"),
    "a stream whose name is no text": sql("UPDATE stream SET name = CAST(x'fffe' AS TEXT) WHERE name = 'run/r'"),
    "a record of stream 2**62": sql("UPDATE event SET stream = 4611686018427387904 WHERE position = 5"),
    "a version of 2**63 - 1": sql("UPDATE event SET version = 9223372036854775807 WHERE position = (SELECT max(position) FROM event)"),
    "a checksum of zero": sql("UPDATE event SET crc = 0 WHERE version = 5"),
    "no kinds": sql("DELETE FROM kind"),
    "no values": sql("DELETE FROM value"),
    "values of other bytes": sql("UPDATE value SET data = zeroblob(length(data)) WHERE data IS NOT NULL"),
    "values far out in packs": sql("UPDATE value SET pack = 999999, offset = 4611686018427387904, stored_size = 4611686018427387904 WHERE pack > 0"),
    "values of 2**60 bytes": sql("UPDATE value SET stored_size = 1152921504606846976 WHERE pack > 0"),
    "no marks": sql("UPDATE event SET mark = NULL"),
    "a body of 32 MB of zeros": sql("UPDATE event SET body = zeroblob(33554432) WHERE version = 5"),
    "a body of 260 MB of zeros": sql("UPDATE event SET body = zeroblob(272629760) WHERE version = 5 AND stream = 2"),
}  # fmt: skip

_SCHEMAS: Final[dict[str, Shape]] = {
    "an endless view for a table": sql("DROP TABLE event", f"CREATE VIEW event AS {ENDLESS}"),
    "an endless view for rows": sql("DROP TABLE read_row", f"CREATE VIEW read_row AS SELECT position AS model, 'r' AS name, body AS data, crc FROM ({ENDLESS})"),
    "an endless view beside": sql(f"CREATE VIEW more AS {ENDLESS}"),
    "a trigger": sql(f"CREATE TRIGGER more BEFORE INSERT ON read_row BEGIN SELECT count(*) FROM ({ENDLESS}); END"),
    "a table beside": sql("CREATE TABLE more (x)"),
    "an index beside": sql("CREATE INDEX more ON event (length(body))"),
    "statistics": sql("ANALYZE"),
    "a table less": sql("DROP TABLE pruned"),
    "an index less": sql("DROP INDEX event_key"),
    "a trigger less": sql("SELECT 1"),
    "a column more": sql("ALTER TABLE event ADD COLUMN more INTEGER"),
    "a generated column": sql("ALTER TABLE event ADD COLUMN more BLOB AS (zeroblob(1000000000))"),
    "columns of other types": schema("UPDATE sqlite_schema SET sql = replace(sql, 'INTEGER', 'TEXT') WHERE name = 'event'"),
    "a table that is not strict": schema("UPDATE sqlite_schema SET sql = replace(sql, ' STRICT', '') WHERE name = 'event'"),
    "a schema that is no SQL": schema("UPDATE sqlite_schema SET sql = 'CREATE TABLE event (((' WHERE name = 'event'"),
    "a schema that is no text": schema("UPDATE sqlite_schema SET sql = CAST(x'ff' AS TEXT) WHERE name = 'event_key'"),
    "a table in another one's place": schema("UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'value') WHERE name = 'event'"),
    "a table in an index's place": schema("UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'event_key') WHERE name = 'stream'"),
    "a table in no place": schema("UPDATE sqlite_schema SET rootpage = 1000000 WHERE name = 'event'"),
    "rows in the place of kinds": schema("UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'kind') WHERE name = 'stream'"),
    "a newer format": sql("PRAGMA user_version = 2"),
    "another program's file": sql("PRAGMA application_id = 7"),
    "a table linked in a circle": partial(linked_in_a_circle, table="event"),
    "names linked in a circle": partial(linked_in_a_circle, table="stream"),
    "rows that fan out for ever": partial(fanned_out, table="event"),
    "kinds that fan out for ever": partial(fanned_out, table="kind"),
    "pruned ranges that fan out for ever": lambda c: (pruned((2, 2))(c), c.execute("DELETE FROM event WHERE position = 3"), fanned_out(c, "pruned")),
    "a schema linked in a circle": partial(linked_in_a_circle, table="event_key"),
    "a page of zeros": partial(overwritten, table="event", fill=0),
    "a page of ones": partial(overwritten, table="stream", fill=255),
}  # fmt: skip

SHAPES: Final[dict[str, Shape]] = {**_RECORDS, **_GRAPHS, **_TABLES, **_SCHEMAS}


def write(base: Path, path: Path, shape: Shape) -> None:
    """A copy of the sound log, in that shape."""
    shutil.copytree(base.parent, path.parent, dirs_exist_ok=True)
    _later.clear()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA synchronous = OFF")
        before = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        shape(connection)
        if shape in _RECORDS.values() or shape in _GRAPHS.values():  # or nobody would fold what was forged
            connection.execute("DELETE FROM read_model")
            connection.execute("DELETE FROM read_row")
        with contextlib.suppress(sqlite3.Error):  # of a shape that leaves nothing to read
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            for name, text in triggers if {"event", "stream", "value"} <= before & there else ():
                if name not in there and (name, shape) != ("event_is_permanent", SHAPES["a trigger less"]):
                    connection.execute(text)
    with path.open("r+b") as file:
        for place, data in _later:
            file.seek(place)
            file.write(data)


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

COMMANDS: Final = (
    ("runs",),
    ("show", RUN),
    ("show", "other"),
    ("events", RUN),
    ("cache", "ls"),
    ("cache", "stats"),
    ("cache", "explain", RUN, "square"),
)


def look(path: Path) -> dict[str, Any]:
    """What each command and a replay say of a file: exit code, and what is on stderr."""
    from eventflow.cli.app import eventflow

    answers: dict[str, Any] = {}
    for words in COMMANDS:
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                eventflow.main([*words, "--log", f"sqlite:///{path}"], standalone_mode=True)
            except SystemExit as error:
                code = error.code
            except BaseException:
                code = traceback.format_exc()
        answers[" ".join(words)] = [code, err.getvalue()[-500:]]
    try:
        asyncio.run(folded(path))
        answers["replay"] = [0, ""]
    except LogDamaged as error:
        answers["replay"] = [5, str(error)[:500]]
    except Exception as error:
        named = type(error).__name__ in ("LogUnusable", "RunNotFound")
        answers["replay"] = [5 if named else traceback.format_exc(), str(error)[:500]]
    return answers


async def folded(path: Path) -> None:
    """A replay of the run."""
    async with SQLiteLog(path) as log:
        view = await open_run(log, RUN)
        await replay(log, view, stream=view.stream, start=Fold.start(view))


def files_in(folder: Path) -> Iterator[Path]:
    """The forged logs, in the order of their numbers."""
    yield from sorted(folder.glob("*/log.db"))


def say(line: dict[str, Any]) -> None:
    """A line for who started this, at once: the next file may be the end of it."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Look at every file, within bounds: who needs more memory gets an error, who needs more time is killed."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for path in files_in(folder):
        say({"file": path.parent.name})
        signal.alarm(SECONDS)
        start = time.monotonic()
        answers = look(path)
        signal.alarm(0)
        say({"answers": answers, "seconds": time.monotonic() - start})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
