"""Which log a run goes to: named by a URL, or by nobody; and who opens and closes it.

    sqlite:///runs.db        a file, relative to the current folder; sqlite:////abs/runs.db; sqlite:///~/runs.db
    memory:                  this process's memory, gone with it

Nobody names one: then `EVENTFLOW_LOG` does, else `log` under `[tool.eventflow]` in the nearest
`pyproject.toml` (a relative file is relative to that one's folder), else it is `.eventflow/log.db` in the
nearest folder that has `.eventflow`, from the current one up to the repository's root, else in the current one.
Without a repository only the current folder is looked at: what lies further up may be somebody else's.

`open_log` is for a block of code.  Runs that are given a URL or nothing share one handle per event loop and
log, so that their appends share commits; it is closed when the loop shuts down its asynchronous
generators, as `asyncio.run` does before it ends, or else when the loop is closed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import quote, unquote, urlsplit
from weakref import WeakKeyDictionary

from eventflow.executors.threads import THREADS
from eventflow.logs.memory import MemoryLog
from eventflow.ports import EventLog

__all__ = [
    "LOG_VARIABLE",
    "SQLITE",
    "THREADS_VARIABLE",
    "InvalidLogURL",
    "SettingWrong",
    "check_url",
    "default_url",
    "open_log",
    "path_of",
    "shared_log",
    "threads",
]

LOG_VARIABLE: Final = "EVENTFLOW_LOG"
FOLDER: Final = ".eventflow"
FOLDER_MODE: Final = 0o700
_SETTINGS: Final = ("log", "threads")
THREADS_MAX: Final = 10_000
MEMORY: Final = "memory:"
SQLITE: Final = "sqlite:///"
"""How the URL of a file begins."""
_LATER: Final = ("postgresql", "postgres")


THREADS_VARIABLE: Final = "EVENTFLOW_THREADS"


class SettingWrong(ValueError):
    """A setting of the project or of the environment is not usable."""


class InvalidLogURL(SettingWrong):
    """What should name a log does not: a URL, the variable, or the project's table is wrong."""


def check_url(url: str, where: str) -> str:
    """The URL itself; raises `InvalidLogURL`, whose message begins with `where`, for what names no log."""
    scheme, colon, _ = url.partition(":")
    if url == MEMORY or (url.startswith(SQLITE) and len(url) > len(SQLITE)):
        parts = urlsplit(url)
        if parts.query or parts.fragment:
            raise InvalidLogURL(
                f"{where}: {url!r} has options, and there are none; write ? as %3F and # as %23"
            )
        return url
    if scheme in _LATER:
        raise InvalidLogURL(f"{where}: {url!r}: there is no PostgreSQL log yet; use a file, {SQLITE}runs.db")
    path = url.split("://", 1)[-1].lstrip("/") if colon else url
    raise InvalidLogURL(f"{where}: {url!r} names no log; a file is written {SQLITE}{path or 'runs.db'}")


def default_url() -> str:
    """The URL of the log of runs that name none. Read once for each folder and value of the variable."""
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise InvalidLogURL(
            f"the current folder is gone, so there is no default log; name one by {LOG_VARIABLE}"
        ) from error
    return _default_url(here, os.environ.get(LOG_VARIABLE))


@lru_cache(maxsize=64)
def _default_url(here: Path, variable: str | None) -> str:
    if variable:
        return check_url(variable, f"the variable {LOG_VARIABLE}")
    return _of_project(here) or _url_of(_folder_of(here) / FOLDER / "log.db")


class _Table(NamedTuple):
    """`[tool.eventflow]` of the nearest `pyproject.toml`."""

    settings: Mapping[str, Any]
    where: str
    folder: Path


