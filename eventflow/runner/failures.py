"""An exception as data: type, message, traceback without the engine's own frames, cause."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any, Final

from eventflow.events import Failure

__all__ = ["brief", "failure_of", "text_of"]

_ENGINE: Final = f"{Path(__file__).parent.parent}{os.sep}"
_TEXT_MAX: Final = 16_384
"""Characters of a message or a traceback that are kept; what is cut is said."""
_BRIEF_MAX: Final = 400
_CAUSES_MAX: Final = 8


def failure_of(error: BaseException, depth: int = 0) -> Failure:
    """Describe an exception. Never raises, also for one whose `__str__` does."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return Failure(
        type=_type_name(type(error)),
        message=text_of(error),
        traceback=_clip(_traceback(error)),
        cause=failure_of(cause, depth + 1) if cause is not None and depth < _CAUSES_MAX else None,
    )


def _type_name(kind: type[BaseException]) -> str:
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def text_of(said: object) -> str:
    """What somebody else's object says, as text that can be kept: encodable and of bounded length."""
    try:
        return _clip(str(said))
    except Exception as second:  # noqa: BLE001 - a broken __str__ must not hide the failure
        return f"<message unavailable: __str__ raised {type(second).__qualname__}>"


def brief(said: object) -> str:
    """The beginning of what somebody else's object says, in one line."""
    text = " ".join(text_of(said).split())
    return text if len(text) <= _BRIEF_MAX else f"{text[:_BRIEF_MAX]}…"


def _traceback(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_ENGINE)]
    notes = [f"note: {text_of(note)}\n" for note in getattr(error, "__notes__", ())]
    parts = getattr(error, "exceptions", ())[:_CAUSES_MAX] if isinstance(error, BaseExceptionGroup) else ()
    inside = [f"+ {_type_name(type(part))}: {text_of(part)}\n{_traceback(part)}" for part in parts]
    return "".join([*traceback.format_list(own), *notes, *inside])


def _clip(text: str) -> str:
    if len(text) > _TEXT_MAX:
        text = f"{text[:_TEXT_MAX]}… ({len(text) - _TEXT_MAX} more characters)"
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be encoded


def consists_of(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether an error is of a kind, or a group with one in it."""
    if isinstance(error, BaseExceptionGroup):
        return any(consists_of(part, kind) for part in error.exceptions)
    return isinstance(error, kind)


def the_one(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error to raise in place of a group: its only member, or the group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
