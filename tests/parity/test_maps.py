"""Case 72 of PIN-4's lineage, maps over inputs of different lengths, in our words: a rule that we have changed."""

from __future__ import annotations

import pytest

from eventflow import Flow, MemoryLog, flow, task
from eventflow.authoring.nodes import BuildError
from eventflow.testing.virtual import VirtualWorld, simulated


@task(version="1")
async def add(x: int, y: int) -> int:
    """A sum."""
    return x + y


@task(version="1")
async def numbers(count: int) -> list[int]:
    """As many numbers as are wanted."""
    return list(range(count))


@task(version="1")
async def double(x: int) -> int:
    """Mapped itself."""
    return 2 * x


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (0, 1)])
@pytest.mark.parametrize("of_maps", [False, True])
@simulated
async def test_case_72_unequal_lengths(counts: tuple[int, int], of_maps: bool, world: VirtualWorld) -> None:
    """72. Given inputs of different lengths, upstream takes the shortest; here the map fails and says how to do so."""

    @flow
    def sums() -> list[int]:
        xs, ys = (numbers(count) for count in counts)
        return add.map(double.map(xs), double.map(ys)) if of_maps else add.map(xs, ys)

    state = await sums.options(log=MemoryLog(), world=world).run()
    assert state.is_failed()
    message = state.result["add"].message
    assert f"'x' has {counts[0]}, 'y' has {counts[1]}" in message
    assert ".mapping(zip_shortest=True).map(" in message


def test_case_72_unequal_lengths_that_are_known_already() -> None:
    """72. Given lists that are written in the flow, the flow is not built."""
    with (
        pytest.raises(
            BuildError, match=r"'add' is mapped over inputs of unequal lengths: 'x' has 1, 'y' has 2"
        ),
        Flow("f"),
    ):
        add.map([1], [1, 2])


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (0, 1), (2, 2)])
@simulated
async def test_case_72_the_shortest_on_request(counts: tuple[int, int], world: VirtualWorld) -> None:
    """72. Given `zip_shortest`, as many children as the shortest has elements, as upstream has always."""

    @flow
    def sums() -> list[int]:
        xs, ys = (numbers(count) for count in counts)
        return add.mapping(zip_shortest=True).map(xs, ys)

    assert await sums.options(log=MemoryLog(), world=world).value() == [0, 2][: min(counts)]
