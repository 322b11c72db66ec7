"""The demo: a recorded astronomy workflow is killed in the middle, resumed, and its executions counted.

`montage` is the flow, `workload` reads the recording, and `kill_and_resume` is the demo that `eventflow demo` shows.
"""

from __future__ import annotations

__all__: list[str] = []
