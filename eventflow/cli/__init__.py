"""The command line: run flows, resume them, look into their logs.

Data goes to stdout, talk and progress to stderr.  `app` has the commands, `loading` finds a flow's code,
`running` runs it with `progress`, `looking` reads logs and writes nothing, `trouble` has the exit codes,
and `writing` is where text goes out, escaped.
Needs the extra `cli`; this module alone does not, so that it can say so.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """The script `eventflow`: run the command that the process was given, and exit with its code."""
    try:
        import click  # noqa: F401, PLC0415 - may not be installed
    except ModuleNotFoundError:
        sys.stderr.write("eventflow's commands need one thing more: pip install 'eventflow[cli]'\n")
        sys.exit(2)
    from eventflow.cli.app import eventflow  # noqa: PLC0415 - needs click

    eventflow(prog_name="eventflow")
