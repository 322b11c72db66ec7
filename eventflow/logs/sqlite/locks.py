"""What processes agree on by a file beside the log: who appends, and which runs are alive.

POSIX record locks on `<log>.lock`, which the kernel frees when their process dies, however it dies:

    byte 0        held during each commit (and the checkpoint that may follow it)
    other bytes   one for each run that is being run, its number a digest of the run's id

Waiting in the kernel hands the file over at once and in turn, where SQLite would poll with pauses; and on
SQLite versions that may damage a file which one connection writes while another one checkpoints (see
`files.warn_of_wal_reset`) nobody does so.

These locks belong to the process, not to a thread or handle, and closing *any* descriptor of the file
drops them all.  So there is exactly one descriptor per file in a process, shared by all handles
(`LockFile.of`), and what the kernel cannot tell apart within a process is kept here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from eventflow.logs.sqlite.errors import LogUnusable

__all__ = ["LockFile"]

_APPENDING: Final = 0
_files: Final[dict[tuple[int, int], LockFile]] = {}
"""Device and inode → the one object for it, while any handle uses it."""
_guard = threading.Lock()


def _byte_of(run: str) -> int:
    return 1 + (int.from_bytes(blake2b(run.encode(), digest_size=8).digest()) >> 2)


class LockFile:
    """The lock file of one log, shared by all handles of this process."""

    def __init__(self, path: Path, descriptor: int, identity: tuple[int, int]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._identity = identity
        self._users = 0
        self._appending = threading.Lock()
        self._held: set[str] = set()
        self._listeners: set[Callable[[], object]] = set()

    @classmethod
    def of(cls, log: Path) -> LockFile:
        """The lock file beside a log, made if it is not there; to be given back by `close`."""
        path = Path(f"{log.resolve()}.lock")
        with _guard:
            try:
                found = _files.get(_identity(path))
                if found is None:
                    mode = log.stat().st_mode & 0o666 if log.exists() else 0o666
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
                    identity = _identity(path)
                    found = _files[identity] = cls(path, descriptor, identity)
            except OSError as error:
                raise LogUnusable(
                    f"{path}, by which processes share {log}, cannot be opened ({error.strerror}): "
                    "make it and its folder writable"
                ) from error
            found._users += 1
            return found

    def close(self) -> None:
        """Give it back; the last one closes it."""
        with _guard:
            self._users -= 1
            if not self._users:
                _files.pop(self._identity, None)
                os.close(self._descriptor)

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Be the only one who appends, in all processes; waits in the kernel, so only for worker threads."""
        with self._appending:
            while True:
                try:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _APPENDING)
                    break
                except OSError as error:
                    # The kernel sees processes, not threads: two logs that are written in both of two
                    # processes look to it like a deadlock.
                    if error.errno != errno.EDEADLK:
                        raise self._refused(error) from error
                    time.sleep(0.001)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _APPENDING)

    @contextmanager
    def hold(self, run: str) -> Iterator[bool]:
        """Try to be the one live runner of a run, without waiting; gives whether it worked."""
        with _guard:
            mine = run not in self._held and self._lock(_byte_of(run))
            if mine:
                self._held.add(run)
                self._users += 1  # a handle may be closed before its holds end
        if not mine:
            yield False
            return
        try:
            yield True
        finally:
            with _guard:
                self._held.discard(run)
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _byte_of(run))
            self.nudge()
            self.close()

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise self._refused(error) from error
        return True

    def _refused(self, error: OSError) -> LogUnusable:
        return LogUnusable(f"{self._path} cannot be locked ({error.strerror}): put the log on a local disk")

    @contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Have a function called whenever this process has appended, from any thread."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def nudge(self) -> None:
        """Call all who listen."""
        for listener in tuple(self._listeners):
            with suppress(RuntimeError):  # its event loop is closed: nobody listens any more
                listener()


def _identity(path: Path) -> tuple[int, int]:
    """Which file it is, whatever its name; never opened for that, see above."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return (-1, -1)
    return found.st_dev, found.st_ino


def _forget() -> None:
    """Begin anew in a forked child, which has the parent's memory but none of its locks."""
    global _guard  # noqa: PLW0603 - the parent's may have been taken at that moment
    _guard = threading.Lock()
    _files.clear()


os.register_at_fork(after_in_child=_forget)
