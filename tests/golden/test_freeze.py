"""Format 1 is frozen: an optional field may be appended, a kind may be added, and nothing else may change."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from eventflow.events import TaskFailed, TaskSkipped
from eventflow.logs.sqlite.schema import SCHEMA, check_schema
from eventflow.records import LogDamaged
from tests.golden.schema import CLOSED, FILE, NOT_FROZEN, STRUCTS, changes, format_of_today, of_struct

FROZEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_the_format_of_today_is_the_one_that_is_frozen() -> None:
    """Every struct, table, number and codec; `python -m tests.golden.schema` writes down what is allowed and new."""
    now = format_of_today()
    assert changes(FROZEN, now) == []
    assert now == FROZEN, "run: python -m tests.golden.schema"


def field(name: str, *, absent: str | None = "None", kind: str = "int | None") -> dict[str, Any]:
    """A field of a struct."""
    return {"name": name, "type": kind, "absent": absent}


Change = Callable[[dict[str, Any]], object]


def fields(of: str) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """The fields of one struct."""
    return lambda now: now["structs"][of]["fields"]


ALLOWED: dict[str, Change] = {
    "an appended optional field": lambda now: fields("task_failed")(now).append(field("host")),
    "two of them": lambda now: fields("run_started")(now).extend((field("a"), field("b"))),
    "one of a map": lambda now: fields("ClassDef")(now).append(field("notes", absent="()")),
    "a new kind": lambda now: now["structs"].update(moon_rose={**now["structs"]["task_skipped"], "tag": "moon_rose"}),
    "a new table of a later version": lambda now: now["tables"].update({"table x_moon": "CREATE TABLE x_moon (a)"}),
    "a new extension": lambda now: now["numbers"].update({"extension FRACTION": 19}),
    "a new codec": lambda now: now["codecs"].append("arrow"),
    "a part that is not frozen yet": lambda now: fields("task")(now).insert(1, field("trigger", absent=None)),
}  # fmt: skip

REFUSED: dict[str, Change] = {
    "an appended required field": lambda now: fields("task_failed")(now).append(field("host", absent=None)),
    "a field in front": lambda now: fields("task_failed")(now).insert(0, field("host")),
    "a field in the middle": lambda now: fields("task_failed")(now).insert(3, field("host")),
    "a field less": lambda now: fields("task_failed")(now).pop(),
    "the first field less": lambda now: fields("task_failed")(now).pop(0),
    "another order": lambda now: fields("Failure")(now).reverse(),
    "another name": lambda now: fields("run_released")(now)[1].update(name="why"),
    "another type": lambda now: fields("task_mapped")(now)[2].update(type="str"),
    "other bounds": lambda now: fields("task_mapped")(now)[2].update(type="Annotated[int, ge=0]"),
    "another word in a closed list": lambda now: fields("run_finished")(now)[1].update(type="Literal['success', 'lost']"),
    "another member of a union": lambda now: fields("task_succeeded")(now)[3].update(type="Inline | Stored"),
    "another default": lambda now: fields("run_finished")(now)[2].update(absent="'done'"),
    "required by now": lambda now: fields("run_finished")(now)[2].update(absent=None),
    "a map for an array": lambda now: now["structs"]["Origin"].update(form="map"),
    "a map that writes defaults": lambda now: now["structs"]["Type"].update(form="map"),
    "another tag": lambda now: now["structs"]["stored"].update(tag="kept"),
    "unknown fields are refused": lambda now: now["structs"]["Failure"].update(strict=True),
    "a kind less": lambda now: now["structs"].pop("task_abandoned"),
    "a field of the envelope": lambda now: fields("envelope")(now).append(field("host")),
    "an array in digests that grows": lambda now: fields("ref")(now).append(field("half")),
    "another column": lambda now: now["tables"].update({"table event": now["tables"]["table event"].replace("crc", "sum")}),
    "a table less": lambda now: now["tables"].pop("table pruned"),
    "an index less": lambda now: now["tables"].pop("index event_key"),
    "a trigger less": lambda now: now["tables"].pop("trigger event_is_immutable"),
    "a new table": lambda now: now["tables"].update({"table moon": "CREATE TABLE moon (a)"}),
    "another number of an extension": lambda now: now["numbers"].update({"extension SET": 30}),
    "another number of the format": lambda now: now["numbers"].update(user_version=2),
    "a codec less": lambda now: now["codecs"].remove("tagged"),
    "another digest": lambda now: now.update(digest="blake2b-128"),
}  # fmt: skip

LATER = (
    "CREATE TABLE x_moon (a INTEGER PRIMARY KEY, b TEXT UNIQUE) STRICT",
    "CREATE TABLE x_moon(a INTEGER) STRICT",
    "CREATE INDEX x_kind ON event (kind, position)",
    "CREATE INDEX x_kind ON event(kind,position)",
)
NOT_LATER = (
    "CREATE INDEX idx_version ON event (version)",
    "CREATE TABLE max_width (a INTEGER) STRICT",
    "CREATE TABLE x_moon (a INTEGER PRIMARY KEY AUTOINCREMENT)",
    "CREATE UNIQUE INDEX x_version ON event (version, kind)",
    "CREATE INDEX x_version ON event (version) WHERE kind = 1",
    "CREATE INDEX x_version ON event (length(body))",
    "CREATE TRIGGER x_added AFTER INSERT ON event BEGIN DELETE FROM value; END",
    "CREATE VIEW x_all AS SELECT 1 AS a",
)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_an_older_reader_can_do_without_is_allowed(name: str) -> None:
    """It passes over fields at the end, and knows of kinds and tables that it does not know."""
    now = deepcopy(FROZEN)
    ALLOWED[name](now)
    assert now != FROZEN
    assert changes(FROZEN, now) == []


@pytest.mark.parametrize("statement", [*LATER, *NOT_LATER])
def test_what_may_be_added_to_the_tables_is_what_a_reader_passes_over(statement: str) -> None:
    """The check of a file, which every reader of this format makes, and the freeze agree about each statement."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA.read_text(encoding="utf-8"))
        connection.execute(statement)
        parts = connection.execute("SELECT type, name, sql FROM sqlite_schema")
        now = {**FROZEN, "tables": {f"{kind} {name}": text for kind, name, text in parts}}
        if statement in LATER:
            assert changes(FROZEN, now) == []
            check_schema(connection, FILE)
            return
        assert changes(FROZEN, now)
        with pytest.raises(LogDamaged):
            check_schema(connection, FILE)


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_change_is_refused(name: str) -> None:
    """With one line for each thing that changed."""
    now = deepcopy(FROZEN)
    REFUSED[name](now)
    assert changes(FROZEN, now), name


