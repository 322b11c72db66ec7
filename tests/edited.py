"""A module of a program whose text is edited between two runs: its classes keep their names and change their form."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__ = ["edit"]

_IMPORTS = """
import enum
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
import attrs
import msgspec
import pydantic
"""


def edit(source: str, name: str = "edited_shop") -> Any:
    """The module `name` as it is with this text, as a new process would import it."""
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(_IMPORTS + source, f"{name}.py", "exec", dont_inherit=True), vars(module))
    return module
