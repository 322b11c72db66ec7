"""Running a flow from the command line: start, resume, rerun; progress, the summary, Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from typing import IO, Any

import msgspec

from eventflow.authoring.callables import type_text
from eventflow.authoring.flows import Flow
from eventflow.authoring.parameters import from_text
from eventflow.cli.errors import Exit, Trouble, command_line, explained, in_shell
from eventflow.cli.flow_loader import load_entry, load_flow
from eventflow.cli.inspect import find_run, opened, recorded_entry
from eventflow.cli.output import Colored, Unprintable, as_json, say, write_json
from eventflow.cli.progress import Counts, ended_badly, watch
from eventflow.events import RunFinished, run_stream
from eventflow.logs.open import open_log
from eventflow.logs.urls import check_url
from eventflow.ports import EventLog
from eventflow.result import ResultError
from eventflow.runner.compatibility import FlowChanged
from eventflow.runner.parameters import ParametersDiffer
from eventflow.runs.launch import Launch, NoValue
from eventflow.runs.world import RealWorld
from eventflow.states import State
from eventflow.suggestions import did_you_mean

__all__ = ["Given", "read_labels", "rerun", "resume", "start"]

_NO_VALUE = object()


class Given(msgspec.Struct, frozen=True):
    """The options that run, resume and rerun share."""

    log: str | None
    quiet: bool
    out: IO[Any] | None
    """Where one JSON document is to go; None for what people read, on stdout."""
    options: Mapping[str, Any]
    """For `Flow.options`."""


def read_pairs(pairs: tuple[str, ...], option: str) -> dict[str, str]:
    """`k=v` texts as a mapping; raises `Trouble` for what is none."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise Trouble(Exit.USAGE, f"{option} {pair!r} is not NAME=VALUE")
        if key in found:
            raise Trouble(Exit.USAGE, f"{option} {pair!r}: {key!r} is given twice")
        found[key] = text
    return found


def read_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """Labels as a mapping; raises `Trouble` for what is none."""
    for pair in pairs:
        if not pair.isprintable():
            raise Trouble(
                Exit.USAGE, f"--label {pair!r} has characters that cannot be printed; leave them out"
            )
    return read_pairs(pairs, "--label")


def start(spec: str, pairs: tuple[str, ...], run_id: str | None, given: Given) -> int:
    """Run a flow; gives the exit code."""
    flow = load_flow(spec)
    with explained():
        parameters = _read_values(flow, pairs)
        if run_id is None:
            flow.bind((), parameters)  # a wrong one is told before a log is made
    return _carry_out(flow, run_id or RealWorld().new_id(), given, parameters)


def resume(run: str, spec: str | None, given: Given) -> int:
    """Go on with a run, with the parameters that its log has."""
    run_id, flow = asyncio.run(_recorded(run, spec, given.log))
    return _carry_out(flow, run_id, given, {})


def rerun(run: str, spec: str | None, run_id: str | None, given: Given) -> int:
    """Make a new run that keeps a run's successes."""
    old, flow = asyncio.run(_recorded(run, spec, given.log))
    return _carry_out(flow, run_id or RealWorld().new_id(), given, {}, old=old)


async def _recorded(run: str, spec: str | None, url: str | None) -> tuple[str, Flow[..., Any]]:
    with explained():
        async with opened(url) as log:
            run_id = await find_run(log, run)
            entry, name = await recorded_entry(log, run_id)
    return run_id, load_flow(spec) if spec is not None else load_entry(entry, name)


def _read_values(flow: Flow[..., Any], pairs: tuple[str, ...]) -> dict[str, Any]:
    """The parameters that were given as `NAME=VALUE`, or `NAME:=JSON`, as their declared types want them."""
    values = {}
    for given, text in read_pairs(pairs, "-p").items():
        name = given.removesuffix(":")
        parameter = flow.parameters.get(name)
        if parameter is None:
            hint = did_you_mean(name, flow.parameters)
            raise Trouble(Exit.USAGE, f"flow {flow.name!r} has no parameter {name!r}{hint}")
        if name in values:
            raise Trouble(Exit.USAGE, f"-p {given}={text}: {name!r} is given twice")
        try:
            values[name] = from_text(parameter, text, as_json=given.endswith(":"))
        except ValueError as error:
            raise Trouble(
                Exit.USAGE,
                f"-p {given}={text}: {name!r} of flow {flow.name!r} is declared as {type_text(parameter.type)}: {error}",
            ) from None
    return values


def _carry_out(
    flow: Flow[..., Any], run_id: str, given: Given, parameters: Mapping[str, Any], *, old: str | None = None
) -> int:
    with explained():
        if given.log is not None:
            check_url(given.log, "--log")
    _launch(flow, run_id, given, None)  # a wrong option is told before a log is made
    _speak_for_loggers()
    try:
        with explained(log=given.log):
            return asyncio.run(_run(flow, run_id, given, parameters, old))
    except KeyboardInterrupt:
        say("interrupted; what has finished is kept")
        say(f"resume it with: {command_line('resume', run_id, log=given.log)}")
        return Exit.INTERRUPTED


