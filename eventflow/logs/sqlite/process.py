"""The databases that are open in this process, and their end in a forked child.

SQLite keeps its locks in two places: in the kernel, where they belong to the process, and in its own lists.  A forked
child inherits the lists but not the kernel's locks.  So a connection in the child relies on locks that it does not
have, and its commits and its checkpoint at closing can destroy commits of other processes.  So these rules hold:

    While a process forks, no thread of ours is inside SQLite (`inside`), so its mutexes are free in the child.
    In the child, everything that was open is unusable, and the same files cannot be opened.  Even a new connection
    would be unsafe, because SQLite keeps its lists by file.
    The descriptors on which SQLite would lock for a checkpoint are replaced by ones that cannot be locked (`disarm`).
    So closing an inherited connection, as a process does at its end, changes nothing.

`disarm` is also used when a file was exchanged under an open connection, see `open_files`.
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
"""Device and inode: the identity of a file, independent of its name."""

FORK_WAIT_S: Final = 5.0
"""Seconds that a fork waits for threads inside SQLite; after a shorter wait, the child opens no log."""

_DESCRIPTORS: Final = ("/proc/self/fd", "/dev/fd")


class _State:
    """All state of this module, made again in a child."""

    def __init__(self, inherited: frozenset[Identity] = frozenset(), *, is_stuck: bool = False) -> None:
        self.mark = object()
        self.guard = threading.Lock()
        self.changed = threading.Condition(self.guard)
        self.inside = 0
        self.forking = 0
        self.opened: Counter[Identity] = Counter()
        """Our connections, by the database that they have open."""
        self.born: set[Identity] = set()
        """Databases that our connections have read, so they may have locks on them."""
        self.lost: set[Identity] = set()
        """Open databases that were exchanged, or whose `-wal` was."""
        self.inherited = inherited
        """Databases that an ancestor had open when it forked."""
        self.is_stuck = is_stuck
        """Whether a thread of the parent was inside SQLite at the fork: in this child it stays there for ever."""


_state = _State()
_in_child: Final[list[Callable[[], object]]] = []


def mark() -> object:
    """Return an object that is the same until the process forks."""
    return _state.mark


def in_child(forget: Callable[[], object]) -> None:
    """Register a function to be called in every forked child."""
    _in_child.append(forget)


def identity_of(path: str | Path) -> Identity | None:
    """Return the identity of the file at a path, or None. The file is not opened, because that may drop locks."""
    try:
        status = os.stat(path)  # noqa: PTH116 - at each append; a Path costs as much again
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Inside:
    """Mark that this thread is inside SQLite; a fork waits for the end of the block, and delays new ones."""

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
    """Record that a connection has a database open; call it `inside`."""
    _state.opened[identity] += 1


def note_closed(identity: Identity) -> None:
    """Record that a connection was closed."""
    state = _state
    with state.changed:
        if identity in state.opened:  # and it is not a connection of a parent
            state.opened[identity] -= 1
            if not state.opened[identity]:
                del state.opened[identity]
                state.lost.discard(identity)
                state.born.discard(identity)


def note_born(identity: Identity) -> None:
    """Record that our connection has read a database that is a log; call it while the connection is open."""
    _state.born.add(identity)


def is_born(identity: Identity) -> bool:
    """Return whether this process has a log open; if so, nothing else may open its file."""
    return identity in _state.born


def lose(identity: Identity) -> None:
    """Record that a database or its `-wal` was exchanged under our connections: none may checkpoint any more."""
    state = _state
    with state.changed:
        if state.opened.get(identity):
            state.lost.add(identity)
    disarm({identity})


def has_open(identity: Identity) -> bool:
    """Return whether a descriptor of this process belongs to a file; True if the system cannot list descriptors."""
    descriptors = _descriptors()
    return not descriptors or any(_identity_at(descriptor) == identity for descriptor in descriptors)


def disarm(databases: set[Identity]) -> None:
    """Replace the descriptors with which this process can write to databases, so that they do nothing.

    When SQLite closes the last connection of a database, it first takes a write lock, which fails on these.
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
            return [int(name) for name in os.listdir(folder) if name.isdigit()]  # noqa: PTH208 - only names are needed
    return []


def _identity_at(descriptor: int) -> Identity | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    global _state  # noqa: PLW0603 - threads that do not exist in the child may hold the parent's locks
    parent = _state
    opened = frozenset(parent.opened)
    _state = _State(parent.inherited | opened, is_stuck=parent.is_stuck or parent.inside > 0)
    disarm(set(opened))
    for forget in _in_child:
        forget()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
