"""Writes the golden log anew: `python -m tests.golden.make`.

One seed, a virtual clock, a fixed key and a fixed environment: what is written is the same on every machine, but for
SQLite's own version in the file.  Format 1 is frozen but for the graph in `flow_defined`: until that is frozen too, a
change of the graph is a run of this, in a commit of its own.  After that the files never change again.

    format-1/log.db, log.db.packs    the log
    format-1/expected.json           what it holds, in bytes, in states and in values
"""

from __future__ import annotations

import asyncio
import json
import linecache
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final

import anyio
import msgspec
import pytest

from eventflow import Flow, State, open_run, replay, states
from eventflow.events import Draft, Record, RunStarted, Unknown
from eventflow.logs.sqlite import SQLiteLog
from eventflow.logs.sqlite.checksums import sum_of
from eventflow.ports import EventLog, Write
from eventflow.result import Forgotten, Inline, Result, Stored
from eventflow.runner import ownership
from eventflow.testing import Crash, CrashingLog, VirtualWorld, simulate
from eventflow.views.run_states import RunStates

FOLDER: Final = Path(__file__).with_name("format-1")
SOURCE: Final = Path(__file__).with_name("flows.py")
KEY: Final = "67" * 32
"""Signs the golden pickle. Everybody knows it; it is for nothing else."""
ENVIRONMENT: Final = {"host": "golden", "python": "3", "eventflow": "1", "platform": "any", "pid": "1"}
UNFINISHED: Final = ("left-dead", "left-behind")
"""Runs that the log leaves to be resumed: the process of one died, that of the other let go of it."""
NEWER: Final = "newer"
"""The run that has an event of a kind of the future."""
FUTURE: Final = "task_of_the_future"
"""That kind, which no version will ever know."""
DEMANDING: Final = "demanding"
"""The run that requires a feature of the future."""
FEATURE: Final = "feature-of-the-future"
"""That feature, which no version will ever know."""
_RUN: Final = "run/"


@cache
def load_flows() -> ModuleType:
    """The module of the flows, as if it had been imported from a file `golden.py`."""
    text = SOURCE.read_text(encoding="utf-8")
    linecache.cache["golden.py"] = (len(text), None, text.splitlines(keepends=True), "golden.py")
    module = sys.modules["golden"] = ModuleType("golden")
    exec(compile(text, "golden.py", "exec", dont_inherit=True), vars(module))
    return module


