"""The golden log of format 1: bytes written once are read, folded, opened and gone on with by today's code.

What these tests find is a change of the format.  See `docs/format.md` for what may change, and `make.py` for how
the files come about.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from zlib import crc32

import anyio
import msgspec
import pytest

from eventflow import SQLiteLog, open_run, replay
from eventflow.codecs.tagged import Extension
from eventflow.events import (
    CacheMiss,
    Draft,
    FlowDefined,
    Known,
    Record,
    RunClaimed,
    TaskReused,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    kind_of,
)
from eventflow.fingerprints.content import content_of
from eventflow.graph import Arg, Graph, Policy
from eventflow.records import encode
from eventflow.result import Inline, Payload, Stored
from eventflow.runner.ownership import UnknownEvents
from eventflow.testing import VirtualWorld, simulated
from tests.golden import make

EXPECTED = json.loads((make.FOLDER / "expected.json").read_text(encoding="utf-8"))
NOT_WRITTEN_YET = {("TaskReused", "why", "shared"), ("RunFinished", "outcome", "cancelled")}
NEVER_MADE = {"Withheld", "Forgotten"}
"""Payloads that no option of this version leads to."""


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    with make.golden_surroundings():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the log, for opening one writes to it."""
    return make.copy(make.FOLDER, tmp_path)


async def records_of(path: Path, stream: str | None = None) -> list[Record]:
    """All records, or those of one stream."""
    async with SQLiteLog(path) as log:
        return [record async for record in log.read(stream=stream)]


def graphs(records: list[Record]) -> dict[str, Graph]:
    """Every graph, by the digest in the name of its stream."""
    return {
        record.stream.removeprefix("flow/"): record.event.graph
        for record in records
        if isinstance(record.event, FlowDefined)
    }


def is_grown(new: Any, old: Any) -> bool:
    """Whether something is what it was, but for fields that were appended."""
    if isinstance(old, list):
        same_kind = isinstance(new, list) and len(new) >= len(old)
        return same_kind and all(is_grown(a, b) for a, b in zip(new, old, strict=False))
    if isinstance(old, dict):
        return (
            isinstance(new, dict) and new.keys() == old.keys() and all(is_grown(new[k], old[k]) for k in old)
        )
    return type(new) is type(old) and new == old


def test_the_stored_bytes_are_those_that_were_written(path: Path) -> None:
    """Position, stream, version, kind and body of every record, and its checksum."""
    assert make.stored(path) == EXPECTED["records"]
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT position, body, crc FROM event").fetchall()
    assert [crc32(body, position) for position, body, _ in rows] == [crc for *_, crc in rows]


async def test_what_was_read_is_written_again_as_it_was(path: Path) -> None:
    """Byte for byte, or with fields appended, which is all that may happen to a kind."""
    for record, (position, stream, version, kind, body) in zip(
        await records_of(path), EXPECTED["records"], strict=True
    ):
        event, old = record.event, bytes.fromhex(body)
        assert (record.position, record.stream, record.version) == (position, stream, version)
        assert kind_of(event) == kind
        new = encode(record.stream, version, Draft(record.at, event, record.key))
        was, now = msgspec.msgpack.decode(old), msgspec.msgpack.decode(new)
        assert new == old if was == now else is_grown(now, was), f"record {position}, a {kind}"


def test_every_run_is_there(path: Path) -> None:
    """Nothing of what follows is about fewer runs than the log has."""
    runs = {stream.removeprefix("run/") for _, stream, *_ in make.stored(path) if stream.startswith("run/")}
    assert runs == set(EXPECTED["states"])
    assert runs == set(EXPECTED["values"]) | {*make.UNFINISHED, make.NEWER, make.DEMANDING}


@pytest.mark.parametrize("run", EXPECTED["states"])
async def test_a_run_folds_to_the_same_states_at_every_version(run: str, path: Path) -> None:
    """Class, result, inputs, failure and source of every task after each of the run's events."""
    async with SQLiteLog(path) as log:
        assert await make.states_of(log, run) == EXPECTED["states"][run]


@pytest.mark.parametrize("run", EXPECTED["values"])
async def test_values_open_to_the_same_python_values(run: str, path: Path) -> None:
    """With every codec, from the event, from the table and from a pack; asking for them executes nothing."""
    before = make.stored(path)
    async with SQLiteLog(path) as log:
        assert await make.values_of(log, run) == EXPECTED["values"][run]
    assert make.stored(path) == before, "a finished run was run again"


