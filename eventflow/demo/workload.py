"""Recorded workflows of other systems, as plain data, for the demo and for the engine's tests.

They are gzipped WfFormat documents of the WfCommons project. `data` contains the one of the demo, with its licence.
A run needs only the edges, the recorded seconds, and the size of a job's output, so only these are read.

Nothing here imports eventflow, so `expected_digest` is an oracle. Each job hashes its id and the results of its
parents, and the oracle computes the same. An engine that loses, repeats or swaps an input gets another digest.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from pathlib import Path

import msgspec

__all__ = ["Job", "Workload", "WorkloadError", "available", "expected_digest", "job_digest", "load", "parse"]

DATA = Path(__file__).parent / "data"
SUFFIX = ".json.gz"


class WorkloadError(ValueError):
    """A workload cannot be run: it is absent, is not WfFormat, or has cycles."""


class Job(msgspec.Struct, frozen=True):
    """One task of a recorded workflow."""

    id: str
    kind: str
    """The name of its program, e.g. `mProject`; many jobs share a kind."""
    parents: tuple[str, ...]
    """Ids of the jobs that it depends on, in recorded order."""
    runtime_s: float
    """Seconds as recorded on the original machine; 0 if none were recorded."""
    output_bytes: int


class Workload(msgspec.Struct, frozen=True):
    """One recorded workflow."""

    name: str
    tasks: tuple[Job, ...]
    """In topological order: parents come before their children."""


class _Task(msgspec.Struct, rename="camel"):
    id: str
    name: str
    parents: list[str]
    output_files: list[str] = []


class _File(msgspec.Struct, rename="camel"):
    id: str
    size_in_bytes: int


class _Specification(msgspec.Struct):
    tasks: list[_Task]
    files: list[_File] = []


class _Measured(msgspec.Struct, rename="camel"):
    id: str
    runtime_in_seconds: float


class _Execution(msgspec.Struct):
    tasks: list[_Measured] = []


class _Workflow(msgspec.Struct):
    specification: _Specification
    execution: _Execution = msgspec.field(default_factory=_Execution)


class _Document(msgspec.Struct):
    workflow: _Workflow


def available(folder: Path = DATA) -> tuple[str, ...]:
    """Return the names of a folder that `load` accepts, sorted."""
    return tuple(sorted(path.name.removesuffix(SUFFIX) for path in folder.glob(f"*{SUFFIX}")))


def load(name: str, folder: Path = DATA) -> Workload:
    """Read one workload of a folder; raise `WorkloadError` if there is none with that name."""
    if name not in available(folder):
        raise WorkloadError(f"no workload {name!r} in {folder}: there are {', '.join(available(folder))}")
    return parse(name, gzip.decompress((folder / f"{name}{SUFFIX}").read_bytes()))


def parse(name: str, document: bytes) -> Workload:
    """Read one WfFormat document (JSON); raise `WorkloadError`, which names the fault."""
    try:
        workflow = msgspec.json.decode(document, type=_Document).workflow
    except msgspec.DecodeError as error:
        raise WorkloadError(f"workload {name!r} is not WfFormat: {error}") from error
    specification = workflow.specification
    runtimes = {measured.id: measured.runtime_in_seconds for measured in workflow.execution.tasks}
    sizes = {file.id: file.size_in_bytes for file in specification.files}
    jobs = {
        task.id: Job(
            id=task.id,
            kind=_kind(task.name),
            parents=tuple(task.parents),
            runtime_s=runtimes.get(task.id, 0.0),
            output_bytes=sum(sizes.get(file, 0) for file in task.output_files),
        )
        for task in specification.tasks
    }
    if len(jobs) != len(specification.tasks):
        raise WorkloadError(f"workload {name!r} has two tasks of one id: ids must be unique")
    return Workload(name, tuple(jobs[id_] for id_ in _sorted(name, jobs)))


def _kind(task_name: str) -> str:
    """Return a task's name without the counter that some recorders add."""
    return re.sub(r"_(ID)?\d+$", "", task_name)


def _sorted(name: str, jobs: dict[str, Job]) -> list[str]:
    for job in jobs.values():
        for parent in job.parents:
            if parent not in jobs:
                raise WorkloadError(
                    f"workload {name!r}: task {job.id!r} waits for {parent!r}, which is not there"
                )
    try:
        return list(TopologicalSorter({job.id: job.parents for job in jobs.values()}).static_order())
    except CycleError as error:
        raise WorkloadError(f"workload {name!r} goes in a circle: {' → '.join(error.args[1])}") from error


def job_digest(job_id: str, parents: Iterable[str]) -> str:
    """Return the result of one job: BLAKE2b, in hex, of its id and the results of its parents, in their order."""
    return blake2b("".join([job_id, *parents]).encode()).hexdigest()


def expected_digest(workload: Workload) -> dict[str, str]:
    """Return the expected result of every job by id, computed in one pass without an engine."""
    results: dict[str, str] = {}
    for job in workload.tasks:
        results[job.id] = job_digest(job.id, [results[parent] for parent in job.parents])
    return results
