"""The demo: a run is killed with SIGKILL, resumed by a new process, checked, and run again from the cache.

Executions are counted by a file that the tasks' bodies append to, not by the engine.  The expected results are computed
without the engine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import click
import msgspec

from eventflow.demo.montage import COUNT_VARIABLE, RECORDING, SECONDS_VARIABLE
from eventflow.demo.workload import expected_digest, load
from eventflow.events import TaskReused, TaskSucceeded, run_stream
from eventflow.logs.open import open_log
from eventflow.ports import EventLog
from eventflow.projections import RunReport
from eventflow.runs.launch import state_of
from eventflow.runs.report import read_report

__all__ = ["play"]

_RUN: Final = "montage"
_AGAIN: Final = "montage-again"
_STREAM: Final = run_stream(_RUN)
_SHOWN: Final = ("Success", "Running", "Pending")
_KILL_AT: Final = 0.4
"""Share of the tasks that have finished when the process is killed."""


class _Kill(msgspec.Struct):
    """The run right after the kill, by its log and by the counting file."""

    report: RunReport
    executed: Counter[str]
    """Task → how often its body has run."""

    def finished(self) -> set[str]:
        """Return the names of the tasks that had succeeded."""
        return {task.name for task in self.report.tasks if task.state == "Success"}

    def in_flight(self) -> set[str]:
        """Return the names of the tasks whose attempt had not ended."""
        return {task.name for task in self.report.tasks if task.attempt and task.elapsed_us is None}


def play(seconds: float, keep: str | None) -> int:
    """Play the demo on the terminal; return 1 if a check failed, 2 if the folder `keep` has a demo already."""
    if keep is None:
        with TemporaryDirectory(prefix="eventflow-demo-") as temporary:
            return asyncio.run(_Demo(Path(temporary), seconds, kept=False).play())
    folder = Path(keep).absolute()
    if (folder / "montage.db").exists():
        click.echo(f"error: {str(folder)!r} has a demo already; name another folder", err=True)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_Demo(folder, seconds, kept=True).play())


class _Demo:
    def __init__(self, folder: Path, seconds: float, *, kept: bool) -> None:
        self._count = folder / "executed.txt"
        self._url = f"sqlite:///{quote(str(folder / 'montage.db'))}"
        self._kept = kept
        self._environment = {
            **os.environ,
            COUNT_VARIABLE: str(self._count),
            SECONDS_VARIABLE: str(seconds),
            "PYTHONWARNINGS": "ignore::RuntimeWarning",  # of SQLite's version: once is for real runs
        }
        self._expected = expected_digest(load(RECORDING))
        self._last = load(RECORDING).tasks[-1].id

    async def play(self) -> int:
        """Run, kill, resume, check, look back."""
        async with open_log(self._url) as log:
            _heading("1. A run of 103 tasks, to be killed in the middle")
            kill = await self._run_and_kill(log)
            if kill is None:
                click.echo("The run ended before it could be killed: give it more --seconds.", err=True)
                return 1
            _heading("2. kill -9")
            finished, in_flight = kill.finished(), kill.in_flight()
            click.echo(f"The process is gone. The log has {kill.report.version} events:")
            click.echo(f"{len(finished)} tasks had finished, {len(in_flight)} were in flight.")
            _heading("3. A new process resumes it")
            resumed = self._child("resume", _RUN)
            code = await asyncio.to_thread(resumed.wait)
            _heading("4. What ran, counted outside the engine")
            good = self._check_counts(kill) and code == 0
            good = await self._check_digests(log, _RUN) and good
            version = kill.report.version
            _heading(f"5. The past: as of event {version} of {await log.head(_STREAM)}, at the kill")
            _show_states(await read_report(log, _RUN, version=version))
            _heading("6. Run again: nothing has changed, so the cache has it all")
            good = await self._run_again(log) and good
        self._show_commands(version)
        return 0 if good else 1

    def _child(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "eventflow", *words, "--log", self._url]
        return subprocess.Popen(command, env=self._environment)  # noqa: S603 - ourselves

    async def _run_and_kill(self, log: EventLog) -> _Kill | None:
        """Start the run and kill its process once enough tasks have finished; None if it ended before."""
        child = self._child("run", "eventflow.demo.montage:montage", "--run-id", _RUN)
        try:
            enough = int(_KILL_AT * len(self._expected))
            watching = asyncio.ensure_future(_wait_for_successes(log, enough))
            ending = asyncio.ensure_future(asyncio.to_thread(child.wait))
            await asyncio.wait([watching, ending], return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            has_ended = ending.done()
        finally:
            child.kill()
            child.wait()
        await ending
        if sys.stderr.isatty():
            click.echo("\x1b[?25h", err=True)  # show the cursor, which the live display had hidden
        report = await read_report(log, _RUN)
        return None if has_ended or report.status != "stopped" else _Kill(report, self._executed())

    def _executed(self) -> Counter[str]:
        return Counter(self._count.read_text(encoding="utf-8").split()) if self._count.exists() else Counter()

    def _check_counts(self, kill: _Kill) -> bool:
        """Show how many tasks ran and ran again; return whether only those in flight did."""
        finished, in_flight = kill.finished(), kill.in_flight()
        executed = self._executed()
        after = executed - kill.executed
        again = [name for name in finished if after[name]]
        repeated = [name for name in executed if executed[name] > 1]
        click.echo(f"tasks                          {len(self._expected):>4}")
        click.echo(f"executed                       {executed.total():>4}")
        click.echo(f"finished before the kill       {len(finished):>4}   run again after it {len(again):>4}")
        click.echo(
            f"in flight at the kill          {len(in_flight):>4}   run again after it {len(repeated):>4}"
        )
        return not again and set(executed) == set(self._expected) and set(repeated) <= in_flight

    async def _run_again(self, log: EventLog) -> bool:
        """Run the flow a second time, with every result in the cache; show its duration and the time saved."""
        before, began = self._executed(), monotonic()
        child = self._child("run", "eventflow.demo.montage:montage", "--run-id", _AGAIN)
        code = await asyncio.to_thread(child.wait)
        took_s = monotonic() - began
        executed = (self._executed() - before).total()
        hits, saved_us = 0, 0
        async for record in log.read(stream=run_stream(_AGAIN)):
            if isinstance(record.event, TaskReused):
                hits, saved_us = hits + 1, saved_us + record.event.saved_us
        click.echo(f"taken from the cache           {hits:>4}")
        click.echo(f"executed                       {executed:>4}")
        click.echo(
            f"{took_s:.2f} s, Python's start included, for {saved_us / 1e6:.0f} s of work, all tasks added up"
        )
        good = await self._check_digests(log, _AGAIN)
        return good and code == 0 and executed == 0 and hits == len(self._expected)

    async def _check_digests(self, log: EventLog, run_id: str) -> bool:
        """Show how many results of a run are right; return whether all are."""
        states = (await state_of(run_id, log=log)).result
        equal = 0
        for job, digest in self._expected.items():
            state = states[job]
            equal += state.is_successful() and state.result == digest
        click.echo(f"results equal to those computed without the engine: {equal} of {len(self._expected)}")
        return equal == len(self._expected)

    def _show_commands(self, version: int) -> None:
        _heading("Look further")
        url = self._url
        if not self._kept:
            click.echo("That log is gone now; keep one with `eventflow demo --keep demo`, then:")
            url = "sqlite:///demo/montage.db"
        click.echo(f"  export EVENTFLOW_LOG={url}")
        click.echo("  eventflow runs")
        click.echo(f"  eventflow show {_RUN} --at {version}")
        click.echo(f"  eventflow events {_RUN}")
        click.echo("  eventflow cache stats")
        click.echo(f"  eventflow cache explain {_AGAIN} {self._last}")


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


async def _wait_for_successes(log: EventLog, tasks: int) -> None:
    """Return when so many tasks of the run have succeeded, according to the log."""
    finished = 0
    records: AsyncIterator[Any] = log.follow()
    async with aclosing(records):  # type: ignore[type-var]  # a generator, which the port does not promise
        async for record in records:
            finished += record.stream == _STREAM and isinstance(record.event, TaskSucceeded)
            if finished >= tasks:
                return


def _show_states(report: RunReport) -> None:
    """Show how many tasks of each kind were in which state."""
    states = {task.name: task.state for task in report.tasks}
    counts: dict[str, Counter[str]] = {}
    for job in load(RECORDING).tasks:
        counts.setdefault(job.kind, Counter())[states[job.id]] += 1
    for kind, numbers in counts.items():
        cells = [f"{numbers[name]:>3} {name}" if numbers[name] else "" for name in _SHOWN]
        click.echo("".join(f"{cell:<14}" for cell in (kind, *cells)).rstrip())
