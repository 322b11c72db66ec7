"""The commands that run a flow: `run`, `resume` and `rerun`; with progress, a summary, and Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

import click
import msgspec

from eventflow.authoring.flows import Flow
from eventflow.authoring.loader import load_entry, load_flow
from eventflow.cli.errors import CommandError, Exit, command_errors, command_line, in_shell
from eventflow.cli.options import (
    flow_option,
    labels_option,
    parameters_option,
    read_log,
    run_id_option,
    running_options,
)
from eventflow.cli.output import Colored, Unprintable, as_json, data_stream, say, write_json
from eventflow.cli.progress import show_progress
from eventflow.logs.open import open_log
from eventflow.logs.urls import check_url
from eventflow.ports import EventLog
from eventflow.result import ResultError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runs.find import find_run, has_finished, recorded_entry
from eventflow.runs.launch import Launch, NoValue
from eventflow.runs.parameters import from_text, type_text
from eventflow.runs.world import RealWorld
from eventflow.states import State
from eventflow.suggestions import did_you_mean
from eventflow.views.durations import duration
from eventflow.views.progress import Counts, ended_badly

__all__ = ["rerun", "resume", "run"]


class _Settings(msgspec.Struct, frozen=True):
    """The options that run, resume and rerun share."""

    log: str | None
    quiet: bool
    json_stream: IO[Any] | None
    """Receives one JSON document; None for text on stdout."""
    options: Mapping[str, Any]
    """For `Flow.options`."""


def _settings(log: str | None, *, quiet: bool, as_json: bool, durability: str, **options: Any) -> _Settings:
    return _Settings(log, quiet, data_stream() if as_json else None, {**options, "durability": durability})


@click.command()
@click.argument("flow", metavar="MODULE_OR_FILE:FLOW")
@parameters_option
@run_id_option
@labels_option
@running_options
def run(
    flow: str,
    parameters: dict[str, str],
    run_id: str | None,
    labels: dict[str, str],
    **shared: Any,
) -> None:
    """Run a flow, with progress; its value goes to stdout."""
    settings = _settings(**shared, labels=labels)
    with command_errors():
        loaded = load_flow(flow)
        values = _read_values(loaded, parameters)
        if run_id is None:
            loaded.built.bind((), values)  # a wrong parameter must not leave a new log behind
    sys.exit(_carry_out(loaded, run_id or RealWorld().new_id(), settings, values))


@click.command()
@click.argument("run")
@flow_option
@click.option("--keep-changed", is_flag=True, help="Keep results of tasks whose code has changed.")
@running_options
def resume(run: str, spec: str | None, keep_changed: bool, **shared: Any) -> None:
    """Resume an unfinished run: its finished tasks are not run again."""
    settings = _settings(**shared, on_change="keep" if keep_changed else "refuse")
    run_id, flow = _recorded(run, spec, settings.log)
    sys.exit(_carry_out(flow, run_id, settings, {}))


@click.command()
@click.argument("run")
@flow_option
@click.option("--run-id", metavar="ID", help="Id of the new run.")
@running_options
def rerun(run: str, spec: str | None, run_id: str | None, **shared: Any) -> None:
    """Make a new run that keeps a run's successes, with today's code."""
    settings = _settings(**shared)
    old, flow = _recorded(run, spec, settings.log)
    sys.exit(_carry_out(flow, run_id or RealWorld().new_id(), settings, {}, old=old))


def _recorded(run: str, spec: str | None, url: str | None) -> tuple[str, Flow[..., Any]]:
    """The id of a run in the log, and its flow: of the recorded code, or of `--flow`."""

    async def read(log: EventLog) -> tuple[str, str, str]:
        run_id = await find_run(log, run)
        if spec is not None:
            return run_id, "", ""
        return run_id, *await recorded_entry(log, run_id)

    run_id, entry, flow_name = read_log(url, read)
    with command_errors(log=url):
        if spec is not None:
            return run_id, load_flow(spec)
        return run_id, load_entry(entry, flow_name)


def _read_values(flow: Flow[..., Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of `NAME=VALUE` or `NAME:=JSON`, converted to their declared types."""
    values: dict[str, Any] = {}
    for key, text in texts.items():
        name = key.removesuffix(":")
        parameter = flow.parameters.get(name)
        if parameter is None:
            hint = did_you_mean(name, flow.parameters)
            raise CommandError(Exit.USAGE, f"flow {flow.name!r} has no parameter {name!r}{hint}")
        if name in values:
            raise CommandError(Exit.USAGE, f"-p {key}={text}: {name!r} is given twice")
        try:
            values[name] = from_text(parameter, text, as_json=key.endswith(":"))
        except ValueError as error:
            declared = f"{name!r} of flow {flow.name!r} is declared as {type_text(parameter.type)}"
            raise CommandError(Exit.USAGE, f"-p {key}={text}: {declared}: {error}") from None
    return values


def _carry_out(
    flow: Flow[..., Any],
    run_id: str,
    settings: _Settings,
    parameters: Mapping[str, Any],
    *,
    old: str | None = None,
) -> int:
    """Run a flow to its end, as a rerun of `old` if that is given; return the exit code."""
    with command_errors():
        if settings.log is not None:
            check_url(settings.log, "--log")
    _launch(flow, run_id, settings, None)  # a wrong option must not leave a new log behind
    _show_loggers()
    try:
        with command_errors(log=settings.log):
            return asyncio.run(_run(flow, run_id, settings, parameters, old))
    except KeyboardInterrupt:
        say("interrupted; what has finished is kept")
        say(f"resume it with: {command_line('resume', run_id, log=settings.log)}")
        return Exit.INTERRUPTED


