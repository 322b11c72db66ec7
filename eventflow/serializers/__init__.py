"""From values to bytes and back: the default serializer, its codecs, and the place to add others.

    default           the choice of a codec for a value, and of one for opening its bytes
    signed            pickle behind a signature, `Keyring`
    pickled_classes   descriptions of the classes in a pickle, stored before it
    recorded          values that were stored under another declared type
    faults            the part of a value that cannot be stored, and the reason

The formats themselves are in `eventflow.codecs`.

Importing this package installs the default serializer, which `Result(value)` then uses.
"""

from eventflow.codecs.digests import digest_of, has_digest
from eventflow.codecs.registry import Codec, register_codec
from eventflow.fingerprints.type_defs import TypeChanged
from eventflow.result import install_default_serializer
from eventflow.serializers.default import JSONSerializer, Serializer, is_immutable, refuse_once, reopen
from eventflow.serializers.signed import Keyring

__all__ = [
    "Codec",
    "JSONSerializer",
    "Keyring",
    "Serializer",
    "TypeChanged",
    "digest_of",
    "has_digest",
    "is_immutable",
    "refuse_once",
    "register_codec",
    "reopen",
]

install_default_serializer(Serializer())
