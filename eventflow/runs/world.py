"""The real world: the machine's clock, fresh ids, chance, the process's threads.

Its virtual twin is `eventflow.testing.VirtualWorld`.
"""

from __future__ import annotations

import os
import random
import time
from typing import Final

from eventflow.executors.limit import thread_limit
from eventflow.executors.threads import Lanes, shared_pool

__all__ = ["RealWorld", "uuid7"]


def uuid7(now_us: int, chance: bytes) -> str:
    """A UUID version 7 (RFC 9562 §5.7) as 32 hex digits: milliseconds first, so ids sort by time."""
    value = (now_us // 1000) << 80 | int.from_bytes(chance, "big") & ((1 << 80) - 1)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return f"{value:032x}"


class RealWorld:
    """`World` as it is."""

    _random: Final = random.SystemRandom()

    def now(self) -> int:
        """Microseconds UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> int:
        """Microseconds of the machine's monotonic clock."""
        return time.perf_counter_ns() // 1000

    def new_id(self) -> str:
        """A UUIDv7 as hex."""
        return uuid7(self.now(), os.urandom(10))

    def random(self) -> float:
        """An unpredictable number in [0, 1)."""
        return self._random.random()

    def executor(self) -> Lanes:
        """A handle on the process's threads."""
        return Lanes(shared_pool(thread_limit()))
