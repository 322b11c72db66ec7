"""The log in one SQLite file: `SQLiteLog`, and what can be wrong with the file."""

from __future__ import annotations

from eventflow.logs.sqlite.errors import LogUnusable, LogWriteFailed, WalResetWarning
from eventflow.logs.sqlite.log import LogInfo, SQLiteLog

__all__ = ["LogInfo", "LogUnusable", "LogWriteFailed", "SQLiteLog", "WalResetWarning"]
