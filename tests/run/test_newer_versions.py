"""Logs of a later version: this one shows them, refuses to go on with them, and never calls them damaged."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventflow import MemoryLog, SQLiteLog, UnknownEvents, flow, open_run, replay, state_of, task
from eventflow.events import (
    Draft,
    Event,
    FlowDefined,
    Record,
    RunClaimed,
    RunStarted,
    TaskStarted,
    TaskSucceeded,
    Unknown,
    flow_stream,
    kind_of,
    run_stream,
)
from eventflow.logs.sqlite.checksums import sum_of
from eventflow.ports import Durability, EventLog, LogUnusable, Value, Write
from eventflow.records import LogDamaged, decode, encode, encode_event, name_digest
from eventflow.result import Inline, Stored, UnknownEncoding
from eventflow.serializers import digest_of
from eventflow.testing import Crash, CrashingLog, VirtualWorld, simulated
from tests.e2e.commands import command, document

MOON = "moon-phases"
"""A feature that no version will ever have."""


@task
async def first(n: int) -> str:
    """Larger than what an event carries."""
    return "x" * 1000 * n


@task
async def second(text: str) -> int:
    """Needs the large value."""
    return len(text)


@flow
def steps(n: int) -> int:
    """One after the other."""
    return second(first(n))


async def records_of(log: EventLog, stream: str | None = None) -> list[Record]:
    """All records, or those of one stream."""
    return [record async for record in log.read(stream=stream)]


async def left_behind(world: VirtualWorld | None, log: EventLog, run_id: str = "old") -> list[Record]:
    """A run whose process died once `first` had succeeded: its records."""
    crashing = CrashingLog(log, crash_at=2, when="after")
    with pytest.raises(Crash):
        await steps.options(run_id=run_id, log=crashing, world=world).run(2)
    return await records_of(log)


async def copied(records: list[Record], log: EventLog, change: Any) -> None:
    """Copy records into another log, each as `change` makes it."""
    for record in records:
        event = change(record.event)
        await log.append(
            Write(record.stream, record.version - 1, [Draft(record.at, event, record.key)]),
            values=[VALUE],
        )


LARGE = msgspec.msgpack.encode("x" * 2000)
VALUE = Value(digest_of(LARGE), "msgpack", LARGE)


def with_fields(event: Event, **fields: Any) -> Event:
    """The event as a later version would have written it; of a graph, its fields."""
    if isinstance(event, FlowDefined):
        graph = {**msgspec.to_builtins(event.graph, builtin_types=(bytes,)), **fields}
        return Unknown(kind_of(event), msgspec.msgpack.encode([kind_of(event), graph]))
    return msgspec.structs.replace(event, **fields)  # type: ignore[type-var]


def requires(kind: type, **more: Any) -> Any:
    """A change of all events of one kind: they require what only a later version knows."""
    return lambda event: with_fields(event, requires=(MOON,), **more) if type(event) is kind else event


async def is_refused(log: EventLog, world: VirtualWorld, what: str, run_id: str = "old") -> None:
    """The runner names what it does not know, and writes nothing."""
    before = await log.head()
    for options in ({}, {"wait": False}, {"on_change": "keep"}):
        configured = steps.options(run_id=run_id, log=log, world=world, **options)  # type: ignore[arg-type]
        if "wait" in options:
            await configured.run()  # looks, and owns nothing
            continue
        with pytest.raises(UnknownEvents, match=what):
            await configured.run()
    assert await log.head() == before


@pytest.mark.parametrize("kind", [RunStarted, RunClaimed])
@simulated
async def test_a_run_that_requires_an_unknown_feature_is_shown_and_left_alone(
    kind: type, world: VirtualWorld
) -> None:
    """Whether its birth or a claim says so: its states are there, and no runner here owns it."""
    log = MemoryLog()
    await copied(await left_behind(world, MemoryLog()), log, requires(kind))
    state = await state_of("old", log=log)
    assert not state.is_finished()
    assert type(state.result["first"]).__name__ == "Success"
    await is_refused(log, world, MOON)


@simulated
async def test_a_graph_that_requires_an_unknown_feature_is_shown(world: VirtualWorld) -> None:
    """Fields that this version does not know are passed over; its run is not gone on with."""
    log, records = MemoryLog(), await left_behind(world, MemoryLog())
    newer = requires(FlowDefined, moon=[1, 2])
    data = encode_event(newer(records[0].event))
    _, graph = msgspec.msgpack.decode(data, type=tuple[str, msgspec.Raw])
    digest = digest_of(bytes(graph)).hex()

    def change(event: Event) -> Event:
        if isinstance(event, RunStarted | RunClaimed):
            return with_fields(event, flow=digest, requires=(MOON,))
        return newer(event)

    for record in records:
        stream = flow_stream(digest) if isinstance(record.event, FlowDefined) else record.stream
        await log.append(Write(stream, record.version - 1, [Draft(record.at, change(record.event))]))
    (defined, *_) = await records_of(log, flow_stream(digest))
    assert isinstance(defined.event, FlowDefined)
    assert defined.event.graph.requires == (MOON,)
    state = await state_of("old", log=log)
    assert type(state.result["first"]).__name__ == "Success"
    await is_refused(log, world, MOON)


@simulated
async def test_what_follows_by_rules_of_a_later_version_is_no_damage(world: VirtualWorld) -> None:
    """An event that is illegal by the rules of today is passed by, if the run requires rules of tomorrow."""
    log, records = MemoryLog(), await left_behind(world, MemoryLog())
    await copied(records, log, requires(RunStarted))
    stream = run_stream("old")
    claim = next(r.version for r in records if isinstance(r.event, RunClaimed))
    early = [TaskStarted(claim=claim, task=(2,), attempt=9), TaskSucceeded(claim=claim, task=(2,), attempt=9, result=Inline("msgpack", b"\x01", digest_of(b"\x01")))]  # fmt: skip
    await log.append(Write(stream, await log.head(stream), [Draft(world.now(), event) for event in early]))
    view = await open_run(log, "old")
    facts = (await replay(log, view, stream=stream)).state
    assert facts.missing == (MOON,)
    assert set(facts.unknown) <= {"task_started", "task_succeeded"}
    await state_of("old", log=log)
    await is_refused(log, world, "later|newer")


NEW_NODE = {"kind": "moon", "name": "phase"}


@pytest.mark.parametrize(
    "bad",
    [
        ["flow_defined", {"name": "f", "nodes": [NEW_NODE], "requires": [MOON]}],
        ["run_started", "f" * 32, {"n": ["lunar", 1]}, "full", None, {}, "", None, "", {}, [MOON]],
        ["run_claimed", "me", {"a": 1}, "f" * 32, [MOON, "tides"]],
    ],
)
def test_a_later_form_of_an_event_is_unknown_only_if_it_says_so(bad: list[Any]) -> None:
    """An event that does not decode is of a later version if it requires an unknown feature, and else damaged."""

    def body(event: list[Any]) -> bytes:
        return msgspec.msgpack.encode([name_digest("s"), 1, 5, None, event])

    record = decode(1, "s", body(bad))
    assert record.event == Unknown(bad[0], msgspec.msgpack.encode(bad))
    assert encode("s", 1, Draft(5, record.event)) == body(bad)
    for words in ([], "moon", [1], None):
        broken = (
            [*bad[:-1], {**bad[1], "requires": words}] if bad[0] == "flow_defined" else [*bad[:-1], words]
        )
        with pytest.raises(LogDamaged, match="is a damaged"):
            decode(1, "s", body(broken))


@simulated
async def test_a_run_of_an_unreadable_graph_or_birth_is_named(world: VirtualWorld) -> None:
    """Its records cannot be decoded here; the errors say that a newer eventflow wrote them."""
    records = await left_behind(world, MemoryLog())
    await is_refused_by_other_graph(records, world)
    log = MemoryLog()
    birth = ["run_started", "f" * 32, {"n": ["lunar", 1]}, "full", None, {}, "", None, "", {}, [MOON]]
    unknown = Unknown("run_started", msgspec.msgpack.encode(birth))
    await log.append(Write(run_stream("old"), 0, [Draft(1, unknown)]))
    for options in ({}, {"wait": False}):
        with pytest.raises(UnknownEvents, match="newer eventflow"):
            await steps.options(run_id="old", log=log, world=world, **options).run(2)  # type: ignore[arg-type]
    assert await log.head() == 1


async def is_refused_by_other_graph(records: list[Record], world: VirtualWorld) -> None:
    """A run of a graph that cannot be decoded here, by the word of its birth."""
    log = MemoryLog()

    def change(event: Event) -> Event:
        event = requires(FlowDefined, nodes=[NEW_NODE])(event)
        if isinstance(event, RunStarted | RunClaimed):
            return with_fields(event, flow="f" * 32, requires=(MOON,))
        return event

    for record in records:
        stream = flow_stream("f" * 32) if record.stream.startswith("flow/") else record.stream
        await log.append(Write(stream, record.version - 1, [Draft(record.at, change(record.event))]))
    before = await log.head()
    with pytest.raises(UnknownEvents, match=MOON):
        await steps.options(run_id="old", log=log, world=world).run()
    assert await log.head() == before


FLOWS = """
from eventflow import flow, task

