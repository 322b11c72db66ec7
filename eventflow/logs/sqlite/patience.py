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

    It neither cancels `work` nor raises what that raised; who was cancelled passes that on afterwards.
    """
    with anyio.move_on_after(PATIENCE_S, shield=True) as scope:
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                if scope.cancel_called:
                    raise
    return work.done()
