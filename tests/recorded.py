"""The recorded workflows: that of the demo, which is in the package, and those in `workloads`."""

from __future__ import annotations

from pathlib import Path

from eventflow.demo import workload
from eventflow.demo.workload import Workload

FOLDERS = (workload.DATA, Path(__file__).parents[1] / "workloads")


def available() -> tuple[str, ...]:
    """Their names, sorted."""
    return tuple(sorted(name for folder in FOLDERS for name in workload.available(folder)))


def folder_of(name: str) -> Path:
    """Where one of them lies; the last folder for one that is not there."""
    return next((folder for folder in FOLDERS if name in workload.available(folder)), FOLDERS[-1])


def load(name: str) -> Workload:
    """One of them; `WorkloadError` when there is none of that name."""
    return workload.load(name, folder_of(name))
