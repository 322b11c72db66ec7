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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from eventflow import Flow, Parameter, Runs, SQLiteLog, inputs, open_run, replay, task
from eventflow.events import Record
from eventflow.logs.sqlite import LogUnusable
from eventflow.projections import CacheHits
from eventflow.read_models import ReadModel
from eventflow.records import LogDamaged
from eventflow.runner import ownership
from eventflow.testing import Crash, CrashingLog

pytestmark = pytest.mark.slow

FLIPS: Final = int(os.environ.get("EVENTFLOW_FLIPS", "500"))
SEED: Final = int(os.environ.get("EVENTFLOW_FLIPS_SEED", "20261122"))
PARTS: Final = 5
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


FINISHED: Final = {f"done-{n}": n for n in range(2, 6)}
UNFINISHED: Final = {f"open-{n}": n for n in (3,)}


async def _make(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "SNAPSHOT_EVENTS_MIN", 20)
    async with SQLiteLog(path) as log:
        for run_id, n in FINISHED.items():
            assert (await flow().options(log=log, run_id=run_id).run(n=n)).is_successful()
        for run_id, n in UNFINISHED.items():
            dying = CrashingLog(log, crash_at=3)
            with pytest.raises(Crash):
                await flow().options(log=dying, run_id=run_id).run(n=n)
        await ReadModel.of(log, Runs())
        await ReadModel.of(log, CacheHits())


class Asked:
    """What a log answers."""

    def __init__(self, log: SQLiteLog) -> None:
        self.log = log
        self.answers: dict[str, Any] = {}
        """Name of the question → answer or `LogDamaged`."""

    async def ask(self, name: str, question: Callable[[], Awaitable[Any]]) -> None:
        """Note what comes of a question."""
        try:
            self.answers[name] = await question()
        except LogDamaged as error:
            self.answers[name] = error

    async def records(self, stream: str | None, *, backwards: bool = False) -> list[Record]:
        """All of them."""
        return [record async for record in self.log.read(stream=stream, backwards=backwards)]

    async def folded(self, run_id: str) -> Any:
        """The facts of a run."""
        view = await open_run(self.log, run_id)
        return (await replay(self.log, view, stream=view.stream)).state

    async def rows(self, projection: Any) -> Any:
        """A table."""
        return await (await ReadModel.of(self.log, projection)).under()

    async def look(self, keys: Sequence[str]) -> None:
        """Ask everything that runs nothing."""
        await self.ask("log", partial(self.records, None))
        await self.ask("log backwards", partial(self.records, None, backwards=True))
        await self.ask("info", self.log.info)
        for run_id in (*FINISHED, *UNFINISHED, "never"):
            await self.ask(f"stream {run_id}", partial(self.records, f"run/{run_id}"))
            await self.ask(f"head {run_id}", partial(self.log.head, f"run/{run_id}"))
            if run_id != "never":
                await self.ask(f"fold {run_id}", partial(self.folded, run_id))
        await self.ask("table runs", partial(self.rows, Runs()))
        await self.ask("table cache", partial(self.rows, CacheHits()))
        await self.ask("latest", partial(self.log.latest, [*keys]))
        for key in keys:
            await self.ask(f"latest {key}", partial(self.log.latest, [key]))

    async def run(self) -> None:
        """Ask for the finished runs once more, and for the unfinished ones to their end."""
        for run_id, n in (FINISHED | UNFINISHED).items():
            before = ran.copy()
            await self.ask(f"run {run_id}", partial(self._run, run_id, n))
            if run_id in FINISHED:
                assert ran == before, f"{run_id} was run again"

    async def _run(self, run_id: str, n: int) -> Any:
        state = await flow().options(log=self.log, run_id=run_id).run(n=n)
        doubled = [state.result[f"double[{k}]"].result for k in range(n)]
        return state.is_successful(), state.result["square"].result, doubled


async def answers_of(path: Path, keys: Sequence[str]) -> Mapping[str, Any]:
    """What a log file answers to everything."""
    async with SQLiteLog(path) as log:
        asked = Asked(log)
        await asked.look(keys)
        await asked.run()
    return {
        name: answer if isinstance(answer, LogDamaged) else plain(answer)
        for name, answer in asked.answers.items()
    }


def flipped(data: bytes, bit: int) -> bytes:
    """With one bit the other way."""
    place, mask = bit // 8, 1 << bit % 8
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def plain(value: Any) -> Any:
    """What compares by content."""
    return msgspec.to_builtins(value, enc_hook=repr, str_keys=True)


def is_right(name: str, answer: Any, expected: Any) -> bool:
    """Whether it is what it was; a cache may forget."""
    if name.startswith("latest"):
        return all(found == expected[key] for key, found in answer.items())
    return bool(answer == expected)


@pytest.mark.parametrize("part", range(PARTS))
async def test_a_flipped_bit_is_damage_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Whatever bit of whatever page it is: no raw error, no wrong answer, and no finished run is run again."""
    base, trial = tmp_path / "base", tmp_path / "trial"
    base.mkdir()
    await _make(base / "log.db", monkeypatch)
    sound = (base / "log.db").read_bytes()
    async with SQLiteLog(base / "log.db") as log:
        keys = sorted({record.key async for record in log.read() if record.key is not None})
    assert len(keys) == len(FINISHED)

    async def trial_of(data: bytes) -> Mapping[str, Any]:
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(base, trial)
        (trial / "log.db").write_bytes(data)
        return await answers_of(trial / "log.db", keys)

    expected = await trial_of(sound)
    assert not any(isinstance(answer, LogDamaged) for answer in expected.values())
    chance = random.Random(f"{SEED} {part}")
    outcomes: Counter[str] = Counter()
    for number in range(FLIPS // PARTS):
        bit = chance.randrange(HEADER * 8, len(sound) * 8)
        told = f"flip {number}, of bit {bit}"
        try:
            found = await trial_of(flipped(sound, bit))
        except (LogDamaged, LogUnusable):
            outcomes["damage"] += 1
            continue
        except Exception as error:
            raise AssertionError(f"{told}, gave {type(error).__name__}: {error}") from error
        damage = {name for name, answer in found.items() if isinstance(answer, LogDamaged)}
        wrong = [n for n, answer in found.items() if n not in damage and not is_right(n, answer, expected[n])]
        assert not wrong, f"{told}, gave wrong answers: {wrong}"
        outcomes["damage" if damage else "right"] += 1
    assert min(outcomes["damage"], outcomes["right"]) > FLIPS // PARTS // 20, outcomes