@task
async def first(n: int) -> str:
    return "x" * 1000 * n

@task
async def second(text: str) -> int:
    return len(text)

@flow
def steps(n: int) -> int:
    return second(first(n))
"""


def test_the_command_line_shows_a_run_that_it_does_not_own(tmp_path: Path) -> None:
    """`runs` and `show` exit with 0; `resume` names the feature, exits with an error, and writes nothing."""
    path = tmp_path / "log.db"

    async def make() -> None:
        source = MemoryLog()
        records = await left_behind(None, source)
        async with SQLiteLog(path) as log:
            await copied(records, log, requires(RunStarted))

    asyncio.run(make())
    (tmp_path / "flows.py").write_text(FLOWS)
    (row,) = document("runs", "--log", f"sqlite:///{path}", cwd=tmp_path)
    assert row["run"] == "old"
    shown = document("show", "old", "--log", f"sqlite:///{path}", cwd=tmp_path)
    assert "damaged" not in str(shown)
    done = command(
        "resume", "old", "--flow", "flows.py:steps", "--log", f"sqlite:///{path}", cwd=tmp_path, code=5
    )
    assert MOON in done.stderr
    assert "damaged" not in done.stderr


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["zstd", "aes:0123abcd"])
@simulated
async def test_an_unknown_encoding_of_a_value_is_named(
    encoding: str, world: VirtualWorld, tmp_path: Path
) -> None:
    """The value is not opened, its task does not fail, and a resume goes on once the value opens."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await left_behind(world, log)
        head = await log.head()
    alter(path, encoding)
    async with SQLiteLog(path) as log:
        digests = {record.event.result.digest for record in await records_of(log) if isinstance(record.event, TaskSucceeded)}  # fmt: skip
        for ask in (log.values(digests), steps.options(run_id="old", log=log, world=world).run()):
            with pytest.raises(UnknownEncoding, match=f"is stored as '{encoding}'.* newer eventflow"):
                await ask
        with pytest.raises(UnknownEncoding):
            log.peek(digests.pop())
        kinds = [kind_of(record.event) for record in await records_of(log)][head:]
        assert "task_failed" not in kinds
        with pytest.raises(UnknownEncoding):  # it could not be read, and the row is left alone
            await log.append(values=[VALUE])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT encoding FROM value").fetchall() == [(encoding,)]
    alter(path, "")
    async with SQLiteLog(path) as log:
        state = await steps.options(run_id="old", log=log, world=world).run()
        assert state.result["second"].result == 2000


