"""What ends a command early: exit codes, and the engine's errors as one message each.

0 ok, 1 the run failed, 2 usage, 3 no such run, 4 the run was cancelled, 5 the log cannot be used,
6 the flow or its parameters are not those of the run, 130 interrupted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Any, Final

import click

from eventflow.authoring.flows import ParameterError
from eventflow.authoring.nodes import BuildError
from eventflow.cli.output import say
from eventflow.events import LogDamaged
from eventflow.ports import LogUnusable, LogWriteFailed
from eventflow.project import InvalidSetting
from eventflow.projections import RunNotFound
from eventflow.result import ResultError, SerializationError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.ownership import UnknownEvents
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runs.launch import RunNotFinished

__all__ = ["Exit", "Trouble", "command_line", "explained", "in_shell"]


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
        say(f"error: {self.message}", lines=True, file=file)


def command_line(*words: str, log: str | None) -> str:
    """A command of ours as one writes it in a shell."""
    return shlex.join(["eventflow", *words, *(("--log", log) if log is not None else ())])


def in_shell(text: str, log: str | None) -> str:
    """A message of the engine's with its advice, which is about Python, as one follows it in a shell."""

    def rerun(found: re.Match[str]) -> str:
        return f"`{command_line('rerun', found[1], log=log)}`"

    run = re.search(_RERUN, text)
    keep = command_line("resume", run[1] if run else "RUN", "--keep-changed", log=log)
    text = re.sub(_RERUN, rerun, text).replace("`options(on_change='keep')`", f"`{keep}`")
    for python, shell in _WORDS:
        text = re.sub(python, shell, text)
    return text


_RERUN: Final = r"`rerun\('([^']+)'\)`"
_WORDS: Final = (
    (r", options: run_id=", ": --run-id "),
    (r"\banother run_id\b", "another --run-id"),
    (r": write (\w+)=\.\.\.$", r": write -p \1=..."),
)


@contextmanager
def explained(*, log: str | None = None) -> Iterator[None]:
    """Turn the engine's errors into `Trouble`, their advice into that of a shell, with `log` as the commands' `--log`."""
    try:
        yield
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        raise Trouble(code, in_shell(str(error), log)) from error


def _code_of(error: Exception) -> Exit | None:
    match error:
        case FlowChanged() | ParametersDiffer():
            return Exit.DIVERGED
        case ParameterError() | BuildError() | InvalidSetting() | RunNotFinished() | SerializationError():
            return Exit.USAGE
        case RunNotFound():
            return Exit.NOT_FOUND
        case LogDamaged() | LogUnusable() | LogWriteFailed() | UnknownEvents() | ResultError():
            return Exit.LOG
        case _:
            return None
