"""The digest of a task's code: it shows whether the function of a resumed or cached task is still the same.

It covers the text of the author and the values of the function: signature and body (without decorators, comments,
docstrings and layout), the values of its defaults, its closure and its attributes, and the helpers named in
`depends_on=`.  It does not cover globals; use `depends_on=` and `version=` for these.

Digests of different code must never be equal.  So a part without a sound digest (a list in a closure may change before
the call, an object may be anything) gives no digest, and the reason in words.  A digest is the same in every process:
no addresses, no hash order, no line numbers.
"""

from __future__ import annotations

import ast
import datetime as dt
import enum
import linecache
import os
import types
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

import msgspec

from eventflow.codecs.digests import DIGEST_BYTES
from eventflow.fingerprints.content import NoContent, content_of
from eventflow.fingerprints.script_modules import home_of

__all__ = ["Code", "code_of", "note_source"]


class Code(msgspec.Struct, frozen=True):
    """The digest of a function's code, or the reason why there is none."""

    digest: bytes = b""
    """16 bytes; empty if there is none."""
    reason: str = ""
    """The reason why there is none, in words that follow "its code has no digest because"."""


def code_of(
    fn: types.FunctionType,
    *,
    version: str | None = None,
    depends_on: Sequence[types.FunctionType] = (),
) -> Code:
    """Digest the code of a function and its helpers; a given `version` replaces all of it."""
    if version is not None:
        return Code(_digest(b"version", _utf8(version)))
    parts: list[bytes] = []
    for function in (fn, *depends_on):
        cached = _cached.get(function)
        if cached is None or not cached.is_current():
            cells: _Cells = []
            try:
                cached = _CachedDigest(_digest_of_function(function, [], cells), cells)
            except _Undigestable as why:
                return Code(reason=str(why))
            _cached[function] = cached
        if function is not fn:  # the body calls it by its name
            parts.append(_utf8(function.__name__))
        parts.append(cached.digest)
    if not depends_on:
        return Code(parts[0])
    return Code(_digest(b"code", *parts))


def note_source(fn: types.FunctionType) -> None:
    """Note the time and size of a function's file when it is imported: later edits are not this function's source."""
    _stamps.setdefault(fn, _stamp(fn.__code__.co_filename))


class _CachedDigest:
    """The digest of one function, valid while its parts and closures are unchanged."""

    __slots__ = ("_cells", "digest")

    def __init__(self, digest: bytes, cells: _Cells) -> None:
        self.digest = digest
        self._cells = cells

    def is_current(self) -> bool:
        try:
            return all(getattr(owner, name) is value for owner, name, value in self._cells)
        except ValueError:  # a cell was emptied
            return False


_cached: Final[WeakKeyDictionary[types.FunctionType, _CachedDigest]] = WeakKeyDictionary()
_stamps: Final[WeakKeyDictionary[types.FunctionType, tuple[int, int] | None]] = WeakKeyDictionary()


def _stamp(file: str) -> tuple[int, int] | None:
    """Return the time of change and the size of a file; None if there is no file."""
    try:
        status = os.stat(file)  # noqa: PTH116 - once for every function
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


class _Undigestable(Exception):
    """There is no sound digest; the message is the reason."""


def _digest(*parts: bytes) -> bytes:
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()[:DIGEST_BYTES]


_Cells = list[tuple[Any, str, Any]]
"""The mutable parts of a function that its digest was made of: object, name of the attribute, its value then."""


