"""What holds for every test: how hard Hypothesis tries, and that each test says what it proves."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings

# Examples run whole flows on a machine that may be busy: slowness is no finding, a timeout is.
_SLOW_IS_FINE = (HealthCheck.too_slow,)

settings.register_profile("default", deadline=None, max_examples=50, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=100,
    derandomize=True,
    print_blob=True,
    suppress_health_check=_SLOW_IS_FINE,
)
# The conformance suite's assertions explain themselves.
pytest.register_assert_rewrite("eventflow.testing.conformance")

_USUAL = "ci" if os.environ.get("CI") else "default"
settings.register_profile("quick", settings.get_profile(_USUAL), max_examples=10)
settings.register_profile("thorough", settings.get_profile(_USUAL), max_examples=500)
settings.load_profile(_USUAL)


# Under `nohup`, or in the background of a shell, SIGINT is ignored, and children inherit that: theirs would not end.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _runs_go_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that names no log leaves nothing behind; tests of the default log say otherwise."""
    monkeypatch.setenv("EVENTFLOW_LOG", "memory:")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Refuse test functions without a docstring; ones that a library generated are left alone."""
    silent = sorted(
        {
            f"  {item.path.relative_to(item.config.rootpath)}: {item.function.__qualname__}"
            for item in items
            if isinstance(item, pytest.Function)
            and not item.function.__doc__
            and item.function.__module__ == getattr(item.module, "__name__", None)
        }
    )
    if silent:
        raise pytest.UsageError("\n".join(["tests without a docstring that says what they prove:", *silent]))