async def test_stored_values_have_the_digests_that_name_them(path: Path) -> None:
    """In the table as in the events: the first half of the SHA-256 of the bytes."""
    async with SQLiteLog(path) as log:
        payloads = [
            record.event.result async for record in log.read() if isinstance(record.event, TaskSucceeded)
        ]
        for payload in payloads:
            if isinstance(payload, Stored):
                found = (await log.values([payload.digest]))[payload.digest]
                data = found.data
                assert len(data) == payload.size
            else:
                assert isinstance(payload, Inline)
                data = payload.data
            assert sha256(data).digest()[:16] == payload.digest


def test_a_flow_stands_under_the_digest_of_its_stored_bytes() -> None:
    """The stream of a graph is named by the digest of the graph as it was written."""
    found = 0
    for _, stream, _, kind, body in EXPECTED["records"]:
        if kind == "flow_defined":
            *_, event = msgspec.msgpack.decode(bytes.fromhex(body), type=list[msgspec.Raw])
            _, graph = msgspec.msgpack.decode(event, type=list[msgspec.Raw])
            assert stream == f"flow/{sha256(bytes(graph)).hexdigest()[:32]}"
            found += 1
    assert found == 4


async def test_the_entries_of_the_cache_are_found(path: Path) -> None:
    """By their keys, which today's code makes of the recorded parts as yesterday's did."""
    records = await records_of(path)
    known = graphs(records)
    claims = {record.stream: record.event.flow for record in records if isinstance(record.event, RunClaimed)}
    asked: dict[tuple[Any, ...], str] = {}
    for record in records:
        match record.event:
            case TaskStarted(cache=CacheMiss(parts=parts, reason=reason), task=address) if reason != "opaque":
                pass
            case TaskReused(why="cache", parts=parts, task=address):
                pass
            case _:
                continue
        task = known[claims[record.stream]].task_of(address[0])
        asked[record.stream, address] = task.cache_key(parts)
    made = [record for record in records if record.key is not None]
    assert made
    for record in made:
        assert isinstance(record.event, TaskSucceeded)
        assert asked[record.stream, record.event.task] == record.key
    async with SQLiteLog(path) as log:
        found = await log.latest([*asked.values(), "no such key"])
    assert {key: [entry.stream, entry.version] for key, entry in found.items()} == EXPECTED["latest"]


async def test_recorded_contents_are_those_of_today(path: Path) -> None:
    """What a value is, whichever version says so: classes, enums, dicts, and what its digest says."""
    records = await records_of(path, "run/cached")
    (flow,) = {record.event.flow for record in records if isinstance(record.event, RunClaimed)}
    nodes = graphs(await records_of(path))[flow].nodes
    async with SQLiteLog(path) as log:
        state = await make.load_flows().cached.options(run_id="cached", log=log).run()
    said = {
        nodes[record.event.task[0]].name: record.event.content
        for record in records
        if isinstance(record.event, TaskSucceeded) and record.event.content is not None
    }
    assert said == {name: content_of(state.result[name].result) for name in ("rates", "fit")}


@simulated
async def test_today_takes_the_entries_of_then(path: Path, world: VirtualWorld) -> None:
    """The same flow makes the same keys: whatever is cached and has a content is not run again."""
    then = max(record.at for record in await records_of(path))
    await anyio.sleep((then - world.now()) / 1e6)  # an entry from the future would not be taken
    async with SQLiteLog(path) as log:
        state = await make.load_flows().cached.options(run_id="today", log=log, world=world).run()
    tasks = {name: type(task).__name__ for name, task in make.every(state.result)}
    ran = {name for name, kind in tasks.items() if kind == "Success"}
    assert ran == {"day", "ratio", "opaque"}
    assert Counter(tasks.values()) == {"Success": 3, "Mapped": 1, "Cached": 7}


@pytest.mark.parametrize("run", make.UNFINISHED)
@simulated
async def test_an_unfinished_run_is_gone_on_with(run: str, path: Path, world: VirtualWorld) -> None:
    """By today's engine, to success; what had succeeded is not repeated, nor is the flow another one."""
    async with SQLiteLog(path) as log:
        state = await make.load_flows().steps.options(run_id=run, log=log, world=world).run()
        assert state.is_successful()
        assert state.result["add"].result == 14
        records = [record async for record in log.read(stream=f"run/{run}")]
    before = sum(1 for _, stream, *_ in EXPECTED["records"] if stream == f"run/{run}")
    assert len(records) > before
    assert {type(record.event) for record in records[:before]} >= {TaskStarted, TaskSucceeded}
    ended = Counter(record.event.task for record in records if isinstance(record.event, TaskSucceeded))
    assert set(ended.values()) == {1}
    assert len(ended) == 6