def _digest_of_function(fn: types.FunctionType, outer: list[types.FunctionType], cells: _Cells) -> bytes:
    """Digest one function; `outer` are the functions in progress, which may refer to each other in a circle."""
    if fn in outer:
        return _digest(b"ring", str(outer.index(fn)).encode())
    chain = [*outer, fn]
    cells += [(fn, name, getattr(fn, name)) for name in ("__code__", "__defaults__", "__kwdefaults__")]
    source = _source_of(fn)
    parts = [_utf8(source.text)]
    defaults = [*enumerate(fn.__defaults__ or ()), *sorted((fn.__kwdefaults__ or {}).items())]
    for key, value in defaults:
        parts += [_utf8(str(key)), _digest_of_value(value, f"a default of {fn.__qualname__!r}", chain, cells)]
    for name, value in sorted(vars(fn).items()):
        if name != "__wrapped__":  # attributes that a decorator set, which the body can read
            label = f"the attribute {name!r} of {fn.__qualname__!r}"
            parts += [_utf8(name), _digest_of_value(value, label, chain, cells)]
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        label = f"the closure variable {name!r} of {fn.__qualname__!r}"
        if name in source.rebound:
            raise _Undigestable(
                f"{label} is rebound (`nonlocal`): return the value, or give the task a version="
            )
        try:
            value = cell.cell_contents
        except ValueError:
            raise _Undigestable(f"{label} has no value yet: define it before the flow is built") from None
        cells.append((cell, "cell_contents", value))
        parts += [_utf8(name), _digest_of_value(value, label, chain, cells)]
    return _digest(b"function", *parts)


# ── source ───────────────────────────────────────────────────────────────────────────────────────────────────

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_DOCUMENTED: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class _Source(NamedTuple):
    text: str
    """Its normal form. The function's own name is no part of it: a renamed copy is the same."""
    rebound: frozenset[str]
    """The outer names that it rebinds."""


class _File:
    """The functions of a file, parsed once, and the normal forms that were made of them."""

    __slots__ = ("_definitions", "_sources", "lines")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self._definitions = _definitions("".join(lines))
        self._sources: dict[types.CodeType, _Source] = {}

    def source_of(self, code: types.CodeType) -> _Source:
        """The source of a function; one code object, as of functions made in a loop, is normalized once."""
        source = self._sources.get(code)
        if source is None:
            source = self._sources[code] = self._find(code)
        return source

    def _find(self, code: types.CodeType) -> _Source:
        nodes = self._definitions.get((code.co_firstlineno, code.co_name), ())
        arguments = _arguments_of_code(code)
        alike = {_normal(node): node for node in nodes if _arguments_of_node(node) == arguments}
        if not alike:
            raise LookupError(code.co_name)  # the file changed after it was imported
        if len(alike) > 1:
            raise _Undigestable(
                f"{code.co_name!r} in line {code.co_firstlineno} is one of several in that line"
            )
        text, node = alike.popitem()
        rebound: set[str] = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Nonlocal):
                rebound.update(inner.names)
        return _Source(text, frozenset(rebound))


_FILES_MAX: Final = 8
_files: Final[dict[str, _File]] = {}
"""The files that functions were last looked for in, by name; the one used last is the last."""


def _file(name: str, lines: list[str]) -> _File:
    """The parsed file of these lines, which `linecache` hands out as one list until the file changes."""
    file = _files.pop(name, None)
    if file is None or file.lines is not lines:
        file = _File(lines)
    _files[name] = file
    if len(_files) > _FILES_MAX:
        del _files[next(iter(_files))]
    return file


def _source_of(fn: types.FunctionType) -> _Source:
    """The source of a function; raises `_Undigestable` if it was not found or is not the imported one any more."""
    code = fn.__code__
    stamp = _stamp(code.co_filename)
    if _stamps.setdefault(fn, stamp) != stamp:
        raise _Undigestable(
            f"{code.co_filename} has changed since {fn.__qualname__!r} was imported: restart the program"
        )
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, fn.__globals__)
    try:
        return _file(code.co_filename, lines).source_of(code)
    except (SyntaxError, ValueError, LookupError):
        raise _Undigestable(
            f"the source of {fn.__qualname__!r} was not found (in {code.co_filename}): put it into a file, or give "
            f"the task a version="
        ) from None


