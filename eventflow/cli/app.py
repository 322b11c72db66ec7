"""The commands and their options; what they do stands in the modules beside this one."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import click

from eventflow.cli.errors import Exit, explained
from eventflow.cli.output import Colored, data_stream, say, write, write_json, write_table

__all__ = ["eventflow"]

_log = click.option("--log", metavar="URL", help="The log, like sqlite:///runs.db; else the default one.")
_json = click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
_run_id = click.option("--run-id", metavar="ID", help="Id of the run; one that exists is gone on with.")
_flow = click.option("--flow", "spec", metavar="SPEC", help="The code, where the log's own note is no use.")


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """The options of the commands that run something."""
    for option in (
        _log,
        _json,
        click.option("--quiet", "-q", is_flag=True, help="No progress and no summary on stderr."),
        click.option("--durability", type=click.Choice(["full", "normal", "pipelined"]), default="full"),
    ):
        command = option(command)
    return command


class _Commands(click.Group):
    """Everything that ends a command is said by us: errors, click's own too, escaped, and Ctrl-C with its own code."""

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
            shown = io.StringIO()
            error.show(shown)
            say(shown.getvalue().rstrip(), lines=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:  # help text, of which somebody has seen enough
            sys.exit(Exit.OK)
        except Exception as error:  # noqa: BLE001 - a fault of ours, with the names and values of somebody else
            say("".join(traceback.format_exception(error)).rstrip(), lines=True)
            sys.exit(Exit.FAILED)
        sys.exit(code if isinstance(code, int) else Exit.OK)


def _say_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno).rstrip(), lines=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eventflow", message="eventflow %(version)s")
def eventflow() -> None:
    """Run flows, resume them after a crash, and look at any moment of their past."""


@eventflow.command()
@click.argument("flow", metavar="MODULE_OR_FILE:FLOW")
@click.option(
    "-p",
    "--param",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter, as text or JSON; NAME:=JSON.",
)
@_run_id
@click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", help="Recorded with the run.")
@_shared
def run(
    flow: str, parameters: tuple[str, ...], run_id: str | None, labels: tuple[str, ...], **rest: Any
) -> None:
    """Run a flow, with progress; its value goes to stdout."""
    from eventflow.cli.launch import read_labels, start  # noqa: PLC0415 - `--help` needs none of it

    given = _given(rest, labels=read_labels(labels))
    sys.exit(start(flow, parameters, run_id, given))


@eventflow.command()
@click.argument("run")
@_flow
@click.option("--keep-changed", is_flag=True, help="Keep results of tasks whose code has changed.")
@_shared
def resume(run: str, spec: str | None, keep_changed: bool, **rest: Any) -> None:
    """Go on with an unfinished run: what has finished is not run again."""
    from eventflow.cli import launch  # noqa: PLC0415

    given = _given(rest, on_change="keep" if keep_changed else "refuse")
    sys.exit(launch.resume(run, spec, given))


@eventflow.command()
@click.argument("run")
@_flow
@_run_id
@_shared
def rerun(run: str, spec: str | None, run_id: str | None, **rest: Any) -> None:
    """Make a new run that keeps a run's successes, with today's code."""
    from eventflow.cli import launch  # noqa: PLC0415

    sys.exit(launch.rerun(run, spec, run_id, _given(rest)))


def _given(rest: dict[str, Any], **options: Any) -> Any:
    from eventflow.cli.launch import Given  # noqa: PLC0415

    options["durability"] = rest["durability"]
    return Given(rest["log"], rest["quiet"], data_stream() if rest["as_json"] else None, options)


@eventflow.command()
@_log
@_json
def runs(log: str | None, as_json: bool) -> None:
    """List the runs of a log, the latest first."""
    from eventflow.cli import inspect  # noqa: PLC0415

    rows = _from(log, inspect.runs_in)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["run"], row["flow"], Colored(row["state"], row["state"]), f"{row['done']}/{max(row['tasks'], row['done'])}",
            inspect.when(row["started_us"]), _seconds(row["took_s"]),
        )
        for row in rows
    ]  # fmt: skip
    write_table(("RUN", "FLOW", "STATE", "TASKS", "STARTED", "TOOK"), table)


