"""The state of one run in the smallest form that can be folded: statuses, counters and addresses.

A *slot* is the dense number of a task. Nodes have the first slots; each `TaskMapped` appends one slot for each child.
Every fact about a task is a column indexed by slot. Results are not kept here, only the version of the record that holds
them, so the state is small and a snapshot of it is cheap.

Only `evolve` changes a state, in place, for its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

import msgspec

from eventflow.events import Address, Origin
from eventflow.machine.plan import Plan

__all__ = ["FAILED", "FINISHED", "MapState", "Phase", "RunState", "Status"]


class Status(IntEnum):
    """The status of one task. `states` shows each as a class of PIN-4's tree."""

    PENDING = 0
    RUNNING = 1
    RETRYING = 2
    SUCCEEDED = 3
    REUSED = 4
    MAPPED = 5
    SKIPPED = 6
    FAILED = 7
    TIMED_OUT = 8
    BLOCKED = 9
    CRASHED = 10


FAILED: Final = frozenset({Status.FAILED, Status.TIMED_OUT, Status.BLOCKED, Status.CRASHED})
FINISHED: Final = FAILED | {Status.SUCCEEDED, Status.REUSED, Status.MAPPED, Status.SKIPPED}


class Phase(IntEnum):
    """The phase of a run."""

    NEW = 0
    STARTED = 1
    CLAIMED = 2
    RELEASED = 3
    FINISHED = 4


class MapState(msgspec.Struct):
    """The children of one mapped task: slots `base` … `base + width - 1`."""

    base: int
    width: int
    open: int
    """Children that have not finished."""
    failed: int = 0
    skipped: int = 0


class RunState(msgspec.Struct):
    """The fold of one run's stream."""

    phase: Phase
    version: int
    at: int
    """Moment of the last record, microseconds UTC."""
    claim: int
    """Version of the `RunClaimed` in force; 0 before the first."""
    flow: str
    """Digest of the graph in force."""
    durability: str
    labels: dict[str, str]
    origin: Origin | None
    outcome: str
    """Empty until `RunFinished`."""
    open: int
    """Task nodes that have not finished; a mapped one finishes with its last child."""
    running: int

    status: bytearray
    waiting: list[int]
    """Upstreams that have not finished."""
    failed: list[int]
    """Upstreams that failed. Of a mapped upstream each child counts."""
    skipped: list[int]
    attempt: list[int]
    started: list[int]
    """Version of the last `TaskStarted`."""
    source: list[int]
    """Version of the record that ended the task, which is the address of its result."""
    parent: list[int]
    """Slot of the mapped task that a child belongs to; -1 for a node."""

    maps: dict[int, MapState]
    failures: dict[int, int]
    """Attempts that failed; `retries` limits them."""
    crashes: dict[int, int]
    """Attempts in a row that were lost with their process."""
    retry_at: dict[int, int]
    due: list[int]
    """Slots whose upstreams have finished, oldest first; those before `due_head` are no longer due."""
    due_head: int
    due_gone: int
    """How many slots were cut off at the head of `due`."""
    timers: list[tuple[int, int]]
    """Heap of (retry_at, slot). An entry is void if `retry_at` has another moment for its slot."""

    @classmethod
    def initial(cls, plan: Plan) -> RunState:
        """Return the state before the first record."""
        count = len(plan.nodes)
        return cls(
            phase=Phase.NEW, version=0, at=0, claim=0, flow="", durability="", labels={}, origin=None,
            outcome="", open=len(plan.tasks), running=0,
            status=bytearray(count), waiting=plan.degree.copy(), failed=[0] * count, skipped=[0] * count,
            attempt=[0] * count, started=[0] * count, source=[0] * count, parent=[-1] * count,
            maps={}, failures={}, crashes={}, retry_at={}, due=[], due_head=0, due_gone=0, timers=[],
        )  # fmt: skip

    def slot(self, address: Address) -> int:
        """Return the slot of an address; raises `KeyError` or `IndexError` if the run has no such task."""
        slot = address[0]
        if len(address) == 1:
            if not 0 <= slot < len(self.status) or self.parent[slot] >= 0:
                raise IndexError(f"no node {slot}")
            return slot
        for index in address[1:]:
            children = self.maps[slot]
            if not 0 <= index < children.width:
                raise IndexError(f"no child {index} of {children.width}")
            slot = children.base + index
        return slot

    def address(self, slot: int) -> Address:
        """Return the address of a slot."""
        parent = self.parent[slot]
        if parent < 0:
            return (slot,)
        return (*self.address(parent), slot - self.maps[parent].base)

    def node(self, slot: int) -> int:
        """Return the node of a slot: the slot itself, or that of its mapped ancestors."""
        while self.parent[slot] >= 0:
            slot = self.parent[slot]
        return slot

    def ends(self, slot: int) -> tuple[int, int]:
        """Return how a finished task counts for those downstream: (failed, skipped). A map counts its children."""
        status = self.status[slot]
        if status == Status.MAPPED:
            children = self.maps[slot]
            return children.failed, children.skipped
        return int(status in FAILED), int(status == Status.SKIPPED)

    def active(self) -> Iterator[int]:
        """Return the slots of tasks that are running."""
        return (slot for slot, status in enumerate(self.status) if status == Status.RUNNING)

    def name(self, plan: Plan, slot: int) -> str:
        """Return the name of a task for people, e.g. `enrich[3]`."""
        return plan.graph.name_at(self.address(slot))
