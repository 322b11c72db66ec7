"""`eventflow cache`: what is cached, what that saved, and why a task ran all the same."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.commands import command, document

CACHED = """
from eventflow import flow, inputs, parameters, task

class Model:
    pass

@task
def rows(day: str) -> dict[str, list[int]]:
    return {"rows": [len(day), 2]}

@task(cache_for=3600)
def enrich(found: dict[str, list[int]], factor: int = 2) -> list[int]:
    return [row * factor for row in found["rows"]]

@task(cache_on=inputs("row") | parameters("day"))
def score(row: int) -> int:
    return row * 10

@task
def model() -> Model:
    return Model()

@task(cache_on=inputs())
def use(model: Model) -> int:
    return 1

@flow
def nightly(day: str, factor: int = 2) -> list[int]:
    use(model())
    return score.map(enrich(rows(day), factor))
"""


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A folder with three runs of a cached flow: a, its repetition b, and c with another parameter."""
    (tmp_path / "cached.py").write_text(CACHED, encoding="utf-8")
    for run_id, words in (("a", ()), ("b", ()), ("c", ("-p", "factor=3"))):
        command("run", "cached.py:nightly", "-p", "day=mon", "--run-id", run_id, "-q", *words, cwd=tmp_path)
    return tmp_path


def test_the_summary_of_a_run_tells_what_was_cached(cached: Path) -> None:
    """How many results were taken, and what that saved."""
    done = command("run", "cached.py:nightly", "-p", "day=mon", cwd=cached)
    assert re.search(r" success, 6 of 6 tasks, 3 cached \(saved [0-9.]+ms\), ", done.stderr)


def test_cache_ls_and_stats(cached: Path) -> None:
    """Entries with the runs that made them; hits, misses by reason, savings."""
    rows = document("cache", "ls", cwd=cached)
    assert {(row["task"], row["run"], row["hits"]) for row in rows} == {
        ("enrich", "a", 1), ("score", "a", 1), ("score", "a", 2), ("enrich", "c", 0), ("score", "c", 0),
    }  # fmt: skip
    assert all(re.fullmatch("[0-9a-f]{32}", row["key"]) for row in rows)
    assert {row["task"]: row["expires_us"] is None for row in rows} == {"enrich": False, "score": True}
    table = command("cache", "ls", cwd=cached).stdout.splitlines()
    assert table[0].split() == [
        "KEY",
        "TASK",
        "FLOW",
        "MADE",
        "BY",
        "HITS",
        "TOOK",
        "BYTES",
        "MADE",
        "EXPIRES",
    ]
    assert len(table) == 1 + len(rows)
    stats = {row["task"]: row for row in document("cache", "stats", cwd=cached)}
    assert {task: (row["hits"], row["misses"]) for task, row in stats.items()} == {
        "enrich": (1, {"new": 2}), "score": (3, {"new": 3}), "use": (0, {"opaque": 3}),
    }  # fmt: skip
    assert "2 new" in command("cache", "stats", cwd=cached).stdout


def test_cache_explain(cached: Path) -> None:
    """A hit with its source, a miss with what differs, what has no key with its place, and what is not cached."""
    assert document("cache", "explain", "b", "enrich", cwd=cached)["source_run"] == "a"
    found = document("cache", "explain", "c", "enrich", cwd=cached)
    assert (found["decision"], found["reason"], found["nearest"]["run"]) == ("miss", "new", "a")
    assert found["differs"] == [{"what": "input 'factor'", "now": "3", "then": "2"}]
    child = command("cache", "explain", "c", "score[0]", cwd=cached).stdout
    assert re.search(r"differs in input 'row'\n    then [46]\n    now  9\n", child)  # two are as near
    assert "argument model is a cached:Model" in command("cache", "explain", "c", "use", cwd=cached).stdout
    assert (
        "neither cache_for, cache_on nor cache_key"
        in command("cache", "explain", "c", "rows", cwd=cached).stdout
    )


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("enrch", 3, "did you mean 'enrich'?"),
        ("score", 2, "'score' is mapped: name one of its children, like 'score[0]'"),
        ("score[9]", 3, "no task 'score[9]'"),
        ("day", 2, "'day' is a parameter"),
    ],
)
def test_cache_explain_of_nothing(cached: Path, task: str, code: int, message: str) -> None:
    """What cannot be explained is said to be so, with what may have been meant."""
    assert message in command("cache", "explain", "c", task, cwd=cached, code=code).stderr


