"""The names of streams. Each stream is named by its kind and an id."""

from __future__ import annotations

from typing import Final

__all__ = ["flow_stream", "run_of", "run_stream"]

_RUN: Final = "run/"
_FLOW: Final = "flow/"


def run_stream(run_id: str) -> str:
    """Return the name of a run's stream.

    ```python
    from eventflow.streams import run_stream

    print(run_stream("nightly-7"))
    ```

    ```text
    run/nightly-7
    ```
    """
    return _RUN + run_id


def run_of(stream: str) -> str:
    """Return the id of the run that a stream belongs to; the name of any other stream unchanged.

    ```python
    from eventflow.streams import run_of

    print(run_of("run/nightly-7"))
    ```

    ```text
    nightly-7
    ```
    """
    return stream.removeprefix(_RUN)


def flow_stream(digest: str) -> str:
    """Return the name of the stream that holds the graph with this digest.

    ```python
    from eventflow.streams import flow_stream

    print(flow_stream("5f2a"))
    ```

    ```text
    flow/5f2a
    ```
    """
    return _FLOW + digest
