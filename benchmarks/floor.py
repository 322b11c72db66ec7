"""The bare floor: a task group and nothing else; no graph, no log, nothing survives.

    python -m benchmarks.floor W1|W2|W3|W7|W8|W9 [--n N] [--loop asyncio|anyio]

Every task is spawned as a task of its own, also in a chain, as an engine would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from benchmarks.common import LAYERS, WIDTH, Meter, ask, big, cold, deps, emit, main_module, small

Body: TypeAlias = Callable[[int], Awaitable[Any]]
Gather: TypeAlias = Callable[[Body, Iterable[int]], Awaitable[None]]


async def body(i: int) -> dict[str, Any]:
    """A task."""
    return small(i)


async def big_body(i: int) -> dict[str, Any]:
    """A task with a large result."""
    return big(i)


async def gather_asyncio(fn: Body, indices: Iterable[int]) -> None:
    """Run tasks side by side, with asyncio's task group."""

    async def keep(i: int) -> None:
        results[i] = await fn(i)

    results: dict[int, Any] = {}
    async with asyncio.TaskGroup() as group:
        for i in indices:
            group.create_task(keep(i))


async def gather_anyio(fn: Body, indices: Iterable[int]) -> None:
    """Run tasks side by side, with anyio's."""
    import anyio  # noqa: PLC0415 - asyncio's cold start is measured without it

    async def keep(i: int) -> None:
        results[i] = await fn(i)

    results: dict[int, Any] = {}
    async with anyio.create_task_group() as group:
        for i in indices:
            group.start_soon(keep, i)


async def layered() -> None:
    """W3."""

    async def node(layer: int, place: int) -> dict[str, Any]:
        for before in deps(layer, place):
            await nodes[layer - 1, before]
        return await body(layer * WIDTH + place)

    nodes: dict[tuple[int, int], asyncio.Task[Any]] = {}
    async with asyncio.TaskGroup() as group:
        for layer in range(LAYERS):
            for place in range(WIDTH):
                nodes[layer, place] = group.create_task(node(layer, place))


async def work(workload: str, n: int, gather: Gather) -> None:
    """One workload."""

    async def five(k: int) -> None:
        for j in range(5):
            await gather(body, [k * 5 + j])

    match workload:
        case "W1":
            for i in range(n):
                await gather(body, [i])
        case "W2" | "W9run":
            await gather(body, range(n))
        case "W3":
            await layered()
        case "W7":
            await gather(big_body, range(n))
        case "W8":
            await gather(five, range(n))
        case _:
            raise SystemExit(f"floor: no workload {workload!r}; there are W1, W2, W3, W7, W8 and W9")


async def main() -> None:
    """Measure one workload."""
    asked = ask(__doc__, loop=("asyncio", "anyio"))
    system = "floor" if asked.loop == "asyncio" else "floor-anyio"
    if asked.workload == "W9":
        cold(system, main_module("W9run", "--n", "1", "--loop", asked.loop), "none")
        return
    gather = gather_asyncio if asked.loop == "asyncio" else gather_anyio
    if asked.workload != "W9run":
        await gather(body, [0])  # anyio imports its backend at first use
    with Meter() as meter:
        await work(asked.workload, asked.n, gather)
    tasks = asked.n * 5 if asked.workload == "W8" else asked.n
    emit(system, asked.workload, tasks, meter.usage, "none")


if __name__ == "__main__":
    asyncio.run(main())
