"""Two processes and one run on a SQLite file, in every order: one works, the other follows or takes over."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventflow.logs.sqlite import SQLiteLog
from tests.e2e.evidence import Account, account_of, await_count, check_file, counted, end, kill, launch

LINKS = ("link", "link-2", "link-3", "link-4")


class Pair:
    """Processes that are asked for the same run."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.db"
        self.counts = folder / "counts"
        self.started: list[subprocess.Popen[str]] = []

    def begin(self, wait: str = "wait") -> subprocess.Popen[str]:
        """Start a process, and wait until it is about to call the run."""
        process = launch("chain", self.log, self.counts, wait)
        self.started.append(process)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == "begun", process.stderr
        return process

    async def account(self) -> Account:
        """The run as it stands in the log."""
        async with SQLiteLog(self.log) as log:
            await check_file(log)
            return await account_of(log, "r")

    def follow(self, first: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """Start a second process while the first is at its first link, held there until that is done."""
        await_count(self.counts, 1)
        first.send_signal(signal.SIGSTOP)
        second = self.begin()
        first.send_signal(signal.SIGCONT)
        return second

    def check_repeated(self, under_way: int) -> None:
        """The link that was under way, by its number, was entered twice, all others once.

        A machine that was busy may have begun the next one meanwhile.
        """
        entered = counted(self.counts)
        repeated = [number for number, name in enumerate(LINKS, 1) if entered[name] == 2]
        assert entered.total() == len(LINKS) + 1
        assert repeated in ([under_way], [under_way + 1])

    async def check(self, *processes: subprocess.Popen[str], claims: int) -> None:
        """All give the one good end; nothing succeeded twice, and the run was claimed so often."""
        for process in processes:
            assert report(process) == {
                "state": "Success",
                "tasks": dict.fromkeys(LINKS, "Success"),
                "done": {name: "." * 600 * number for number, name in enumerate(LINKS, 1)},
            }
        account = await self.account()
        assert account.finished
        assert account.succeeded == dict.fromkeys(LINKS, 1)
        assert account.claims == claims


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two processes, which are gone in the end."""
    pair = Pair(tmp_path)
    yield pair
    kill(pair.started)


def report(process: subprocess.Popen[str]) -> Any:
    """What a process came to."""
    return json.loads(end(process).splitlines()[-1])


@pytest.mark.parametrize("entered", [0, 1, 3])
async def test_the_second_follows(pair: Pair, entered: int) -> None:
    """The second, however late (or with the first), gives the same end, and every body runs once."""
    first = pair.begin()
    await_count(pair.counts, entered)
    second = pair.begin()
    await pair.check(first, second, claims=1)
    assert counted(pair.counts) == dict.fromkeys(LINKS, 1)


async def test_the_second_comes_when_all_is_over(pair: Pair) -> None:
    """A finished run is only read."""
    first = pair.begin()
    await pair.check(first, claims=1)
    await pair.check(pair.begin(), pair.begin("no wait"), claims=1)
    assert counted(pair.counts) == dict.fromkeys(LINKS, 1)


@pytest.mark.parametrize("entered", [1, 2, 4])
async def test_the_second_takes_over_when_the_first_is_killed(pair: Pair, entered: int) -> None:
    """What had succeeded is not repeated; what was in flight is, by the one that followed."""
    first = pair.begin()
    second = pair.follow(first)
    await_count(pair.counts, entered)
    first.kill()
    first.communicate()
    await pair.check(second, claims=2)
    pair.check_repeated(entered)


async def test_both_are_killed(pair: Pair) -> None:
    """A third goes on where the two were."""
    first = pair.begin()
    second = pair.follow(first)
    await_count(pair.counts, 2)
    kill([second, first])
    await pair.check(pair.begin(), claims=2)
    pair.check_repeated(2)


async def test_a_stopped_owner_keeps_its_run(pair: Pair) -> None:
    """SIGSTOP is no death: the second waits as long as it takes, and SIGCONT has the first go on."""
    first = pair.begin()
    await_count(pair.counts, 2)
    first.send_signal(signal.SIGSTOP)
    second = pair.begin()
    await asyncio.sleep(1.5)  # thrice as long as a follower listens before it asks again
    assert second.poll() is None
    assert counted(pair.counts).total() == 2
    first.send_signal(signal.SIGCONT)
    await pair.check(first, second, claims=1)
    assert counted(pair.counts) == dict.fromkeys(LINKS, 1)


async def test_a_stopped_owner_is_killed(pair: Pair) -> None:
    """Then the second takes over, though the first never said a word."""
    first = pair.begin()
    await_count(pair.counts, 2)
    first.send_signal(signal.SIGSTOP)
    second = pair.begin()
    await asyncio.sleep(0.7)
    assert counted(pair.counts).total() == 2
    first.kill()
    first.communicate()
    await pair.check(second, claims=2)
    assert counted(pair.counts) == {name: 1 + (name == "link-2") for name in LINKS}


async def test_the_follower_is_killed_or_interrupted(pair: Pair) -> None:
    """That is nothing to the owner."""
    first = pair.begin()
    await_count(pair.counts, 1)
    killed, interrupted = pair.begin(), pair.begin()
    await_count(pair.counts, 2)
    killed.kill()
    interrupted.send_signal(signal.SIGINT)
    await pair.check(first, claims=1)
    killed.communicate()
    end(interrupted, -signal.SIGINT)
    assert counted(pair.counts) == dict.fromkeys(LINKS, 1)


async def test_the_owner_is_interrupted(pair: Pair) -> None:
    """Ctrl-C to the owner: it lets go, and the follower goes on."""
    first = pair.begin()
    second = pair.follow(first)
    await_count(pair.counts, 2)
    first.send_signal(signal.SIGINT)
    end(first, -signal.SIGINT)
    await pair.check(second, claims=2)
    pair.check_repeated(2)


async def test_not_waiting(pair: Pair) -> None:
    """With `wait=False` the second tells what is known, at once, and executes nothing."""
    first = pair.begin()
    await_count(pair.counts, 2)
    first.send_signal(signal.SIGSTOP)  # so that it stays as it is
    found = report(pair.begin("no wait"))
    assert found["state"] == "Running"
    assert found["tasks"] == dict(zip(LINKS, ("Success", "Running", "Pending", "Pending"), strict=True))
    assert found["done"] == {"link": "." * 600}
    first.send_signal(signal.SIGCONT)
    await pair.check(first, claims=1)
    assert counted(pair.counts) == dict.fromkeys(LINKS, 1)
