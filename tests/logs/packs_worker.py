"""A process that stores large values until it is done, killed, or has killed itself.

`python -m tests.logs.packs_worker ACTION FILE [ARGUMENT …]`; what it reports is one word a line, flushed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventflow.logs.sqlite import LogWriteFailed, SQLiteLog, packs
from eventflow.logs.sqlite.connection import Connection
from eventflow.ports import Value
from eventflow.testing.conformance.hooks import value, write

KIB = 1 << 10


def large(number: int, size: int = 100 * KIB) -> Value:
    """A value that goes to a pack; another one for each number."""
    return value(b"%d" % number + bytes(size - len(b"%d" % number)))


def tell(*words: object) -> None:
    """Report to the test."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def store_some(path: Path, first: str, last: str) -> None:
    """Store values of many sizes, several at a time, and report each that was acknowledged."""
    packs.PACK_BYTES_MAX = 2_000 * KIB  # type: ignore[misc]
    async with SQLiteLog(path) as log:
        for number in range(int(first), int(last), 3):
            some = [large(n, random.randrange(70 * KIB, 500 * KIB)) for n in range(number, number + 3)]
            await log.append(write(f"run/{number}", 0, number), values=some)
            for each in some:
                tell(each.digest.hex())


async def outgrow(path: Path) -> None:
    """Store until the limit on the size of files stops it, then raise the limit and go on."""
    async with SQLiteLog(path) as log:
        await log.append(values=[large(0)])
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_050 * KIB, most))
        for number in itertools.count(1):
            try:
                await log.append(write("run/a", number - 1, number), values=[large(number)])
            except LogWriteFailed as error:
                tell(number, error)
                break
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        tell(os.stat(f"{path}.packs/000001.pack").st_size)  # noqa: PTH116 - nothing else goes on
        await log.append(write("run/a", number - 1, number), values=[large(number)])


async def die_at(path: Path, step: str) -> None:
    """Store a large value that is new and one that is there; be killed before a step of it."""
    async with SQLiteLog(path) as log:
        await log.append(values=[large(1)])
        steps = itertools.count(1)

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **named: Any) -> Any:
                if next(steps) == int(step):
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return run

        packs.PACK_BYTES_MAX = KIB  # type: ignore[misc] # the next one begins a pack
        packs._sync = deadly(packs._sync)
        for name in ("open", "writev", "fsync", "close", "mkdir"):
            setattr(os, name, deadly(getattr(os, name)))
        Connection.execute = deadly(sqlite3.Connection.execute)  # type: ignore[method-assign]
        await log.append(write("run/a", 0, 1), values=[large(1), large(2), large(3)])
        tell("stored")


if __name__ == "__main__":
    _, action, file, *arguments = sys.argv
    asyncio.run(globals()[action](Path(file), *arguments))
