"""Open and close the log of a URL.

`open_log` is for a block of code.  Runs that name a URL or no log share one handle per event loop and log, so that
their appends share commits (`shared_log`).  The shared handle is closed when the loop shuts down its asynchronous
generators, as `asyncio.run` does before it ends, or else when the loop is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, TypeAlias
from weakref import WeakKeyDictionary

from eventflow.logs.memory import MemoryLog
from eventflow.logs.urls import (
    FOLDER,
    LOG_VARIABLE,
    MEMORY,
    SQLITE,
    InvalidLogURL,
    check_url,
    default_url,
    path_of,
    url_of,
)
from eventflow.ports import EventLog

__all__ = ["log_of", "open_log", "shared_log"]

FOLDER_MODE: Final = 0o700

_Handle: TypeAlias = tuple[EventLog, AsyncGenerator[None]]
"""A log, and the generator that closes it."""

_memory: Final[list[MemoryLog]] = []
_open: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Handle]]] = WeakKeyDictionary()


def open_log(url: str | None = None, *, read_only: bool = False) -> AbstractAsyncContextManager[EventLog]:
    """Open the log of a URL, or the default log, for a block of code, and close it at the end of the block.

    ```python
    from eventflow import flow, open_log, task

    @task
    async def hello() -> str:
        return "hello"

    @flow
    def greet() -> str:
        return hello()

    async with open_log("sqlite:///runs.db") as log:
        await greet.options(log=log, run_id="first").run()
        print(await log.head("run/first"), "events")
    ```

    ```text
    5 events
    ```

    With `read_only` nothing of the log is written, locked or created, and calls that would write raise `LogUnusable`.
    `memory:` is the one log of this process's memory; it stays open.

    Raises `InvalidLogURL` if the URL is invalid. A SQLite log raises `LogUnusable` or `LogDamaged` if the file cannot
    be used; with `read_only` also if it does not exist.
    """
    return _LogBlock(_open_log(url, read_only=read_only))


class _LogBlock(AbstractAsyncContextManager[EventLog]):
    """The block of an `open_log`, which explains itself if it is used as a log."""

    def __init__(self, block: AbstractAsyncContextManager[EventLog]) -> None:
        self._block = block

    async def __aenter__(self) -> EventLog:
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(kind, error, traceback)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self!r} has no {name!r}: write `async with open_log(...) as log:`, and use `log`"
        )

    def __repr__(self) -> str:
        return "open_log(...)"


@asynccontextmanager
async def _open_log(url: str | None, *, read_only: bool) -> AsyncIterator[EventLog]:
    if url is None:
        url = default_url()
    else:
        check_url(url, "open_log")
    log = _make_log(url, read_only=read_only)
    if isinstance(log, MemoryLog):
        yield log
        return
    try:
        await log.head()  # a log that cannot be used raises here
        yield log
    finally:
        await log.aclose()


@asynccontextmanager
async def log_of(log: EventLog | str | None, *, read_only: bool) -> AsyncIterator[EventLog]:
    """Give the log that a caller named for a block: a log as it is, a URL or None opened.

    With `read_only` a URL is opened for this block alone, as `open_log` does it; otherwise the shared handle is used.
    """
    if not isinstance(log, str | None):
        yield log
    elif read_only:
        async with open_log(log, read_only=True) as opened:
            yield opened
    else:
        yield await shared_log(log)


async def shared_log(url: str | None = None) -> EventLog:
    """Return the handle that all runs of this event loop share for a URL, or for the default log.

    It is opened at its first use, and opened again if its files were replaced. Raises `InvalidLogURL`.
    """
    if url is None:
        url = default_url()
    if url == MEMORY:
        return _make_log(url)
    location = url_of(path_of(url).absolute())
    loop = asyncio.get_running_loop()
    if loop not in _open:
        _open[loop] = {}
        _close_with(loop, _open[loop])
    handles = _open[loop]
    if location in handles and getattr(handles[location][0], "is_lost", False):
        _, closer = handles.pop(location)
        await closer.aclose()
    if location not in handles:
        log = _make_log(location)
        closer = _closer(log, handles, location)
        await anext(closer)  # from now on the loop closes it
        handles[location] = log, closer
    return handles[location][0]


def _make_log(url: str, *, read_only: bool = False) -> EventLog:
    """Make a handle for the log of a valid URL."""
    if url == MEMORY:
        if not _memory:
            _memory.append(MemoryLog())
        return _memory[0]
    from eventflow.logs.sqlite import SQLiteLog  # noqa: PLC0415 - a memory log needs no SQLite

    path = path_of(url)
    if path.parent.name == FOLDER and not read_only:
        _make_folder(path.parent)
    return SQLiteLog(path, read_only=read_only)


def _make_folder(folder: Path) -> None:
    """Make a `.eventflow`, with a `.gitignore` that keeps it out of repositories: it has a secret key.

    Only its owner may use it, whatever the umask is.
    """
    if folder.is_dir() or not folder.parent.is_dir():
        return
    try:
        try:
            folder.mkdir(FOLDER_MODE)
        except FileExistsError:
            if folder.is_dir():  # another process was faster
                return
            raise
        folder.chmod(FOLDER_MODE)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise InvalidLogURL(
            f"{folder}, where the log should be, cannot be made ({error.strerror}); "
            f"name another place by {LOG_VARIABLE}={SQLITE}…"
        ) from error


async def _closer(log: EventLog, handles: dict[str, _Handle], location: str) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if location in handles and handles[location][0] is log:
            del handles[location]
        await log.aclose()


def _close_with(loop: asyncio.AbstractEventLoop, handles: dict[str, _Handle]) -> None:
    """Make a loop close its logs first when it is closed.

    `loop.close()` alone ends no asynchronous generator, and a log has a thread and files until it is closed. The
    loop has no later moment at which it could still run the log's coroutine.
    """
    close = loop.close

    def close_logs_first() -> None:
        try:
            if handles and not (loop.is_closed() or loop.is_running()):
                loop.run_until_complete(_close_all(handles))
        finally:
            close()

    with suppress(AttributeError):  # a loop whose methods cannot be replaced
        loop.close = close_logs_first  # type: ignore[method-assign]


async def _close_all(handles: dict[str, _Handle]) -> None:
    for _, closer in tuple(handles.values()):
        await closer.aclose()
