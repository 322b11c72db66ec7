"""A process that uses a SQLite log until it is told to stop, killed, or fails on purpose.

`python -m tests.e2e.sqlite_worker ACTION FILE [ARGUMENT …]`; what it reports is one word a line, flushed.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from eventflow.logs.sqlite import LogWriteFailed, SQLiteLog
from eventflow.ports import Conflict
from eventflow.testing.conformance.hooks import value, write


def tell(*words: object) -> None:
    """Report to the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def append_for_ever(path: Path, stream: str) -> None:
    """Append two events at a time, with a value, and report each version that was acknowledged."""
    async with SQLiteLog(path) as log:
        version = await log.head(stream)
        while True:
            kept = value(b"%d" % version * 1000)
            await log.append(write(stream, version, version, version + 1), values=[kept])
            version += 2
            tell(version)


async def append_some(path: Path, stream: str, first: str, count: str) -> None:
    """Append to a stream of one's own and, in between, to one that all contend for."""
    async with SQLiteLog(path) as log:
        for number in range(int(first), int(first) + int(count)):
            await log.append(write(stream, number - int(first), number))
            version = 0
            while True:
                try:
                    await log.append(write("run/shared", version, number))
                    break
                except Conflict as conflict:
                    version = conflict.actual
    tell("done")


async def hold(path: Path, run: str) -> None:
    """Report whether the run could be held, and keep it."""
    async with SQLiteLog(path) as log, log.hold(run) as mine:
        tell(mine)
        await asyncio.get_running_loop().create_future()


async def fail(path: Path) -> None:
    """Leave a log open, with an append under way, by an exception that nobody catches."""
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, 1))
    assert log.peek(b"?" * 16) is None
    under_way = asyncio.ensure_future(log.append(write("run/a", 1, 2)))
    await asyncio.sleep(0)
    tell("failing")
    raise RuntimeError(f"on purpose, with {under_way}")


async def leave(path: Path) -> None:
    """Leave a log open by simply returning."""
    log = await SQLiteLog.open(path)
    await log.append(write("run/a", 0, 1))
    tell(await log.head())


async def outgrow(path: Path) -> None:
    """Append until the limit on the size of files stops it, then raise the limit and go on."""
    async with SQLiteLog(path) as log:
        await log.append(write("run/a", 0, 0))
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))
        await fill(log)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        await log.append(write("run/a", await log.head("run/a"), 0), values=[value(b"after" * 100_000)])
        tell("again")


async def fill(log: SQLiteLog) -> int:
    """Append until it fails, alone and beside others; report what was acknowledged."""
    version = await log.head("run/a")
    try:
        while True:
            await log.append(write("run/a", version, version), values=[value(b"%d" % version * 50_000)])
            version += 1
    except LogWriteFailed as error:
        tell(version, error)
    large = [value(bytes([n]) * 900_000) for n in range(4)]
    failed = await asyncio.gather(
        *(log.append(write(f"run/{n}", 0, n), values=[kept]) for n, kept in enumerate(large)),
        return_exceptions=True,
    )
    assert all(isinstance(error, LogWriteFailed) for error in failed), failed
    assert await log.head("run/a") == version
    return version


if __name__ == "__main__":
    _, action, file, *arguments = sys.argv
    asyncio.run(globals()[action](Path(file), *arguments))
