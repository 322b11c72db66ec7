"""The contract of an event log, as tests: subclass `LogConformance`, and pytest collects it.

    class TestMyLog(LogConformance[MyLog]):
        @asynccontextmanager
        async def open(self): ...        # a fresh, empty log
        @asynccontextmanager
        async def reopen(self, log): ... # another handle on its records, as another process would have
        async def damage(self, log, position): ...
        async def lose(self, log, position): ...

The tests are coroutines, so pytest must run those (pytest-asyncio with `asyncio_mode = "auto"`).  For
readable failures call `pytest.register_assert_rewrite("eventflow.testing.conformance")` in a `conftest.py`.
No test waits for time to pass; those that wait for another task give up after `PATIENCE` seconds.
"""

from __future__ import annotations

from eventflow.testing.conformance.appends import Appending
from eventflow.testing.conformance.hooks import PATIENCE, L
from eventflow.testing.conformance.ownership import Living
from eventflow.testing.conformance.reads import Reading

__all__ = ["PATIENCE", "LogConformance"]


class LogConformance(Appending[L], Reading[L], Living[L]):
    """Every sentence of the `EventLog` contract, as a test."""