class _Spoken(logging.Handler):
    """Says what the engine's loggers and those of tasks tell, where the flow's own code sets up no logging."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            say(self.format(record), lines=True)


def _speak_for_loggers() -> None:
    logging.getLogger("eventflow").addHandler(_Spoken())
    # The runner's own hint is for programs; a person gets the command to resume the run.
    logging.getLogger("eventflow.runner").addFilter(
        lambda record: "was interrupted; resume it" not in str(record.msg)
    )


def _launch(flow: Flow[..., Any], run_id: str, given: Given, log: EventLog | None) -> Launch[..., Any]:
    try:
        return flow.options(run_id=run_id, log=log, **given.options)
    except (TypeError, ValueError) as error:
        raise Trouble(Exit.USAGE, in_shell(str(error), given.log)) from error


async def _run(
    flow: Flow[..., Any],
    run_id: str,
    given: Given,
    parameters: Mapping[str, Any],
    old: str | None,
) -> int:
    began = time.monotonic()
    async with open_log(given.log) as log:
        launch = _launch(flow, run_id, given, log)
        if not given.quiet:
            say(f"{flow.name} {run_id}" + (f", a rerun of {old}" if old is not None else ""))
        was_over = await _is_over(log, run_id)
        watching = asyncio.create_task(watch(log, flow.graph, run_id, quiet=given.quiet or was_over))
        try:
            if old is not None:
                state = await _rerun(launch, old, given.log)
            else:
                state = await launch.run(**parameters)
            await asyncio.wait([watching], timeout=2)  # the last lines are on their way
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        counts = watching.result() if not watching.cancelled() else None
        value = await _value_of(flow, launch, state)
    if was_over and not given.quiet:
        say(f"run {run_id} had finished before, so nothing was run")
    return _summarize(run_id, state, counts, value, given, time.monotonic() - began)


async def _is_over(log: EventLog, run_id: str) -> bool:
    """Whether a run has finished already, so that it is only shown."""
    async for record in log.read(stream=run_stream(run_id), backwards=True):
        return isinstance(record.event, RunFinished)
    return False


async def _rerun(launch: Launch[..., Any], old: str, log: str | None) -> State:
    try:
        return await launch.rerun(old)
    except (FlowChanged, ParametersDiffer):
        raise
    except ValueError as error:  # another flow's run, an id in use, a parameter that has no value
        raise Trouble(Exit.USAGE, in_shell(str(error), log)) from error


async def _value_of(flow: Flow[..., Any], launch: Launch[..., Any], state: State) -> tuple[Any, str]:
    """What the flow returns, read back from the log, and why it cannot be had."""
    if not flow.returns or not state.is_successful():
        return _NO_VALUE, ""
    try:
        return await launch.value(), ""
    except (NoValue, ResultError) as error:
        return _NO_VALUE, str(error)


def _summarize(
    run_id: str, state: State, counts: Counts | None, found: tuple[Any, str], given: Given, took_s: float
) -> int:
    outcome = counts.outcome if counts is not None else "success" if state.is_successful() else "failed"
    if not given.quiet:
        _say_outcome(run_id, outcome, state, counts, given, took_s)
    value, omitted = found
    text = None
    if value is not _NO_VALUE:
        try:
            text = as_json(value)
        except Unprintable as error:
            omitted = str(error)
    if omitted:
        say(f"no value is shown: {omitted}")
    if given.out is not None:
        summary = {"run": run_id, "state": outcome, "message": state.message, "took_s": round(took_s, 3)}
        summary |= {"value_omitted": omitted} if omitted else {}
        shown = json.dumps(summary)
        write_json(f'{shown[:-1]}, "value": {text}}}' if text is not None else shown, given.out)
    elif text is not None and value is not None:
        write_json(text, ascii_only=False)
    return {"success": Exit.OK, "cancelled": Exit.CANCELLED}.get(outcome, Exit.FAILED)


def _say_outcome(
    run_id: str, outcome: str, state: State, counts: Counts | None, given: Given, took_s: float
) -> None:
    done = ""
    if counts is not None:
        done = f", {counts.done.total()} of {counts.total.total()} tasks"
        rest = ended_badly(counts.failed.total(), counts.blocked.total())
        done += f" done, {rest}" if rest else ""
        if counts.cached:
            done += f", {counts.cached} cached (saved {counts.saved_us / 1e6:.1f} s)"
    why = "" if outcome == "success" else f": {state.message}"
    say(f"{run_id} ", Colored(outcome, outcome, bold=True), f"{done}, {took_s:.1f} s{why}")
    if outcome != "success":
        say(f"look at it with: {command_line('show', run_id, log=given.log)}")
        say(f"run the rest once it is mended: {command_line('rerun', run_id, log=given.log)}")
