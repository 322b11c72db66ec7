"""The group of commands: which module has which command, and how a command ends."""

from __future__ import annotations

import io
import pkgutil
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, Final

import click

from eventflow.cli.errors import Exit
from eventflow.cli.output import say
from eventflow.suggestions import did_you_mean

__all__ = ["eventflow"]

_COMMANDS: Final = {
    "cache": "eventflow.cli.cache:cache",
    "demo": "eventflow.cli.demo:demo",
    "events": "eventflow.cli.runs:events",
    "rerun": "eventflow.cli.launch:rerun",
    "resume": "eventflow.cli.launch:resume",
    "run": "eventflow.cli.launch:run",
    "runs": "eventflow.cli.runs:runs",
    "show": "eventflow.cli.runs:show",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used, as click's documentation describes it.

    It also ends each command itself: messages of errors are escaped, click's own included, and Ctrl-C has its own
    exit code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands."""
        return [*_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None if it does not exist."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(_COMMANDS[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one names the nearest, or all."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command and exit with its code."""
        run: Callable[..., Any] = super().main
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _say_warning
                code = run(*args, standalone_mode=False, **extra)
        except (KeyboardInterrupt, click.Abort):
            say("interrupted")
            sys.exit(Exit.INTERRUPTED)
        except click.ClickException as error:
            message = io.StringIO()
            error.show(message)
            say(message.getvalue().rstrip(), lines=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # the reader of the help text has closed the pipe, as `head` does
            sys.exit(Exit.OK)
        except Exception as error:  # noqa: BLE001 - a bug; its traceback may have names and values of a user
            say("".join(traceback.format_exception(error)).rstrip(), lines=True)
            sys.exit(Exit.FAILED)
        sys.exit(code if isinstance(code, int) else Exit.OK)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno).rstrip(), lines=True)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eventflow", message="eventflow %(version)s")
def eventflow() -> None:
    """Run flows, resume them after a crash, and look at any moment of their past."""
