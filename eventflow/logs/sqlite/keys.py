"""The signing keys of a log: from `EVENTFLOW_KEY`, else from a file, which is made when needed.

The file is `.eventflow/key` for the logs in a folder `.eventflow`, and `<log>.key` elsewhere.

A key is 32 bytes, written as 64 hexadecimal digits; its id is a short digest of it.  The variable may name
several, separated by commas: the first signs, all may open.  Where it is set the file is not looked at,
so that a key which somebody laid beside a log opens nothing.

Whoever can read the key can make a pickle that runs code here, so a file that others can read is refused,
as ssh does.  Without its key a log is whole, but its pickled results raise `SignatureError`.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes
from typing import Final

from eventflow.logs.sqlite.errors import LogUnusable
from eventflow.logs.sqlite.files import sync_folder
from eventflow.ports import Keyring
from eventflow.result import SignatureError

__all__ = ["KEY_VARIABLE", "load_keyring"]

KEY_VARIABLE: Final = "EVENTFLOW_KEY"
_KEY_BYTES: Final = 32


def load_keyring(log: Path, environ: Mapping[str, str] = os.environ) -> Keyring:
    """The keys of a log; raises `SignatureError` for what is no key, or is no secret any more."""
    given = environ.get(KEY_VARIABLE)
    if given:
        return _ring(given.split(","), f"the variable {KEY_VARIABLE}")
    path = _place_of(log.resolve())
    if not path.exists():
        try:
            _create(path)
        except OSError as error:
            raise LogUnusable(
                f"{path}, the log's key, cannot be made ({error.strerror}): free some space, see to the folder, "
                f"or give the key in {KEY_VARIABLE}"
            ) from error
    mode = path.stat().st_mode
    if stat.S_IMODE(mode) & 0o077:
        raise SignatureError(
            f"{path} can be read by others (mode {stat.S_IMODE(mode):04o}), so what it signs proves nothing: "
            f"`chmod 600 {path}`, if you are sure that nobody has read it"
        )
    return _ring([path.read_text(encoding="ascii", errors="replace")], str(path))


def _place_of(log: Path) -> Path:
    return log.with_name("key") if log.parent.name == ".eventflow" else Path(f"{log}.key")


def _ring(texts: list[str], where: str) -> Keyring:
    keys = {}
    for text in texts:
        try:
            key = bytes.fromhex(text.strip())
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise SignatureError(
                f"{where} holds no key: it must be {2 * _KEY_BYTES} hexadecimal digits, as from "
                "`openssl rand -hex 32`; restore it from a copy, or remove it to have a new one made, which "
                "opens no earlier pickle"
            )
        keys[blake2b(key, digest_size=4).hexdigest()] = key
    return Keyring(keys)


def _create(path: Path) -> None:
    """Make a key file, whole or not at all; where another process was faster, its key stays."""
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token_bytes(_KEY_BYTES).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    sync_folder(path.parent)