async def test_a_run_of_the_future_is_shown_and_left_alone(path: Path) -> None:
    """An event of an unknown kind is counted; its bytes are intact; nobody here goes on with such a run."""
    stream, before = f"run/{make.NEWER}", make.stored(path)
    (unknown,) = [
        record.event for record in await records_of(path, stream) if isinstance(record.event, Unknown)
    ]
    assert msgspec.msgpack.decode(unknown.data) == [make.FUTURE, 2, [1], ["approval"], None]
    async with SQLiteLog(path) as log:
        view = await open_run(log, make.NEWER)
        assert (await replay(log, view, stream=stream)).state.unknown == (make.FUTURE,)
        with pytest.raises(UnknownEvents):
            await make.load_flows().steps.options(run_id=make.NEWER, log=log).run()
    assert make.stored(path) == before


async def test_a_run_that_requires_a_feature_of_the_future_is_left_alone(path: Path) -> None:
    """It is shown as far as its events go; a runner refuses to own it."""
    before = make.stored(path)
    async with SQLiteLog(path) as log:
        view = await open_run(log, make.DEMANDING)
        assert (await replay(log, view, stream=view.stream)).state.missing == (make.FEATURE,)
        with pytest.raises(UnknownEvents, match=make.FEATURE):
            await make.load_flows().steps.options(run_id=make.DEMANDING, log=log).run()
    assert make.stored(path) == before


def extensions(data: bytes) -> set[int]:
    """The numbers of the extensions in some MessagePack, and inside them where they hold such again."""
    found: set[int] = set()

    def see(number: int, inside: memoryview) -> int:
        found.add(number)
        if number not in (Extension.INT, Extension.STR, Extension.BYTEARRAY):
            decoder.decode(inside)
        return number

    decoder = msgspec.msgpack.Decoder(ext_hook=see)
    decoder.decode(data)
    return found


async def test_every_extension_occurs(path: Path) -> None:
    """In what the codec `tagged` has kept, but for the two that are only digested."""
    found: set[int] = set()
    async with SQLiteLog(path) as log:
        async for record in log.read():
            match record.event:
                case TaskSucceeded(result=Inline(codec="tagged", data=data)):
                    found |= extensions(data)
                case TaskSucceeded(result=Stored(codec="tagged", digest=digest)):
                    found |= extensions((await log.values([digest]))[digest].data)
    assert found == {*Extension} - {Extension.OBJECT, Extension.ENUM}


def structs(value: Any) -> Iterator[Any]:
    """Every struct inside, with all that lies in them."""
    if isinstance(value, msgspec.Struct):
        yield value
        value = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from structs(part)


async def test_everything_that_this_version_can_write_occurs(path: Path) -> None:
    """Every kind with every word of its closed vocabularies, every form of an argument, every codec; one Unknown."""
    records = await records_of(path)
    kinds = Counter(type(record.event) for record in records)
    assert kinds[Unknown] == 1
    assert kinds.keys() == {*get_args(Known), Unknown}
    found = [part for record in records for part in structs(record.event)]
    for kind in (*get_args(Known), CacheMiss, Policy):
        for field, hint in get_type_hints(kind).items():
            if get_origin(hint) is Literal:
                words = {
                    word for word in get_args(hint) if (kind.__name__, field, word) not in NOT_WRITTEN_YET
                }
                assert {getattr(part, field) for part in found if type(part) is kind} == words, (kind, field)
    types = {type(part).__name__ for part in found}
    assert types >= {arg.__name__ for arg in get_args(Arg)}
    assert types & {payload.__name__ for payload in get_args(Payload)} == {"Inline", "Stored"}
    assert {payload.__name__ for payload in get_args(Payload)} - types == NEVER_MADE
    codecs = {part.codec.partition(":")[0] for part in found if isinstance(part, Inline | Stored)}
    assert codecs == {"msgpack", "typed", "tagged", "pickle+hmac"}


def test_nothing_of_a_machine_is_in_the_files() -> None:
    """No path, no host: what is beside a claim is what `make.py` says, and texts do not name this machine."""
    for file in [path for path in make.FOLDER.rglob("*") if path.is_file()]:
        data = file.read_bytes()
        for place in (b"/work", b"/tmp", b"/home", b"/root", b"/opt", b"/usr", b"site-packages"):
            assert place not in data, f"{place!r} in {file.name}"
    events = [msgspec.msgpack.decode(bytes.fromhex(body))[-1] for *_, body in EXPECTED["records"]]
    beside = [event[2] for event in events if event[0] == "run_claimed"]
    assert beside
    for said in beside:
        assert re.fullmatch(r"golden(\.py|:orders|:steps)", said.pop("entry"))
        assert said == make.ENVIRONMENT
    host = socket.gethostname()
    if host not in (Path(make.__file__).read_text() + make.SOURCE.read_text()):
        assert not re.search(rf"\b{re.escape(host)}\b", json.dumps([events, EXPECTED], default=repr))
