"""The task functions of a flow as data: how they run, how they are cached, and what their code and types are."""

from __future__ import annotations

import msgspec

from eventflow.fingerprints.keys import key_of, task_prefix

__all__ = ["CachePolicy", "Policy", "TaskDef"]


class CachePolicy(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """When a task may take a result that an earlier call made."""

    namespace: str
    """Tasks of one namespace share entries: given, or `module:qualname` of the function."""
    for_us: int = 0
    """How long an entry is good; 0 is for ever."""
    inputs: tuple[str, ...] | None = None
    """Names of the inputs that count; None for all."""
    parameters: tuple[str, ...] | None = ()
    """Names of the flow's parameters that count; None for all."""
    keyed: bool = False
    """Whether the answer of the author's `cache_key` counts."""


class Policy(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a task is run; may change between two processes of one run. Durations in microseconds."""

    retries: int = 0
    """Attempts after the first that failed."""
    retry_delay_us: int = 0
    backoff: str = ""
    """Empty for a fixed delay, `exponential` or `callable`. Any other word is read as empty."""
    backoff_max_us: int = 0
    """Upper bound of an exponential delay."""
    timeout_us: int = 0
    """Limit of one attempt; 0 is none."""
    share: bool = False
    """Hand values on without copying."""
    cache: CachePolicy | None = None
    """None for a task that is not cached."""


class TaskDef(msgspec.Struct, frozen=True, omit_defaults=True):
    """One task function as the graph knows it; many nodes may share one."""

    name: str
    entry: str
    """`module:qualname`, for people and for finding the code again."""
    code: bytes
    """Digest of the code, or of `version=`; empty when there is none."""
    policy: Policy
    returns: bytes = b""
    """Digest of the declared type of its result, which `Graph.types` describes; empty for none."""
    takes: tuple[tuple[str, bytes], ...] = ()
    """Likewise the arguments that declare a type: name and digest."""
    keeper: bytes = b""
    """Of a task with a serializer of its own: digest of its class and settings."""
    keyer: bytes = b""
    """Of a task with a `cache_key`: digest of that function's code, unless `version=` replaces it."""
    codeless: str = ""
    """Of a cached task: why its code has no digest, so that nothing is ever reused."""

    def cache_key(self, parts: bytes) -> str:
        """Return the key of a call of this cached task.

        The task contributes its namespace, its code, and the type and serializer that open a result. `parts` are
        the contents of the call, 16 bytes each: the inputs that count in the node's order, the parameters that
        count in the policy's order, then the answer of a `cache_key`. Raises `ValueError` for a task that is not
        cached.
        """
        return key_of(self.key_prefix(), parts)

    def key_prefix(self) -> bytes:
        """Return the bytes that the keys of this task begin with; the parts of a call follow them."""
        cache = self.policy.cache
        if cache is None or not self.code or self.codeless:
            raise ValueError(f"task {self.name!r} is not cached, so its calls have no keys")
        digests = (self.code, self.returns, self.keeper, self.keyer)
        return task_prefix(cache.namespace, digests, (cache.inputs, cache.parameters, cache.keyed))
