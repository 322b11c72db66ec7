"""Whether the parameters with which a run is called for again are those that it was started with.

Bytes say it only if they are equal.  A pickle is signed with another key, a set or a table is written in another
order, and the value is the same: so where bytes differ, both values are opened and compared by content.
"""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short_repr
from typing import Any

from eventflow.equality.identical import identical
from eventflow.fingerprints.content import NoContent, content_of
from eventflow.machine import Phase
from eventflow.ports import EventLog, Value, inline_of
from eventflow.result import Inline, KeyUnavailable, Payload, ResultNotLoaded, Stored, UnknownEncoding
from eventflow.runner.failures import one_line
from eventflow.runner.request import Request
from eventflow.runner.stored_values import read_stored
from eventflow.views.run import RunFacts
from eventflow.views.run_serializers import RunSerializers

__all__ = ["ParametersDiffer", "check_parameters"]


class ParametersDiffer(ValueError):
    """The run was started with other parameters."""


async def check_parameters(
    log: EventLog, run_id: str, serializers: RunSerializers, facts: RunFacts, request: Request
) -> None:
    """Refuse to resume with other parameters.

    Raises `ParametersDiffer`, and `KeyUnavailable` or `UnknownEncoding` if a value cannot be opened to be compared.
    """
    differing: list[str] = []
    for name in sorted(request.given, key=list(request.parameters).index):
        then, now = facts.parameters.get(name), request.parameters[name]
        if then is None:
            differing.append(f"{name!r}")
        elif not _same_bytes(then, now):
            try:
                difference = await _difference(log, serializers, facts, request, name)
                if difference:
                    differing.append(f"{name!r} {difference}")
            except (KeyUnavailable, UnknownEncoding):
                raise
            except Exception as error:  # noqa: BLE001 - opening and comparing run what users wrote
                differing.append(f"{name!r} (not comparable: {type(error).__qualname__}: {one_line(error)})")
    if differing:
        raise ParametersDiffer(
            f"run {run_id!r} was started with other values of {', '.join(differing)}: leave them out to "
            f"{'get its recorded state' if facts.run.phase is Phase.FINISHED else 'resume it'}, or use another run_id"
        )


def _same_bytes(then: Payload, now: Payload) -> bool:
    if not isinstance(then, Inline | Stored) or not isinstance(now, Inline | Stored):
        return then == now
    return (then.codec, then.digest) == (now.codec, now.digest)


async def _difference(
    log: EventLog, serializers: RunSerializers, facts: RunFacts, request: Request, name: str
) -> str:
    """Return both values of a parameter in words; empty if they are equal."""
    slot = serializers.plan.graph.index[name]
    lent = {value.digest: value for value in request.extra_values}
    then = await _inline(log, facts.parameters[name], lent)
    now = await _inline(log, request.parameters[name], lent)
    opened = serializers.deserializer_of(slot, facts).deserialize(then)
    given = serializers.serializer_of(slot, facts.run).deserialize(now)
    if _are_equal(opened, given):
        return ""
    return f"(was {short_repr(opened)}, now {short_repr(given)})"


async def _inline(log: EventLog, payload: Payload, lent: Mapping[bytes, Value]) -> Inline:
    if isinstance(payload, Inline):
        return payload
    if not isinstance(payload, Stored):
        raise ResultNotLoaded("its value was not kept")
    if payload.digest in lent:
        return inline_of(payload, lent[payload.digest])
    return (await read_stored(log, [payload]))[payload.digest]


def _are_equal(a: Any, b: Any) -> bool:
    """Whether two values have equal contents; of a dict the order does not count, as in cache keys."""
    try:
        return content_of(a) == content_of(b)
    except NoContent:
        pass
    kind = type(a)
    if kind is not type(b):
        return False
    if kind in (list, tuple):
        return len(a) == len(b) and all(map(_are_equal, a, b))
    if kind is dict:
        typed = [{(type(key), key) for key in side} for side in (a, b)]  # 1 and True are equal
        return typed[0] == typed[1] and all(_are_equal(part, b[key]) for key, part in a.items())
    return identical(a, b) or _are_equal_tables(a, b)


def _are_equal_tables(a: Any, b: Any) -> bool:
    """Return whether data frames or series are equal, in any layout of their columns in memory."""
    equals = getattr(a, "equals", None)
    return callable(equals) and equals(b) is True and identical(_labels(a), _labels(b))


def _labels(table: Any) -> list[Any]:
    """Return the labels of a table, which the `equals` of pandas does not compare."""
    axes = [getattr(table, axis, None) for axis in ("index", "columns")]
    names = [list(getattr(axis, "names", ())) for axis in axes]
    kinds = [str(getattr(axis, "dtype", "")) for axis in axes]
    return [names, kinds, str(getattr(table, "name", "")), dict(getattr(table, "attrs", None) or {})]
