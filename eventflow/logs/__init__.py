"""Where events are kept: one adapter of `EventLog` each."""

from __future__ import annotations

from eventflow.logs.memory import MemoryLog

__all__ = ["MemoryLog"]