def test_a_changed_struct_is_seen_in_the_code_itself() -> None:
    """Not only in the data: a class with a field more, or with one of another type, is described as such."""
    then = {**FROZEN, "structs": {"task_skipped": FROZEN["structs"]["task_skipped"]}}

    class Appended(TaskSkipped, frozen=True, kw_only=True, array_like=True, tag="task_skipped"):
        until: int | None = None

    class Required(TaskSkipped, frozen=True, kw_only=True, array_like=True, tag="task_skipped"):
        until: int

    class Retyped(TaskSkipped, frozen=True, kw_only=True, array_like=True, tag="task_skipped"):
        reason: int  # type: ignore[assignment]

    for kind, count in ((TaskSkipped, 0), (Appended, 0), (Required, 1), (Retyped, 1), (TaskFailed, 4)):
        now = {**then, "structs": {"task_skipped": of_struct(kind)}}
        assert len(changes(then, now)) >= count
        assert bool(changes(then, now)) == bool(count), kind


def test_names_of_the_lists_are_those_of_structs() -> None:
    """Nothing is called closed or open by a name that is misspelt."""
    assert STRUCTS.keys() >= NOT_FROZEN | CLOSED
    assert FROZEN["structs"].keys() >= STRUCTS.keys() - NOT_FROZEN
    assert all(issubclass(kind, msgspec.Struct) for kind in STRUCTS.values())
