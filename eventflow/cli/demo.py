"""The command `demo`."""

from __future__ import annotations

import sys

import click

from eventflow.cli.errors import command_errors

__all__ = ["demo"]


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), default=8.0, help="How long the run should take.")
@click.option("--keep", type=click.Path(file_okay=False), metavar="DIR", help="Keep the log in this folder.")
def demo(seconds: float, keep: str | None) -> None:
    """Kill a run of 103 tasks in the middle, resume it, and count what ran."""
    from eventflow.demo.kill_and_resume import play  # noqa: PLC0415 - `--help` imports this module

    with command_errors():
        sys.exit(play(seconds, keep))
