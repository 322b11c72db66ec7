"""The command line: run flows, resume them, and look into their logs.

Data goes to stdout; messages and progress go to stderr.

    app        the group of commands, each loaded when it is used, and how a command ends
    launch     run, resume, rerun; with `progress`
    runs       runs, show, events
    cache      cache ls, cache stats, cache explain
    demo       demo
    options    options that commands share, and opening the log that they name
    errors     exit codes, and the library's errors as messages
    output     text on its way out: escaped, coloured, as a table or as JSON

The commands call the library and print its answers.  They need the extra `cli`; this module does not, so that it can
say so.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the process was given, and exit with its code."""
    try:
        import click  # noqa: F401, PLC0415 - may not be installed
    except ModuleNotFoundError:
        sys.stderr.write("the commands need the extra `cli`: pip install 'PATH/TO/eventflow[cli]'\n")
        sys.exit(2)
    from eventflow.cli.app import eventflow  # noqa: PLC0415 - needs click

    eventflow(prog_name="eventflow")
