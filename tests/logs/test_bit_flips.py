"""One bit of a log file is flipped, anywhere: what comes of it is a named error or the right answer.

The log has finished and unfinished runs, cached results, values of all three sizes, read models and a snapshot. After
each flip everything is asked of it: looks of all kinds, look-ups in the cache, finished runs by their ids, and
unfinished ones to be resumed. `EVENTFLOW_FLIPS` says how many flips, of seed `EVENTFLOW_FLIPS_SEED`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from eventflow import Flow, Parameter, Runs, RunView, SQLiteLog, inputs, replay, task
from eventflow.events import LogDamaged, Record
from eventflow.logs.sqlite import LogUnusable
from eventflow.projections import CacheHits, Fold
from eventflow.runner import ownership
from eventflow.tables import Table
from eventflow.testing import Crash, CrashingLog

pytestmark = pytest.mark.filterwarnings("ignore::eventflow.logs.sqlite.WalResetWarning")

FLIPS: Final = int(os.environ.get("EVENTFLOW_FLIPS", "500"))
SEED: Final = int(os.environ.get("EVENTFLOW_FLIPS_SEED", "20261122"))
HEADER: Final = 100
"""Bytes of SQLite's own header, which no table and no index has."""

ran: Counter[tuple[str, int]] = Counter()


@task(cache_on=inputs(), version="1")
async def square(n: int) -> int:
    """Cached, for all runs."""
    ran["square", n] += 1
    return n * n


@task(version="1")
async def spread(n: int) -> list[int]:
    """So many numbers."""
    ran["spread", n] += 1
    return list(range(n))


@task(version="1")
async def double(n: int) -> int:
    """Of one number."""
    ran["double", n] += 1
    return 2 * n


@task(version="1")
async def text_of(n: int) -> str:
    """A value that stands beside the events, or in a pack."""
    ran["text", n] += 1
    return "x" * (70_000 if n == 3 else 1_000)


def flow() -> Flow:
    """A square, a map, and a text of each size."""
    with Flow("flipped") as made:
        n = Parameter("n", type=int)
        square(n)
        double.map(spread(n))
        text_of(n)
    return made


FINISHED: Final = {f"done-{n}": n for n in range(2, 8)}
UNFINISHED: Final = {f"open-{n}": n for n in (3, 5)}


async def _make(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SNAPSHOT_EVENTS_MIN", 20)
    async with SQLiteLog(path) as log:
        for run_id, n in FINISHED.items():
            assert (await flow().options(log=log, run_id=run_id).run(n=n)).is_successful()
        for run_id, n in UNFINISHED.items():
            dying = CrashingLog(log, crash_at=3)
            with pytest.raises(Crash):
                await flow().options(log=dying, run_id=run_id).run(n=n)
        await Table.of(log, Runs())
        await Table.of(log, CacheHits())


class Asked:
    """What a log answers, and what it should."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def look(self) -> Mapping[str, Any]:
        """Everything that is asked without running anything: name of the question → answer or `LogDamaged`."""
        answers: dict[str, Any] = {}

        async def ask(name: str, question: Callable[[], Awaitable[Any]]) -> None:
            try:
                answers[name] = await question()
            except LogDamaged as error:
                answers[name] = error

        async with SQLiteLog(self.path) as log:

            async def records(stream: str | None, *, backwards: bool = False) -> list[Record]:
                return [record async for record in log.read(stream=stream, backwards=backwards)]

            async def folded(run_id: str) -> Any:
                view = await RunView.of(log, run_id)
                return (await replay(log, view, stream=view.stream)).state

            await ask("log", lambda: records(None))
            await ask("log backwards", lambda: records(None, backwards=True))
            await ask("info", log.info)
            for run_id in (*FINISHED, *UNFINISHED, "never"):
                await ask(f"stream {run_id}", lambda run_id=run_id: records(f"run/{run_id}"))
                await ask(f"head {run_id}", lambda run_id=run_id: log.head(f"run/{run_id}"))
                if run_id != "never":
                    await ask(f"fold {run_id}", lambda run_id=run_id: folded(run_id))
            for name, projection in (("runs", Runs()), ("cache", CacheHits())):

                async def rows(projection: Any = projection) -> Any:
                    return await (await Table.of(log, projection)).under()

                await ask(f"table {name}", rows)
            keys = [r.key for r in answers["log"] if r.key] if isinstance(answers["log"], list) else KEYS
            await ask("latest", lambda: log.latest([*keys]))
            for key in keys:
                await ask(f"latest {key}", lambda key=key: log.latest([key]))
        return answers

    async def run(self) -> Mapping[str, Any]:
        """The finished runs once more, and the unfinished ones to their end."""
        answers: dict[str, Any] = {}
        async with SQLiteLog(self.path) as log:
            for run_id, n in (FINISHED | UNFINISHED).items():
                before = ran.copy()
                try:
                    state = await flow().options(log=log, run_id=run_id).run(n=n)
                    doubled = [state.result[f"double[{k}]"].result for k in range(n)]
                    answers[run_id] = state.is_successful(), state.result["square"].result, doubled
                except LogDamaged as error:
                    answers[run_id] = error
                if run_id in FINISHED:
                    assert ran == before, f"{run_id} was run again"
        return answers


KEYS: list[str] = []


def flipped(data: bytes, bit: int) -> bytes:
    """With one bit the other way."""
    place, mask = bit // 8, 1 << bit % 8
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def plain(value: Any) -> Any:
    """What compares by content."""
    return msgspec.to_builtins(value, enc_hook=repr, str_keys=True)


async def test_a_flipped_bit_is_damage_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bit of whatever page it is: no raw error, no wrong answer, and no finished run is run again."""
    await _make(tmp_path / "log.db", monkeypatch)
    sound = (tmp_path / "log.db").read_bytes()
    trial = tmp_path / "trial"
    chance = random.Random(SEED)
    outcomes: Counter[str] = Counter()

    def place(data: bytes) -> Path:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(tmp_path, trial, ignore=shutil.ignore_patterns("trial"))
        (trial / "log.db").write_bytes(data)
        return trial / "log.db"

    path = place(sound)
    expected = {name: plain(answer) for name, answer in (await Asked(path).look()).items()}
    KEYS[:] = [name.removeprefix("latest ") for name in expected if name.startswith("latest ")]
    assert len(KEYS) == len(FINISHED)
    results = await Asked(path).run()
    assert not any(isinstance(answer, LogDamaged) for answer in results.values())
    for number in range(FLIPS):
        bit = chance.randrange(HEADER * 8, len(sound) * 8)
        path = place(flipped(sound, bit))
        try:
            looks = await Asked(path).look()
            path = place(flipped(sound, bit))
            runs = await Asked(path).run()
        except (LogDamaged, LogUnusable):
            outcomes["refused"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"flip {number} (bit {bit}) gave {type(error).__name__}: {error}") from error
        damaged = False
        for name, answer in looks.items():
            if isinstance(answer, LogDamaged):
                damaged = True
            elif not name.startswith("latest"):
                assert plain(answer) == expected[name], f"flip {number} (bit {bit}): {name}"
            else:  # a cache may forget
                assert all(plain(found) == expected[name][key] for key, found in answer.items()), (
                    number,
                    bit,
                )
        for run_id, answer in runs.items():
            if isinstance(answer, LogDamaged):
                damaged = True
            else:
                assert answer == results[run_id], f"flip {number} (bit {bit}): {run_id}"
        outcomes["damage" if damaged else "right"] += 1
    assert min(outcomes["damage"], outcomes["right"]) > FLIPS // 50, outcomes
