"""Waiting on for what a cancelled caller must not leave half done."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from eventflow.logs.sqlite import shield
from eventflow.logs.sqlite.shield import wait_shielded


async def work(leave: asyncio.Event) -> None:
    """Ends, with an error, when it may."""
    await leave.wait()
    raise OSError("is not for who waits")


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_is_raised_when_the_work_has_ended(times: int) -> None:
    """Not before, however often the caller is told, and not lost; the work itself is left alone."""
    leave = asyncio.Event()
    under_way = asyncio.ensure_future(work(leave))
    waiting = asyncio.ensure_future(wait_shielded(under_way))
    for _ in range(times):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert isinstance(under_way.exception(), OSError)


async def test_it_ends_within_a_cancelled_scope() -> None:
    """A scope that was cancelled before does not cut the wait short, and what the work raised is not raised."""
    leave = asyncio.Event()
    under_way = asyncio.ensure_future(work(leave))
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_soon(leave.set)
        assert await wait_shielded(under_way)
    assert under_way.done()


async def test_the_shield_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that does not end is left to itself, cancelled or not."""
    monkeypatch.setattr(shield, "SHIELD_S", 0.01)
    under_way = asyncio.ensure_future(asyncio.Event().wait())
    waiting = asyncio.ensure_future(wait_shielded(under_way))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await waiting is False
    assert not under_way.done()
    under_way.cancel()
