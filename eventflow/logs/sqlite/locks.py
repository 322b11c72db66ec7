"""Locks between processes, in a file next to the log: the append lock, and a lock for each live run.

They are record locks on `<log>.lock`, and the kernel releases them when their process dies in any way:

    byte 0        held during each commit (and the checkpoint after it), and while the last handle closes
    other bytes   one for each live run; its number is a digest of the run's id

The kernel hands the append lock over at once and in turn, while SQLite would poll with pauses.  Some versions of
SQLite can damage a file if one connection writes while another one checkpoints (see docs/logs.md); under this lock
that never happens.

On Linux these are locks of the open file description.  Plain POSIX locks are all dropped when the process closes *any*
descriptor of the file, for example when a body copies the folder.  Forked children inherit a description, which would
keep its locks beyond the death of the process.  So each child closes it at once.  Elsewhere these are POSIX locks,
which a child does not inherit.  In both cases a process has exactly one descriptor per file, shared by all handles
(`LockFile.of`), and this module keeps the state that the kernel does not distinguish within a process.

A lock is valid only on the file that other processes find at the path, so the two are compared after locking.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from eventflow.logs.sqlite import process
from eventflow.logs.sqlite.process import Identity, identity_of
from eventflow.ports import LogForked, LogReplaced, LogUnusable

__all__ = ["LockFile", "is_live"]

_APPENDING: Final = 0
_files: Final[dict[Identity, LockFile]] = {}
"""The one object for a file, while any handle uses it."""
_guard = threading.Lock()

if sys.platform == "linux":
    _DESCRIPTION: Final = (fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW, fcntl.F_OFD_GETLK)

    def _flock(kind: int, byte: int) -> bytes:
        return struct.pack("@hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)

    def _kind(answer: bytes) -> int:
        return int(struct.unpack_from("@h", answer)[0])

else:
    _DESCRIPTION: Final = None

    def _flock(kind: int, byte: int) -> bytes:
        return struct.pack("@qqihhi", byte, 1, 0, kind, os.SEEK_SET, 0)

    def _kind(answer: bytes) -> int:
        return int(struct.unpack_from("@qqihh", answer)[3])


_PROCESS: Final = (fcntl.F_SETLK, fcntl.F_SETLKW, fcntl.F_GETLK)


def _commands(descriptor: int) -> tuple[int, int, int]:
    """The commands to try a lock, to wait for it, and to query it, of the best available kind."""
    if _DESCRIPTION is not None:
        with suppress(OSError):
            fcntl.fcntl(descriptor, _DESCRIPTION[2], _flock(fcntl.F_WRLCK, _APPENDING))
            return _DESCRIPTION
    return _PROCESS


def _byte_of(run: str) -> int:
    return 1 + (int.from_bytes(sha256(run.encode()).digest()[:8]) >> 2)


def _lock_path_of(log: Path) -> Path:
    return Path(f"{log.resolve()}.lock")


_TAKE_TURN: Final = _flock(fcntl.F_WRLCK, _APPENDING)
_END_TURN: Final = _flock(fcntl.F_UNLCK, _APPENDING)


class LockFile:
    """The lock file of one log, shared by all handles of this process."""

    def __init__(self, path: Path, descriptor: int, identity: Identity) -> None:
        self._path = path
        self._name = str(path)
        self._descriptor = descriptor
        self._identity = identity
        self._try, self._wait, self._ask = _commands(descriptor)
        self._users = 0
        self._appending = threading.Lock()
        self._held: set[str] = set()
        self._listeners: set[Callable[[], object]] = set()

    @classmethod
    def of(cls, log: Path) -> LockFile:
        """Return the lock file of a log, created if needed; give it back with `close`."""
        path = _lock_path_of(log)
        with _guard:
            try:
                lock_file = None
                identity = identity_of(path)
                if identity is not None:
                    lock_file = _files.get(identity)
                if lock_file is None:
                    mode = log.stat().st_mode & 0o666
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
                    status = os.fstat(descriptor)
                    if identity is None and status.st_size == 0 and status.st_mode & 0o777 != mode:
                        os.fchmod(descriptor, mode)
                    identity = status.st_dev, status.st_ino
                    lock_file = _files[identity] = cls(path, descriptor, identity)
            except OSError as error:
                raise LogUnusable(
                    f"{path}, by which processes share {log}, cannot be opened ({error.strerror}): "
                    "make it and its folder writable"
                ) from error
            lock_file._users += 1
            return lock_file

    def close(self) -> None:
        """Give it back; the last one closes it."""
        with _guard:
            self._users -= 1
            if not self._users and self._descriptor >= 0:
                _files.pop(self._identity, None)
                os.close(self._descriptor)
                self._descriptor = -1

    def forget(self) -> None:
        """Close it in a forked child, which has no part in it."""
        with suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Take the append lock of all processes; it waits in the kernel, so call it only in worker threads.

        The lock is worthless if other processes lock another file, so call `check_file` before a commit.
        """
        with self._appending:
            while True:
                try:
                    fcntl.fcntl(self._descriptor, self._wait, _TAKE_TURN)
                    break
                except OSError as error:
                    # The kernel sees processes, not threads: if two processes each write the same two
                    # logs, it may report a deadlock.
                    if error.errno != errno.EDEADLK:
                        raise self._refused(error) from error
                    time.sleep(0.001)
            try:
                yield
            finally:
                if self._descriptor >= 0:
                    fcntl.fcntl(self._descriptor, self._try, _END_TURN)

    @contextmanager
    def hold(self, run: str) -> Iterator[bool]:
        """Try to become the only live runner of a run, without waiting; yield whether that succeeded."""
        with _guard:
            mine = run not in self._held and self._lock(_byte_of(run))
            if mine:
                self._held.add(run)
                self._users += 1  # a handle may be closed before its holds end
        if not mine:
            yield False
            return
        try:
            self.check_file()
            yield True
        finally:
            with _guard:
                self._held.discard(run)
                self._unlock(_byte_of(run))
            self.nudge()
            self.close()

    def is_held(self, run: str) -> bool:
        """Return whether any process holds a run."""
        return run in self._held or _is_locked(self._descriptor, self._ask, run)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self._descriptor, self._try, _flock(fcntl.F_WRLCK, byte))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise self._refused(error) from error
        return True

    def _unlock(self, byte: int) -> None:
        if self._descriptor >= 0:
            fcntl.fcntl(self._descriptor, self._try, _flock(fcntl.F_UNLCK, byte))

    def check_file(self) -> None:
        """Raise `LogReplaced` if the locked file is not the one at the path, which other processes lock."""
        if identity_of(self._name) != self._identity:
            raise LogReplaced(
                f"{self._path}, by which processes take turns, was deleted or replaced while the log is open, so "
                "another process may be writing now: nothing more is stored; open the log again"
            )

    def _refused(self, error: OSError) -> LogUnusable:
        if self._descriptor < 0:
            return LogForked(f"{self._path} was open when this process was forked, and is not used here")
        return LogUnusable(f"{self._path} cannot be locked ({error.strerror}): put the log on a local disk")

    @contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Register a function to be called, from any thread, after each append of this process."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def nudge(self) -> None:
        """Call all registered functions."""
        for listener in tuple(self._listeners):
            with suppress(RuntimeError):  # its event loop is closed, so it is no longer needed
                listener()


def is_live(log: Path, run: str) -> bool:
    """Return whether any process holds a run; takes no lock, and creates no file."""
    path = _lock_path_of(log)
    with _guard:
        identity = identity_of(path)
        if identity is None:
            return False
        lock_file = _files.get(identity)
        if lock_file is not None:
            return lock_file.is_held(run)
        # No handle of this process has it open, so it has no locks that closing a descriptor could drop.
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise LogUnusable(
                f"{path}, which says what runs are alive, cannot be read ({error.strerror}): make it readable"
            ) from error
        try:
            return _is_locked(descriptor, _commands(descriptor)[2], run)
        finally:
            os.close(descriptor)


def _is_locked(descriptor: int, ask: int, run: str) -> bool:
    """Return whether another descriptor has the lock."""
    return _kind(fcntl.fcntl(descriptor, ask, _flock(fcntl.F_WRLCK, _byte_of(run)))) != fcntl.F_UNLCK


def _forget() -> None:
    """Reset the state in a forked child, which has the parent's memory but none of its locks."""
    global _guard  # noqa: PLW0603 - the parent's lock may have been held at the fork
    _guard = threading.Lock()
    for lock_file in _files.values():
        lock_file.forget()
    _files.clear()


process.in_child(_forget)
