"""Exit codes of the commands, and the library's errors as one message each.

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

from eventflow.authoring.loader import FlowNotLoaded
from eventflow.authoring.nodes import BuildError
from eventflow.cli.output import say
from eventflow.history.cache_explain import NotExplainable, TaskNotFound
from eventflow.logs.urls import MEMORY, default_url, path_of
from eventflow.ports import LogUnusable, LogWriteFailed
from eventflow.project import InvalidSetting
from eventflow.projections import RunNotFound
from eventflow.records import LogDamaged
from eventflow.result import ResultError, SerializationError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.ownership import UnknownEvents
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runs.find import EntryNotRecorded, RunAmbiguous
from eventflow.runs.moment import VersionNotFound
from eventflow.runs.parameters import ParameterError
from eventflow.runs.rerun import RunNotFinished

__all__ = ["CommandError", "Exit", "command_errors", "command_line", "in_shell"]


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CANCELLED = 4
    LOG = 5
    DIVERGED = 6
    INTERRUPTED = 130


class CommandError(click.ClickException):
    """Ends the command with a message on stderr and an exit code."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.exit_code = int(code)  # type: ignore[misc]  # click means it for each class

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message, without a traceback."""
        say(f"error: {self.message}", lines=True, file=file)


_CODES: Final[dict[Exit, tuple[type[Exception], ...]]] = {
    Exit.DIVERGED: (FlowChanged, ParametersDiffer),
    Exit.USAGE: (
        BuildError,
        EntryNotRecorded,
        FlowNotLoaded,
        InvalidSetting,
        NotExplainable,
        ParameterError,
        RunAmbiguous,
        RunNotFinished,
        SerializationError,
        VersionNotFound,
    ),
    Exit.NOT_FOUND: (RunNotFound, TaskNotFound),
    Exit.LOG: (LogDamaged, LogUnusable, LogWriteFailed, ResultError, UnknownEvents),
}
"""The first code whose errors include an error is its code, for a few are subclasses of others."""


@contextmanager
def command_errors(*, log: str | None = None) -> Iterator[None]:
    """Turn the library's errors into `CommandError`, with advice for a shell; `log` is the value of `--log`."""
    try:
        yield
    except Exception as error:
        for code, types in _CODES.items():
            if isinstance(error, types):
                raise CommandError(code, in_shell(str(error), log)) from error
        raise


def command_line(*words: str, log: str | None) -> str:
    """Return a command of eventflow as it is typed in a shell."""
    line = ["eventflow", *words]
    if log is not None:
        line += ["--log", log]
    return shlex.join(line)


def in_shell(text: str, log: str | None) -> str:
    """Return a message of the library with its advice, which is about Python, as it is followed in a shell."""

    def rerun(match: re.Match[str]) -> str:
        return f"`{command_line('rerun', match[1], log=log)}`"

    text = re.sub(r"^there is no run .* in this log(?=$|;)", lambda match: _named(match[0], log), text)
    run = re.search(_RERUN, text)
    keep = command_line("resume", run[1] if run else "RUN", "--keep-changed", log=log)
    text = re.sub(_RERUN, rerun, text).replace("`options(on_change='keep')`", f"`{keep}`")
    for python, shell in _PHRASES:
        text = re.sub(python, shell, text)
    return text


def _named(text: str, log: str | None) -> str:
    """Name the log in a message about a run that is not in it, and the command that lists its runs."""
    url = default_url() if log is None else log
    if url != MEMORY:
        text = f"{text.removesuffix('this log')}the log {path_of(url)}"
    return f"{text}; see `{command_line('runs', log=log)}`"


_RERUN: Final = r"`rerun\('([^']+)'\)`"
_PHRASES: Final = (
    (r", options: run_id=", ": --run-id "),
    (r"\banother run_id\b", "another --run-id"),
    (r": write (\w+)=\.\.\.$", r": write -p \1=..."),
    (r": name the flow's code$", ": name the code with --flow FILE:FLOW"),
)
"""Advice in Python → the same for a shell."""
