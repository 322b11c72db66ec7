"""An exception as data: type, message, traceback without the engine's own frames, cause."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from eventflow.events import Failure

__all__ = ["failure_of"]

_ENGINE: Final = str(Path(__file__).parent.parent)
_TEXT_MAX: Final = 16_384
"""Characters of a message or a traceback that are kept; what is cut is said."""
_CAUSES_MAX: Final = 8


def failure_of(error: BaseException, depth: int = 0) -> Failure:
    """Describe an exception. Never raises, also for one whose `__str__` does."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return Failure(
        type=_type_name(type(error)),
        message=_clip(_message(error)),
        traceback=_clip(_traceback(error)),
        cause=failure_of(cause, depth + 1) if cause is not None and depth < _CAUSES_MAX else None,
    )


def _type_name(kind: type[BaseException]) -> str:
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 - a broken __str__ must not hide the failure
        return f"<message unavailable: __str__ raised {type(second).__qualname__}>"


def _traceback(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_ENGINE)]
    return "".join(traceback.format_list(own))


def _clip(text: str) -> str:
    if len(text) > _TEXT_MAX:
        text = f"{text[:_TEXT_MAX]}… ({len(text) - _TEXT_MAX} more characters)"
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be encoded
