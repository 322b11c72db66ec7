"""Format 1 as data, and which changes of it an older reader can do without: `python -m tests.golden.schema`.

`format-1/schema.json` is the format that is frozen.  This writes the format of today in its place, if it differs only in
ways that are allowed, and else says why not.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec

from eventflow import events, graph, records
from eventflow.codecs.digests import ALGORITHM
from eventflow.codecs.registry import RESERVED
from eventflow.codecs.tagged import Extension
from eventflow.events import Known
from eventflow.fingerprints import type_defs
from eventflow.fingerprints.type_describer import describe
from eventflow.logs.sqlite.schema import SCHEMA, is_later
from eventflow.result import Payload

__all__ = ["CLOSED", "FILE", "NOT_FROZEN", "STRUCTS", "changes", "format_of_today", "of_struct"]

FILE: Final = Path(__file__).with_name("format-1") / "schema.json"

Struct = type[msgspec.Struct]
STRUCTS: Final[dict[str, Struct]] = {
    "envelope": records._Envelope,
    **{
        str(kind.__struct_config__.tag): kind
        for kind in (
            *get_args(Known),
            *get_args(Payload),
            *get_args(graph.GraphNode),
            *get_args(graph.Arg),
        )
    },
    **{kind.__name__: kind for kind in (events.Origin, events.Failure, events.CacheMiss)},
    **{kind.__name__: kind for kind in (graph.Graph, graph.TaskDef, graph.Policy, graph.CachePolicy)},
    **{kind.__name__: kind for kind in (graph.Input, graph.TypeDef)},
    **{kind.__name__: kind for kind in (type_defs.Type, type_defs.ClassDef, type_defs.FieldDef)},
}
"""Everything that events are made of, by tag, or by name where there is none."""

NOT_FROZEN: Final = frozenset({"Graph", "TaskDef", "Policy", "CachePolicy", "Input", "parameter", "task"})
"""Triggers, cases and limits will still change these parts of `flow_defined`."""

CLOSED: Final = frozenset({"envelope", "const", "ref", "list", "tuple", "dict", "inline"})
"""Arrays that get no more fields: the envelope, and those whose bytes are part of digests."""


def of_struct(kind: Struct) -> dict[str, Any]:
    """A struct as it is on the wire: array or map, tag, and each field with its type and the value if absent."""
    config = kind.__struct_config__
    hints = get_type_hints(kind, include_extras=True)
    return {
        "form": "array" if config.array_like else "map without defaults" if config.omit_defaults else "map",
        "tag": config.tag,
        "tag_field": config.tag_field,
        "strict": config.forbid_unknown_fields,
        "fields": [
            {"name": field.encode_name, "type": _text(hints[field.name]), "absent": _default(field)}
            for field in msgspec.structs.fields(kind)
        ],
    }


def _text(hint: Any) -> str:
    description = describe(hint)
    return "Any" if description is None else description.type.text()


def _default(field: Any) -> str | None:
    """The value of an absent field as text; None for a field that is required."""
    if field.default_factory is not msgspec.NODEFAULT:
        return repr(field.default_factory())
    return None if field.default is msgspec.NODEFAULT else repr(field.default)


def format_of_today() -> dict[str, Any]:
    """The format that this version writes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA.read_text(encoding="utf-8"))
        parts = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")
        tables = {f"{kind} {name}": text for kind, name, text in parts}
        numbers = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        }
    structs = {name: of_struct(kind) for name, kind in STRUCTS.items()}
    structs["envelope"]["fields"][-1]["type"] = "event"  # any kind: new ones may come
    return {
        "structs": structs,
        "tables": tables,
        "numbers": {**numbers, **{f"extension {e.name}": e.value for e in Extension}},
        "codecs": sorted(RESERVED),
        "digest": ALGORITHM,
    }


# ── what may change ──────────────────────────────────────────────────────────────────────────────────────────


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name every change that an older reader cannot do without; none for an appended optional field or a new kind."""
    return [
        *_changed_structs(then["structs"], now["structs"]),
        *_changed(then["tables"], now["tables"], _later_parts(now["tables"])),
        *_changed(then["numbers"], now["numbers"], [n for n in now["numbers"] if n.startswith("extension ")]),
        *(f"codec {name} is gone" for name in set(then["codecs"]) - set(now["codecs"])),
        *([] if then["digest"] == now["digest"] else [f"digests are {now['digest']}"]),
    ]


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], allowed: Collection[str]) -> Iterator[str]:
    """What is gone or another, and what is new without being allowed."""
    for name, value in then.items():
        if name not in now or now[name] != value:
            yield f"{name} is {'another' if name in now else 'gone'}"
    yield from (f"{name} is new" for name in now if name not in then and name not in allowed)


def _later_parts(tables: Mapping[str, str | None]) -> list[str]:
    """The parts of a schema that every reader of format 1 passes over, as the check of a file decides it."""
    return [
        name for name, text in tables.items() if is_later((*name.split(" ", 1), _table_of(name, text), text))
    ]


def _table_of(name: str, text: str | None) -> str:
    """The table that a part belongs to: an index names it, or is that of a constraint and named after it."""
    if text is None:
        return name.removeprefix("index sqlite_autoindex_").rpartition("_")[0]
    return re.sub(r".* ON (\w+).*", r"\1", text, flags=re.DOTALL)


def _changed_structs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, was in then.items():
        if name in NOT_FROZEN:
            continue
        if name not in now:
            yield f"{name} is gone"
        else:
            yield from (f"{name}: {change}" for change in _changed_struct(name, was, now[name]))


def _changed_struct(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    for part in ("form", "tag", "tag_field", "strict"):
        if was[part] != now[part]:
            yield f"{part} was {was[part]!r} and is {now[part]!r}"
    fields, more = now["fields"][: len(was["fields"])], now["fields"][len(was["fields"]) :]
    for then, today in zip(was["fields"], [*fields, *[None] * len(was["fields"])], strict=False):
        if then != today:
            yield f"field {then['name']} was {then} and is {today}"
    for field in more:
        if name in CLOSED:
            yield f"field {field['name']} is new, and this array never grows"
        elif field["absent"] is None:
            yield f"field {field['name']} is new and required"


def main() -> int:
    """Write the format of today, unless a change is refused."""
    now = format_of_today()
    refused = changes(json.loads(FILE.read_text(encoding="utf-8")), now) if FILE.exists() else []
    for change in refused:
        print(change, file=sys.stderr)  # noqa: T201 - a command prints
    if not refused:
        FILE.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(refused)


if __name__ == "__main__":
    sys.exit(main())
