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
    cancelled: asyncio.CancelledError | None = None
    with anyio.move_on_after(PATIENCE_S, shield=True) as scope:
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                if scope.cancel_called:
                    raise
                cancelled = error
    if work.done() and not work.cancelled():
        work.exception()  # is known, and nobody need be told of it
    if cancelled is not None and work.done():
        raise cancelled
    return work.done()
