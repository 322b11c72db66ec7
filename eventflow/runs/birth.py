"""Read the event that began a run."""

from __future__ import annotations

from eventflow.events import RunStarted, Unknown, kind_of, run_stream
from eventflow.ports import EventLog
from eventflow.records import LogDamaged
from eventflow.runner.ownership import UnknownEvents

__all__ = ["birth_of"]


async def birth_of(log: EventLog, run_id: str) -> RunStarted | None:
    """Return the event that began a run; None if there is no such run.

    Raises `UnknownEvents` if a newer version began it, so that its parameters are not known.
    """
    async for record in log.read(stream=run_stream(run_id)):
        if isinstance(record.event, RunStarted):
            return record.event
        if isinstance(record.event, Unknown):
            raise UnknownEvents(
                f"run {run_id!r} begins with a {record.event.kind!r} of a newer eventflow: run it with that one, or "
                f"look at it with `state_of({run_id!r})`"
            )
        raise LogDamaged(f"run {run_id!r} begins with a {kind_of(record.event)!r}")
    return None
