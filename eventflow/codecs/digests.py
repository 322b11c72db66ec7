"""Digests: the names of bytes, by which they are found, compared and checked.

A digest is the first 16 bytes of a SHA-256.  It names its algorithm by its length: 16 bytes (32 hex digits in text)
are always this one.  A digest of any other algorithm has another length and begins with a byte for its algorithm, so
it can be distinguished in every event, also in one that was copied from another log.  This version makes and knows only the one.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from eventflow.result import UnknownEncoding

__all__ = ["ALGORITHM", "DIGEST_BYTES", "digest_of", "has_digest", "number_of"]

ALGORITHM: Final = "sha256-128"
"""Name of the algorithm of all digests of 16 bytes; logs record it."""
DIGEST_BYTES: Final = 16


def digest_of(data: bytes) -> bytes:
    """Return the digest of serialized plaintext: the name under which the bytes are stored and checked."""
    return sha256(data).digest()[:DIGEST_BYTES]


def has_digest(data: bytes, digest: bytes) -> bool:
    """Whether bytes have a digest; raises `UnknownEncoding` for a digest of an algorithm of a later version."""
    if len(digest) != DIGEST_BYTES:
        raise UnknownEncoding(
            f"the digest {digest.hex()} is of an algorithm that this version does not know: use a newer eventflow"
        )
    return sha256(data).digest()[:DIGEST_BYTES] == digest


def number_of(text: str) -> int:
    """Return 64 bits of the SHA-256 of a text in UTF-8, as a signed big-endian integer."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], signed=True)