def test_cache_explain_of_edited_code(cached: Path) -> None:
    """Code and declared types are told apart from inputs."""
    file = cached / "cached.py"
    file.write_text(CACHED.replace("row * factor", "row * factor + 0"), encoding="utf-8")
    command("run", "cached.py:nightly", "-p", "day=mon", "--run-id", "d", "-q", cwd=cached)
    assert (
        "  differs in its code or version\n" in command("cache", "explain", "d", "enrich", cwd=cached).stdout
    )
    file.write_text(
        CACHED.replace("-> list[int]:\n    return [row", "-> list:\n    return [row"), encoding="utf-8"
    )
    command("run", "cached.py:nightly", "-p", "day=tue", "--run-id", "e", "-q", cwd=cached)
    said = command("cache", "explain", "e", "enrich", cwd=cached).stdout
    assert "differs in its code or version" in said
    assert "differs in the declared type of its result" in said


def test_a_log_that_cannot_be_written_to_is_still_looked_at(cached: Path) -> None:
    """Tables are folded in memory where they cannot be kept."""
    copy = cached / "copy"
    copy.mkdir()
    for part in (cached / ".eventflow").glob("log.db*"):
        (copy / part.name).write_bytes(part.read_bytes())
    with closing(sqlite3.connect(copy / "log.db", isolation_level=None)) as other:
        other.executescript("DELETE FROM read_row; DELETE FROM read_model;")
    (copy / "log.db").chmod(0o400)
    rows = document("runs", "--log", f"sqlite:///{copy / 'log.db'}", cwd=cached)
    assert {row["run"]: row["tasks"] for row in rows} == {"a": 6, "b": 6, "c": 6}


def test_what_differs_is_seen_however_long_it_is(tmp_path: Path) -> None:
    """Values are cut around the place where they part; what was not given is said so; written ones are shown."""
    (tmp_path / "long.py").write_text(
        "from eventflow import flow, inputs, task\n\n"
        "@task(cache_on=inputs())\n"
        "def work(xs: list[int], how: str = '', more: int = 0) -> int:\n    return len(xs)\n\n"
        "@flow\n"
        "def one(last: int) -> int:\n    return work([*range(100)], 'a')\n\n"
        "@flow\n"
        "def two(last: int) -> int:\n    return work([*range(99), 7], 'b', more=last)\n",
        encoding="utf-8",
    )
    command("run", "long.py:one", "-p", "last=1", "--run-id", "a", "-q", cwd=tmp_path)
    command("run", "long.py:two", "-p", "last=1", "--run-id", "b", "-q", cwd=tmp_path)
    found = document("cache", "explain", "b", "work", cwd=tmp_path)
    parts = {part["what"]: (part["then"], part["now"]) for part in found["differs"]}
    assert parts["input 'how'"] == ("'a'", "'b'")
    assert parts["input 'more'"] == ("(not given)", "1")
    then, now = parts["input 'xs'"]
    assert then.startswith("…")
    assert then.endswith("98, 99]")
    assert now.endswith("98, 7]")


def test_a_hit_says_what_was_the_same(cached: Path) -> None:
    """Not more than what the task is cached on."""
    said = call_explain(cached, "b", "score[0]")
    assert "hit: the code, input 'row', parameter 'day' and the result type are the same" in said


def call_explain(folder: Path, run: str, task: str) -> str:
    """What `eventflow cache explain` says."""
    return command("cache", "explain", run, task, cwd=folder).stdout


def test_events_show_no_raw_bytes(cached: Path) -> None:
    """Digests in hex, decisions in words."""
    for event in document("events", "c", cwd=cached):
        assert not [text for text in map(str, event["details"].values()) if text.startswith(("b'", 'b"'))]
    said = command("events", "b", cwd=cached).stdout
    assert "source=run/a " in said
    assert re.search(r"cache=opaque: argument model is a cached:Model", said)


def test_an_opaque_task_is_told_of_once(cached: Path) -> None:
    """By a warning, so that nobody waits for a hit that cannot be."""
    done = command("run", "cached.py:nightly", "-p", "day=mon", cwd=cached)
    assert done.stderr.count("is not cached: argument model is a cached:Model") == 1
