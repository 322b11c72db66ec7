"""A declared type as data: the names of its fields, their order, and their defaults.

Bytes of a declared type say nothing of it, and a pickle names its classes only.  So a description is recorded
beside them, and a value is opened only while the type of today has the same one.  Its digest is its identity;
messages, previews and forms are made from it.

    Type           an expression: `list[shop:Order] | None`
    ClassDef       a class that has something inside: its fields, or the members of an enum
    Description    a type, with every class that it reaches, each once, so that recursion needs no nesting
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec

from eventflow.codecs.digests import digest_of
from eventflow.result import DeserializationError

__all__ = ["ClassDef", "Description", "Difference", "FieldDef", "Type", "TypeChanged", "differences"]


class TypeChanged(DeserializationError):
    """A value was kept when its type was another one, so it might be read as something else; it was not opened."""

    def __init__(self, what: str, differences: tuple[Difference, ...]) -> None:
        super().__init__(what)
        self.what = what
        self.differences = differences
        """The differences between the two types."""

    def __str__(self) -> str:
        if not self.differences:
            return self.what
        rows = [f"\n  {row.name}: {row.then} → {row.now}" for row in self.differences]
        return f"{self.what}:{''.join(rows)}"

    def __reduce__(self) -> tuple[object, ...]:
        return TypeChanged, (self.what, self.differences)


class Type(msgspec.Struct, frozen=True, omit_defaults=True):
    """A type expression."""

    name: str
    """`int`, `list`, `module:QualName`; or `union`, `literal`, `annotated`, `arguments` (of a callable)."""
    args: tuple[Type, ...] = ()
    marks: tuple[str, ...] = ()
    """The values of a `literal`, the constraints of an `annotated`, as text."""

    def text(self, *, full: bool = False) -> str:
        """As people write it; with `full` the names have their modules."""
        args = [arg.text(full=full) for arg in self.args]
        match self.name:
            case "union":
                return " | ".join(args)
            case "literal":
                return f"Literal[{', '.join(self.marks)}]"
            case "annotated":
                return f"Annotated[{', '.join([*args, *self.marks])}]"
            case "arguments":
                return f"[{', '.join(args)}]"
        name = self.name
        if not full:
            name = _without_module(name)
        if not args:
            return name
        return f"{name}[{', '.join(args)}]"


class FieldDef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field of a class, or a member of an enum."""

    name: str
    type: Type
    required: bool = True
    default: str = ""
    """The value of a field that is not given, as text; of a member, its value."""
    wire: str = ""
    """The name under which it is written; empty if it is its own."""


class ClassDef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A class with its fields."""

    name: str
    """`module:QualName`; unlike classes of one name in one description are numbered: `module:QualName#2`."""
    kind: str
    """`struct`, `dataclass`, `attrs`, `namedtuple`, `typeddict`, `enum`, `model` (pydantic), `class` (any other),
    `newtype`, `alias`, `typevar`."""
    fields: tuple[FieldDef, ...] = ()
    """In order."""
    options: tuple[str, ...] = ()
    """Other properties that count on the wire, e.g. `array_like`."""
    schema: str = ""
    """JSON schema of a pydantic class."""


class Description(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """A declared type with all classes that it reaches, in the order in which they are met."""

    type: Type
    classes: tuple[ClassDef, ...] = ()

    @cached_property
    def digest(self) -> bytes:
        """Its identity: the digest of its MessagePack."""
        return digest_of(msgspec.msgpack.encode(self))


class Difference(msgspec.Struct, frozen=True):
    """One difference between two descriptions."""

    name: str
    """`Order.price`, `Order` or `type`."""
    then: str
    now: str


_ABSENT = "(not there)"


def _without_module(name: str) -> str:
    return name.rpartition(":")[2]


def differences(then: Description | None, now: Description | None) -> tuple[Difference, ...]:
    """Return the differences between two descriptions, in words; None is a type that was not declared."""
    if then is None or now is None:
        if then is now:
            return ()
        return (Difference("type", _declared(then), _declared(now)),)
    rows: list[Difference] = []
    if then.type != now.type:
        rows.append(_type_difference("type", then.type, now.type))
    before = {described.name: described for described in then.classes}
    after = {described.name: described for described in now.classes}
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            rows += class_differences(before[name], after[name])
    if not rows and then != now:
        rows.append(Difference("type", _names(before), _names(after)))
    return tuple(rows)


def class_differences(then: ClassDef | None, now: ClassDef | None) -> Iterator[Difference]:
    """Yield the differences between two forms of one class; None is a class without a description."""
    if then is None:
        if now is not None:
            yield Difference(_without_module(now.name), "nothing declared", now.kind)
        return
    if now is None:
        yield Difference(_without_module(then.name), then.kind, "nothing declared")
        return
    label = _without_module(now.name)
    if then.kind != now.kind:
        yield Difference(label, then.kind, now.kind)
    before = {field.name: field for field in then.fields}
    after = {field.name: field for field in now.fields}
    for name in dict.fromkeys((*before, *after)):
        was, became = before.get(name), after.get(name)
        if was != became:
            yield _field_difference(f"{label}.{name}", was, became)
    if [name for name in before if name in after] != [name for name in after if name in before]:
        yield Difference(f"{label} (order)", ", ".join(before), ", ".join(after))
    if then.options != now.options:
        yield Difference(
            f"{label} (form)", ", ".join(then.options) or "plain", ", ".join(now.options) or "plain"
        )
    if then.schema != now.schema and before == after:
        yield _schema_difference(f"{label} (schema)", then.schema, now.schema)


def _type_difference(label: str, then: Type, now: Type) -> Difference:
    if then.text() != now.text():
        return Difference(label, then.text(), now.text())
    return Difference(label, then.text(full=True), now.text(full=True))


def _field_difference(label: str, then: FieldDef | None, now: FieldDef | None) -> Difference:
    short = _field(then, full=False), _field(now, full=False)
    if short[0] != short[1]:
        return Difference(label, *short)
    return Difference(label, _field(then, full=True), _field(now, full=True))


def _field(field: FieldDef | None, *, full: bool) -> str:
    if field is None:
        return _ABSENT
    parts = [field.type.text(full=full)]
    if field.default:
        parts.append(f"= {field.default}")
    elif not field.required:
        parts.append("optional")
    if field.wire:
        parts.append(f"written as {field.wire!r}")
    return " ".join(parts)


def _declared(description: Description | None) -> str:
    if description is None:
        return "not declared"
    return description.type.text()


def _names(classes: Mapping[str, ClassDef]) -> str:
    return ", ".join(classes) or "no classes"


def _schema_difference(label: str, then: str, now: str) -> Difference:
    """Return the first difference between two texts, with a little around it."""
    at = 0
    for a, b in zip(then, now, strict=False):
        if a != b:
            break
        at += 1
    begin = max(0, at - 12)
    return Difference(label, _excerpt(then, begin), _excerpt(now, begin))


def _excerpt(schema: str, begin: int) -> str:
    if not schema:
        return "none"
    return f"…{schema[begin : begin + 40]}…"
