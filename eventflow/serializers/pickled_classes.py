"""Pickles that contain descriptions of their classes.

A pickle names its classes and contains attributes, positions or an enum's value.  Their meaning depends on the classes
at the time of opening.  So a description of every named class precedes the pickle, and the pickle is opened only while
the classes match.  A class is compared when it is looked up, before an instance is made.

    4 bytes, big-endian     how long the next part is
    home and classes        MessagePack: the home of the script, and an array of `ClassDef`s
    the rest                the pickle

A pickle names classes by their module.  The module of a running script is `__main__` in every process, so its
importable name is stored too (see `eventflow.fingerprints.script_modules`).  So `python steps.py` and a program that
imports `steps` open each other's pickles.  The name is empty if the pickle does not mention `__main__`.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from eventflow.fingerprints.script_modules import MAIN, loaded_as, script_home
from eventflow.fingerprints.type_defs import ClassDef, TypeChanged, class_differences
from eventflow.fingerprints.type_describer import class_def
from eventflow.result import DeserializationError

__all__ = ["changed_classes", "load_noting", "load_same", "with_classes"]

_LENGTH_BYTES: Final = 4
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(tuple[str, tuple[ClassDef, ...]]).decode


def load_noting(pickled: bytes) -> tuple[Any, _Reader]:
    """Open a pickle; return the value, and the reader with the classes. Raises any error of opening."""
    home = ""
    if MAIN.encode() in pickled:
        home = script_home()
    reader = _Reader(pickled, home)
    return reader.load(), reader


def with_classes(reader: _Reader, pickled: bytes) -> bytes:
    """Return the bytes to store."""
    classes = [form for form in reader.forms.values() if form is not None]
    header = _encode((reader.home, classes))
    return len(header).to_bytes(_LENGTH_BYTES, "big") + header + pickled


def load_same(data: bytes) -> Any:
    """Open the bytes; if a class has changed, raise `TypeChanged` before an instance is made.

    This runs code, so the caller must check the signature first.
    """
    home, classes, start = _split(data)
    return _Reader(data[start:], home, {form.name: form for form in classes}).load()


def changed_classes(data: bytes) -> TypeChanged | None:
    """Return the changed or missing classes of the bytes as an error, or None. Imports classes, makes no instance."""
    home, classes, _ = _split(data)
    reader = _Reader(b"", home, {form.name: form for form in classes})
    try:
        for form in classes:
            reader.find_class(*form.name.split(":", 1))
    except TypeChanged as changed:
        return changed
    except Exception as error:  # noqa: BLE001 - importing runs the user's code
        return TypeChanged(f"a class of the value cannot be found: {type(error).__qualname__}: {error}", ())
    return None


def _split(data: bytes) -> tuple[str, tuple[ClassDef, ...], int]:
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    try:
        return *_decode(data[_LENGTH_BYTES:start]), start
    except msgspec.DecodeError as error:
        raise DeserializationError(f"the classes before a pickle cannot be read: {error}") from error


class _Reader(pickle.Unpickler):
    """An unpickler that describes each named class; with `expected`, it refuses a class with another description."""

    def __init__(self, pickled: bytes, home: str, expected: Mapping[str, ClassDef] | None = None) -> None:
        super().__init__(io.BytesIO(pickled))
        self.home = home
        self.forms: dict[str, ClassDef | None] = {}
        self._expected = expected

    def find_class(self, module: str, name: str, /) -> Any:
        """Look up a named object."""
        if module == MAIN and self.home:
            module = self.home
        thing = super().find_class(loaded_as(module), name)
        if isinstance(thing, type):
            self._note_class(f"{module}:{name}", thing)
        return thing

    def _note_class(self, name: str, kind: type) -> None:
        """Describe a class; raise `TypeChanged` if another description was recorded."""
        form = class_def(kind)
        if form is not None and form.name != name:
            form = msgspec.structs.replace(form, name=name)
        self.forms[name] = form
        if self._expected is None:
            return
        then = self._expected.get(name)
        if form != then:
            raise TypeChanged(
                f"the value holds a {name.rpartition(':')[2]!r} of {name.partition(':')[0]}, which was another class "
                "when it was kept; make the value again, or open it with the class as it was",
                tuple(class_differences(then, form)),
            )
