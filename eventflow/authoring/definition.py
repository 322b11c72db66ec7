"""A task as its author defined it: the live counterpart of a `TaskDef`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import FunctionType
from typing import Any

import msgspec

from eventflow.authoring.arguments import serializer_for
from eventflow.authoring.callables import Signature
from eventflow.authoring.nodes import element_type
from eventflow.authoring.options import LiveOptions
from eventflow.fingerprints.code import Code, code_of, note_source
from eventflow.fingerprints.content import NoContent, full_name
from eventflow.fingerprints.type_defs import Description
from eventflow.fingerprints.type_describer import describe
from eventflow.fingerprints.types import settings_of
from eventflow.graph import Const, Policy, Subscript, TaskDef
from eventflow.ports import Body
from eventflow.result import Result
from eventflow.serializers import digest_of

__all__ = ["TaskDefinition"]


class TaskDefinition:
    """A function with its checked options. All forms of one task (`after`, `named`, `mapping`) share it."""

    def __init__(
        self,
        name: str,
        fn: FunctionType,
        signature: Signature,
        policy: Policy,
        live: LiveOptions,
        *,
        is_async: bool,
    ) -> None:
        self.name = name
        self.fn = fn
        self.signature = signature
        self.policy = policy
        self._live = live
        self._is_async = is_async
        for function in (fn, *live.depends_on, live.cache_key):
            if isinstance(function, FunctionType):
                note_source(function)

    @property
    def code(self) -> Code:
        """The digest of the function's code, or the reason why there is none."""
        return code_of(self.fn, version=self._live.version, depends_on=self._live.depends_on)

    @cached_property
    def returns(self) -> Any:
        """The declared return type."""
        return self.signature.type_of("return")

    @cached_property
    def returns_each(self) -> Any:
        """The declared type of a mapped call."""
        return list[self.returns]  # type: ignore[name-defined]  # made of a value

    @cached_property
    def types(self) -> Mapping[str, tuple[bytes, Description]]:
        """Digest and description of every declared type, by argument; the return type is under `return`."""
        names = ("return", *self.signature.names)
        described = {name: describe(self.signature.type_of(name)) for name in names}
        return {name: (known.digest, known) for name, known in described.items() if known is not None}

    @cached_property
    def body(self) -> Body:
        """The function and its live options, as a runner needs them."""
        serializer = self._live.serializer or serializer_for(self.returns)
        cache_key = self._live.cache_key
        key = cache_key and partial(_with_defaults, cache_key, self.signature.defaults)
        return Body(
            self.fn, self._is_async, serializer, self._open_constant, self._live.delay, key, self._digests
        )

    def graph_form(self, name: str) -> TaskDef:
        """Return the data that goes into the graph, under a name that is unique there."""
        code, types = self.code, self.types
        returns, _ = types.get("return", (b"", None))
        takes = tuple((argument, digest) for argument, (digest, _) in types.items() if argument != "return")
        keeper, why_no_keeper = self._keeper()
        form = TaskDef(name, full_name(self.fn), code.digest, self.policy, returns, takes, keeper)
        if self.policy.cache is None:
            return form
        keyer, why_no_key = self._keyer()
        reason = code.reason or why_no_key or why_no_keeper
        return msgspec.structs.replace(form, keyer=keyer, codeless=reason)

    def _digests(self) -> tuple[bytes, bytes]:
        """Those of the code and of the code of `cache_key`, as they are now: closures may have changed."""
        return self.code.digest, self._keyer()[0]

    def _open_constant(self, name: str, path: tuple[Subscript, ...], const: Const) -> Any:
        """Deserialize a constant by the type that is declared for that part of the argument."""
        declared = self.signature.type_of(name)
        for key in path:
            declared = element_type(declared, key)
        return Result(const.value, True, serializer_for(declared)).deserialize().value

    def _keeper(self) -> tuple[bytes, str]:
        """The digest of the task's own serializer with its settings, and why these cannot be compared."""
        serializer = self._live.serializer
        if serializer is None:
            return b"", ""
        try:
            return settings_of(serializer), ""
        except NoContent as error:
            of_class = digest_of(full_name(type(serializer)).encode())
            if self._live.version is not None:
                return of_class, ""
            return (
                of_class,
                f"its serializer has settings that cannot be compared ({error}): give the task a version=",
            )

    def _keyer(self) -> tuple[bytes, str]:
        """The digest of the code of `cache_key`, or why there is none."""
        key = self._live.cache_key
        if key is None or self._live.version is not None:
            return b"", ""
        if not isinstance(key, FunctionType):
            return (
                b"",
                f"its cache_key is a {type(key).__qualname__}: write a function, or give the task a version=",
            )
        code = code_of(key)
        return code.digest, code.reason and f"of its cache_key: {code.reason}"


def _with_defaults(key: Callable[..., Any], defaults: Mapping[str, Any], /, **given: Any) -> Any:
    """Call a `cache_key` with all arguments that the body will have."""
    return key(**{**defaults, **given})
