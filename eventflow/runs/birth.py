"""Read the event that began a run."""

from __future__ import annotations

from eventflow.events import RunStarted, run_stream
from eventflow.ports import EventLog

__all__ = ["birth_of"]


async def birth_of(log: EventLog, run_id: str) -> RunStarted | None:
    """Return the event that began a run; None if there is no such run."""
    async for record in log.read(stream=run_stream(run_id)):
        return record.event if isinstance(record.event, RunStarted) else None
    return None
