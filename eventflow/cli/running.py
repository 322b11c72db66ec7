"""Running a flow from the command line: start, resume, rerun; progress, the summary, Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
import time
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import click
import msgspec

from eventflow.cli.loading import load_entry, load_flow
from eventflow.cli.looking import find_run, opened, recorded_entry
from eventflow.cli.progress import Counts, watch
from eventflow.cli.trouble import COLORS, Exit, Trouble, explained, say
from eventflow.flows import Flow
from eventflow.ports import EventLog
from eventflow.runner.changes import FlowChanged, ParametersDiffer
from eventflow.runs import Launch, NoValue
from eventflow.settings import open_log
from eventflow.states import State
from eventflow.world import RealWorld

__all__ = ["Given", "read_pairs", "rerun", "resume", "start"]

_NO_VALUE = object()


class Given(msgspec.Struct, frozen=True):
    """The options that run, resume and rerun share."""

    log: str | None
    quiet: bool
    json: bool
    options: Mapping[str, Any]
    """For `Flow.options`."""


def read_pairs(pairs: tuple[str, ...], option: str) -> dict[str, str]:
    """`k=v` texts as a mapping; raises `Trouble` for what is none."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise Trouble(Exit.USAGE, f"{option} {pair!r} is not NAME=VALUE")
        found[key] = text
    return found


def start(spec: str, pairs: tuple[str, ...], run_id: str | None, given: Given) -> int:
    """Run a flow; gives the exit code."""
    flow = load_flow(spec)
    texts = read_pairs(pairs, "-p")
    with explained():
        parameters = {name: _read_value(flow, name, text) for name, text in texts.items()}
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


def _read_value(flow: Flow[..., Any], name: str, text: str) -> Any:
    """Text for a parameter declared `str`; else JSON if it parses, else text."""
    parameter = flow.parameters.get(name)
    if parameter is None:
        near = get_close_matches(name, flow.parameters, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(flow.parameters) or 'none'}"
        raise Trouble(Exit.USAGE, f"flow {flow.name!r} has no parameter {name!r}; {hint}")
    if parameter.type is str:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _carry_out(
    flow: Flow[..., Any], run_id: str, given: Given, parameters: Mapping[str, Any], *, old: str | None = None
) -> int:
    _launch(flow, run_id, given, None)  # a wrong option is told before a log is made
    # The runner's own hint is for programs; below stands the one for a person.
    logging.getLogger("eventflow.runner").disabled = True
    try:
        with explained():
            return asyncio.run(_run(flow, run_id, given, parameters, old))
    except KeyboardInterrupt:
        command = ["eventflow", "resume", run_id, *(("--log", given.log) if given.log is not None else ())]
        say(f"interrupted; what has finished is kept\nresume it with: {shlex.join(command)}")
        return Exit.INTERRUPTED


def _launch(flow: Flow[..., Any], run_id: str, given: Given, log: EventLog | None) -> Launch[..., Any]:
    try:
        return flow.options(run_id=run_id, log=log, **given.options)
    except (TypeError, ValueError) as error:
        raise Trouble(Exit.USAGE, str(error)) from error


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
        watching = asyncio.create_task(watch(log, flow.graph, run_id, quiet=given.quiet))
        try:
            if old is not None:
                state = await _rerun(launch, old)
            else:
                state = await launch.run(**parameters)
            await asyncio.wait([watching], timeout=2)  # the last lines are on their way
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        counts = watching.result() if not watching.cancelled() else None
        value = await _value_of(flow, launch, state)
    return _summarize(run_id, state, counts, value, given, time.monotonic() - began)


async def _rerun(launch: Launch[..., Any], old: str) -> State:
    try:
        return await launch.rerun(old)
    except (FlowChanged, ParametersDiffer):
        raise
    except ValueError as error:  # another flow's run, an id in use, a parameter that has no value
        raise Trouble(Exit.USAGE, str(error)) from error


async def _value_of(flow: Flow[..., Any], launch: Launch[..., Any], state: State) -> Any:
    """What the flow returns, read back from the log."""
    if not flow.returns or not state.is_successful():
        return _NO_VALUE
    try:
        return await launch.value()
    except NoValue:
        return _NO_VALUE


def _summarize(
    run_id: str, state: State, counts: Counts | None, value: Any, given: Given, took_s: float
) -> int:
    outcome = counts.outcome if counts is not None else "success" if state.is_successful() else "failed"
    if not given.quiet:
        done = f", {counts.done.total()} of {counts.total.total()} tasks" if counts is not None else ""
        if counts is not None and counts.cached:
            done += f", {counts.cached} cached (saved {counts.saved_us / 1e6:.1f} s)"
        why = "" if outcome == "success" else f": {state.message}"
        say(f"{run_id} {click.style(outcome, fg=COLORS[outcome], bold=True)}{done}, {took_s:.1f} s{why}")
        if outcome != "success":
            say(f"look at it with: eventflow show {run_id}")
    plain = _as_json(value)
    if given.json:
        summary = {"run": run_id, "state": outcome, "message": state.message, "took_s": round(took_s, 3)}
        summary |= {} if plain is None else {"value": json.loads(plain)}
        sys.stdout.write(json.dumps(summary) + "\n")
    elif plain is not None and value is not None:
        sys.stdout.write(plain + "\n")
    return {"success": Exit.OK, "cancelled": Exit.CANCELLED}.get(outcome, Exit.FAILED)


def _as_json(value: Any) -> str | None:
    """JSON of a value that is plain data, else None."""
    if value is _NO_VALUE:
        return None
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return None
