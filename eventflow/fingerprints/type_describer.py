"""Describe types: from a declared type to the data of `type_defs`.

The same type has the same description in every process and Python version.  Members and fields come with all
that decides how bytes open or how a gap is filled: order, names on the wire, defaults by content.  Methods,
validators and converters are code, and no part of it.

Classes of the standard library are known by their names, for its enums grow with Python.  So is a class that
pickles itself (`__reduce__`, `__getstate__` …) and declares no fields: its format is its own affair.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from json import dumps
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    ForwardRef,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from weakref import WeakKeyDictionary

import msgspec

from eventflow.fingerprints.content import NoContent, content_of, full_name
from eventflow.fingerprints.type_defs import ClassDef, Description, FieldDef, Type

__all__ = ["class_def", "describe"]


def describe(declared: Any) -> Description | None:
    """The description of a declared type; None for `Any`, which declares nothing."""
    if declared is Any:
        return None
    is_class = isinstance(declared, type) and get_origin(declared) is None
    if is_class and declared in _described:
        return _described[declared]
    describer = _Describer()
    outer = describer.expression(declared)
    description = Description(outer, tuple(form for form in describer.classes.values() if form is not None))
    if is_class and describer.is_resolved:  # else a name in it may be defined later
        _described[declared] = description
    return description


_described: Final[WeakKeyDictionary[type, Description]] = WeakKeyDictionary()
"""Many tasks declare one class."""


@lru_cache(maxsize=2048)
def class_def(kind: type) -> ClassDef | None:
    """Return the form of one class, with other classes by name only; None if it declares nothing."""
    return _Describer(deep=False).inside(kind, full_name(kind))


_UNIONS: Final = (Union, types.UnionType)
_SCALARS: Final = (types.NoneType, bool, int, float, str, bytes)
_TEXT_MAX: Final = 60
_OWN_PICKLING: Final = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs_ex__")
_STANDARD: Final = str(enum.__file__).rpartition("enum")[0]
"""Where the standard library is."""


_Field = tuple[str, bool, str, str]
"""A field: its name, whether it is required, its default, and its name on the wire."""


class _Describer:
    """One description as it grows: the classes that were met, under names that tell them apart."""

    def __init__(self, *, deep: bool = True) -> None:
        self._deep = deep
        self._names: dict[int, str] = {}
        self._met: list[Any] = []  # kept, for they are known by their identity
        self.classes: dict[str, ClassDef | None] = {}
        self.is_resolved = True

    def expression(self, declared: Any) -> Type:  # noqa: PLR0911 - one return for each form
        """The expression of a type."""
        if declared is None or declared is types.NoneType:
            return Type("None")
        if declared is ...:
            return Type("...")
        origin, args = get_origin(declared), get_args(declared)
        if origin is Annotated:
            return Type("annotated", (self.expression(args[0]),), tuple(map(_mark, args[1:])))
        if origin is Literal:
            return Type("literal", (), tuple(map(value_text, args)))
        if origin in _UNIONS:
            return Type("union", tuple(map(self.expression, args)))
        if origin is not None:
            return Type(self._named(origin), tuple(map(self.expression, args)))
        if isinstance(declared, list | tuple):
            return Type("arguments", tuple(map(self.expression, declared)))
        if isinstance(declared, str | ForwardRef):
            self.is_resolved = False
            text = declared if isinstance(declared, str) else declared.__forward_arg__
            return Type(ascii(text))
        return Type(self._named(declared))

    def _named(self, thing: Any) -> str:
        """Return the name of a class, NewType, alias or type variable, and put its form into the table."""
        if id(thing) in self._names:
            return self._names[id(thing)]
        base = name = _name_of(thing)
        count = 1
        while name in self.classes:
            count += 1
            name = f"{base}#{count}"
        self._names[id(thing)] = name
        self._met.append(thing)
        if self._deep and not _is_standard(thing):
            self.classes[name] = None  # keeps its place in the order; it may contain itself
            form = self.inside(thing, name)
            if form is None:
                del self.classes[name]
            else:
                self.classes[name] = form
        return name

    def inside(self, thing: Any, name: str) -> ClassDef | None:
        """Return the form of a class of data, a NewType, an alias or a type variable; None for anything else."""
        if _is_standard(thing):
            return None
        if not isinstance(thing, type):
            kind, fields = self._behind(thing)
            if not fields:
                return None
            return ClassDef(name, kind, fields)
        for test, kind, make in _KINDS:
            if test(thing):
                fields = tuple(make(self, thing))
                if kind == "class" and not fields:
                    return None
                options = _options(thing, kind)
                if not self._deep:
                    options += _pickling_hooks(thing)
                return ClassDef(name, kind, fields, tuple(options), _schema(thing))
        return None

    def _behind(self, thing: Any) -> tuple[str, tuple[FieldDef, ...]]:
        """Return the kind of a NewType, an alias or a type variable, and the type that it means."""
        for part, kind in (("__supertype__", "newtype"), ("__value__", "alias"), ("__bound__", "typevar")):
            meaning = getattr(thing, part, None)
            if meaning is not None:
                return kind, (FieldDef(part.strip("_"), self.expression(meaning)),)
        bounds = getattr(thing, "__constraints__", ())
        return "typevar", tuple(FieldDef(str(i), self.expression(bound)) for i, bound in enumerate(bounds))

    def fields(self, kind: type, fields: Iterator[_Field]) -> Iterator[FieldDef]:
        """Yield the fields of a class, with their declared types."""
        hints = hints_of(kind)
        for name, required, default, wire in fields:
            declared = Type("Any")
            if name in hints:
                declared = self.expression(hints[name])
            if wire == name:
                wire = ""  # noqa: PLW2901 - the form of a field that is written under its own name
            yield FieldDef(name, declared, required, default, wire)

    def members(self, kind: type) -> Iterator[FieldDef]:
        """The members of an enum, aliases included, as they are numbered or named."""
        for name, member in dict(kind.__members__).items():  # type: ignore[attr-defined]
            value = member._value_
            yield FieldDef(name, Type(_name_of(type(value))), True, value_text(value))


def _struct(kind: Any) -> Iterator[_Field]:
    for field in msgspec.structs.fields(kind):
        yield field.name, field.required, _default(field.default, field.default_factory), field.encode_name


def _dataclass(kind: Any) -> Iterator[_Field]:
    for field in dataclasses.fields(kind):
        default = _default(field.default, field.default_factory)
        yield _field_in_init(field, default)


def _attrs(kind: Any) -> Iterator[_Field]:
    for field in kind.__attrs_attrs__:
        value, factory = field.default, getattr(field.default, "factory", None)
        if factory is not None:
            value = dataclasses.MISSING
        yield _field_in_init(field, _default(value, factory))


def _field_in_init(field: Any, default: str) -> _Field:
    """Return a field of a dataclass or an attrs class; its default says whether `__init__` takes it."""
    required = not default
    if not field.init:
        default = f"{default} (not in init)"
    return field.name, required, default, field.name


def _named_tuple(kind: Any) -> Iterator[_Field]:
    defaults = kind._field_defaults
    for name in kind._fields:
        if name in defaults:
            yield name, False, value_text(defaults[name]), name
        else:
            yield name, True, "", name


def _typed_dict(kind: Any) -> Iterator[_Field]:
    for name in hints_of(kind):
        yield name, name in kind.__required_keys__, "", name


def _model(kind: Any) -> Iterator[_Field]:
    for name, field in kind.model_fields.items():
        required = field.is_required()
        default = ""
        if not required:
            default = _default(field.default, field.default_factory)
        aliases = (field.alias, field.validation_alias, field.serialization_alias)
        wires = [alias if isinstance(alias, str) else value_text(alias) for alias in aliases if alias]
        yield name, required, default, ", ".join(dict.fromkeys(wires)) or name


def _plain(kind: type) -> Iterator[_Field]:
    """Yield the visible fields of a class that declares none: annotations, slots, data among its attributes."""
    bases = [base for base in kind.__mro__ if base is not object and not _is_standard(base)]
    names: dict[str, tuple[bool, str]] = {}
    for base in reversed(bases):
        own = vars(base)
        slots = own.get("__slots__", ())
        if isinstance(slots, str):
            slots = (slots,)
        for name in slots:
            names.setdefault(name, (True, ""))
        annotations = own.get("__annotations__", {})
        for name in annotations:
            if name in own:
                names[name] = (False, _class_default(own[name]))
            else:
                names[name] = (True, "")
        for name, part in own.items():
            if not name.startswith("_") and _is_data(part) and name not in annotations:
                names[name] = (False, "")  # not its value, which may count or cache something
    for name, (required, default) in names.items():
        if name not in {"__dict__", "__weakref__"}:
            yield name, required, default, name


def _class_default(part: object) -> str:
    """Return the default that an annotated class attribute gives to instances; its type if it may change."""
    if type(part) in _SCALARS or isinstance(part, enum.Enum):
        return value_text(part)
    return _name_of(type(part))


def _is_data(part: object) -> bool:
    """Whether a class attribute is a value that instances without one of their own show."""
    return not callable(part) and not hasattr(type(part), "__get__")


def _pickles_itself(kind: type) -> bool:
    """Whether a class, or a base of it that does not come with Python, says how it is pickled."""
    bases = [base for base in kind.__mro__ if not _is_standard(base)]
    return any(not vars(base).keys().isdisjoint(_OWN_PICKLING) for base in bases)


def _pickling_hooks(kind: type) -> Iterator[str]:
    """The methods that take part in pickling, and the module that wrote them if it was not the class's author.

    `@dataclass(frozen=True, slots=True)` adds `__setstate__`.  It takes a list of values; the attributes of the class
    without slots are a dict, and of a dict it would take the keys for the values.
    """
    for name in _OWN_PICKLING:
        base = next((base for base in kind.__mro__ if name in vars(base)), object)
        if not _is_standard(base):
            author = getattr(vars(base)[name], "__module__", None)
            if author == base.__module__:
                yield name
            else:
                yield f"{name} by {author}"


_Make = Callable[[_Describer, Any], Iterator[FieldDef]]


def _fields_by(fields_of: Callable[[Any], Iterator[_Field]]) -> _Make:
    return lambda describer, kind: describer.fields(kind, fields_of(kind))


_KINDS: Final[tuple[tuple[Callable[[Any], bool], str, _Make], ...]] = (
    (lambda kind: issubclass(kind, enum.Enum), "enum", _Describer.members),
    (lambda kind: issubclass(kind, msgspec.Struct), "struct", _fields_by(_struct)),
    (dataclasses.is_dataclass, "dataclass", _fields_by(_dataclass)),
    (lambda kind: hasattr(kind, "__attrs_attrs__"), "attrs", _fields_by(_attrs)),
    (is_typeddict, "typeddict", _fields_by(_typed_dict)),
    (lambda kind: issubclass(kind, tuple) and hasattr(kind, "_field_defaults"), "namedtuple", _fields_by(_named_tuple)),
    (lambda kind: hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_fields"), "model", _fields_by(_model)),
    (lambda kind: not _pickles_itself(kind), "class", _fields_by(_plain)),
)  # fmt: skip


def _options(kind: Any, described_as: str) -> list[str]:
    """Return the other properties that decide how a class is written or read."""
    options: list[str] = []
    if described_as == "struct":
        config = kind.__struct_config__
        if config.tag is not None:
            options.append(f"tag {config.tag_field}={config.tag!r}")
        flags = ("array_like", "omit_defaults", "forbid_unknown_fields")
        options += [name for name in flags if getattr(config, name)]
    elif described_as == "enum":
        member = kind._member_type_
        if member is not object:
            options.append(f"of {_name_of(member)}")
        if issubclass(kind, enum.Flag):
            options.append("flag")
    elif described_as == "typeddict" and not kind.__total__:
        options.append("total=False")
    return options


def _schema(kind: Any) -> str:
    """The JSON schema of a pydantic class, without the parts that are only for people."""
    if not hasattr(kind, "__pydantic_core_schema__"):
        return ""
    try:
        if hasattr(kind, "model_json_schema"):
            schema = kind.model_json_schema()
        else:
            schema = sys.modules["pydantic"].TypeAdapter(kind).json_schema()
    except Exception:  # noqa: BLE001 - a type that has no JSON form, or a hook of the user's own
        return ""
    return dumps(_without_prose(schema), sort_keys=True, separators=(",", ":"), default=value_text)


def _without_prose(schema: Any, *, named: bool = False) -> Any:
    """A schema without titles and descriptions; `named` are mappings whose keys are names of fields."""
    if isinstance(schema, list):
        return [_without_prose(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {}
    for key, part in schema.items():
        if named:
            bare[key] = _without_prose(part)
        elif key not in ("title", "description", "examples"):
            bare[key] = _without_prose(part, named=key in ("properties", "$defs"))
    return bare


# ── names and values as text ─────────────────────────────────────────────────────────────────────────────────


def value_text(value: object) -> str:
    """A value in a few words that are the same everywhere; only its type, where it might be anything."""
    kind = type(value)
    if kind in _SCALARS or (kind in (list, dict, tuple, set) and not value):
        short = "set()" if kind is set else _ascii(value)
        if len(short) <= _TEXT_MAX:
            return short
    try:
        content = content_of(value).hex()[:16]
    except NoContent:
        return _name_of(kind)
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value._name_} {content}"
    return f"{kind.__qualname__} {content}"


def _ascii(value: object) -> str:
    try:
        return ascii(value)
    except ValueError:  # an integer of more digits than the interpreter writes
        return " " * (_TEXT_MAX + 1)


_NO_DEFAULT: Final = (msgspec.NODEFAULT, dataclasses.MISSING)


def _default(value: object, factory: Any) -> str:
    """A default by its content, or the factory that makes it; empty when there is none."""
    if factory is not None and not any(factory is none for none in _NO_DEFAULT):
        return _factory(factory)
    if any(value is none for none in _NO_DEFAULT) or _name_of(type(value)) == "attr._make:_Nothing":
        return ""
    return value_text(value)


def _factory(factory: Any) -> str:
    """Return a factory by its name, and by the constants of its code, for a lambda has no name of its own."""
    name = _name_of(factory if hasattr(factory, "__qualname__") else type(factory))
    code = getattr(factory, "__code__", None)
    if code is None:
        return f"{name}()"
    constants = [part for part in code.co_consts if part is not None and part != factory.__doc__]
    texts = sorted(set(map(value_text, constants)))
    return f"{name}({', '.join([*sorted(code.co_names), *texts])})"


def _mark(mark: object) -> str:
    """A constraint."""
    if isinstance(mark, msgspec.Meta):
        return repr(mark).removeprefix("msgspec.").removeprefix("Meta(").removesuffix(")")
    return value_text(mark)


def _name_of(thing: Any) -> str:
    """`module:QualName`; of a builtin the name alone."""
    if isinstance(thing, type) or hasattr(thing, "__qualname__"):
        if thing.__module__ == "builtins":
            return str(thing.__qualname__)
        return full_name(thing)
    name = getattr(thing, "__name__", None)
    if hasattr(thing, "__bound__") or hasattr(thing, "__constraints__"):  # a type variable
        return f"~{name}"
    if isinstance(name, str):
        return f"{getattr(thing, '__module__', 'typing')}:{name}"
    if type(thing).__module__ == "typing":
        return str(thing).rpartition(".")[2]
    return _name_of(type(thing))


def _is_standard(thing: Any) -> bool:
    """Whether something comes with Python, so that its name says enough."""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or module == "builtins":
        return isinstance(thing, type) or not hasattr(thing, "__supertype__")
    if not isinstance(thing, type) and hasattr(thing, "__bound__"):  # a type variable is its author's
        return False
    top = module.partition(".")[0]
    if top == "msgspec":
        return True
    return top in sys.stdlib_module_names and _is_of_python(top) and _is_where_named(module, thing)


def _is_where_named(module: str, thing: Any) -> bool:
    """Whether a class is where its name says; a class made by `make_dataclass` is not."""
    if not isinstance(thing, type):
        return True
    target: Any = sys.modules.get(module)
    for part in thing.__qualname__.split("."):
        target = getattr(target, part, None)
    return target is thing


@lru_cache(maxsize=512)
def _is_of_python(top: str) -> bool:
    """Whether the module of that name is Python's own, not a file of the user's that is called the same."""
    file = getattr(sys.modules.get(top), "__file__", None)
    return not file or (file.startswith(_STANDARD) and "-packages" not in file)


def hints_of(kind: type) -> Mapping[str, Any]:
    """The declared types of a class's fields, inherited ones first; an annotation that does not resolve is its text."""
    try:
        return _without_class_variables(get_type_hints(kind, include_extras=True))
    except Exception:  # noqa: BLE001 - any expression may stand in an annotation
        hints: dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            scope = vars(sys.modules.get(base.__module__, types.ModuleType("")))
            for name, text in inspect.get_annotations(base).items():
                holder = types.SimpleNamespace(__annotations__={name: text})
                try:
                    hints[name] = get_type_hints(holder, scope, dict(vars(base)), include_extras=True)[name]
                except Exception:  # noqa: BLE001 - this one does not resolve
                    hints[name] = text
        return _without_class_variables(hints)


def _without_class_variables(hints: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        name: hint
        for name, hint in hints.items()
        if hint is not ClassVar and get_origin(hint) is not ClassVar
    }
