"""Where the classes and functions of a script are found by other processes.

Python calls the module of the running script `__main__`, in every process another one.  Its *home* is the name
under which other processes import the same code: `pack.flows` for `python -m pack.flows`, `steps` for
`python steps.py`.  An interactive session has no home.
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any, Final

__all__ = ["MAIN", "home_of", "loaded_as", "script_home", "script_module"]

MAIN: Final = "__main__"
_ALIASES: Final = frozenset({MAIN, "__mp_main__"})
"""`multiprocessing` calls a spawned child's copy of the script `__mp_main__`."""


def script_module() -> str | None:
    """The module that runs as the script: `pack.flows` for `python -m pack.flows`; None if a file runs."""
    spec = getattr(sys.modules.get(MAIN), "__spec__", None)
    if spec is None or spec.name == MAIN:
        return None
    return str(spec.name)


def script_home() -> str:
    """The module name of the running script for other processes; `__main__` if they cannot import it."""
    module = script_module()
    if module:
        return module
    file = getattr(sys.modules.get(MAIN), "__file__", None)
    if file and file.endswith(".py"):
        return PurePath(file).stem
    return MAIN


def home_of(thing: Any) -> str:
    """The module of a class or function as other processes know it."""
    module: str = thing.__module__
    if module in _ALIASES:
        return script_home()
    return module


def loaded_as(home: str) -> str:
    """The name in this process of the module with that name or home.

    Raises `ImportError` for `__main__` if this process runs another script: a class of an interactive session
    might be any class.
    """
    if home in _ALIASES:
        if script_home() != MAIN:
            raise ImportError(
                "the class was defined in an interactive session or a file without a module name, and "
                f"this process runs {script_home()!r}: define the class in a module, and import it from there"
            )
        return MAIN
    if home not in sys.modules and home == script_home():
        return MAIN
    return home