class _SayHandler(logging.Handler):
    """Writes messages of the engine's and the tasks' loggers to stderr, if the flow's code sets up no logging."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            say(self.format(record), lines=True)


def _show_loggers() -> None:
    logging.getLogger("eventflow").addHandler(_SayHandler())
    # The runner's own hint is for programs; the command prints the command line that resumes the run.
    logging.getLogger("eventflow.runner").addFilter(
        lambda record: "was interrupted; resume it" not in str(record.msg)
    )


def _launch(flow: Flow[..., Any], run_id: str, settings: _Settings, log: EventLog | None) -> Launch[..., Any]:
    try:
        return flow.options(run_id=run_id, log=log, **settings.options)
    except (TypeError, ValueError) as error:
        raise CommandError(Exit.USAGE, in_shell(str(error), settings.log)) from error


class _Outcome(msgspec.Struct, frozen=True):
    """A run that has ended, as its summary shows it."""

    run_id: str
    state: State
    counts: Counts | None
    """None if the progress could not be followed to the end."""
    value: str | None
    """The value as JSON; None if there is none, or if it cannot be shown."""
    no_value: str
    """Why the value of a successful run cannot be shown."""
    took_s: float

    @property
    def word(self) -> str:
        """As in `RunFinished`."""
        if self.state.is_successful():
            return "success"
        if self.state.is_cancelled():
            return "cancelled"
        return "failed"


async def _run(
    flow: Flow[..., Any],
    run_id: str,
    settings: _Settings,
    parameters: Mapping[str, Any],
    old: str | None,
) -> int:
    began = time.monotonic()
    async with open_log(settings.log) as log:
        launch = _launch(flow, run_id, settings, log)
        if not settings.quiet:
            origin = ""
            if old is not None:
                origin = f", a rerun of {old}"
            say(f"{flow.name} {run_id}{origin}")
        was_over = await has_finished(log, run_id)
        if not settings.quiet and not was_over and await log.is_live(run_id):
            say("another process runs it; following")
        watching = asyncio.create_task(
            show_progress(log, flow.graph, run_id, quiet=settings.quiet or was_over)
        )
        try:
            if old is not None:
                state = await _rerun(launch, old, settings.log)
            else:
                state = await launch.run(**parameters)
            await asyncio.wait([watching], timeout=2)  # the last lines are on their way
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        counts: Counts | None = None
        if not watching.cancelled():
            counts = watching.result()
        value, no_value = await _read_value(flow, launch, state)
    if was_over and not settings.quiet:
        say(f"run {run_id} had finished before, so nothing was run")
    outcome = _Outcome(run_id, state, counts, value, no_value, time.monotonic() - began)
    _write_outcome(outcome, settings)
    return {"success": Exit.OK, "cancelled": Exit.CANCELLED}.get(outcome.word, Exit.FAILED)


async def _rerun(launch: Launch[..., Any], old: str, log: str | None) -> State:
    try:
        return await launch.rerun(old)
    except (FlowChanged, ParametersDiffer):
        raise
    except ValueError as error:  # a run of another flow, an id in use, a parameter without a value
        raise CommandError(Exit.USAGE, in_shell(str(error), log)) from error


async def _read_value(flow: Flow[..., Any], launch: Launch[..., Any], state: State) -> tuple[str | None, str]:
    """Read the value of a successful run back from the log, as JSON; and the reason if it cannot be shown."""
    if not flow.built.returns or not state.is_successful():
        return None, ""
    try:
        return as_json(await launch.value()), ""
    except (NoValue, ResultError, Unprintable) as error:
        return None, str(error)


def _write_outcome(outcome: _Outcome, settings: _Settings) -> None:
    """Write the summary to stderr and the value, or one JSON document, to stdout."""
    if not settings.quiet:
        _say_outcome(outcome, settings)
    if outcome.no_value:
        say(f"no value is shown: {outcome.no_value}")
    if settings.json_stream is not None:
        write_json(_document(outcome), settings.json_stream)
    elif outcome.value not in (None, "null"):
        write_json(outcome.value, ascii_only=False)


def _document(outcome: _Outcome) -> str:
    summary: dict[str, Any] = {
        "run": outcome.run_id,
        "state": outcome.word,
        "message": outcome.state.message,
        "took_s": round(outcome.took_s, 3),
    }
    if outcome.no_value:
        summary["value_omitted"] = outcome.no_value
    document = json.dumps(summary)
    if outcome.value is None:
        return document
    return f'{document[:-1]}, "value": {outcome.value}}}'


def _say_outcome(outcome: _Outcome, settings: _Settings) -> None:
    word, run_id = outcome.word, outcome.run_id
    facts = ""
    if outcome.counts is not None:
        facts = _in_words(outcome.counts)
    facts += f", {duration(outcome.took_s)}"
    if word != "success":
        facts += f": {outcome.state.message}"
    say(f"{run_id} ", Colored(word, word, bold=True), facts)
    if word != "success":
        say(f"look at it with: {command_line('show', run_id, log=settings.log)}")
        say(f"after fixing it: {command_line('rerun', run_id, log=settings.log)}")


def _in_words(counts: Counts) -> str:
    words = f", {counts.done.total()} of {counts.total.total()} tasks"
    if rest := ended_badly(counts.failed.total(), counts.blocked.total()):
        words += f" done, {rest}"
    if counts.cached:
        words += f", {counts.cached} cached (saved {duration(counts.saved_us / 1e6)})"
    return words
