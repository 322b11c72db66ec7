"""What ends a command early: exit codes, and the engine's errors as one message each.

0 ok, 1 the run failed, 2 usage, 3 no such run, 4 the run was cancelled, 5 the log cannot be used,
6 the flow or its parameters are not those of the run, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Any, Final

import click

from eventflow.events import LogDamaged
from eventflow.flows import ParameterError
from eventflow.nodes import BuildError
from eventflow.result import SignatureError
from eventflow.runner.changes import FlowChanged, ParametersDiffer
from eventflow.runs import RunNotFinished
from eventflow.runview import RunNotFound
from eventflow.settings import LogNotNamed

__all__ = ["COLORS", "Exit", "Trouble", "explained", "say", "wants_color"]


COLORS: Final = {
    "success": "green", "Success": "green", "Cached": "green", "Mapped": "green",
    "failed": "red", "Failed": "red", "TimedOut": "red", "Crashed": "red",
    "running": "cyan", "Running": "cyan",
    "cancelled": "yellow", "TriggerFailed": "yellow", "Retrying": "yellow",
}  # fmt: skip
"""Of states and outcomes, on a terminal."""


class Exit(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CANCELLED = 4
    LOG = 5
    DIVERGED = 6
    INTERRUPTED = 130


class Trouble(click.ClickException):
    """Ends the command with a message on stderr and an exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click means it for each class

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message, without a traceback."""
        say(f"error: {self.message}", file)


def say(text: str, file: IO[Any] | None = None) -> None:
    """Talk to the person: one or more lines on stderr."""
    stream = sys.stderr if file is None else file
    click.echo(text, file=stream, color=wants_color(stream))


def wants_color(stream: IO[Any]) -> bool:
    """Whether to colour what is written there: on a terminal, unless `NO_COLOR` or `FORCE_COLOR` says."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


@contextmanager
def explained() -> Iterator[None]:
    """Turn the engine's errors into `Trouble`."""
    try:
        yield
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        raise Trouble(code, str(error)) from error


def _code_of(error: Exception) -> Exit | None:
    match error:
        case FlowChanged() | ParametersDiffer():
            return Exit.DIVERGED
        case ParameterError() | BuildError() | LogNotNamed() | RunNotFinished():
            return Exit.USAGE
        case RunNotFound():
            return Exit.NOT_FOUND
        case LogDamaged() | SignatureError():
            return Exit.LOG
        case _:
            pass
    from eventflow.logs.sqlite.errors import LogUnusable, LogWriteFailed  # noqa: PLC0415 - brings SQLite

    return Exit.LOG if isinstance(error, LogUnusable | LogWriteFailed) else None
