"""What a task is mapped over: sequences, in order of position, and nothing else."""

from __future__ import annotations

import array
import collections
from collections.abc import Callable
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, flow, inputs, task, unmapped
from eventflow.authoring.nodes import BuildError
from eventflow.testing.virtual import VirtualWorld, simulated


class Series:
    """Like one of pandas: indexed by label, with positions under `iloc`."""

    ndim = 1

    def __init__(self, *items: int, labels: list[int] | None = None) -> None:
        self.items = list(items)
        self.labels = labels or [10 * (i + 1) for i in range(len(items))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, label: int) -> int:
        return self.items[self.labels.index(label)]

    @property
    def iloc(self) -> list[int]:
        """By position."""
        return self.items


class Shaped:
    """Like an array, or a Series of polars: it has a shape."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, nth: int) -> int:
        return nth + 1

    def tolist(self) -> list[int]:
        """As Python's own values."""
        return [nth + 1 for nth in range(self.shape[0])]


class DataFrame(Shaped):
    """Like one of pandas."""


class Polars:
    """A namespace."""

    class DataFrame(Shaped):
        """Like one of polars."""

        def to_dicts(self) -> list[Any]:
            """Its rows."""
            return []


@task
async def same(x: Any) -> Any:
    """What it is given."""
    return x


@task
async def both(x: Any, y: Any) -> Any:
    """Both."""
    return [x, y]


MADE: list[Any] = [None]


@task
async def made() -> Any:
    """A value of any kind."""
    return MADE[0]


def mapped(value: Any) -> Flow[..., Any]:
    """A flow that maps over the value of a task."""
    MADE[0] = value

    @flow
    def mapping() -> Any:
        return same.map(made())

    return mapping


SEQUENCES: dict[str, Callable[[], Any]] = {
    "list": lambda: [1, 2, 3],
    "tuple": lambda: (1, 2, 3),
    "range": lambda: range(1, 4),
    "deque": lambda: collections.deque([1, 2, 3]),
    "user list": lambda: collections.UserList([1, 2, 3]),
    "array": lambda: array.array("q", [1, 2, 3]),
    "an array of one dimension": lambda: Shaped(3),
    "a Series": lambda: Series(1, 2, 3),
    "a Series whose labels are other positions": lambda: Series(1, 2, 3, labels=[2, 0, 1]),
}
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "dict": (lambda: {0: 1}, r"a dict: write `list\(value.items\(\)\)`"),
    "user dict": (lambda: collections.UserDict({0: 1}), r"a UserDict: write `list\(value.items\(\)\)`"),
    "default dict": (lambda: collections.defaultdict(int, {0: 1}), r"a defaultdict: write `list"),
    "set": (lambda: {1}, r"a set: .*`sorted\(value\)`"),
    "frozenset": (lambda: frozenset({1}), r"a frozenset: .*`sorted\(value\)`"),
    "text": (lambda: "abc", r"a str: write `value.split\(\)`"),
    "user string": (lambda: collections.UserString("abc"), "a UserString: write"),
    "bytes": (lambda: b"abc", r"a bytes: write `list\(value\)`"),
    "bytearray": (lambda: bytearray(b"abc"), "a bytearray: write"),
    "frame": (lambda: DataFrame(2, 2), r"a DataFrame: write `value.to_dict\('records'\)`"),
    "a frame of polars": (lambda: Polars.DataFrame(2, 2), r"a Polars.DataFrame: write `value.to_dicts\(\)`"),
    "two dimensions": (lambda: Shaped(2, 2), r"a Shaped of 2 dimensions: write `list\(value\)` for its rows"),
    "no dimension": (Shaped, "a Shaped of 0 dimensions"),
    "number": (lambda: 3, "an int: give a list"),
    "None": (lambda: None, "a NoneType: give a list"),
}


@pytest.mark.parametrize("case", SEQUENCES)
@simulated
async def test_sequences_are_mapped_over_by_position(case: str, world: VirtualWorld) -> None:
    """The elements are in order, whatever `value[0]` means; also after a look at the inputs."""
    state = await mapped(SEQUENCES[case]()).options(log=MemoryLog(), world=world).run()
    children = state.result["same"].map_states
    assert [child.result for child in children] == [1, 2, 3]
    assert [child.cached_inputs["x"].deserialize().value for child in children] == [1, 2, 3]


