"""The permissions of what a log makes, under any umask; and that neither running nor looking says anything unasked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventflow.logs.sqlite import SQLiteLog
from eventflow.testing.conformance.hooks import value, write
from tests.e2e.commands import command, document, environment

FLOWS = """
import pathlib

from eventflow import flow, task


class Odd:
    pass


@task
def large() -> bytes:
    return b"large" * 40_000


@task
def odd(data: bytes) -> object:
    return Odd()


@flow
def both() -> object:
    return odd(large())


@task
def stop(name: str) -> int:
    pathlib.Path(name).touch()
    import time

    time.sleep(60)
    return 1


@flow
def stopping(name: str) -> int:
    return stop(name)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with flows."""
    (tmp_path / "steps.py").write_text(FLOWS)
    return tmp_path


def mode(path: Path) -> int:
    """Permissions of a file."""
    return path.stat().st_mode & 0o777


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """A umask for the test, and the old one after it."""
    old = os.umask(request.param)
    yield
    os.umask(old)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
def test_what_a_run_makes(project: Path, mask: int) -> None:
    """Folder, database, `-wal`, packs, lock and key are their owner's only, whatever the umask."""
    script = (
        "import asyncio, os, sys\n"
        f"os.umask({mask})\n"
        "from steps import both\n"
        "from eventflow.logs.open import shared_log\n"
        "async def main():\n"
        "    assert (await both.run()).is_successful()\n"
        "    folder = '.eventflow'\n"
        "    for name in ('log.db-wal', 'log.db-shm'):\n"
        "        assert os.stat(f'{folder}/{name}').st_mode & 0o777 == 0o600, name\n"
        "asyncio.run(main())\n"
    )
    (project / ".git").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    folder = project / ".eventflow"
    assert mode(folder) == 0o700
    for name in ("log.db", "log.db.lock", "key", "log.db.packs/000001.pack"):
        assert mode(folder / name) == 0o600, name
    assert mode(folder / "log.db.packs") == 0o700


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], indirect=True)
async def test_what_is_beside_follows_the_log(tmp_path: Path, umask: None) -> None:
    """Of a log that its owner has opened to a group, the lock and the packs are the group's as well; the key never."""
    path = tmp_path / "log.db"
    path.touch()
    path.chmod(0o660)
    async with SQLiteLog(path) as log:
        list(log.keyring.keys)
        await log.append(write("run/a", 0, 0), values=[value(b"large" * 40_000)])
        for ending in ("", "-wal", ".lock", ".packs/000001.pack"):
            assert mode(Path(f"{path}{ending}")) == 0o660, ending
        assert mode(Path(f"{path}.packs")) == 0o770
        assert mode(Path(f"{path}.key")) == 0o600


def test_nothing_is_said_unasked(project: Path) -> None:
    """A process that runs a flow, and a command, write nothing but what they were asked for: no warning either."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", "import asyncio, steps; asyncio.run(steps.both.run())"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert command("runs", cwd=project).stderr == ""
    assert "warning" not in command("run", "steps.py:both", cwd=project).stderr.lower()


def test_looking_at_a_read_only_log(project: Path) -> None:
    """All commands that look work on a file and a folder that are read-only, and change nothing there."""
    command("run", "steps.py:both", "--run-id", "r", cwd=project)
    (log,) = project.glob("**/log.db")
    log.chmod(0o444)
    log.parent.chmod(0o555)
    before = {each: each.stat().st_mtime_ns for each in (log.parent, *log.parent.iterdir())}
    try:
        assert [row["run"] for row in document("runs", cwd=project)] == ["r"]
        assert document("show", "@last", cwd=project)["state"] == "success"
        assert document("events", "r", cwd=project)[-1]["kind"] == "run_finished"
        assert document("cache", "ls", cwd=project) == []
        assert {each: each.stat().st_mtime_ns for each in (log.parent, *log.parent.iterdir())} == before
    finally:
        log.parent.chmod(0o755)


def test_what_cannot_be_looked_at(project: Path) -> None:
    """A forged journal and a file that is not yet a log end a command with the code of a log that cannot be used."""
    command("run", "steps.py:both", "--run-id", "r", cwd=project)
    (log,) = project.glob("**/log.db")
    Path(f"{log}-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\x00" * 600)
    assert "-journal is no file of a log" in command("runs", cwd=project, code=5).stderr
    assert "-journal is no file of a log" in command("run", "steps.py:both", cwd=project, code=5).stderr
    (project / "empty.db").touch()
    assert "not yet a log" in command("runs", "--log", "sqlite:///empty.db", cwd=project, code=5).stderr


def test_listing_runs_takes_nothing_from_anybody(project: Path) -> None:
    """While runs are listed again and again, a run that is live says so, and one that was killed can be taken."""
    reached = project / "reached"
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "eventflow",
            "run",
            "steps.py:stopping",
            "-p",
            f"name={reached}",
            "--run-id",
            "r",
        ],
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not reached.exists():
            assert running.poll() is None
        (log,) = project.glob("**/log.db")
        before = log.read_bytes(), Path(f"{log}-wal").read_bytes()
        for _ in range(3):
            assert [row["state"] for row in document("runs", cwd=project)] == ["running"]
        assert (log.read_bytes(), Path(f"{log}-wal").read_bytes()) == before
    finally:
        running.kill()
        running.wait()
    assert [row["state"] for row in document("runs", cwd=project)] == ["stopped"]


def test_a_key_that_cannot_be_used(project: Path) -> None:
    """The command that needs it says so, with the code of a log that cannot be used; the run is not failed."""
    command("run", "steps.py:both", "--run-id", "r", cwd=project)
    (key,) = project.glob("**/key")
    key.chmod(0o644)
    said = command("run", "steps.py:both", "--run-id", "s", cwd=project, code=5).stderr
    assert "chmod 600" in said
    assert "Traceback" not in said
    states = {row["run"]: row["state"] for row in json.loads(command("runs", "--json", cwd=project).stdout)}
    assert states["r"] == "success"
    assert states["s"] == "released"
    key.chmod(0o600)
    command("resume", "s", cwd=project)
