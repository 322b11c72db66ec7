"""How to break what a memory log has stored."""

from __future__ import annotations

from eventflow.logs import MemoryLog

__all__ = ["damage", "lose"]


def damage(log: MemoryLog, position: int) -> None:
    """Flip the last bit of a record."""
    row = log._store.rows[position - 1]
    row.body = row.body[:-1] + bytes([row.body[-1] ^ 1])


def lose(log: MemoryLog, position: int) -> None:
    """Take a record out, without closing the gap in the numbers."""
    row = log._store.rows.pop(position - 1)
    log._store.streams[row.stream].rows.remove(row)
