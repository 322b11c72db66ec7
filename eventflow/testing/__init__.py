"""Tools for tests of flows and of event logs.

    simulate, VirtualWorld    a clock that jumps: hours pass in no time, one seed gives one history
    simulated                 the same as a decorator of a test that takes `world`
    CrashingLog, Crash        a log whose process dies at a chosen append
    conformance               the suite that every log must pass; needs pytest, so it is imported by itself

Nothing of the engine imports this package.
"""

from eventflow.testing.crash_log import Crash, CrashingLog
from eventflow.testing.virtual import VirtualLoop, VirtualWorld, simulate, simulated

__all__ = ["Crash", "CrashingLog", "VirtualLoop", "VirtualWorld", "simulate", "simulated"]
