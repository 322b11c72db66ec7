"""A duration as people read it, in one form for all commands and views."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Return a duration in words.

    ```python
    from eventflow.views.durations import duration

    print(duration(3.04), duration(0.0412))
    ```

    ```text
    3.04s 41.2ms
    ```
    """
    if abs(seconds) >= 0.9995:
        return f"{seconds:.2f}s"
    return f"{seconds * 1000:.3g}ms"
