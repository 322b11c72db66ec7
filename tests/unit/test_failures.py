"""Describing exceptions: nothing that one of them does may raise, and what is cut is said."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from eventflow.events import Failure
from eventflow.runner.failures import failure_of, forget_frames, one_line, skip_reason, text_of
from eventflow.runner.task_context import Skip


def raised(error: BaseException) -> BaseException:
    """The exception, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


class HostileAttributes(Exception):
    """Raises for every attribute, `__class__` included."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


class HostileText(Exception):
    """Ends the process when it is shown."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise KeyboardInterrupt

    def __eq__(self, other: object) -> bool:
        raise KeyboardInterrupt

    __hash__ = Exception.__hash__


class Text(str):
    """A text that cannot be measured, cut or encoded by its own methods."""

    __slots__ = ()

    def __len__(self) -> int:
        raise ValueError

    def __getitem__(self, key: Any) -> str:
        raise ValueError

    def encode(self, *_: Any, **__: Any) -> bytes:
        """Refuse."""
        raise ValueError


class OddText(Exception):
    """Says a text of a class of its own."""

    def __str__(self) -> str:
        return Text("odd \ud800")


class Nameless(type):
    """A metaclass whose classes do not give their names."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__module__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


class OfNobody(Exception, metaclass=Nameless):
    """An exception whose class does not give its name."""


class NoModule(Exception):
    """Its module is nothing."""

    __module__ = None  # type: ignore[assignment]


def with_notes(notes: Any) -> BaseException:
    """An exception with that in place of its notes."""
    error = ValueError("noted")
    error.__notes__ = notes
    return error


class HostileList(list[str]):
    """Notes that cannot be sliced."""

    def __getitem__(self, key: Any) -> Any:
        raise SystemExit


class NoNotes(Exception):
    """Its `__dict__` raises."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise MemoryError


HOSTILE: dict[str, Callable[[], BaseException]] = {
    "attributes": lambda: HostileAttributes("a"),
    "text": lambda: HostileText("a"),
    "odd text": OddText,
    "no name": lambda: OfNobody("a"),
    "no module": lambda: NoModule("a"),
    "no dict": lambda: NoNotes("a"),
    "notes none": lambda: with_notes(None),
    "notes a number": lambda: with_notes(7),
    "notes hostile": lambda: with_notes([None, HostileText()]),
    "notes list": lambda: with_notes(HostileList(["x"])),
    "many notes": lambda: with_notes(["x" * 10_000] * 1_000),
    "group": lambda: ExceptionGroup("group", [HostileAttributes(), HostileText()]),
    "large": lambda: ValueError("x" * 10_000_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_exception_keeps_itself_from_being_described(kind: str) -> None:
    """Hooks that raise, also what is no `Exception`, are not called or do no harm; the description can be stored."""
    error = HOSTILE[kind]()
    outer = RuntimeError("outer")
    outer.__cause__ = raised(error)
    for one in (raised(error), raised(outer), raised(BaseExceptionGroup("in a group", [error]))):
        failure = failure_of(one)
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure) == failure
        assert len(msgspec.msgpack.encode(failure)) < 100_000
        forget_frames(one)


def test_causes_in_a_cycle_end() -> None:
    """A cause that is described already is not described again, and that is said."""
    one, two = ValueError("one"), TypeError("two")
    one.__cause__, two.__cause__ = two, one
    failure = failure_of(raised(one))
    assert failure.cause is not None
    assert failure.cause.message == "two"
    assert failure.cause.cause is None
    assert any("described above" in note for note in failure.cause.notes)
    forget_frames(one)


@pytest.mark.parametrize("depth", [600, 9_000])
def test_groups_nested_deeply_keep_what_is_at_their_bottom(depth: int) -> None:
    """Levels in between are left out; the exception that they are about is there, with its cause."""
    innermost = ValueError("the real one")
    innermost.__cause__ = OSError("the disk")
    error: Exception = innermost
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    failure = failure_of(raised(error))
    levels = 0
    while failure.members:
        above, levels = failure, levels + 1
        (failure,) = failure.members
    assert any("groups in this group are left out" in note for note in above.notes)
    assert levels < 20
    assert failure.message == "the real one"
    assert failure.cause is not None
    assert failure.cause.message == "the disk"
    assert failure.type == "ValueError"
    forget_frames(error)
    while isinstance(error, ExceptionGroup):  # so that it is not taken apart recursively
        error = error.exceptions[0]


def test_members_notes_and_causes_are_kept() -> None:
    """A group has its members, each with its own cause, members and notes."""
    first = ValueError("first")
    first.add_note("look here")
    first.__cause__ = KeyError("under first")
    inner = ExceptionGroup("inner", [TypeError("second")])
    group = ExceptionGroup("outer", [raised(first), inner])
    group.add_note("of the group")
    failure = failure_of(raised(group))
    assert failure.notes == ("of the group",)
    assert [member.message for member in failure.members] == ["first", "inner (1 sub-exception)"]
    assert failure.members[0].notes == ("look here",)
    assert failure.members[0].cause is not None
    assert failure.members[0].cause.type == "KeyError"
    assert failure.members[1].members[0].type == "TypeError"
    assert "+ ValueError: first" in failure.traceback
    assert "look here" in failure.traceback


def test_what_is_cut_is_said() -> None:
    """Members, causes, notes and texts that are too many or too long leave a word about it."""
    group = failure_of(ExceptionGroup("many", [ValueError(str(number)) for number in range(600)]))
    assert 0 < len(group.members) < 600
    assert f"{600 - len(group.members)} more members of the group are not recorded" in group.notes
    error = ValueError("0")
    for number in range(1, 600):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    failure, depth = failure_of(error), 0
    while failure.cause is not None:
        failure, depth = failure.cause, depth + 1
    assert depth < 20
    assert any("its cause is not recorded" in note for note in failure.notes)
    assert failure_of(ValueError("x" * 10_000)).message.endswith("more characters)")


def test_a_long_traceback_keeps_its_two_ends() -> None:
    """Where it began and where it was raised are both there."""

    def even(depth: int) -> None:
        if not depth:
            raise ValueError("at the bottom")  # the innermost line
        odd(depth - 1)

    def odd(depth: int) -> None:
        even(depth)

    try:
        even(sys.getrecursionlimit() // 4)
    except ValueError as error:
        failure = failure_of(error)
    assert "test_a_long_traceback_keeps_its_two_ends" in failure.traceback
    assert "the innermost line" in failure.traceback
    assert "are not recorded" in failure.traceback


def test_a_skip_may_say_anything() -> None:
    """A reason that raises, or that is nothing, becomes a text."""

    class Hostile(Skip):
        @property
        def reason(self) -> str:  # type: ignore[override]
            raise SystemExit

        @reason.setter
        def reason(self, value: object) -> None:
            pass

    assert skip_reason(Hostile("x")) == "its body said so"
    assert skip_reason(Skip(HostileText())).startswith("<message unavailable")  # type: ignore[arg-type]
    assert skip_reason(Skip("nothing to do")) == "nothing to do"
    assert skip_reason(Skip()) == "its body said so"
    assert type(text_of(Text("x"))) is str
    assert one_line(HostileText()).startswith("<message unavailable: __str__ raised SystemExit")
