"""Waiting after a cancellation, if leaving the work half done would cost more than the wait."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import anyio

__all__ = ["SHIELD_S", "wait_shielded"]

SHIELD_S: Final = 5.0
"""Seconds that a cancelled caller waits."""


async def wait_shielded(work: asyncio.Future[Any]) -> bool:
    """Wait until `work` ends, at most `SHIELD_S` seconds, also if the caller is cancelled; return whether it ended.

    It never cancels `work`, and never raises its error. A cancellation is raised after `work` has ended.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + SHIELD_S
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not work.done() and (left := end - loop.time()) > 0:
            try:
                await asyncio.wait({work}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    if work.done() and not work.cancelled():
        work.exception()  # retrieved, so that asyncio does not report it
    if cancelled is not None and work.done():
        raise cancelled
    return work.done()
