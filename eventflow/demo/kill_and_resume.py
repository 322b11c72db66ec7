"""The demo of `eventflow demo`: a run is killed with SIGKILL, resumed by a new process, checked, and run again.

Executions are counted by a file to which the bodies append, not by the engine. The expected results are computed
without the engine, too.
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
from eventflow.events import RunFinished, TaskReused, TaskStarted, TaskSucceeded, run_stream
from eventflow.logs.open import open_log
from eventflow.ports import EventLog
from eventflow.projections import open_run, replay
from eventflow.views.run_states import RunStates

__all__ = ["play"]

_RUN: Final = "montage"
_AGAIN: Final = "montage-again"
_STREAM: Final = run_stream(_RUN)
_KILL_AT: Final = 0.4
"""Share of the tasks that have finished when the process is killed, from 0 to 1."""


class _Moment(msgspec.Struct):
    """The state of the log and of the counting file right after the kill."""

    version: int
    finished: set[str]
    in_flight: set[str]
    executed: Counter[str]


def play(seconds: float, keep: str | None) -> int:
    """Show the demo on the terminal; return 1 if a promise was broken, 2 if the folder `keep` already has a demo."""
    if keep is None:
        with TemporaryDirectory(prefix="eventflow-demo-") as temporary:
            return asyncio.run(_Demo(Path(temporary), seconds, kept=False).play())
    folder = Path(keep).absolute()
    if (folder / "montage.db").exists():
        click.echo(f"error: {str(folder)!r} holds a demo already; name another folder", err=True)
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
            moment = await self._killed(log)
            if moment is None:
                click.echo("The run ended before it could be killed: give it more --seconds.", err=True)
                return 1
            _heading("2. kill -9")
            click.echo(f"The process is gone. The log has {moment.version} events:")
            click.echo(f"{len(moment.finished)} tasks had finished, {len(moment.in_flight)} were in flight.")
            _heading("3. A new process resumes it")
            resumed = self._child("resume", _RUN)
            code = await asyncio.to_thread(resumed.wait)
            _heading("4. What ran, counted outside the engine")
            good = self._tell_counts(moment) and code == 0
            run_states = await _states(log, None)
            good = self._tell_digests(run_states) and good
            _heading(f"5. The past: as of event {moment.version} of {await log.head(_STREAM)}, at the kill")
            await _tell_past(log, moment.version)
            _heading("6. Run again: nothing has changed, so the cache has it all")
            good = await self._run_again(log) and good
        self._tell_commands(moment)
        return 0 if good else 1

    def _child(self, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "eventflow", *words, "--log", self._url]
        return subprocess.Popen(command, env=self._environment)  # noqa: S603 - ourselves

    async def _killed(self, log: EventLog) -> _Moment | None:
        """Start the run and kill it when enough tasks have finished; return None if the run ended before that."""
        child = self._child("run", "eventflow.demo.montage:montage", "--run-id", _RUN)
        try:
            watching = asyncio.ensure_future(_far_enough(log, int(_KILL_AT * len(self._expected))))
            ending = asyncio.ensure_future(asyncio.to_thread(child.wait))
            await asyncio.wait([watching, ending], return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            early = ending.done()
        finally:
            child.kill()
            child.wait()
        await ending
        if sys.stderr.isatty():
            click.echo("\x1b[?25h", err=True)  # the live display had hidden the cursor
        started, finished, version = set[str](), set[str](), 0
        view = await open_run(log, _RUN)
        async for record in log.read(stream=_STREAM):
            version = record.version
            match record.event:
                case TaskStarted(task=address):
                    started.add(view.plan.graph.nodes[address[0]].name)
                case TaskSucceeded(task=address):
                    finished.add(view.plan.graph.nodes[address[0]].name)
                case RunFinished():
                    early = True
                case _:
                    pass
        return None if early else _Moment(version, finished, started - finished, self._executed())

    def _executed(self) -> Counter[str]:
        return Counter(self._count.read_text(encoding="utf-8").split()) if self._count.exists() else Counter()

    def _tell_counts(self, moment: _Moment) -> bool:
        executed = self._executed()
        after = executed - moment.executed
        again = [name for name in moment.finished if after[name]]
        repeated = [name for name in executed if executed[name] > 1]
        click.echo(f"tasks                          {len(self._expected):>4}")
        click.echo(f"executed                       {executed.total():>4}")
        click.echo(
            f"finished before the kill       {len(moment.finished):>4}   run again after it {len(again):>4}"
        )
        click.echo(
            f"in flight at the kill          {len(moment.in_flight):>4}   run again after it {len(repeated):>4}"
        )
        return not again and set(executed) == set(self._expected) and set(repeated) <= moment.in_flight

    async def _run_again(self, log: EventLog) -> bool:
        """Run the flow again with every result in the cache; print its duration and the time saved."""
        before, began = self._executed(), monotonic()
        child = self._child("run", "eventflow.demo.montage:montage", "--run-id", _AGAIN)
        code = await asyncio.to_thread(child.wait)
        took_s = monotonic() - began
        executed = (self._executed() - before).total()
        hits, saved_us = 0, 0
        async for record in log.read(stream=run_stream(_AGAIN)):
            if isinstance(record.event, TaskReused):
                hits, saved_us = hits + 1, saved_us + record.event.saved_us
        run_states = await _states(log, None, _AGAIN)
        click.echo(f"taken from the cache           {hits:>4}")
        click.echo(f"executed                       {executed:>4}")
        click.echo(
            f"{took_s:.2f} s, Python's start included, for {saved_us / 1e6:.0f} s of work, all tasks added up"
        )
        good = self._tell_digests(run_states)
        return good and code == 0 and executed == 0 and hits == len(self._expected)

    def _tell_digests(self, run_states: RunStates) -> bool:
        same = 0
        for job, digest in self._expected.items():
            state = run_states[job]
            same += state.is_successful() and state.result == digest
        click.echo(f"results equal to those computed without the engine: {same} of {len(self._expected)}")
        return same == len(self._expected)

    def _tell_commands(self, moment: _Moment) -> None:
        _heading("Look further")
        url = self._url
        if not self._kept:
            click.echo("That log is gone now; keep one with `eventflow demo --keep demo`, then:")
            url = "sqlite:///demo/montage.db"
        click.echo(f"  export EVENTFLOW_LOG={url}")
        click.echo("  eventflow runs")
        click.echo(f"  eventflow show {_RUN} --at {moment.version}")
        click.echo(f"  eventflow events {_RUN}")
        click.echo("  eventflow cache stats")
        click.echo(f"  eventflow cache explain {_AGAIN} {self._last}")


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


async def _far_enough(log: EventLog, tasks: int) -> None:
    """Return when so many tasks have finished durably."""
    finished = 0
    records: AsyncIterator[Any] = log.follow()
    async with aclosing(records):  # type: ignore[type-var]  # a generator, which the port does not promise
        async for record in records:
            finished += record.stream == _STREAM and isinstance(record.event, TaskSucceeded)
            if finished >= tasks:
                return


async def _states(log: EventLog, version: int | None, run_id: str = _RUN) -> RunStates:
    """Return the state of a run after one of its events, or now, from the log alone."""
    view = await open_run(log, run_id)
    until = None
    if version is not None:
        async for record in log.read(stream=view.stream):
            if record.version == version:
                until = record.position
    fold = await replay(log, view, stream=view.stream, until=until)
    return RunStates(view, fold.state, peek=log.peek)


async def _tell_past(log: EventLog, version: int) -> None:
    run_states = await _states(log, version)
    kinds: dict[str, Counter[str]] = {}
    for job in load(RECORDING).tasks:
        kinds.setdefault(job.kind, Counter())[type(run_states[job.id]).__name__] += 1
    for kind, states in kinds.items():
        cells = (
            f"{states[name]:>3} {name}" if states[name] else "" for name in ("Success", "Running", "Pending")
        )
        click.echo("".join(f"{cell:<14}" for cell in (f"{kind}", *cells)).rstrip())
