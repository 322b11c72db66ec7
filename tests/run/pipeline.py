"""The flow that many tests of running have in common."""

from __future__ import annotations

import anyio

from eventflow import flow, task


@task
async def one(day: str) -> list[int]:
    """Three numbers."""
    await anyio.sleep(1)
    return [len(day), 2, 3]


@task
def double(number: int) -> int:
    """In a thread."""
    return number * 2


@task
async def total(numbers: list[int], extra: int = 0) -> int:
    """The end."""
    return sum(numbers) + extra


@flow
def nightly(day: str, extra: int = 1) -> int:
    """The usual shape: fetch, map, reduce."""
    return total(double.map(one(day)), extra)
