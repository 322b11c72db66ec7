"""An exception as data: type, message, traceback without the engine's own frames, notes, members, cause.

Describing a failure never raises, not even for an exception with broken methods: a run would wait for the outcome
for ever.  So an exception is read past its own hooks, by the descriptors of `BaseException`, and its own code
(`__str__`) is called under guard.

A failure is recorded in its event, so its size is bounded: in characters, in causes and in members.  A cut is noted
where it was made.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from eventflow.events import Failure
from eventflow.ports import BodySkipped

__all__ = ["LiveErrors", "failure_of", "forget_frames", "one_line", "skip_reason", "text_of"]

_ENGINE: Final = f"{Path(__file__).parent.parent}{os.sep}"
LIVE_ERRORS_MAX: Final = 256
_TEXT_MAX: Final = 8_192
"""Characters of one text."""
_TOTAL_MAX: Final = 32_768
"""Characters of a failure with all its causes and members."""
_BRIEF_MAX: Final = 400
_DEPTH_MAX: Final = 8
"""Causes of causes, and members of members."""
_GROUPS_DEEP: Final = 4
"""Groups in groups; below them only the exceptions at the bottom, with their causes, are described."""
_MEMBERS_MAX: Final = 8
"""Members of one group."""
_FAILURES_MAX: Final = 64
"""Exceptions described in one failure."""
_NOTES_MAX: Final = 16
_WALK_MAX: Final = 10_000
"""Exceptions that are looked at, at most, to find those inside groups."""

_cause: Final = vars(BaseException)["__cause__"].__get__
_context: Final = vars(BaseException)["__context__"].__get__
_suppresses: Final = vars(BaseException)["__suppress_context__"].__get__
_raised_at: Final = vars(BaseException)["__traceback__"].__get__
_members: Final = vars(BaseExceptionGroup)["exceptions"].__get__
_qualname: Final = vars(type)["__qualname__"].__get__
_module: Final = vars(type)["__module__"].__get__


def failure_of(error: BaseException) -> Failure:
    """Describe an exception. Never raises."""
    try:
        return _Describing().describe(error, 0)
    except Exception as second:  # noqa: BLE001 - out of memory or of stack: better little than nothing
        return Failure(type=_type_name(type(error)), message=f"<not described: {_type_name(type(second))}>")


class _Describing:
    """One description under way, and the rest of its bounds."""

    def __init__(self) -> None:
        self._characters = _TOTAL_MAX
        self._failures = _FAILURES_MAX
        self._seen: set[int] = set()

    def describe(self, error: BaseException, depth: int) -> Failure:
        """Describe an exception that is so many causes and groups below the first."""
        self._seen.add(id(error))
        self._failures -= 1
        message = self._take(text_of(error))
        own_notes = list(_notes_of(error))
        parts, left_out = _parts_of(error, deep=depth >= _GROUPS_DEEP)
        trace = self._take(_traceback(error, own_notes, parts), middle=True)
        notes = [self._take(note) for note in own_notes]
        below, cut = self._cause(error, depth)
        members = [self.describe(part, depth + 1) for part in parts if self._may_describe(part)]
        left_out += len(parts) - len(members)
        notes += cut
        if depth >= _GROUPS_DEEP and _is_group(error) and any(map(_is_group, _members(error))):
            notes.append("groups in this group are left out, and their members are listed in this one")
        if left_out:
            notes.append(f"{left_out} more members of the group are not recorded")
        return Failure(
            type=_type_name(type(error)),
            message=message,
            traceback=trace,
            cause=below,
            members=tuple(members),
            notes=tuple(notes),
        )

    def _cause(self, error: BaseException, depth: int) -> tuple[Failure | None, list[str]]:
        """The cause of an exception, and a note where it is left out."""
        cause = _cause_of(error)
        if cause is None:
            return None, []
        if id(cause) in self._seen:
            return None, [f"its cause, a {_type_name(type(cause))}, is described above"]
        if depth >= _DEPTH_MAX or self._failures <= 0:
            text = f"{_type_name(type(cause))}: {one_line(cause)}"
            return None, [self._take(f"its cause is not recorded, for there are too many: {text}")]
        return self.describe(cause, depth + 1), []

    def _may_describe(self, part: BaseException) -> bool:
        return self._failures > 0 and id(part) not in self._seen

    def _take(self, text: str, *, middle: bool = False) -> str:
        """As much of a text as there is room for; with `middle` its two ends."""
        text = _clip(text, self._characters, middle=middle)
        self._characters = max(0, self._characters - len(text))
        return text


def _cause_of(error: BaseException) -> BaseException | None:
    cause: BaseException | None = _cause(error)
    if cause is None and not _suppresses(error):
        cause = _context(error)
    return cause


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)  # `isinstance` asks the object for its class, too


def _parts_of(error: BaseException, *, deep: bool) -> tuple[list[BaseException], int]:
    """The members of a group that are described, and how many are not.

    If `deep`, the groups in between are left out, and the exceptions at their bottom are returned.
    """
    if not _is_group(error):
        return [], 0
    parts = list(_members(error))
    if deep:
        parts = list(_bottom(error))
    return parts[:_MEMBERS_MAX], max(0, len(parts) - _MEMBERS_MAX)


def _bottom(group: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group, and in the groups in it, that are no groups."""
    waiting = [group]
    for _ in range(_WALK_MAX):
        if not waiting:
            return
        error = waiting.pop()
        if _is_group(error):
            waiting += reversed(_members(error))
        else:
            yield error


