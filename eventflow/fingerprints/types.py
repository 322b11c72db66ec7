"""Digests of a task's declared type, and of the settings of its own serializer."""

from __future__ import annotations

from typing import Any, get_origin

import msgspec

from eventflow.codecs.digests import digest_of
from eventflow.equality.identical import fields_of
from eventflow.fingerprints.content import content_of, full_name
from eventflow.fingerprints.type_describer import describe

__all__ = ["schema_of", "settings_of"]


def schema_of(declared: Any) -> bytes:
    """Return the digest of a declared type's description; empty for `Any`, which declares nothing."""
    description = describe(declared)
    if description is None:
        return b""
    return description.digest


def settings_of(serializer: object) -> bytes:
    """Return a digest of a serializer's class and settings; raises `NoContent` if a setting has no content."""
    kind = type(serializer)
    names = fields_of(kind)
    if names is not None:
        settings = {name: getattr(serializer, name) for name in names}
    else:
        settings = dict(getattr(serializer, "__dict__", {}))
    contents = [[name, _setting(settings[name])] for name in sorted(settings)]
    return digest_of(msgspec.msgpack.encode([full_name(kind), contents]))


def _setting(value: Any) -> bytes:
    if value is Any or isinstance(value, type) or get_origin(value) is not None:
        return schema_of(value)
    return content_of(value)