@contextmanager
def golden_surroundings() -> Iterator[None]:
    """The key of the golden log, and nothing of this machine beside a claim."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("EVENTFLOW_KEY", KEY)
        patch.setattr(ownership, "environment", lambda entry: {**ENVIRONMENT, "entry": entry})
        yield


# ── what happens ─────────────────────────────────────────────────────────────────────────────────────────────


class _Story:
    """The runs of the golden log, told one after another."""

    def __init__(self, path: Path, world: VirtualWorld) -> None:
        self.path = path
        self.world = world

    async def run(self, flow: Flow[..., Any], run_id: str, log: EventLog | None = None) -> State:
        """Run to the end, on a handle of its own if none is given."""
        if log is not None:
            return await flow.options(run_id=run_id, log=log, world=self.world).run()
        async with SQLiteLog(self.path) as fresh:
            return await self.run(flow, run_id, fresh)

    async def die(self, flow: Flow[..., Any], run_id: str, crash_at: int) -> None:
        """Run until an append after which the process is dead."""
        async with SQLiteLog(self.path) as log:
            try:
                await self.run(flow, run_id, CrashingLog(log, crash_at=crash_at, when="after"))
            except Crash:
                return
        raise AssertionError(f"run {run_id!r} ended before append {crash_at}")

    async def interrupt(self, flow: Flow[..., Any], run_id: str, after_s: float) -> None:
        """Run until it is cancelled."""
        async with SQLiteLog(self.path) as log:
            with anyio.move_on_after(after_s) as scope:
                await self.run(flow, run_id, log)
        assert scope.cancelled_caught, f"run {run_id!r} ended before {after_s} s"

    async def tell(self) -> None:
        """All of it."""
        flows, world = load_flows(), self.world
        async with SQLiteLog(self.path) as log:
            options = {"labels": {"team": "golden", "ticket": "42"}, "durability": "normal"}
            await flows.orders.options(run_id="orders", log=log, world=world, **options).run("2026-11-22")
        await self.run(flows.trouble, "trouble")
        async with SQLiteLog(self.path) as log:
            await flows.trouble.options(run_id="trouble-again", log=log, world=world).rerun("trouble")
        await self.run(flows.cached, "cached")
        self._lose_value_of_large()
        await self.run(flows.cached, "cached-lost")
        await anyio.sleep(7200)
        await self.run(flows.cached, "cached-later")
        await self.interrupt(flows.steps, "interrupted", 25)
        await self.run(flows.steps, "interrupted")
        await self.die(flows.steps, "lost", 3)
        await self.run(flows.steps, "lost")
        for crash_at in (2, 1, 1):
            await self.die(flows.steps, "crashed", crash_at)
        await self.run(flows.steps, "crashed")
        await self.interrupt(flows.steps, NEWER, 5)
        await self._append_unknown()
        await self._append_demanding()
        await self.interrupt(flows.steps, "left-behind", 35)
        await self.die(flows.steps, "left-dead", 5)

    def _lose_value_of_large(self) -> None:
        """Take the value of a cached task away, as a damaged disk might."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            lost = connection.execute("DELETE FROM value WHERE CAST(data AS TEXT) LIKE '%golden golden%'")
            assert lost.rowcount == 1

    async def _append_unknown(self) -> None:
        async with SQLiteLog(self.path) as log:
            stream = _RUN + NEWER
            data = msgspec.msgpack.encode([FUTURE, 2, [1], ["approval"], None])
            drafts = [Draft(self.world.now(), Unknown(FUTURE, data))]
            await log.append(Write(stream, await log.head(stream), drafts))

    async def _append_demanding(self) -> None:
        async with SQLiteLog(self.path) as log:
            birth = RunStarted(
                flow=load_flows().steps.graph.digest, parameters={}, durability="full", requires=(FEATURE,)
            )
            await log.append(Write(_RUN + DEMANDING, 0, [Draft(self.world.now(), birth)]))


def _settle(path: Path) -> None:
    """Give the file an id and a birth that are always the same, and the layout of a fresh one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name, value in {"id": "0" * 31 + "1", "created": "1700000000000000"}.items():
            row = (value, sum_of(name, value), name)
            connection.execute("UPDATE info SET value = ?, crc = ? WHERE name = ?", row)
        connection.execute("VACUUM")


# ── what it comes to ─────────────────────────────────────────────────────────────────────────────────────────


async def describe(log: SQLiteLog) -> dict[str, Any]:
    """What the log holds, by today's code: records, states at every version, values, entries of the cache."""
    records = [record async for record in log.read()]
    runs = [record.stream.removeprefix(_RUN) for record in records if isinstance(record.event, RunStarted)]
    keys = sorted({record.key for record in records if record.key is not None})
    latest = await log.latest(keys)
    return {
        "records": stored(log.path),
        "states": {run: await states_of(log, run) for run in runs},
        "values": {
            run: await values_of(log, run) for run in runs if run not in (*UNFINISHED, NEWER, DEMANDING)
        },
        "latest": {key: [latest[key].stream, latest[key].version] for key in keys if key in latest},
    }


def stored(path: Path) -> list[list[Any]]:
    """Position, stream, version, kind and bytes of every record, read by nothing of ours."""
    query = (
        "SELECT position, stream.name, version, kind.name, hex(body) FROM event "
        "JOIN stream ON stream.id = event.stream JOIN kind ON kind.id = event.kind ORDER BY position"
    )
    with closing(sqlite3.connect(path)) as connection:
        return [list(row) for row in connection.execute(query)]


