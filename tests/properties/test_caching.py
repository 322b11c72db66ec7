"""With a cache and without one, everything comes to the same, whatever is edited between two runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

from hypothesis import given
from hypothesis import strategies as st

from eventflow import MemoryLog, Skip, inputs, parameters, task
from eventflow.ports import EventLog
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulate
from tests.properties.flows import Journal, Sketch, Step, build, outcomes_of, sketches, value_of


@dataclass(frozen=True)
class Edit:
    """What is changed before a run."""

    step: int = 0
    """Whose code becomes another."""
    version: int = 0
    parameter: int = 0
    wait_s: int = 0


EDITS = st.lists(
    st.builds(
        Edit, st.integers(0, 7), st.integers(0, 2), st.integers(0, 2), st.sampled_from([0, 0, 5, 50, 5000])
    ),
    min_size=2,
    max_size=5,
)
POLICIES = st.lists(st.sampled_from(["", "all", "short", "long", "key", "on"]), min_size=8, max_size=8)
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "all": {"cache_on": inputs()},
    "short": {"cache_for": 20},
    "long": {"cache_for": 1000},
    "key": {"cache_key": lambda a0=None, a1=None, e0=None, e1=None: [a0, a1, e0, e1]},
    "on": {"cache_on": inputs("a0", "e0", "a1") | inputs("e1") | parameters()},
}


async def outcome(
    sketch: Sketch,
    versions: Mapping[int, int],
    policies: list[str],
    edit: Edit,
    log: EventLog,
    world: VirtualWorld,
) -> tuple[Any, Journal]:
    """What a run comes to, a reused result counting as the success it is; and which bodies ran."""
    journal = Journal()

    def task_of(name: str, step: Step, journal: Journal) -> Any:
        number = int(name[1:])
        version = versions.get(number, 0)

        @task(name=name, version=f"{name} {version}", cache_namespace="sketch" if policies[number] else None,
              retries=step.retries, retry_delay=0 if step.retries else None, **OPTIONS[policies[number]])  # fmt: skip
        async def body(a0: Any = None, a1: Any = None, e0: Any = None, e1: Any = None) -> Any:
            journal.started[name] += 1
            if step.delay_ms:
                await asyncio.sleep(step.delay_ms / 1000)
            given = {"a0": a0, "a1": a1, "e0": e0, "e1": e1}
            arguments = {key: value for key, value in given.items() if value is not None}
            if (
                step.trouble in ("skip", "broken")
                and crc32(repr(sorted(arguments.items())).encode()) % 3 == 0
            ):
                raise Skip if step.trouble == "skip" else RuntimeError(name)
            return value_of(step, f"{name} {version}", arguments)

        return body

    found = build(sketch, journal, task_of)
    state = await found.options(log=log, world=world, run_id=world.new_id()).run(p=[edit.parameter, 7])
    return outcomes_of(sketch, state.result), journal


@given(sketches(), POLICIES, EDITS, st.integers(0, 99))
def test_cached_and_uncached_runs_come_to_the_same(
    sketch: Sketch, policies: list[str], edits: list[Edit], seed: int
) -> None:
    """Random flows, policies and edits of code, inputs and clock: never a wrong hit, in any state or value."""

    async def main(world: VirtualWorld) -> None:
        log, versions = MemoryLog(), dict[int, int]()
        for edit in edits:
            versions[edit.step] = edit.version
            await asyncio.sleep(edit.wait_s)
            cached, _ = await outcome(sketch, versions, policies, edit, log, world)
            plain, _ = await outcome(sketch, versions, [""] * 8, edit, MemoryLog(), world)
            assert cached == plain

    simulate(main, seed=seed)


@given(sketches(), EDITS)
def test_what_is_cached_does_not_run_twice(sketch: Sketch, edits: list[Edit]) -> None:
    """Run again at once, nothing but what failed or skipped itself runs."""

    async def main(world: VirtualWorld) -> None:
        log, versions, policies = MemoryLog(), dict[int, int](), ["all"] * 8
        for edit in edits:
            versions[edit.step] = edit.version
            first, _ = await outcome(sketch, versions, policies, edit, log, world)
            second, again = await outcome(sketch, versions, policies, replace(edit, wait_s=0), log, world)
            assert second == first
            unsuccessful = {
                name.partition("[")[0] for name, end in first.items() if end[0] in ("Failed", "Skipped")
            }
            assert set(again.started) <= unsuccessful

    simulate(main)


@given(sketches(max_steps=5), POLICIES, st.integers(1, 6), st.integers(0, 2))
def test_a_death_in_between_changes_nothing(
    sketch: Sketch, policies: list[str], crash_at: int, parameter: int
) -> None:
    """What a run that died has made may be taken by the next one."""

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        with suppress(Crash):
            dying = CrashingLog(log, crash_at=crash_at, when="after")
            await outcome(sketch, {}, policies, Edit(), dying, world)
        for edit in (Edit(), Edit(parameter=parameter)):
            cached, _ = await outcome(sketch, {}, policies, edit, log, world)
            plain, _ = await outcome(sketch, {}, [""] * 8, edit, MemoryLog(), world)
            assert cached == plain

    simulate(main)
