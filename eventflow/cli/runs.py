"""The commands that read runs from a log: `runs`, `show` and `events`.

They open the log read-only: they change nothing in it, create no log, and open no pickled value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import click
import msgspec

from eventflow.cli.errors import command_line
from eventflow.cli.options import json_option, log_option, read_log
from eventflow.cli.output import Cell, Colored, when, write_json, write_line, write_table
from eventflow.events import Failure
from eventflow.history.cache_explain import TaskNotFound
from eventflow.ports import EventLog
from eventflow.projections import RunReport
from eventflow.runs.find import find_run, list_runs, status_of
from eventflow.runs.report import read_events, read_report
from eventflow.runs.states import read_states
from eventflow.states import Failed, State
from eventflow.views.durations import duration
from eventflow.views.run_list import RunRow
from eventflow.views.run_report import TaskReport

__all__ = ["events", "runs", "show"]

# -- runs -----------------------------------------------------------------------------------------


@click.command()
@log_option
@json_option
def runs(log: str | None, as_json: bool) -> None:
    """List the runs of a log, the latest first."""

    async def read(opened: EventLog) -> list[dict[str, Any]]:
        return [_run(row, await status_of(opened, row)) for row in (await list_runs(opened)).values()]

    rows = read_log(log, read)[::-1]
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            row["run"],
            row["flow"],
            Colored(row["state"], row["state"]),
            f"{row['done']}/{max(row['tasks'], row['done'])}",
            when(row["started_us"]),
            "" if row["took_s"] is None else duration(row["took_s"]),
        )
        for row in rows
    ]
    write_table(("RUN", "FLOW", "STATE", "TASKS", "STARTED", "TOOK"), table)


def _run(row: RunRow, status: str) -> dict[str, Any]:
    return {
        "run": row.run,
        "flow": row.name,
        "state": status,
        "done": sum(row.tasks.get(outcome, 0) for outcome in ("succeeded", "reused", "skipped")),
        "failed": row.tasks.get("failed", 0),
        "blocked": row.tasks.get("blocked", 0),
        "tasks": row.nodes,
        "started_us": row.started_at,
        "took_s": None if row.finished_at is None else (row.finished_at - row.started_at) / 1e6,
        "labels": dict(row.labels),
    }


# -- show -----------------------------------------------------------------------------------------


@click.command()
@click.argument("run")
@click.argument("task", required=False)
@click.option("--at", type=int, metavar="N", help="As of event N of the run.")
@log_option
@json_option
def show(run: str, task: str | None, at: int | None, log: str | None, as_json: bool) -> None:
    """Show a run's tasks, or one TASK with its traceback, now or as of any of the run's events."""
    if task is not None:
        _show_task(run, task, at, log, as_json=as_json)
        return

    async def read(opened: EventLog) -> RunReport:
        return await read_report(opened, await find_run(opened, run), version=at)

    report = read_log(log, read)
    if as_json:
        write_json(json.dumps(_report(report)))
        return
    past = f"as of event {report.version} of {report.head}"
    status = report.status
    if status != "failed":  # its message is that of a task, which is shown below
        status += f": {report.message}"
    write_line(f"{report.flow} {report.run}  {status}  ({past})")
    cells = [[column.cell(task) for column in _TASK_COLUMNS] for task in report.tasks]
    write_table([column.head for column in _TASK_COLUMNS], cells, ends_in_prose=True)
    for name, message in _more_messages(report):
        first, *rest = message.split("\n")
        write_line(f"{name}: {first}")
        for line in rest:
            write_line(f"  {line}")
    if (failed := _first_failure(report)) is not None:
        write_line(f"its traceback: {command_line('show', report.run, failed, log=log)}")


def _show_task(run: str, task: str, at: int | None, log: str | None, *, as_json: bool) -> None:
    """Show the state of one task or mapped child, and the traceback of its failure."""

    async def read(opened: EventLog) -> tuple[str, State]:
        run_id = await find_run(opened, run)
        run_states = await read_states(opened, run_id, version=at)
        try:
            return run_id, run_states.at(run_states.slot(task))
        except KeyError as error:
            raise TaskNotFound(str(error.args[0])) from None

    run_id, state = read_log(log, read)
    name, failure = type(state).__name__, state.failure if isinstance(state, Failed) else None
    if as_json:
        row = {"run": run_id, "task": task, "state": name, "message": state.message}
        write_json(json.dumps({**row, "failure": None if failure is None else _failure(failure)}))
        return
    write_line(f"{run_id} {task}  ", Colored(name, name), f": {state.message}" if state.message else "")
    for line in _traceback_lines(failure):
        write_line(line)


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "type": failure.type,
        "message": failure.message,
        "traceback": failure.traceback,
        "cause": None if failure.cause is None else _failure(failure.cause),
    }


def _traceback_lines(failure: Failure | None) -> Iterator[str]:
    """The traceback as Python prints it: causes first."""
    if failure is None:
        return
    if failure.cause is not None:
        yield from _traceback_lines(failure.cause)
        yield from ("", "The above exception was the cause of this one:", "")
    if failure.traceback:
        yield "Traceback (most recent call last):"
        yield from failure.traceback.rstrip().splitlines()
    yield from f"{failure.type}: {failure.message}".splitlines()


def _first_failure(report: RunReport) -> str | None:
    """The name of the first task or child that failed by itself."""
    for task in report.tasks:
        if task.children is not None and task.children.failures:
            return next(iter(task.children.failures))
        if task.state in ("Failed", "TimedOut", "Crashed"):
            return task.name
    return None


class _Column(NamedTuple):
    """One column of the table of tasks, and its member in JSON."""

    head: str
    cell: Callable[[TaskReport], Cell]
    key: str
    json: Callable[[TaskReport], Any]


def _state_cell(task: TaskReport) -> Cell:
    if task.children is None:
        return Colored(task.state, task.state)
    return Colored(task.state, task.children.outcome)


def _seconds(task: TaskReport) -> float | None:
    return None if task.elapsed_us is None else task.elapsed_us / 1e6


def _took(task: TaskReport) -> str:
    return "" if task.elapsed_us is None else duration(task.elapsed_us / 1e6)


def _remark(task: TaskReport) -> str:
    """The first line of a task's message; of a map how many children are in which state."""
    if task.children is None:
        first, *rest = task.message.split("\n", 1)
        return f"{first} …" if rest else first
    return ", ".join(f"{count} {state}" for state, count in task.children.states.items())


