"""The real world: the machine's clock, fresh ids, chance, the process's threads.

Its virtual twin is `eventflow.testing.VirtualWorld`.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from typing import Final

from eventflow.executors.limit import limited_pool
from eventflow.executors.threads import Lanes

__all__ = ["RealWorld", "uuid7"]


def uuid7(now_us: int, chance: bytes) -> str:
    """A UUID version 7 (RFC 9562 §5.7) as 32 hex digits: milliseconds first, so ids sort by time."""
    value = (now_us // 1000) << 80 | int.from_bytes(chance, "big") & ((1 << 80) - 1)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return f"{value:032x}"


_randomness: Final[deque[bytes]] = deque()
"""Random bytes of ids to come, read from the system for many at once: a call of the system costs as much as an event."""
_ID_BYTES: Final = 10
os.register_at_fork(after_in_child=_randomness.clear)  # else a child would make the ids of its parent


def _random_bytes() -> bytes:
    """Return random bytes for one id. From any thread."""
    try:
        return _randomness.pop()
    except IndexError:
        data = os.urandom(256 * _ID_BYTES)
        _randomness.extend(data[i : i + _ID_BYTES] for i in range(_ID_BYTES, len(data), _ID_BYTES))
        return data[:_ID_BYTES]


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
        return uuid7(self.now(), _random_bytes())

    def random(self) -> float:
        """An unpredictable number in [0, 1)."""
        return self._random.random()

    def executor(self) -> Lanes:
        """A handle on the process's threads."""
        return Lanes(limited_pool)