def _type_name(kind: type[BaseException]) -> str:
    name, module = text_of(_qualname(kind)), _module(kind)
    if not isinstance(module, str) or module == "builtins":
        return name
    return f"{text_of(module)}.{name}"


def text_of(shown: object, show: Callable[[Any], str] = str) -> str:
    """Return the text of any object, encodable and of bounded length; `show` may be `repr`. Never raises."""
    try:
        return _clip(show(shown), _TEXT_MAX)
    except BaseException as second:  # noqa: BLE001 - a broken __str__ must not hide the failure
        return f"<message unavailable: __{show.__name__}__ raised {_qualname(type(second))}>"


def skip_reason(skip: BaseException | BodySkipped) -> str:
    """Return the reason for which a body skipped its task. Never raises."""
    try:
        reason = getattr(skip, "reason", None)
    except BaseException:  # noqa: BLE001 - a property of a subclass
        reason = None
    return ("" if reason is None else text_of(reason)) or "its body said so"


def one_line(shown: object) -> str:
    """Return the beginning of an object's text, in one line. Never raises."""
    text = " ".join(text_of(shown).split())
    return text if len(text) <= _BRIEF_MAX else f"{text[:_BRIEF_MAX]}…"


def _notes_of(error: BaseException) -> Iterator[str]:
    try:
        notes = object.__getattribute__(error, "__dict__").get("__notes__")
        if notes is None:
            return
        if not issubclass(type(notes), list | tuple):
            yield text_of(notes, repr)
            return
        for note in notes[:_NOTES_MAX]:
            yield text_of(note)
        if len(notes) > _NOTES_MAX:
            yield f"{len(notes) - _NOTES_MAX} more notes are not recorded"
    except BaseException as second:  # noqa: BLE001 - a list of the user's own
        yield f"<notes unavailable: {_qualname(type(second))}>"


def _traceback(error: BaseException, notes: list[str], parts: list[BaseException]) -> str:
    """Where it was raised, and below it the notes and the members in short."""
    try:
        frames = traceback.extract_tb(_raised_at(error))
        lines = traceback.format_list([frame for frame in frames if not frame.filename.startswith(_ENGINE)])
    except BaseException as second:  # noqa: BLE001 - sources are read by loaders of the user's own
        lines = [f"<traceback unavailable: {_qualname(type(second))}>\n"]
    lines += [f"note: {note}\n" for note in notes]
    for part in parts:
        lines.append(f"+ {_type_name(type(part))}: {one_line(part)}\n")
        lines += [f"  note: {one_line(note)}\n" for note in _notes_of(part)]
    return "".join(lines)


def _clip(text: str, limit: int, *, middle: bool = False) -> str:
    """Return an exact, encodable `str` of at most so many characters, and a note of how many are missing."""
    limit = min(limit, _TEXT_MAX)
    missing = str.__len__(text) - limit
    if missing <= 0:
        kept = str.__getitem__(text, slice(None))
    elif middle:
        head = limit // 3
        ends = (slice(0, head), slice(head + missing, None))
        kept = f"\n… ({missing} characters are not recorded) …\n".join(
            str.__getitem__(text, end) for end in ends
        )
    else:
        kept = f"{str.__getitem__(text, slice(0, limit))}… ({missing} more characters)"
    return kept.encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be encoded


def forget_frames(error: BaseException) -> None:
    """Drop the frames, and with them the local variables, of an exception, its causes and its members."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _WALK_MAX:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        BaseException.with_traceback(part, None)
        waiting += (_cause(part), _context(part))
        if _is_group(part):
            waiting += _members(part)


class LiveErrors:
    """The live exceptions of tasks that failed in this process, by slot.

    It keeps at most `LIVE_ERRORS_MAX`, and frames only of the last one: frames hold everything that a body had.
    """

    def __init__(self) -> None:
        self.by_slot: dict[int, BaseException] = {}
        self._latest: BaseException | None = None

    def keep(self, slot: int, error: BaseException) -> None:
        """Keep an exception, and drop the frames of the one before it."""
        if self._latest is not None and self._latest is not error:
            forget_frames(self._latest)
        self._latest = error
        if slot in self.by_slot or len(self.by_slot) < LIVE_ERRORS_MAX:
            self.by_slot[slot] = error
