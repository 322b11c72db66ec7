"""The trigger of a task: what the outcomes of its upstreams mean for it, and why it is blocked.

There is one trigger, `all_successful`. A later one is another name here, judged by the same counts of outcomes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from eventflow.graph import Ref
from eventflow.machine.inputs import leaf_of
from eventflow.machine.plan import Plan
from eventflow.machine.state import RunState

__all__ = ["TRIGGER", "Verdict", "failed_map_input", "judge", "why_blocked"]

TRIGGER: Final = "all_successful"
"""The trigger of every task."""
_NAMES_MAX: Final = 3


class Verdict(IntEnum):
    """The consequence of finished upstreams for a task."""

    RUN = 0
    SKIP = 1
    BLOCK = 2


def judge(failed: int, skipped: int) -> Verdict:
    """Apply the trigger `all_successful`, after skip propagation.

    Skips come first: one skipped and one failed upstream give a skip, as in PIN-4's runner. A mapped upstream counts once
    for each of its children.
    """
    if skipped:
        return Verdict.SKIP
    if failed:
        return Verdict.BLOCK
    return Verdict.RUN


def failed_map_input(plan: Plan, run: RunState, slot: int) -> str | None:
    """Return the name of an input that a mapped task is mapped over and that failed; the task can have no children then.

    None if there is none. Children of another map do not count, since each of them blocks only its own element.
    """
    for item in plan.tasks[slot].inputs:
        if item.each and isinstance(item.arg, Ref):
            leaf = leaf_of(run, item.name, item.arg)
            if leaf.children is None and run.ends(leaf.slot)[0]:
                return item.name
    return None


def why_blocked(plan: Plan, run: RunState, slot: int) -> str:
    """Say which upstreams keep a task from running."""
    if slot in plan.mapped:
        name = failed_map_input(plan, run, slot)
        if name is not None:
            return f"its input {name!r}, which it is mapped over, failed"
    failed = [up for up in plan.upstreams[run.node(slot)] if run.ends(up)[0]]
    names = ", ".join(run.name(plan, up) for up in failed[:_NAMES_MAX])
    return f"{run.failed[slot]} of its upstreams failed ({names})"
