"""What SQLite has open in this process, and what becomes of it in a forked child.

SQLite keeps its locks in two places: in the kernel, where they belong to the process, and in lists of its own,
which a child of `fork` inherits while the kernel gives it nothing.  A connection in the child therefore
believes in locks that it does not have: what it commits, or what it tidies up as it is closed, can wipe out
what others have committed.  So these rules hold:

    While a process forks, no thread of ours is inside SQLite (`inside`): its mutexes are free in the child.
    In the child everything that was open is out of use, and the same files cannot be opened there: not even
    a new connection would be sound, since SQLite's lists are kept by file.
    The descriptors on which SQLite would take the lock for tidying up are exchanged for ones that cannot be
    locked (`disarm`), so that closing an inherited connection, as a process does at its end, touches nothing.

`disarm` also serves for a file that was exchanged under an open connection, see `places`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

from eventflow.ports import LogForked, LogReplaced

__all__ = [
    "Identity",
    "check",
    "disarm",
    "has_open",
    "identity_of",
    "in_child",
    "inside",
    "is_born",
    "lose",
    "mark",
    "note_born",
    "note_closed",
    "note_opened",
]

Identity: TypeAlias = tuple[int, int]
"""Device and inode: which file it is, whatever its name."""

FORK_WAIT_S: Final = 5.0
"""How long a fork waits for threads that are inside SQLite; a child of one that did not wait opens no log."""

_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")


class _State:
    """All of it, to be made anew in a child."""

    def __init__(self, inherited: frozenset[Identity] = frozenset(), *, is_stuck: bool = False) -> None:
        self.mark = object()
        self.guard = threading.Lock()
        self.changed = threading.Condition(self.guard)
        self.inside = 0
        self.forking = 0
        self.opened: Counter[Identity] = Counter()
        """Connections of ours, by the database they have open."""
        self.born: set[Identity] = set()
        """Databases of which connections of ours have read, so that they may have locks on them."""
        self.lost: set[Identity] = set()
        """Databases that are open here and were exchanged, themselves or their `-wal`."""
        self.inherited = inherited
        """Databases that an ancestor had open when it forked."""
        self.is_stuck = is_stuck
        """Whether a thread of the parent was inside SQLite, and so is for ever in this child."""


_state = _State()
_in_child: Final[list[Callable[[], object]]] = []


def mark() -> object:
    """Something that is the same for as long as the process has not forked away."""
    return _state.mark


def in_child(forget: Callable[[], object]) -> None:
    """Have a function called in every forked child."""
    _in_child.append(forget)


def identity_of(path: str | Path) -> Identity | None:
    """Which file is at a path; the file is not opened, which may drop locks. None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - at each append; a Path costs as much again
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Inside:
    """A thread's stay in SQLite; a fork waits for its end, and holds up its beginning."""

    def __enter__(self) -> None:
        state = _state
        with state.guard:
            while state.forking:
                state.changed.wait()
            state.inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        state = _state
        with state.guard:
            state.inside -= 1
            if state.forking:
                state.changed.notify_all()


inside: Final = _Inside()


def check(path: Path) -> None:
    """Raise `LogForked` or `LogReplaced` for a database that cannot be opened in this process."""
    state, identity = _state, identity_of(path)
    if state.is_stuck:
        raise LogForked(
            f"{path} cannot be opened in this process: it was forked while another thread was inside SQLite; "
            "start it by `spawn` or `forkserver`"
        )
    if identity in state.inherited:
        raise LogForked(
            f"{path} was open in the process that this one was forked from, and SQLite is not sound on a file "
            "after that: start the process by `spawn` or `forkserver`, or give it a log of its own"
        )
    if identity in state.lost:
        raise LogReplaced(
            f"{path} is still open in this process from before files beside it were deleted or replaced: close "
            "all logs on it first"
        )


def note_opened(identity: Identity) -> None:
    """A connection has a database open; to be called `inside`."""
    _state.opened[identity] += 1


def note_closed(identity: Identity) -> None:
    """A connection was closed."""
    state = _state
    with state.changed:
        if identity in state.opened:  # and it is not that of a parent
            state.opened[identity] -= 1
            if not state.opened[identity]:
                del state.opened[identity]
                state.lost.discard(identity)
                state.born.discard(identity)


def note_born(identity: Identity) -> None:
    """A connection of ours has read a database, and found or made it a log; to be called while it is open."""
    _state.born.add(identity)


def is_born(identity: Identity) -> bool:
    """Whether connections of this process have a log open, so that its file must not be opened by anything else."""
    return identity in _state.born


def lose(identity: Identity) -> None:
    """A database, or its `-wal`, was exchanged under the connections of this process: none may tidy up any more."""
    state = _state
    with state.changed:
        if state.opened.get(identity):
            state.lost.add(identity)
    disarm({identity})


def has_open(identity: Identity) -> bool:
    """Whether any descriptor of this process is of a file; true where the system does not say."""
    found = _descriptors()
    return not found or any(_identity_at(descriptor) == identity for descriptor in found)


def disarm(databases: set[Identity]) -> None:
    """Exchange the descriptors by which this process can write to databases: nothing can be done by them any more.

    SQLite's closing of a database's last connection begins with a lock for writing; on these it fails.
    """
    if not databases:
        return
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for descriptor in _descriptors():
            if _identity_at(descriptor) in databases:
                with suppress(OSError):
                    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                        os.dup2(nothing, descriptor, inheritable=False)
    finally:
        os.close(nothing)


def _descriptors() -> list[int]:
    for folder in _DESCRIPTORS:
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208 - names are wanted
    return []


def _identity_at(descriptor: int) -> Identity | None:
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


# -- forking --------------------------------------------------------------------------------------


def _before() -> None:
    state = _state
    with state.changed:
        state.forking += 1
        state.changed.wait_for(lambda: not state.inside, timeout=FORK_WAIT_S)


def _after_in_parent() -> None:
    state = _state
    with state.changed:
        state.forking -= 1
        state.changed.notify_all()


def _after_in_child() -> None:
    global _state  # noqa: PLW0603 - the parent's locks may be held by threads that are not here
    parent = _state
    opened = frozenset(parent.opened)
    _state = _State(parent.inherited | opened, is_stuck=parent.is_stuck or parent.inside > 0)
    disarm(set(opened))
    for forget in _in_child:
        forget()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
