"""The inbox of one ownership of a run: reports that are not stored yet, and the wake-up of the run's keeper.

Everything that happens to a run outside its rounds arrives here: reports of attempts, threads that become free, an
error that ends the run.  A request from outside, such as to cancel the run or a signal, is to be a report too.

A report stays in the inbox until the round that took it up is stored.  So when an append fails the same reports are
decided again, and when the run is released nothing that was reported is lost.
"""

from __future__ import annotations

import asyncio

import msgspec

from eventflow.machine.commands import Command
from eventflow.ports import Value

__all__ = ["Inbox", "Report"]


class Report(msgspec.Struct, frozen=True, gc=False):
    """A command that comes from outside the rounds, such as the outcome of an attempt, with the bytes of its event."""

    command: Command
    value: Value | None = None
    """The bytes of a large result, which are stored in the same append."""


class Inbox:
    """Reports of one run, in the order in which they arrived. Used on the event loop only."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        """Reports that are not stored yet, those of the round under way included."""
        self.round_due = False
        """Whether a round is to be made though nothing was reported: a thread is free, or more is due."""
        self.attended = False
        """Whether rounds are being made; they take up everything that arrives, so no wake-up is needed."""
        self.failure: BaseException | None = None
        """The error that ends the run; it is no outcome of a task."""
        self._woken = asyncio.Event()

    @property
    def has_work(self) -> bool:
        """Whether a round is to be made."""
        return bool(self.reports) or self.round_due

    def put(self, report: Report) -> None:
        """Add a report for a caller that makes the next round itself."""
        self.reports.append(report)

    def post(self, report: Report) -> None:
        """Add a report and wake the keeper."""
        self.reports.append(report)
        self.wake()

    def request_round(self) -> None:
        """Have a round made though nothing was reported."""
        self.round_due = True
        self.wake()

    def fail(self, error: BaseException) -> None:
        """End the run with an error; the first one counts."""
        if self.failure is None:
            self.failure = error
        self._woken.set()

    def wake(self) -> None:
        """Wake the keeper, unless rounds are being made."""
        if not self.attended:
            self._woken.set()

    def remove(self, count: int) -> None:
        """Remove the oldest reports, which are stored."""
        del self.reports[:count]

    def listen(self) -> None:
        """Forget earlier wake-ups; later ones end the next `wait`."""
        self._woken.clear()

    async def wait(self, seconds: float | None = None) -> bool:
        """Wait for a wake-up since `listen`; returns false when there was none for so many seconds."""
        if seconds is None:
            await self._woken.wait()
            return True
        timer = _Timer(self._woken)
        handle = asyncio.get_running_loop().call_later(max(0.0, seconds), timer.fire)
        try:
            await self._woken.wait()
        finally:
            handle.cancel()
        return not timer.has_fired


class _Timer:
    """Ends a wait without cancelling the waiting task: a cancelled keeper means that the run is to be stopped."""

    def __init__(self, woken: asyncio.Event) -> None:
        self._woken = woken
        self.has_fired = False

    def fire(self) -> None:
        self.has_fired = True
        self._woken.set()
