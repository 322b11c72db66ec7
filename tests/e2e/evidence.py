"""What a log file and a counting file, read from outside, prove about runs whose processes were killed.

The counting file is the tests' own: each body appends its task's name to it as its first act, so it says
what was executed without asking the engine.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from eventflow import open_run, replay
from eventflow.events import RunClaimed, RunFinished, TaskStarted, TaskSucceeded
from eventflow.logs.sqlite import SQLiteLog
from eventflow.result import Stored
from eventflow.views.run_states import RunStates

__all__ = [
    "LIMIT_S",
    "Account",
    "Start",
    "account_of",
    "await_count",
    "check_file",
    "counted",
    "end",
    "kill",
    "launch",
]

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
"""Only what hangs reaches it, also where many tests run at once."""

Start = Callable[..., "subprocess.Popen[str]"]


def launch(action: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process of `tests.e2e.flow_worker`."""
    command = [sys.executable, "-m", "tests.e2e.flow_worker", action, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process to end with a code; gives what it said, and fails when it hangs."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, (process.returncode, out, err)
    return out


def counted(path: Path) -> Counter[str]:
    """How often each body was entered, in all processes."""
    return Counter(path.read_text().split()) if path.exists() else Counter()


def await_count(path: Path, least: int, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until so many bodies were entered, or until the process is over."""
    deadline = time.monotonic() + LIMIT_S
    while counted(path).total() < least and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "nothing goes on"
        time.sleep(0.001)


@dataclass
class Account:
    """One run, as its log has it."""

    started: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    claims: int = 0
    finished: bool = False
    run_states: RunStates | None = None
    """None of a run that was not born yet."""

    @property
    def in_flight(self) -> set[str]:
        """Tasks that had begun and not ended."""
        if self.run_states is None:
            return set()
        return {name for name in self.started if self.run_states[name].is_running()}


async def account_of(log: SQLiteLog, run_id: str) -> Account:
    """Fold a run from its log alone; raises `IllegalEvent` when its history contradicts itself."""
    account = Account()
    records = [record async for record in log.read(stream=f"run/{run_id}")]
    if not records:
        return account
    view = await open_run(log, run_id)
    nodes = view.plan.nodes
    for record in records:
        event = record.event
        if isinstance(event, TaskStarted | TaskSucceeded):
            node, *path = event.task
            name = nodes[node].name + "".join(f"[{index}]" for index in path)
            counts = account.started if isinstance(event, TaskStarted) else account.succeeded
            counts[name] += 1
        account.claims += isinstance(event, RunClaimed)
        account.finished = account.finished or isinstance(event, RunFinished)
    account.run_states = RunStates(view, (await replay(log, view, stream=view.stream)).state, peek=log.peek)
    return account


async def check_file(log: SQLiteLog) -> None:
    """The file is sound, positions and versions are dense, and every large result is where it should be."""
    with closing(sqlite3.connect(log.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    versions: Counter[str] = Counter()
    position = 0
    referred: set[bytes] = set()
    async for record in log.read():
        position += 1
        versions[record.stream] += 1
        assert (record.position, record.version) == (position, versions[record.stream])
        payload = getattr(record.event, "result", None)
        if isinstance(payload, Stored):
            referred.add(payload.digest)
    assert set(await log.values(referred)) == referred, "a result whose bytes are not there"


def kill(processes: Iterable[subprocess.Popen[str]]) -> None:
    """End processes at once, and wait for that."""
    for process in processes:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()


def assert_quiet(err: str) -> None:
    """What a process wrote to stderr has no complaint of the interpreter, of asyncio or of a thread."""
    for noise in (
        "Exception in thread",
        "Exception ignored",
        "never retrieved",
        "loop is closed",
        "destroyed",
    ):
        assert noise not in err, err