def _definitions(source: str) -> dict[tuple[int, str], list[_Definition]]:
    """Every function of a file by its first line (decorators included, as the interpreter counts) and name."""
    definitions: dict[tuple[int, str], list[_Definition]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Lambda):
            definitions.setdefault((node.lineno, "<lambda>"), []).append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            definitions.setdefault((first, node.name), []).append(node)
    return definitions


def _arguments_of_node(node: _Definition) -> set[str]:
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    return {arg.arg for arg in every if arg is not None}


def _arguments_of_code(code: types.CodeType) -> set[str]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    return set(code.co_varnames[:count])


def _normal(node: _Definition) -> str:
    """Unparsed, which stays the same between Python versions where a dump of the tree would not."""
    tree = ast.parse(ast.unparse(node))  # a copy to change, free of positions
    top = tree.body[0]
    for inner in ast.walk(tree):
        if isinstance(inner, _DOCUMENTED) and ast.get_docstring(inner, clean=False) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef):
        top.name, top.decorator_list = "_", []
        _forget_defaults(top.args)
    elif isinstance(top, ast.Expr) and isinstance(top.value, ast.Lambda):
        _forget_defaults(top.value.args)
    return ast.unparse(tree)


def _forget_defaults(args: ast.arguments) -> None:
    """Keep only the fact of a default: its value is digested, not its source."""
    args.defaults = [ast.Constant(...) for _ in args.defaults]
    for index, default in enumerate(args.kw_defaults):
        if default is not None:
            args.kw_defaults[index] = ast.Constant(...)


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────


def _utf8(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


_CONSTANTS: Final = frozenset({
    bool, int, float, complex, str, bytes, types.NoneType, range, Decimal, UUID,
    dt.date, dt.time, dt.datetime, dt.timedelta, PurePosixPath, PureWindowsPath, PosixPath, WindowsPath,
})  # fmt: skip
"""Immutable types that have a content; so have enums, tuples and frozen sets, if their members are immutable too."""
_BY_REPR: Final = (types.EllipsisType, Fraction, dt.timezone)
"""Immutable types without a content, whose text distinguishes every two values and is the same everywhere."""
_CHANGEABLE: Final = (list, dict, set, bytearray)


def _digest_of_value(value: Any, label: str, chain: list[types.FunctionType], cells: _Cells) -> bytes:
    """Digest a value of a function by type and content."""
    kind = type(value)
    if kind is types.FunctionType:
        return _digest_of_function(value, chain, cells)
    return _digest(
        _utf8(f"{home_of(kind)}.{kind.__qualname__}"), *_parts_of_value(value, kind, label, chain, cells)
    )


def _parts_of_value(
    value: Any, kind: type, label: str, chain: list[types.FunctionType], cells: _Cells
) -> Iterator[bytes]:
    if kind in _CONSTANTS:
        try:
            yield content_of(value)
        except NoContent:  # a zone of an unknown kind
            raise _Undigestable(_why_undigestable(value, label)) from None
    elif kind in _BY_REPR:
        yield repr(value).encode()
    elif kind is tuple:
        yield from [_digest_of_value(item, label, chain, cells) for item in value]
    elif kind is frozenset:
        yield from sorted(_digest_of_value(item, label, chain, cells) for item in value)
    elif isinstance(value, enum.Enum):
        yield _utf8(str(value.name))
        yield _digest_of_value(value.value, label, chain, cells)
    elif kind is types.ModuleType:
        yield _utf8(value.__name__)
    elif kind is types.BuiltinFunctionType and isinstance(value.__self__, types.ModuleType):
        yield _utf8(f"{value.__self__.__name__}.{value.__qualname__}")
    else:
        raise _Undigestable(_why_undigestable(value, label))


def _why_undigestable(value: object, label: str) -> str:
    fix = "pass it as an argument, or give the task a version="
    if isinstance(value, _CHANGEABLE):
        return f"{label} is a {type(value).__name__}, which may change: use a tuple or frozenset, {fix}"
    return f"{label} is a {type(value).__qualname__}, whose content is not known: {fix}"
