"""From values to bytes and back: the default serializer, its codecs, and the place to add others.

    codecs    what a codec is, and the registry        tagged    standard types inside plain data
    plain     builtin types as msgpack or JSON         signed    pickle behind a signature, `Keyring`
    typed     values of a declared type                faults    where a value cannot be kept, and why
    default   which codec keeps what, and opens what
    typedefs  types as data, and how two differ        describing  from a type to that data
    recorded  what was kept as another type            pickled_classes  the forms of classes before a pickle

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
