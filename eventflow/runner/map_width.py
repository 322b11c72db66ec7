"""The width of a map: how many children a mapped task gets.

A mapped task gets one child for each element. Inputs of unequal lengths are an error, unless the call says
`zip_shortest`.
"""

from __future__ import annotations

from eventflow.events import WIDTH_MAX
from eventflow.graph import Input, ListOf, Ref, TupleOf, unequal
from eventflow.machine import MapTask, Plan
from eventflow.machine.rules import SLOTS_MAX
from eventflow.result import KeyUnavailable, UnknownEncoding
from eventflow.runner.failures import failure_of, text_of
from eventflow.runner.live_values import LiveValues
from eventflow.views.run import RunFacts

__all__ = ["map_task"]


async def map_task(plan: Plan, values: LiveValues, facts: RunFacts, slot: int) -> MapTask:
    """Return the command for a mapped task that is due.

    Raises `KeyUnavailable` or `UnknownEncoding`, which are no failures of the task.
    """
    node = plan.tasks[slot]
    widths: dict[str, int] = {}
    for item in node.inputs:
        if not item.each:
            continue
        try:
            widths[item.name] = await _width(values, facts, item)
        except (KeyUnavailable, UnknownEncoding):
            raise  # no failure of the task: the run can go on where the value opens
        except Exception as error:  # noqa: BLE001 - `len()` and opening run what users wrote
            return MapTask(slot, 0, failure_of(TypeError(f"argument {item.name!r}: {text_of(error)}")))
    if len({*widths.values()}) > 1 and not node.zip_shortest:
        return MapTask(slot, 0, failure_of(ValueError(unequal(node.name, widths))))
    width, room = min(widths.values()), min(WIDTH_MAX, SLOTS_MAX - len(facts.run.status))
    if width > room:
        return MapTask(slot, 0, failure_of(ValueError(_too_wide(width, room))))
    return MapTask(slot, width)


def _too_wide(width: int, room: int) -> str:
    return (
        f"mapping over {width} elements would make more than {room} tasks, which is all that this run has room for: "
        "let a task take a batch of elements, or divide the work among several runs"
    )


async def _width(values: LiveValues, facts: RunFacts, item: Input) -> int:
    arg = item.arg
    if isinstance(arg, ListOf | TupleOf):
        return len(arg.items)
    assert isinstance(arg, Ref), "anything else is never mapped over; refused when the flow is built"
    children = facts.run.maps.get(arg.node)
    if children is not None and not arg.path:
        return children.width
    return await values.length(facts, arg)