def _table_of(here: Path) -> _Table | None:
    """What the nearest `pyproject.toml` says."""
    import tomllib  # noqa: PLC0415 - 5 ms, for those who have such a file

    for folder in (here, *here.parents):
        project = folder / "pyproject.toml"
        if not project.is_file():
            continue
        where = f"{project}, [tool.eventflow]"
        try:
            tables = tomllib.loads(project.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidLogURL(f"{project} cannot be read to find the log: {error}") from error
        tool = tables.get("tool", {})
        table = tool.get("eventflow", {}) if isinstance(tool, dict) else {}
        if not isinstance(table, dict):
            raise InvalidLogURL(f"{where} is no table; write a line `log = ...` under it")
        for key in table:
            if key not in _SETTINGS:
                raise InvalidLogURL(f"{where}: {key!r} is no setting; there are `log` and `threads`")
        return _Table(table, where, folder)
    return None


def _of_project(here: Path) -> str | None:
    """The log that the nearest `pyproject.toml` names."""
    found = _table_of(here)
    if found is None or (url := found.settings.get("log")) is None:
        return None
    if not isinstance(url, str):
        raise InvalidLogURL(f"{found.where}: log = {url!r} is not text; write {SQLITE}runs.db")
    check_url(url, found.where)
    return url if url == MEMORY else _url_of(found.folder / path_of(url))


def threads() -> int:
    """How many threads the process has for plain functions: `EVENTFLOW_THREADS`, else `threads` of the project.

    Read once for each folder and value of the variable. Raises `SettingWrong`.
    """
    variable = os.environ.get(THREADS_VARIABLE)
    if variable:
        return _checked_threads(int(variable) if variable.isdecimal() else variable, THREADS_VARIABLE)
    try:
        return _threads_of(Path.cwd())
    except FileNotFoundError:  # the current folder is gone
        return THREADS


@lru_cache(maxsize=64)
def _threads_of(here: Path) -> int:
    found = _table_of(here)
    if found is None or "threads" not in found.settings:
        return THREADS
    return _checked_threads(found.settings["threads"], f"{found.where}, threads")


def _checked_threads(said: object, where: str) -> int:
    if type(said) is not int or not 1 <= said <= THREADS_MAX:
        raise SettingWrong(f"{where}: {said!r} is no number of threads; give one from 1 to {THREADS_MAX}")
    return said


def _folder_of(here: Path) -> Path:
    """The folder whose `.eventflow` is meant."""
    passed = []
    for folder in (here, *here.parents):
        passed.append(folder)
        if (folder / ".git").exists():
            return next((found for found in passed if (found / FOLDER).is_dir()), here)
    return here


def _url_of(path: Path) -> str:
    return f"{SQLITE}{quote(str(path))}"


def path_of(url: str) -> Path:
    """The file behind a `sqlite:` URL; raises `InvalidLogURL` for `~` of nobody."""
    try:
        return Path(unquote(url.removeprefix(SQLITE))).expanduser()
    except RuntimeError as error:
        raise InvalidLogURL(f"{url!r}: {error}") from error


# -- handles --------------------------------------------------------------------------------------

_Handle: TypeAlias = tuple[EventLog, AsyncGenerator[None]]
"""A log and what closes it."""

_memory: Final[list[MemoryLog]] = []
_open: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Handle]]] = WeakKeyDictionary()


def _make(url: str, *, read_only: bool = False) -> EventLog:
    """A handle on the log behind a URL, which was checked."""
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
    """Make a `.eventflow`, which keeps itself out of repositories: there is a secret key in it.

    It is its owner's only, whatever the umask says.
    """
    if not folder.is_dir() and folder.parent.is_dir():
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


@asynccontextmanager
async def open_log(url: str | None = None, *, read_only: bool = False) -> AsyncIterator[EventLog]:
    """Open the log behind a URL, or the default one, for a block; it is closed at the block's end.

    With `read_only` a file is only looked at: nothing is written, locked or made, and what would write raises.

    `memory:` is the one log of this process's memory and stays. Raises `InvalidLogURL` for a URL that names
    no log, and what opening it raises: `LogUnusable` or `LogDamaged` with SQLite.
    """
    log = _make(default_url() if url is None else check_url(url, "open_log"), read_only=read_only)
    if isinstance(log, MemoryLog):
        yield log
        return
    try:
        await log.head()  # a log that cannot be used says so here
        yield log
    finally:
        await log.aclose()


async def shared_log(url: str | None = None) -> EventLog:
    """The handle that all runs of this event loop share for a URL, or for the default log.

    Opened when first used, closed with the loop's asynchronous generators; opened anew where its files were found
    to be replaced. Raises `InvalidLogURL`.
    """
    url = default_url() if url is None else url
    if url == MEMORY:
        return _make(url)
    place = _url_of(path_of(url).absolute())
    loop = asyncio.get_running_loop()
    if loop not in _open:
        _open[loop] = {}
        _close_with(loop, _open[loop])
    handles = _open[loop]
    if place in handles and getattr(handles[place][0], "is_lost", False):
        _, keeper = handles.pop(place)
        await keeper.aclose()
    if place not in handles:
        log = _make(place)
        keeper = _closing(log, handles, place)
        await anext(keeper)  # from here on the loop knows it
        handles[place] = log, keeper
    return handles[place][0]


async def _closing(log: EventLog, handles: dict[str, _Handle], place: str) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if place in handles and handles[place][0] is log:
            del handles[place]
        await log.aclose()


def _close_with(loop: asyncio.AbstractEventLoop, handles: dict[str, _Handle]) -> None:
    """Have a loop close its logs first when it is closed.

    `loop.close()` alone runs no asynchronous generator to its end, and a log keeps a thread and files until it is
    closed. There is no other moment at which the loop could still do that.
    """
    close = loop.close

    def closing() -> None:
        try:
            if handles and not (loop.is_closed() or loop.is_running()):
                loop.run_until_complete(_close_all(handles))
        finally:
            close()

    with suppress(AttributeError):  # a loop whose methods cannot be replaced
        loop.close = closing  # type: ignore[method-assign]


async def _close_all(handles: dict[str, _Handle]) -> None:
    for _, keeper in tuple(handles.values()):
        await keeper.aclose()