async def states_of(log: EventLog, run: str) -> list[dict[str, Any]]:
    """The states after each record of a run, each time folded from the first; only what changed with it."""
    view = await open_run(log, run)
    found: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    async for record in log.read(stream=view.stream):
        fold = await replay(log, view, stream=view.stream, until=record.position)
        now = _states(RunStates(view, fold.state), record)
        found.append({name: state for name, state in now.items() if before.get(name) != state})
        before = now
    return found


def _states(run_states: RunStates, record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {"(run)": type(run_states.state).__name__}
    assert run_states.version == record.version
    found.update((name, _summary(state)) for name, state in every(run_states))
    return found


def every(run_states: Mapping[str, State]) -> Iterator[tuple[str, State]]:
    """All tasks by name, children behind their map."""
    for name, state in run_states.items():
        yield name, state
        if isinstance(state, states.Mapped):
            for nth, child in enumerate(state.map_states):
                assert child is not None
                yield f"{name}[{nth}]", child


def _summary(state: State) -> dict[str, Any]:
    """What a state says that the log has said; no words of today's."""
    found: dict[str, Any] = {"state": type(state).__name__}
    if isinstance(state._result, Result):
        found["result"] = _address(state._result)
    if isinstance(state, states.Skipped):
        found["message"] = state.message
    if isinstance(state, states.Mapped):
        found["children"] = state.n_map_states
    if isinstance(state, states.Failed):
        assert state.failure is not None
        found["failure"] = [state.failure.type, state.failure.message, state.failure.traceback]
        found["cause"] = state.failure.cause and [state.failure.cause.type, state.failure.cause.message]
    if isinstance(state, states.Retrying):
        found["retry"] = [str(state.start_time), state.run_count]
    if isinstance(state, states.Cached):
        found["source"] = list(state.source or ())
        found["expires_at"] = str(state.expires_at)
    inputs: Mapping[str, Result] = getattr(state, "cached_inputs", {})
    if inputs:
        found["inputs"] = {name: _address(result) for name, result in inputs.items()}
    return found


def _address(result: Result) -> str:
    payload = result.value
    if isinstance(payload, Inline | Stored):
        return f"{type(payload).__name__} {payload.codec} {payload.digest.hex()}"
    assert not isinstance(payload, Forgotten)
    return f"Withheld {payload.reason}"


async def values_of(log: EventLog, run: str) -> dict[str, str]:
    """The values of a finished run, opened with the types that its flow declares."""
    view = await open_run(log, run)
    flow = getattr(load_flows(), view.plan.graph.name)
    state = await flow.options(run_id=run, log=log).run()
    found: dict[str, str] = {}
    for name, task in every(state.result):
        if isinstance(task._result, Result):
            text = repr(task.result)
            digest = sha256(text.encode()).hexdigest()[:32]
            found[name] = text if len(text) <= 1000 else f"{text[:40]}… {len(text)} characters, {digest}"
    return found


# ── and where it goes ────────────────────────────────────────────────────────────────────────────────────────


def make(folder: Path) -> None:
    """Write log and expectations into a folder, in place of what it has."""
    with TemporaryDirectory() as scratch, golden_surroundings():
        path = Path(scratch) / "log.db"
        simulate(lambda world: _Story(path, world).tell())
        _settle(path)
        shutil.rmtree(folder / "log.db.packs", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        copy(path.parent, folder)

        async def expect() -> dict[str, Any]:
            async with SQLiteLog(path) as log:
                return await describe(log)

        text = json.dumps(asyncio.run(expect()), indent=1, ensure_ascii=False)
        (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


def copy(source: Path, target: Path) -> Path:
    """Copy a log that nobody uses; gives its file."""
    shutil.copyfile(source / "log.db", target / "log.db")
    shutil.copytree(source / "log.db.packs", target / "log.db.packs")
    return target / "log.db"


if __name__ == "__main__":
    make(FOLDER)
