"""The log in one SQLite file: `SQLiteLog`, and what can be wrong with the file."""

from __future__ import annotations

from eventflow.logs.sqlite.log import LogInfo, SQLiteLog
from eventflow.ports import LogForked, LogOfAnotherLoop, LogReplaced, LogUnusable, LogWriteFailed

__all__ = [
    "LogForked",
    "LogInfo",
    "LogOfAnotherLoop",
    "LogReplaced",
    "LogUnusable",
    "LogWriteFailed",
    "SQLiteLog",
]