_TASK_COLUMNS: Final = (
    _Column("TASK", lambda task: task.name, "task", lambda task: task.name),
    _Column("STATE", _state_cell, "state", lambda task: task.state),
    _Column("ATTEMPT", lambda task: str(task.attempt or ""), "attempt", lambda task: task.attempt),
    _Column("TOOK", _took, "seconds", _seconds),
    _Column("REMARK", _remark, "message", lambda task: task.message),
)


def _report(report: RunReport) -> dict[str, Any]:
    return {
        "run": report.run,
        "flow": report.flow,
        "state": report.status,
        "message": report.message,
        "version": report.version,
        "of": report.head,
        "tasks": [_task(task) for task in report.tasks],
    }


def _task(task: TaskReport) -> dict[str, Any]:
    row = {column.key: column.json(task) for column in _TASK_COLUMNS}
    if task.children is not None:
        row["children"] = dict(task.children.states)
        row["outcome"] = task.children.outcome
        row["failures"] = dict(task.children.failures)
    return row


def _more_messages(report: RunReport) -> Iterator[tuple[str, str]]:
    """Names and messages that are not in the table: the further lines of a task's message, and messages of children."""
    for task in report.tasks:
        _, newline, rest = task.message.partition("\n")
        if newline:
            yield task.name, f"…\n{rest}"
        if task.children is not None:
            yield from task.children.failures.items()


# -- events ---------------------------------------------------------------------------------------


@click.command()
@click.argument("run")
@log_option
@json_option
def events(run: str, log: str | None, as_json: bool) -> None:
    """List the events of a run; of values only the sizes are shown."""

    async def read(opened: EventLog) -> list[dict[str, Any]]:
        rows = read_events(opened, await find_run(opened, run))
        return [msgspec.to_builtins(row) async for row in rows]

    rows = read_log(log, read)
    if as_json:
        write_json(json.dumps(rows))
        return
    table = [
        (
            str(row["version"]),
            when(row["at_us"])[11:],
            row["kind"],
            row["task"],
            _details(row["details"]),
        )
        for row in rows
    ]
    write_table(("N", "TIME", "EVENT", "TASK", "DETAILS"), table, ends_in_prose=True)


def _details(details: Mapping[str, Any]) -> str:
    return " ".join(_detail(field, value) for field, value in details.items())


def _detail(field: str, value: Any) -> str:
    """A field of an event; a moment and a duration as people read them."""
    if field.endswith("_at"):
        return f"{field}={when(value).replace(' ', 'T')}"
    if field.endswith("_us"):
        return f"{field.removesuffix('_us')}={duration(value / 1e6)}"
    return f"{field}={_one_line(value)}"


def _one_line(value: Any) -> str:
    match value:
        case dict():
            return f"({', '.join(f'{name} {_one_line(part)}' for name, part in value.items())})"
        case list():
            return f"({', '.join(map(_one_line, value))})"
        case _:
            return " ".join(str(value).split())
