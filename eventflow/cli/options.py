"""Options that several commands share, and reading the log that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import click

from eventflow.cli.errors import CommandError, Exit, command_errors
from eventflow.logs.open import open_log
from eventflow.logs.urls import check_url
from eventflow.ports import EventLog

__all__ = [
    "flow_option",
    "json_option",
    "labels_option",
    "log_option",
    "parameters_option",
    "read_log",
    "run_id_option",
    "running_options",
]

T = TypeVar("T")

log_option: Final = click.option(
    "--log", metavar="URL", help="The log, like sqlite:///runs.db; else the default one."
)
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document to stdout."
)
run_id_option: Final = click.option(
    "--run-id", metavar="ID", help="Id of the run; a run that exists is resumed."
)
flow_option: Final = click.option(
    "--flow", "spec", metavar="SPEC", help="The flow's code, in place of the recorded one."
)


def _pairs(_ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return `NAME=VALUE` texts as a mapping."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(Exit.USAGE, f"{option.opts[0]} {text!r} is not NAME=VALUE")
        if name in values:
            raise CommandError(Exit.USAGE, f"{option.opts[0]} {text!r}: {name!r} is given twice")
        values[name] = value
    return values


def _labels(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return labels as a mapping; text with characters that cannot be printed is refused."""
    for text in texts:
        if not text.isprintable():
            problem = "has characters that cannot be printed; leave them out"
            raise CommandError(Exit.USAGE, f"{option.opts[0]} {text!r} {problem}")
    return _pairs(ctx, option, texts)


parameters_option: Final = click.option(
    "-p",
    "--param",
    "parameters",
    callback=_pairs,
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter. NAME:=VALUE reads VALUE as JSON.",
)
labels_option: Final = click.option(
    "--label",
    "labels",
    callback=_labels,
    multiple=True,
    metavar="NAME=TEXT",
    help="Recorded with the run.",
)


def running_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the commands that run something."""
    for option in (
        log_option,
        json_option,
        click.option("--quiet", "-q", is_flag=True, help="No progress and no summary on stderr."),
        click.option(
            "--durability",
            type=click.Choice(["full", "normal", "pipelined"]),
            default="full",
            help="Results survive a power cut (full), the end of the process (normal), or neither (pipelined).",
        ),
    ):
        command = option(command)
    return command


def read_log(url: str | None, read: Callable[[EventLog], Awaitable[T]]) -> T:
    """Return what `read` returns for the log of `--log`, opened read-only, or for the default log."""

    async def main() -> T:
        if url is not None:
            check_url(url, "--log")
        async with open_log(url, read_only=True) as log:
            return await read(log)

    with command_errors(log=url):
        return asyncio.run(main())
