"""How far a run is, in the smallest form that can be folded: statuses, counters and addresses.

A *slot* is a task's dense number: nodes have the first ones, and each `TaskMapped` appends one for each
child.  Every per-task fact is a column indexed by slot.  No result is kept here, only the version of
the record that holds it, so this state is small, and cheap to snapshot.

Only `evolve` changes it, in place, for its owner.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from eventflow.events import Address, Origin
from eventflow.machine.plan import Plan
from eventflow.machine.rules import FAILED, Phase, Status

__all__ = ["MapState", "RunState"]


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
    """The last record's moment, microseconds UTC."""
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
    """Upstreams still to finish."""
    failed: list[int]
    """Upstreams that failed, children of mapped ones counted one by one."""
    skipped: list[int]
    attempt: list[int]
    started: list[int]
    """Version of the last `TaskStarted`."""
    source: list[int]
    """Version of the record that ended the task: the address of its result."""
    parent: list[int]
    """Slot of the mapped task a child belongs to; -1 for a node."""

    maps: dict[int, MapState]
    failures: dict[int, int]
    """Attempts that failed, which is what `retries` limits."""
    crashes: dict[int, int]
    """Attempts in a row lost with their process."""
    retry_at: dict[int, int]
    due: list[int]
    """Slots whose upstreams have finished, oldest first; those before `due_head` were taken."""
    due_head: int
    due_gone: int
    """Slots that were in `due` before its first one."""
    timers: list[tuple[int, int]]
    """Heap of (retry_at, slot); entries whose slot no longer waits for that moment are void."""

    @classmethod
    def initial(cls, plan: Plan) -> RunState:
        """The state before the first record."""
        count = len(plan.nodes)
        return cls(
            phase=Phase.NEW, version=0, at=0, claim=0, flow="", durability="", labels={}, origin=None,
            outcome="", open=len(plan.tasks), running=0,
            status=bytearray(count), waiting=plan.degree.copy(), failed=[0] * count, skipped=[0] * count,
            attempt=[0] * count, started=[0] * count, source=[0] * count, parent=[-1] * count,
            maps={}, failures={}, crashes={}, retry_at={}, due=[], due_head=0, due_gone=0, timers=[],
        )  # fmt: skip

    def slot(self, address: Address) -> int:
        """The slot of an address; `KeyError` or `IndexError` when the run has no such task."""
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
        """The address of a slot."""
        parent = self.parent[slot]
        if parent < 0:
            return (slot,)
        return (*self.address(parent), slot - self.maps[parent].base)

    def node(self, slot: int) -> int:
        """The node that a slot belongs to, itself or by its mapped ancestors."""
        while self.parent[slot] >= 0:
            slot = self.parent[slot]
        return slot

    def ends(self, slot: int) -> tuple[int, int]:
        """How a finished task counts for its consumers: (failed, skipped), a map by its children."""
        status = self.status[slot]
        if status == Status.MAPPED:
            children = self.maps[slot]
            return children.failed, children.skipped
        return int(status in FAILED), int(status == Status.SKIPPED)

    def active(self) -> Iterator[int]:
        """Slots of tasks that are running."""
        return (slot for slot, status in enumerate(self.status) if status == Status.RUNNING)

    def name(self, plan: Plan, slot: int) -> str:
        """The task's name for people, e.g. `enrich[3]`."""
        node, *path = self.address(slot)
        return plan.nodes[node].name + "".join(f"[{index}]" for index in path)
