"""Log URLs: how they are written, and which one is the default.

    sqlite:///runs.db        a file, relative to the current folder; sqlite:////abs/runs.db; sqlite:///~/runs.db
    memory:                  this process's memory, gone when the process ends

The default log is the first of these:

1. the variable `EVENTFLOW_LOG`;
2. `log` under `[tool.eventflow]` in the nearest `pyproject.toml`, relative to that file's folder;
3. `.eventflow/log.db` in the nearest folder that has `.eventflow`, from the current one up to the repository's root;
4. `.eventflow/log.db` in the current folder.

Without a repository, only the current folder is searched: folders above it may belong to other people.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from eventflow.project import InvalidSetting, project_settings

__all__ = [
    "FOLDER",
    "LOG_VARIABLE",
    "MEMORY",
    "SQLITE",
    "InvalidLogURL",
    "check_url",
    "default_url",
    "path_of",
    "url_of",
]

LOG_VARIABLE: Final = "EVENTFLOW_LOG"
FOLDER: Final = ".eventflow"
"""Name of the folder of a default log."""
MEMORY: Final = "memory:"
SQLITE: Final = "sqlite:///"
"""Prefix of the URL of a file."""
_LATER_SCHEMES: Final = ("postgresql", "postgres")


class InvalidLogURL(InvalidSetting):
    """The URL of a log is invalid: an argument, the variable `EVENTFLOW_LOG`, or the project's setting."""


def check_url(url: str, where: str) -> str:
    """Return the URL if it is valid; raise `InvalidLogURL` with a message that begins with `where` otherwise."""
    scheme = url.partition(":")[0]
    if url == MEMORY or (url.startswith(SQLITE) and len(url) > len(SQLITE)):
        parts = urlsplit(url)
        if parts.query or parts.fragment:
            raise InvalidLogURL(
                f"{where}: {url!r} has options, and there are none; write ? as %3F and # as %23"
            )
        return url
    if scheme in _LATER_SCHEMES:
        raise InvalidLogURL(f"{where}: {url!r}: there is no PostgreSQL log yet; use a file, {SQLITE}runs.db")
    raise InvalidLogURL(f"{where}: {url!r} names no log; {_meant(url)}")


def _meant(url: str) -> str:
    """Return the URL that was probably meant, in words."""
    scheme, colon, rest = url.partition(":")
    if scheme == "memory":
        return f"the memory of this process is written {MEMORY}"
    path = url.split("://", 1)[-1].lstrip("/") if colon else url
    if scheme == "sqlite":
        path = rest.lstrip("/")
        if path and rest.startswith("/") and not rest.startswith("//"):
            return f"a file is written {SQLITE}{path} in the current folder, or {SQLITE}/{path} from the root"
    return f"a file is written {SQLITE}{path or 'runs.db'}"


def default_url() -> str:
    """Return the URL of the default log.

    Files are read once for each current folder and value of the variable. Raises `InvalidLogURL`.
    """
    try:
        folder = Path.cwd()
    except FileNotFoundError as error:
        raise InvalidLogURL(
            f"the current folder is gone, so there is no default log; name one by {LOG_VARIABLE}"
        ) from error
    return _default_url(folder, os.environ.get(LOG_VARIABLE))


@lru_cache(maxsize=64)
def _default_url(folder: Path, variable: str | None) -> str:
    if variable:
        return check_url(variable, f"the variable {LOG_VARIABLE}")
    return _url_of_project(folder) or url_of(_folder_of_default(folder) / FOLDER / "log.db")


def _url_of_project(folder: Path) -> str | None:
    """The log that the nearest `pyproject.toml` names."""
    try:
        settings = project_settings(folder)
    except InvalidSetting as error:
        raise InvalidLogURL(str(error)) from error
    if settings is None or (url := settings.values.get("log")) is None:
        return None
    if not isinstance(url, str):
        raise InvalidLogURL(f"{settings.location}: log = {url!r} is not text; write {SQLITE}runs.db")
    check_url(url, settings.location)
    if url == MEMORY:
        return url
    return url_of(settings.folder / path_of(url))


def _folder_of_default(folder: Path) -> Path:
    """The folder whose `.eventflow` has the default log."""
    searched = []
    for parent in (folder, *folder.parents):
        searched.append(parent)
        if (parent / ".git").exists():
            return next((candidate for candidate in searched if (candidate / FOLDER).is_dir()), folder)
    return folder


def url_of(path: Path) -> str:
    """Return the URL of a file."""
    return f"{SQLITE}{quote(str(path))}"


def path_of(url: str) -> Path:
    """Return the file of a `sqlite:` URL; raise `InvalidLogURL` for the `~` of a user who does not exist."""
    try:
        return Path(unquote(url.removeprefix(SQLITE))).expanduser()
    except RuntimeError as error:
        raise InvalidLogURL(f"{url!r}: {error}") from error