@task(cache_for=3600)
async def cached(n: int) -> str:
    """As large as is asked for."""
    return "x" * n


@task
async def length(text: str) -> int:
    """Needs the value."""
    return len(text)


@flow
def cached_steps(n: int) -> int:
    """A value that an earlier run has stored."""
    return length(cached(n))


@pytest.mark.parametrize("durability", ["full", "pipelined"])
@pytest.mark.parametrize("size", [2_000, 100_000])
@simulated
async def test_no_success_is_recorded_whose_value_is_in_an_unknown_encoding(
    size: int, durability: Durability, world: VirtualWorld, tmp_path: Path
) -> None:
    """The value is there and does not open: the run stops, names it, and can be resumed."""
    path = tmp_path / "log.db"
    async with SQLiteLog(path) as log:
        await cached_steps.options(run_id="old", log=log, world=world).run(size)
    alter(path, "zstd")
    async with SQLiteLog(path) as log:
        with pytest.raises(UnknownEncoding, match=r"stored as 'zstd'.* newer eventflow"):
            await cached_steps.options(run_id="new", log=log, world=world, durability=durability).run(size)
        kinds = [kind_of(record.event) for record in await records_of(log, run_stream("new"))]
        assert kinds == ["run_started", "run_claimed", "task_started", "task_abandoned", "run_released"]
        with pytest.raises(UnknownEncoding):
            await cached_steps.options(log=log, world=world).rerun("old")
        assert [row[0] for row in rows_of(path)] == ["zstd"]
    alter(path, "")
    async with SQLiteLog(path) as log:
        state = await cached_steps.options(run_id="new", log=log, world=world).run()
        assert state.result["length"].result == size
        assert state.result["cached"].is_cached()


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    """Encoding and size of the values that are stored."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT encoding, stored_size FROM value").fetchall()


@pytest.mark.parametrize("size", [2_000, 100_000])
def test_only_the_append_that_needs_the_value_is_refused(size: int, tmp_path: Path) -> None:
    """Others of its batch are stored; one that was stored before the value got its encoding is stored still."""
    path = tmp_path / "log.db"
    data = msgspec.msgpack.encode("x" * size)
    value = Value(digest_of(data), "msgpack", data)
    draft = Draft(1, Unknown("k", msgspec.msgpack.encode(["k"])))

    async def use() -> None:
        async with SQLiteLog(path) as log:
            await log.append(Write("run/before", 0, [draft]), values=[value])
        alter(path, "zstd")
        async with SQLiteLog(path) as log:
            outcomes = await asyncio.gather(
                log.append(Write("run/a", 0, [draft])),
                log.append(Write("run/b", 0, [draft]), values=[value]),
                log.append(Write("run/before", 0, [draft]), values=[value]),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes] == [list, UnknownEncoding, list]
            assert [await log.head(f"run/{name}") for name in ("a", "b", "before")] == [1, 0, 1]
        assert [row[0] for row in rows_of(path)] == ["zstd"]

    asyncio.run(use())


def alter(path: Path, encoding: str) -> None:
    """Say that the stored values have another encoding, as another version would have written them."""
    with closing(sqlite3.connect(path)) as connection, connection:
        (text,) = connection.execute(
            "SELECT sql FROM sqlite_schema WHERE name = 'value_is_immutable'"
        ).fetchone()
        connection.execute("DROP TRIGGER value_is_immutable")
        assert connection.execute("UPDATE value SET encoding = ?", (encoding,)).rowcount > 0
        connection.execute(text)


@simulated
async def test_a_digest_of_an_unknown_algorithm_is_named(world: VirtualWorld) -> None:
    """It has another length than ours; its value is not opened, and not called damaged."""
    log, records = MemoryLog(), await left_behind(world, MemoryLog())
    digest = b"\x02" + digest_of(LARGE)

    def change(event: Event) -> Event:
        if isinstance(event, TaskSucceeded):
            return with_fields(event, result=Stored("msgpack", digest, len(LARGE), "log"))
        return event

    await copied(records, log, change)
    await log.append(values=[Value(digest, "msgpack", LARGE)])
    with pytest.raises(UnknownEncoding, match="algorithm"):
        await log.values([digest])
    with pytest.raises(UnknownEncoding, match=r"algorithm .* newer eventflow"):
        await steps.options(run_id="old", log=log, world=world).run()
    assert "task_failed" not in [kind_of(record.event) for record in await records_of(log)]


def test_a_log_of_another_algorithm_is_refused(tmp_path: Path) -> None:
    """Its digests of 16 bytes would mean something else."""
    path = tmp_path / "log.db"

    async def use() -> None:
        async with SQLiteLog(path) as log:
            await log.append(Write("run/x", 0, [Draft(1, Unknown("k", msgspec.msgpack.encode(["k"])))]))

    asyncio.run(use())
    with closing(sqlite3.connect(path)) as connection, connection:
        word = "sha3-128"
        changed = connection.execute(
            "UPDATE info SET value = ?, crc = ? WHERE name = 'digest'", (word, sum_of("digest", word))
        )
        assert changed.rowcount == 1
    with pytest.raises(LogUnusable, match="'sha3-128', this eventflow knows 'sha256-128'"):
        asyncio.run(use())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM info WHERE name = 'digest'")
    with pytest.raises(LogDamaged, match="algorithm of its digests"):
        asyncio.run(use())


def test_tables_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    """If their names say so, and if no code in them could run: anything else is refused."""

    def use(path: Path, *statements: str) -> None:
        async def open_and_append(number: int) -> None:
            async with SQLiteLog(path) as log:
                await log.append(
                    Write("run/x", number, [Draft(1, Unknown("k", msgspec.msgpack.encode(["k"])))])
                )

        asyncio.run(open_and_append(0))
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
        asyncio.run(open_and_append(1))

    use(
        tmp_path / "plain.db",
        "CREATE TABLE x_moon (phase INTEGER PRIMARY KEY, name TEXT UNIQUE) STRICT",
        "CREATE INDEX x_name ON x_moon (name)",
        "CREATE INDEX x_kind ON event (kind, position)",
        *(f"CREATE TABLE x_{number}(a INTEGER) STRICT" for number in range(300)),
    )
    for number, statement in enumerate(
        (
            "CREATE TABLE moon (phase)",
            "CREATE INDEX moon ON event (kind)",
            "CREATE INDEX x_moon ON event (length(body))",
            "CREATE INDEX x_moon ON event (kind) WHERE kind > 1",
            "CREATE UNIQUE INDEX x_moon ON event (body)",
            "CREATE VIEW x_moon AS SELECT 1",
            "CREATE TRIGGER x_moon BEFORE INSERT ON event BEGIN SELECT 1; END",
        )
    ):
        with pytest.raises(LogDamaged, match="does not have the tables of a log"):
            use(tmp_path / f"{number}.db", statement)
