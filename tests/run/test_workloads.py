"""Recorded workflows of other systems come to digests that were worked out without the engine."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import anyio
import pytest

from eventflow import Flow, MemoryLog, context, task
from eventflow.demo.workload import Workload, expected_digest, job_digest
from eventflow.events import TaskSucceeded
from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualWorld, simulated
from tests.recorded import available, load


def flow_of(workload: Workload, started: Counter[str]) -> Flow[..., Any]:
    """One task for each job; it sleeps the recorded seconds and hashes what its parents gave."""

    @task(version="1")
    async def job(id_: str, seconds: float, parents: list[str]) -> str:
        started[context.task] += 1
        await anyio.sleep(seconds)
        return job_digest(id_, parents)

    nodes: dict[str, Any] = {}
    with Flow(workload.name) as flow:
        for part in workload.tasks:
            parents = [nodes[up] for up in part.parents]
            nodes[part.id] = job.named(part.id)(part.id, part.runtime_s, parents)
    return flow


@pytest.mark.parametrize("name", available())
@simulated
async def test_every_job_gives_its_digest(name: str, world: VirtualWorld) -> None:
    """Every job's digest is the oracle's, each body ran once, and the run takes its critical path's time."""
    workload, started = load(name), Counter[str]()
    finish: dict[str, float] = {}
    for part in workload.tasks:
        finish[part.id] = part.runtime_s + max((finish[up] for up in part.parents), default=0.0)

    state = await flow_of(workload, started).options(log=MemoryLog(), world=world).run()
    assert state.is_successful()
    assert {id_: state.result[id_].result for id_ in finish} == expected_digest(workload)
    assert set(started.values()) == {1}
    assert world.monotonic() / 1e6 == pytest.approx(max(finish.values()), abs=0.01)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", available())
@simulated
async def test_a_crash_in_the_middle(
    name: str, when: Literal["before", "after"], world: VirtualWorld
) -> None:
    """Killed halfway through and resumed: the same digests, and only what was under way ran twice."""
    workload, started = load(name), Counter[str]()

    counting = CrashingLog(MemoryLog())
    await flow_of(workload, Counter()).options(log=counting, world=world).run()
    inside = MemoryLog()
    dying = CrashingLog(inside, crash_at=counting.appends // 2, when=when)
    with pytest.raises(Crash):
        await flow_of(workload, started).options(log=dying, world=world, run_id="r").run()
    done = {event.task async for event in _successes(inside)}
    before = started.copy()
    assert 0 < len(done) < len(workload.tasks)
    state = await flow_of(workload, started).options(log=inside, world=world, run_id="r").run()
    assert {part.id: state.result[part.id].result for part in workload.tasks} == expected_digest(workload)
    assert all(started[workload.tasks[node].id] == before[workload.tasks[node].id] for (node,) in done)


async def _successes(log: MemoryLog) -> Any:
    async for record in log.read(stream="run/r"):
        if isinstance(record.event, TaskSucceeded):
            yield record.event
