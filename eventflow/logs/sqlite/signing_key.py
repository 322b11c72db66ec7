"""The signing keys of a log: from `EVENTFLOW_KEY`, otherwise from a file, which is made when needed.

The file is `.eventflow/key` for the logs in a folder `.eventflow`, and `<log>.key` elsewhere.

A key is 32 bytes, written as 64 hexadecimal digits; its id is a short digest of it.  The variable may name
several, separated by commas: the first one signs, each of them opens.  If it is set, the file is not read, so a key
file that came with a log opens nothing.

With the key, an attacker can make a pickle that runs code here, and so can the author of the key file.  So a file
that other users can read or own is refused, as ssh does.

Keys are looked up only to sign or open a pickle.  A log without keys works, and so do all runs that need none.  A key
is made only to sign, and only if the log has no key ids yet.  Otherwise, values signed with a new key would be lost as
soon as the old key is restored.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_bytes
from typing import Any, Final

from eventflow.logs.sqlite.files import sync_folder
from eventflow.ports import Keyring
from eventflow.result import KeyUnavailable

__all__ = ["KEY_VARIABLE", "LogKeyring", "LogKeys"]

KEY_VARIABLE: Final = "EVENTFLOW_KEY"
_KEY_BYTES: Final = 32
_FILE_MAX: Final = 4096


class LogKeys(Mapping[str, bytes]):
    """Keys by id, looked up at first need. A lookup by id makes no key; iteration makes one if there is none.

    Raises `KeyUnavailable` if there is no valid and secret key.
    """

    def __init__(
        self,
        log: Path,
        recorded: Callable[[], Iterable[str]],
        note: Callable[[Iterable[str]], object],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Keys of a log: `recorded` returns the ids that the log has recorded, and `note` records the used ones."""
        self._log = log
        self._recorded = recorded
        self._note = note
        self._environ = environ
        self._keys: Mapping[str, bytes] | None = None

    def __getitem__(self, key_id: str) -> bytes:
        return self._find()[key_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._find() or self._make())

    def __len__(self) -> int:
        return len(self._find() or self._make())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def _find(self) -> Mapping[str, bytes]:
        """Return the existing keys."""
        if self._keys is not None:
            return self._keys
        variable = self._environ.get(KEY_VARIABLE)
        if variable:
            return self._take(_keys_of(variable.split(","), f"the variable {KEY_VARIABLE}"))
        path = _key_file_of(self._log)
        text = _read_key_file(path)
        if text is None:
            return {}
        return self._take(_keys_of([text], str(path)))

    def _make(self) -> Mapping[str, bytes]:
        """Make a key and return it, or the key of another process that was faster."""
        path = _key_file_of(self._log)
        recorded = sorted(self._recorded())
        if recorded:
            raise KeyUnavailable(
                f"{path} is missing, and results of {self._log} were signed with the key {' or '.join(recorded)}: "
                f"restore it from a copy, or give it in {KEY_VARIABLE}. If it is lost, make a new one, which opens "
                f"no earlier pickle: `(umask 077; openssl rand -hex 32 > {path})`"
            )
        try:
            _create_key_file(path)
        except OSError as error:
            raise KeyUnavailable(
                f"{path}, the log's key, cannot be made ({error.strerror}): free some space, see to the folder, "
                f"or give the key in {KEY_VARIABLE}"
            ) from error
        return self._find()

    def _take(self, keys: Mapping[str, bytes]) -> Mapping[str, bytes]:
        self._keys = keys
        self._note(keys)
        return keys


class LogKeyring(Keyring, frozen=True):
    """The keyring of a log; it looks up nothing until a key is needed."""

    keys: LogKeys

    def __post_init__(self) -> None:
        """The keys are checked when they are read."""

    def __repr__(self) -> str:
        return "LogKeyring(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


def _key_file_of(log: Path) -> Path:
    log = log.resolve()
    if log.parent.name == ".eventflow":
        return log.with_name("key")
    return Path(f"{log}.key")


def _read_key_file(path: Path) -> str | None:
    """Return the text of a key file; None if there is none. Raises `KeyUnavailable` if it is not our secret."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # do not wait for a pipe
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeyUnavailable(
            f"{path}, the log's key, cannot be read ({error.strerror}): make it a file of yours, of mode 0600"
        ) from error
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise KeyUnavailable(f"{path}, the log's key, is no regular file: restore it from a copy")
        if status.st_uid != os.geteuid():
            raise KeyUnavailable(
                f"{path} belongs to another user (uid {status.st_uid}), and with a key of their making they could run code here: "
                f"delete it if it came with another person's log; if it is yours, `chown` it to uid {os.geteuid()}"
            )
        if mode & 0o077:
            raise KeyUnavailable(
                f"{path} can be read by others (mode {mode:04o}), so its signatures prove nothing: "
                f"`chmod 600 {path}`, if you are sure that no other user has read it"
            )
        try:
            return os.read(descriptor, _FILE_MAX).decode("ascii", errors="replace")
        except OSError as error:
            raise KeyUnavailable(f"{path}, the log's key, cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _keys_of(texts: list[str], where: str) -> Mapping[str, bytes]:
    keys = {}
    for text in texts:
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise KeyUnavailable(
                f"{where} holds no key: it must be {2 * _KEY_BYTES} hexadecimal digits, as from "
                "`openssl rand -hex 32`; restore it from a copy, or put a new one there, which opens no earlier pickle"
            )
        keys[sha256(key).hexdigest()[:8]] = key
    return keys


def _create_key_file(path: Path) -> None:
    """Create a key file, whole or not at all; if another process was faster, its key stays."""
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)  # independent of the umask
            file.write(token_bytes(_KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    sync_folder(path.parent)
