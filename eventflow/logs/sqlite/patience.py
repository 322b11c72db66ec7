"""What a cancelled caller still waits for, since leaving it half done would cost more than the wait."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import anyio

__all__ = ["PATIENCE_S", "outlast"]

PATIENCE_S: Final = 5.0
"""How long a cancelled caller waits."""


async def outlast(work: asyncio.Future[Any]) -> bool:
    """Wait until `work` has ended, `PATIENCE_S` at most, whatever cancels the caller meanwhile; whether it has.

    It neither cancels `work` nor raises what that raised. Cancelled meanwhile, it raises that once `work` has ended.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not work.done() and (left := end - loop.time()) > 0:
            try:
                await asyncio.wait({work}, timeout=left)
            except asyncio.CancelledError as error:
                cancelled = error
    if work.done() and not work.cancelled():
        work.exception()  # is known, and nobody need be told of it
    if cancelled is not None and work.done():
        raise cancelled
    return work.done()