@eventflow.command()
@click.argument("run")
@click.option("--at", type=int, metavar="N", help="As of event N of the run.")
@_log
@_json
def show(run: str, at: int | None, log: str | None, as_json: bool) -> None:
    """Show a run's tasks, now or as of any of its events."""
    from eventflow.cli import inspect  # noqa: PLC0415

    async def read(log: Any) -> dict[str, Any]:
        return await inspect.show_run(log, await inspect.find_run(log, run), at)

    found = _from(log, read)
    if as_json:
        write_json(json.dumps(found))
        return
    tasks = found["tasks"]
    past = f"as of event {found['version']} of {found['of']}"
    write(f"{found['flow']} {found['run']}  {found['state']}: {found['message']}  ({past})")
    table = [
        (
            row["task"],
            Colored(row["state"], row.get("outcome", row["state"])),
            str(row["attempt"] or ""),
            _seconds(row["seconds"]),
            ", ".join(f"{n} {state}" for state, n in row.get("children", {}).items())
            or row["message"].partition("\n")[0],
        )
        for row in tasks
    ]
    write_table(("TASK", "STATE", "ATTEMPT", "TOOK", ""), table)
    for row in tasks:
        whole = {row["task"]: row["message"]} if "\n" in row["message"] else {}
        for name, message in {**whole, **row.get("failures", {})}.items():
            first, *rest = message.split("\n")
            write(f"{name}: {first}")
            for line in rest:
                write(f"  {line}")


@eventflow.command()
@click.argument("run")
@_log
@_json
def events(run: str, log: str | None, as_json: bool) -> None:
    """List the events of a run; values are told by their size only."""
    from eventflow.cli import inspect  # noqa: PLC0415

    async def read(log: Any) -> list[dict[str, Any]]:
        return [row async for row in inspect.events_of(log, await inspect.find_run(log, run))]

    rows = _from(log, read)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            str(row["version"]), inspect.when(row["at_us"])[11:], row["kind"], row["task"],
            " ".join(f"{key}={_one_line(value)}" for key, value in row["details"].items()),
        )
        for row in rows
    ]  # fmt: skip
    write_table(("N", "TIME", "EVENT", "TASK", "DETAILS"), table)


@eventflow.group()
def cache() -> None:
    """Show what is cached, what that has saved, and why a task ran all the same."""


@cache.command("ls")
@_log
@_json
def cache_ls(log: str | None, as_json: bool) -> None:
    """List the entries, those used last first."""
    from eventflow.cli import cache, inspect  # noqa: PLC0415

    rows = _from(log, cache.entries_of)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["key"][:12], row["task"], row["flow"], row["run"], str(row["hits"]), f"{row['took_s']:.2f}s",
            str(row["size_bytes"]), inspect.when(row["made_us"]),
            "" if row["expires_us"] is None else inspect.when(row["expires_us"]),
        )
        for row in rows
    ]  # fmt: skip
    write_table(("KEY", "TASK", "FLOW", "MADE BY", "HITS", "TOOK", "BYTES", "MADE", "EXPIRES"), table)


@cache.command("stats")
@_log
@_json
def cache_stats(log: str | None, as_json: bool) -> None:
    """Count hits, misses by reason, and the time saved, task by task."""
    from eventflow.cli import cache  # noqa: PLC0415

    rows = _from(log, cache.stats_of)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["flow"], row["task"], str(row["hits"]), str(sum(row["misses"].values())),
            ", ".join(f"{count} {reason}" for reason, count in row["misses"].items()), f"{row['saved_s']:.2f}s",
        )
        for row in rows
    ]  # fmt: skip
    write_table(("FLOW", "TASK", "HITS", "MISSES", "", "SAVED"), table)


@cache.command("explain")
@click.argument("run")
@click.argument("task")
@_log
@_json
def cache_explain(run: str, task: str, log: str | None, as_json: bool) -> None:
    """Tell why a task was taken from the cache, or what set it apart from the nearest entry."""
    from eventflow.cli import cache, inspect  # noqa: PLC0415

    async def read(found: Any) -> dict[str, Any]:
        return await cache.explain(found, await inspect.find_run(found, run), task)

    answer = _from(log, read)
    if as_json:
        write_json(json.dumps(answer))
        return
    for line in cache.lines_of(answer):
        write(line)


@eventflow.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), default=8.0, help="How long the run should take.")
@click.option("--keep", type=click.Path(file_okay=False), metavar="DIR", help="Keep the log in this folder.")
def demo(seconds: float, keep: str | None) -> None:
    """Kill a run of 103 tasks in the middle, resume it, and count what ran."""
    from eventflow.demo.kill_and_resume import play  # noqa: PLC0415

    with explained():
        sys.exit(play(seconds, keep))


def _from(url: str | None, read: Callable[[Any], Any]) -> Any:
    """What `read` gives of a log that exists."""
    from eventflow.cli.inspect import opened  # noqa: PLC0415

    async def main() -> Any:
        async with opened(url) as log:
            return await read(log)

    with explained():
        return asyncio.run(main())


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}s"


def _one_line(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split())
