"""Parameters of a resumed run are compared by content: other bytes of an equal value are no other value."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import pytest

from eventflow import Flow, MemoryLog, flow, task
from eventflow.runner.parameters import ParametersDiffer
from eventflow.serializers import Keyring
from eventflow.testing.virtual import VirtualWorld, simulate, simulated


class Table:
    """Like a data frame: its columns may lie in memory in several ways, and `equals` compares what they hold."""

    def __init__(self, **columns: list[int]) -> None:
        self.columns = columns

    def equals(self, other: Table) -> bool:
        """Whether all columns are equal, in whatever order."""
        return self.columns == other.columns


class Labels:
    """Has a set, whose order depends on its history."""

    def __init__(self, labels: set[str]) -> None:
        self.labels = labels


class Color(enum.Enum):
    """An enum."""

    RED = 1


@dataclass
class Order:
    """A dataclass."""

    tags: dict[str, int]


@task
async def kind(value: Any) -> str:
    """A consumer."""
    return type(value).__name__


def grown(count: int, extra: int) -> set[str]:
    """A set of texts that was larger once."""
    return {f"label {i}" for i in range(count + extra)} - {f"label {i}" for i in range(count, count + extra)}


def taking(declared: Any) -> Flow[..., Any]:
    """A flow with a parameter of that type."""

    def taken(value: declared) -> Any:
        return kind(value)

    return flow(taken)


BIG = list(range(300))
EQUAL = {
    "a dict in another order": (dict[str, int], {"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a dict in a dataclass": (Order, Order({"a": 1, "b": 2}), Order({"b": 2, "a": 1})),
    "a set in an object": (Any, Labels(grown(50, 0)), Labels(grown(50, 500))),
    "a large set": (Any, grown(300, 0), grown(300, 3000)),
    "a table in another order": (Any, Table(a=BIG, b=[2]), Table(b=[2], a=BIG)),
    "tables in a list": (Any, [Table(a=[1], b=[2]), 1], [Table(b=[2], a=[1]), 1]),
    "tables in a dict": (Any, {"x": Table(a=[1], b=[2]), "y": 1}, {"y": 1, "x": Table(b=[2], a=[1])}),
    "an object": (Any, Labels({"a"}), Labels({"a"})),
}
OTHER = {
    "another number": (Any, 1, 2),
    "a number of another type": (Any, 1, True),
    "a key of another type": (Any, {1: Table()}, {True: Table()}),
    "a longer list": (Any, BIG, [*BIG, 1]),
    "another table": (Any, Table(a=[1]), Table(a=[2])),
    "another object": (Any, Labels({"a"}), Labels({"b"})),
    "an object instead of its content": (Any, Labels({"a"}), {"labels": {"a"}}),
    "a member instead of its value": (Any, [Color.RED, Table()], [1, Table()]),
}


def resumed(declared: Any, first: Any, second: Any, *, new_key: bool = False) -> str:
    """What becomes of a run that is called for once more with another value."""
    found: list[str] = []

    async def main(world: VirtualWorld) -> None:
        log = MemoryLog()
        called = taking(declared).options(log=log, world=world, run_id="one")
        state = await called.run(value=first)
        assert state.is_successful()
        if new_key:
            log._store.keyring = Keyring({"new": b"n" * 32, **log.keyring.keys})
        try:
            await called.run(value=second)
        except ParametersDiffer as error:
            found.append(str(error))

    simulate(main)
    return "".join(found)


@pytest.mark.parametrize("case", EQUAL)
def test_equal_values_are_no_other_parameters(case: str) -> None:
    """Order of dicts, sets and columns, and how a value lies in memory, do not count; inline and stored."""
    assert resumed(*EQUAL[case]) == ""


@pytest.mark.parametrize("case", OTHER)
def test_other_values_are(case: str) -> None:
    """Types count, and so does everything else."""
    told = resumed(*OTHER[case])
    assert "was started with other values of 'value'" in told
    assert "not comparable" not in told


def test_both_values_are_named() -> None:
    """The error shows the recorded value, the given one, and how to read a run that has finished."""
    told = resumed(str, "monday", "tuesday")
    assert (
        "other values of 'value' (was 'monday', now 'tuesday'): leave them out to get its recorded state"
        in told
    )


def test_a_pickle_that_is_signed_with_another_key_is_the_same_value() -> None:
    """The key was changed between, and the old one is still there."""
    assert resumed(Any, Table(a=[1]), Table(a=[1]), new_key=True) == ""
    assert "'value'" in resumed(Any, Table(a=[1]), Table(a=[2]), new_key=True)


class Fragile:
    """Cannot be opened any more."""

    broken = False

    def __init__(self, x: int) -> None:
        self.x = x

    def __setstate__(self, state: Any) -> None:
        if Fragile.broken:
            raise RuntimeError("broken since")
        self.__dict__.update(state)


@simulated
async def test_what_cannot_be_compared_is_told(monkeypatch: pytest.MonkeyPatch, world: VirtualWorld) -> None:
    """A recorded value that does not open is not taken for the same, and the error says why."""
    log = MemoryLog()
    called = taking(Any).options(log=log, world=world, run_id="one")
    await called.run(value=Fragile(1))
    monkeypatch.setattr(Fragile, "broken", True)
    with pytest.raises(ParametersDiffer, match=r"'value' \(not comparable: .*broken since"):
        await called.run(value=2)
