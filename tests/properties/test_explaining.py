"""What is said to set a miss apart from the nearest entry is what does, no more and no less."""

from __future__ import annotations

from typing import Any

import anyio
from hypothesis import given
from hypothesis import strategies as st

from eventflow import Flow, MemoryLog, Parameter, inputs, parameters, task
from eventflow.events import TaskStarted
from eventflow.graph import KeyPart
from eventflow.projections import replay
from eventflow.testing.virtual import VirtualWorld, simulate
from eventflow.views.cache import CacheEntry, CacheHits, key_differences, nearest_entry

Call = tuple[int, int, int, str, bool]
"""Two inputs, a parameter, a version, and whether the result is declared as a list."""

calls = st.tuples(
    st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.sampled_from(["1", "2"]), st.booleans()
)


def build(call: Call) -> Flow[..., Any]:
    """A flow with this one call."""
    x, y, _, version, listed = call

    async def work(x: int, y: int) -> Any:
        return x

    work.__annotations__["return"] = list if listed else object
    made = task(cache_on=inputs() | parameters("day"), version=version, cache_namespace="n", name="work")(
        work
    )
    with Flow("f") as found:
        Parameter("day", type=int)
        made(x, y)
    return found


def apart(one: Call, other: Call) -> set[KeyPart]:
    """The parts of the key in which two calls differ."""
    key_parts = (
        KeyPart("input", "x"),
        KeyPart("input", "y"),
        KeyPart("parameter", "day"),
        KeyPart("code"),
        KeyPart("result_type"),
    )
    return {part for part, a, b in zip(key_parts, one, other, strict=True) if a != b}


@given(st.lists(calls, min_size=2, max_size=8))
def test_the_explanation_names_what_differs(made: list[Call]) -> None:
    """Every miss of a random history: the entry that is nearest, and exactly the parts that are other ones."""

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        earlier: list[Call] = []
        for number, call in enumerate(made):
            flow = build(call)
            await flow.options(log=log, world=world, run_id=str(number)).run(day=call[2])
            start = [r async for r in log.read(stream=f"run/{number}") if isinstance(r.event, TaskStarted)]
            assert bool(start) == (call not in earlier)
            if start:
                (record,) = start
                event = record.event
                assert isinstance(event, TaskStarted)
                assert event.cache is not None
                rows = (await replay(log, CacheHits())).state
                definition, key_parts = flow.graph.tasks[0], flow.graph.key_parts(1)
                entry = nearest_entry(rows, definition, key_parts, event.cache.parts, record.at - 1)
                assert (entry is None) == (not earlier)
                if entry is not None:
                    said = set(key_differences(entry, definition, key_parts, event.cache.parts))
                    assert said == apart(call, earlier[_number(entry)])
                    assert len(said) == min(len(apart(call, other)) for other in earlier)
            earlier.append(call)
            await anyio.sleep(1)

    simulate(main)


def _number(entry: CacheEntry) -> int:
    """Which call made an entry."""
    return int(entry.source.stream.removeprefix("run/"))
