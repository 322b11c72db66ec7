"""The cache key of a call, from its parts: the one place that makes its bytes.

key       digest of (task, parts)
task      namespace, digests of code, declared type and serializers, and the names of the inputs that count
part      digest of (kind, name, content), 16 bytes: an input, a parameter of the flow, or the answer of a `cache_key`
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec

from eventflow.codecs.digests import digest_of
from eventflow.fingerprints.content import content_of

__all__ = ["content_of_map", "key_of", "key_part", "task_prefix"]


def key_of(prefix: bytes, parts: bytes) -> str:
    """Return the key of a call: `prefix` is that of its task, `parts` are those of the call, one after another."""
    return digest_of(prefix + parts).hex()


def task_prefix(namespace: str, digests: Sequence[bytes], counted: Any) -> bytes:
    """Return the bytes that the keys of one task begin with.

    `digests` are of its code, its declared type, its serializer and its `cache_key`; `counted` says which inputs count.
    """
    name = namespace.encode("utf-8", "surrogatepass")
    lengths = b" ".join([b"%d" % len(digest) for digest in digests])
    return b"".join(
        (
            b"eventflow cache key 1 %b " % lengths,
            *digests,
            msgspec.msgpack.encode(counted),
            b"%d " % len(name),
            name,
        )
    )


def key_part(kind: Literal["input", "parameter", "answer"], name: str, content: Any) -> bytes:
    """Return one part of a key. `content` is a content digest, or a structure with such digests in place of its values."""
    digest = content
    if type(content) is not bytes:
        digest = b"made of " + content_of(content)
    return digest_of(_part_prefix(kind, name) + digest)


def content_of_map(contents: Sequence[bytes]) -> bytes:
    """Return the content of a map's results together, from the content of each child's."""
    return digest_of(b"map " + content_of(contents))


@lru_cache(maxsize=1024)
def _part_prefix(kind: str, name: str) -> bytes:
    text = name.encode("utf-8", "surrogatepass")
    return b"%b %d %b" % (kind.encode(), len(text), text)
