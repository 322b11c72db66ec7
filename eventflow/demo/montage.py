"""The flow of the demo: one real run of Montage, 103 tasks, as recorded by the WfCommons project.

Montage stitches telescope images into one mosaic.  Each task sleeps its recorded seconds, scaled so that the
run takes `EVENTFLOW_DEMO_SECONDS`, and returns a digest of its inputs.  So the result can be checked against one
that is computed without the engine.  Before that it appends its name to the file `EVENTFLOW_DEMO_COUNT`, which
counts executions outside the engine.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from typing import Any, Final

from eventflow.authoring.flows import Flow
from eventflow.authoring.option_values import inputs
from eventflow.authoring.tasks import task
from eventflow.demo.workload import Workload, job_digest, load

__all__ = ["COUNT_VARIABLE", "RECORDING", "SECONDS_VARIABLE", "build", "critical_path_s", "montage"]

COUNT_VARIABLE: Final = "EVENTFLOW_DEMO_COUNT"
SECONDS_VARIABLE: Final = "EVENTFLOW_DEMO_SECONDS"
RECORDING: Final = "montage-chameleon-2mass-01d-001"


async def work(job: str, seconds: float, parents: list[str]) -> str:
    """The body of every task: record that it runs, sleep, and return a digest of its inputs."""
    path = os.environ.get(COUNT_VARIABLE)
    if path is not None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, f"{job}\n".encode())  # one write: a kill leaves a whole line or none
        finally:
            os.close(file)
    await asyncio.sleep(seconds)
    return job_digest(job, parents)


def critical_path_s(workload: Workload) -> float:
    """Return the seconds that the recorded tasks take if only their order delays them."""
    ends: dict[str, float] = {}
    for job in workload.tasks:
        ends[job.id] = job.runtime_s + max((ends[parent] for parent in job.parents), default=0.0)
    return max(ends.values())


def _kinds(workload: Workload) -> Iterable[str]:
    return dict.fromkeys(job.kind for job in workload.tasks)


def build(workload: Workload, seconds: float) -> Flow[..., Any]:
    """Return the workload as a flow: a task function for each kind of job, a node for each job."""
    scale = seconds / critical_path_s(workload)
    # The seconds do not count: the result of a task does not depend on its sleep.
    cached = {kind: task(name=kind, cache_on=inputs("job", "parents")) for kind in _kinds(workload)}
    kinds = {kind: decorate(work) for kind, decorate in cached.items()}
    nodes: dict[str, str] = {}
    with Flow("montage") as flow:
        for job in workload.tasks:
            parents = [nodes[parent] for parent in job.parents]
            nodes[job.id] = kinds[job.kind].named(job.id)(job.id, job.runtime_s * scale, parents)
    return flow


montage: Final = build(load(RECORDING), float(os.environ.get(SECONDS_VARIABLE, "8")))
