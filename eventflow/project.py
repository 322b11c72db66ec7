"""Settings of a project: the table `[tool.eventflow]` in the nearest `pyproject.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["InvalidSetting", "ProjectSettings", "project_settings"]

_NAMES: Final = ("log", "threads")


class InvalidSetting(ValueError):
    """A setting of the project or of the environment is not usable."""


class ProjectSettings(NamedTuple):
    """The table `[tool.eventflow]`, and the file that it was read from."""

    values: Mapping[str, Any]
    location: str
    """File and table, as error messages name them."""
    folder: Path
    """Relative paths in the table are relative to this folder."""


def project_settings(folder: Path) -> ProjectSettings | None:
    """Read the settings for code that runs in a folder; return None if no `pyproject.toml` is found.

    Only the first `pyproject.toml` counts, from the folder upwards. Raises `InvalidSetting` if that file cannot be
    read, or has a setting that does not exist.
    """
    import tomllib  # noqa: PLC0415 - costs 5 ms, and most processes have no such file

    for parent in (folder, *folder.parents):
        file = parent / "pyproject.toml"
        if not file.is_file():
            continue
        location = f"{file}, [tool.eventflow]"
        try:
            document = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"{file} cannot be read: {error}") from error
        tool = document.get("tool", {})
        table = tool.get("eventflow", {}) if isinstance(tool, dict) else {}
        if not isinstance(table, dict):
            raise InvalidSetting(f"{location} is no table; write a line `log = ...` under it")
        for name in table:
            if name not in _NAMES:
                raise InvalidSetting(f"{location}: {name!r} is no setting; there are `log` and `threads`")
        return ProjectSettings(table, location, parent)
    return None