@pytest.mark.parametrize("case", OTHERS)
@simulated
async def test_what_is_no_sequence_fails_the_map(case: str, world: VirtualWorld) -> None:
    """The error names the argument, the type, and what to write instead."""
    make, said = OTHERS[case]

    state = await mapped(make()).options(log=MemoryLog(), world=world).run()
    assert state.is_failed()
    with pytest.raises(Exception, match=f"argument 'x': cannot map over {said}"):
        raise state.result["same"].result


@pytest.mark.parametrize(
    "case",
    [case for case in SEQUENCES if case not in ("a Series", "a Series whose labels are other positions")],
)
@simulated
async def test_sequences_can_be_written_in_a_flow(case: str, world: VirtualWorld) -> None:
    """A constant for each element, in order."""

    @flow
    def written() -> Any:
        return same.map(SEQUENCES[case]())

    assert await written.options(log=MemoryLog(), world=world).value() == [1, 2, 3]


@pytest.mark.parametrize("case", OTHERS)
def test_others_are_refused_where_they_are_written(case: str) -> None:
    """Before anything runs, with the fix and the other way out."""
    with pytest.raises(BuildError, match=r"not mapped over.*(write|give a list).*unmapped\(\)"), Flow("f"):
        same.map(OTHERS[case][0]())


@pytest.mark.parametrize(
    "declared", [dict[str, int], set[int], frozenset, collections.UserDict, str, bytes, DataFrame]
)
def test_a_node_whose_type_is_no_sequence_is_refused(declared: Any) -> None:
    """What the declared type says already is not left to the run."""

    @task
    async def typed() -> declared:
        return None

    with pytest.raises(BuildError, match="which is not mapped over"), Flow("f"):
        same.map(typed())


@simulated
async def test_a_cached_task_over_a_series_has_the_keys_of_its_elements(world: VirtualWorld) -> None:
    """Keys are made of what is at the position, so elements are not mistaken for each other."""
    ran = []

    @task(cache_on=inputs(), version="1")
    async def noted(x: Any) -> Any:
        ran.append(x)
        return x

    @flow
    def cached() -> Any:
        return noted.map(made())

    log = MemoryLog()
    for labels in ([2, 0, 1], [0, 1, 2]):
        MADE[0] = Series(7, 8, 9, labels=labels)
        assert await cached.options(log=log, world=world).value() == [7, 8, 9]
    assert ran == [7, 8, 9]


@simulated
async def test_zip_shortest_belongs_to_the_shape_of_a_flow(world: VirtualWorld) -> None:
    """A run that was begun without it is not resumed with it; a rerun maps again."""
    values = [[1, 2], [1, 2]]

    @task(version="1")
    async def one() -> list[int]:
        return values[0]

    @task(version="1")
    async def two() -> list[int]:
        return values[1]

    def called(shortest: bool) -> Flow[..., Any]:
        @flow(name="zipped")
        def zipped() -> Any:
            task_ = both.mapping(zip_shortest=True) if shortest else both.mapping()
            return task_.map(one(), two())

        return zipped

    assert called(True).graph.digests.shape != called(False).graph.digests.shape

    log = MemoryLog()
    values[1] = [1]
    state = await called(True).options(log=log, world=world, run_id="one").run()
    assert state.is_successful()
    again = await called(False).options(log=log, world=world, run_id="again").rerun("one")
    assert again.is_failed()


def test_mapping_is_for_maps() -> None:
    """A call after it, and a word for a flag, are refused; `after` and `named` keep it."""
    with pytest.raises(BuildError, match=r"called after \.mapping\(\)"), Flow("f"):
        both.mapping(zip_shortest=True)(1, 2)
    with pytest.raises(TypeError, match="zip_shortest='yes' is not True or False"):
        both.mapping(zip_shortest="yes")  # type: ignore[arg-type]
    with Flow("f") as f:
        first = same(1)
        both.mapping(zip_shortest=True).named("pairs").after(first).map([1, 2], [3])
        both.mapping(zip_shortest=True).map(unmapped(1), unmapped(2))
    assert [getattr(node, "zip_shortest", None) for node in f.graph.nodes] == [False, True, False]
