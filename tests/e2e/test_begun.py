"""A recorded start means that the body begins next: tasks that never began are not given up after three kills."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from eventflow import RunStates, open_run, replay
from eventflow.logs.sqlite import SQLiteLog
from eventflow.states import Mapped

THREADS = 4
WIDTH = 100

WORKER = f"""
import asyncio, pathlib, sys, threading, warnings
from eventflow import Flow, task
from eventflow.logs.sqlite import SQLiteLog

warnings.simplefilter("ignore")
kind, stays, folder = sys.argv[1], sys.argv[2] == "stays", pathlib.Path(sys.argv[3])

def begin(number):
    with open(folder / "begun", "a") as file:
        file.write(f"{{number}}\\n")
    if stays:
        threading.Event().wait()
    return number

if kind == "plain":
    @task(version="1")
    def work(number: int) -> int:
        return begin(number)
else:
    @task(version="1")
    async def work(number: int) -> int:
        return begin(number)

with Flow("begun") as flow:
    work.map(list(range({WIDTH})))

async def main():
    async with SQLiteLog(folder / "log.db") as log:
        await flow.options(log=log, run_id="r").run()

asyncio.run(main())
"""


def started(kind: str, ends: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that runs the flow, whose bodies stay or end."""
    environ = {**os.environ, "EVENTFLOW_THREADS": str(THREADS)}
    return subprocess.Popen([sys.executable, "-c", WORKER, kind, ends, str(folder)], env=environ)


@pytest.mark.parametrize(("kind", "at_once"), [("plain", THREADS), ("async", 1)])
def test_three_kills_give_up_only_what_had_begun(kind: str, at_once: int, tmp_path: Path) -> None:
    """Of 100 children those whose body was entered in three killed processes are Crashed, and the others succeed.

    Plain functions wait for a thread; async ones that block the loop for whoever is before them.
    """
    begun = tmp_path / "begun"
    for attempt in (1, 2, 3):
        process = started(kind, "stays", tmp_path)
        try:
            until = time.monotonic() + 50
            while not begun.exists() or len(begun.read_text().split()) < attempt * at_once:
                assert process.poll() is None, "it ended by itself"
                assert time.monotonic() < until, "no body began"
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    tries = Counter(begun.read_text().split())
    assert started(kind, "ends", tmp_path).wait(50) == 0

    async def look() -> set[str]:
        async with SQLiteLog(tmp_path / "log.db") as log:
            view = await open_run(log, "r")
            fold = await replay(log, view, stream=view.stream)
            state = RunStates(view, fold.state)["work"]
            assert isinstance(state, Mapped)
            kinds = [type(child).__name__ for child in state.map_states]
            assert set(kinds) <= {"Success", "Crashed"}
            return {str(number) for number, name in enumerate(kinds) if name == "Crashed"}

    assert asyncio.run(look()) == {number for number, count in tries.items() if count == 3}
