"""The log in one SQLite file: `SQLiteLog`, and the errors of that file."""

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
