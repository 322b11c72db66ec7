"""Digests of what opens a task's results: the declared type, and the settings of a serializer of its own."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec

from eventflow.codecs.digests import digest_of
from eventflow.equality.identical import fields_of
from eventflow.fingerprints.content import content_of, full_name
from eventflow.fingerprints.type_describer import describe

__all__ = ["schema_of", "settings_of"]


def schema_of(declared: Any) -> bytes:
    """The digest of a declared type's description; empty for `Any`, which declares nothing."""
    found = describe(declared)
    return b"" if found is None else found.digest


def settings_of(serializer: object) -> bytes:
    """What tells two serializers of one class apart; raises `NoContent` when that cannot be compared."""
    kind = type(serializer)
    names = fields_of(kind)
    settings = (
        {name: getattr(serializer, name) for name in names}
        if names is not None
        else dict(getattr(serializer, "__dict__", {}))
    )
    told = [[name, _setting(settings[name])] for name in sorted(settings)]
    return digest_of(msgspec.msgpack.encode([full_name(kind), told]))


def _setting(value: Any) -> bytes:
    is_type = value is Any or isinstance(value, type) or get_origin(value) is not None
    return schema_of(value) if is_type else content_of(value)
