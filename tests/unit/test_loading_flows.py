"""Flows are loaded by module or file and name, or by the entry that a run recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventflow.authoring.loader import FlowNotLoaded, load_entry, load_flow

FLOWS = """
from eventflow import flow, task

@task
def hello() -> str:
    return "hello"

@flow
def greet() -> str:
    return hello()

@flow(name="other name")
def other() -> str:
    return hello()

class Box:
    inside = greet

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with some scripts; modules and import path are as before afterwards."""
    (tmp_path / "loaded_flows.py").write_text(FLOWS)
    (tmp_path / "my-flows.py").write_text(FLOWS)
    (tmp_path / "loaded_one.py").write_text("from loaded_flows import greet\n")
    (tmp_path / "loaded_broken.py").write_text("import no_such_module\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "name", "entry"),
    [
        ("loaded_flows:greet", "greet", "loaded_flows:greet"),
        ("loaded_flows:other", "other name", "loaded_flows:other"),
        ("loaded_flows:Box.inside", "greet", "loaded_flows:Box.inside"),
        ("loaded_flows.py:greet", "greet", "{folder}/loaded_flows.py:greet"),
        ("my-flows.py:greet", "greet", "{folder}/my-flows.py:greet"),
        ("loaded_one", "greet", "loaded_one:greet"),
        ("loaded_one.py", "greet", "{folder}/loaded_one.py:greet"),
    ],
)
def test_a_flow_is_loaded_by_its_name(folder: Path, spec: str, name: str, entry: str) -> None:
    """By module or file, also nested or alone in it; its entry then loads it again."""
    flow = load_flow(spec)
    assert flow.name == name
    assert flow.entry == entry.format(folder=folder)
    assert load_entry(flow.entry, "") is flow


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("loaded_flows:gret", r"loaded_flows has no 'gret'; did you mean 'greet'"),
        (
            "loaded_flows:number",
            r"loaded_flows has a int, not a flow, under 'number'; its flows: greet, other",
        ),
        ("loaded_flows", r"not exactly one flow: name one of loaded_flows:greet, loaded_flows:other"),
        ("loaded_flow:greet", r"no module 'loaded_flow'; did you mean 'loaded_flows'"),
        ("loaded_flow.py:greet", r"no file .*loaded_flow\.py; did you mean 'loaded_flows\.py'"),
        ("loaded_broken:f", r"(?s)loaded_broken could not be imported:.*no_such_module"),
        ("json.py:f", r"no file"),
        ("json:f", r"json has no 'f'; its flows: none"),
    ],
)
def test_a_flow_that_is_not_there_is_one_error(folder: Path, spec: str, message: str) -> None:
    """It names the missing thing and the nearest one."""
    with pytest.raises(FlowNotLoaded, match=message):
        load_flow(spec)


def test_an_entry_without_a_name_is_completed_by_the_name_of_the_flow(folder: Path) -> None:
    """Flows of `with` blocks record only their file."""
    assert load_entry(str(folder / "loaded_flows.py"), "other name").entry.endswith("loaded_flows.py:other")
    with pytest.raises(FlowNotLoaded, match="has no flow 'gone' any more: name the flow's code"):
        load_entry("loaded_flows", "gone")
    with pytest.raises(FlowNotLoaded, match="recorded only '__main__:f': name the flow's code"):
        load_entry("__main__:f", "f")


def test_a_file_named_like_a_loaded_module_is_refused(folder: Path) -> None:
    """It could not be imported under its name by others."""
    (folder / "json.py").write_text(FLOWS)
    with pytest.raises(FlowNotLoaded, match="a module 'json' is loaded already; rename the file"):
        load_flow("json.py:greet")
