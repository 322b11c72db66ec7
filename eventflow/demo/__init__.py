"""The demo: a recorded astronomy workflow is killed in the middle, resumed, and its executions counted.

`montage` is the flow, `workload` reads the recording, `killing` is the play that `eventflow demo` shows.
"""

from __future__ import annotations

__all__: list[str] = []
