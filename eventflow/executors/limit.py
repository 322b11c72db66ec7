"""How many threads the process has for plain functions."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

from eventflow.executors.threads import THREADS, Pool, shared_pool
from eventflow.project import InvalidSetting, project_settings

__all__ = ["THREADS_VARIABLE", "limited_pool", "thread_limit"]

THREADS_VARIABLE: Final = "EVENTFLOW_THREADS"
THREADS_MAX: Final = 10_000


def thread_limit() -> int:
    """Return the limit of threads: of `EVENTFLOW_THREADS`, else of the project's `threads`, else the default.

    The project's file is read once for each current folder. Raises `InvalidSetting`.
    """
    variable = os.environ.get(THREADS_VARIABLE)
    if variable:
        return _checked(int(variable) if variable.isdecimal() else variable, THREADS_VARIABLE)
    try:
        return _limit_of_project(os.getcwd())  # noqa: PTH109 - once a run; a Path costs as much again
    except FileNotFoundError:  # the current folder was removed
        return THREADS


def limited_pool() -> Pool:
    """Return the process's pool, with as many threads as `thread_limit` says. Raises `InvalidSetting`."""
    return shared_pool(thread_limit())


@lru_cache(maxsize=64)
def _limit_of_project(folder: str) -> int:
    settings = project_settings(Path(folder))
    if settings is None or "threads" not in settings.values:
        return THREADS
    return _checked(settings.values["threads"], f"{settings.location}, threads")


def _checked(limit: object, where: str) -> int:
    if type(limit) is not int or not 1 <= limit <= THREADS_MAX:
        raise InvalidSetting(f"{where}: {limit!r} is no number of threads; give one from 1 to {THREADS_MAX}")
    return limit
