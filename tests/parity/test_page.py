"""The page of parity names every feature once, and only tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/parity.md").read_text()
NAMED = sorted({(file, name) for file, name in re.findall(r"\b(tests/[\w/]+\.py)::(\w+)", PAGE)})
FEATURES = PAGE.partition("\n## Features\n")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in FEATURES.splitlines()
    if line.startswith("| F")
]
TOLD = ["test_results.py", "test_basics.py", "test_inputs.py", "test_caching.py", "test_maps.py"]


def functions_of(path: Path) -> set[str]:
    """The names of a file's test functions; nothing is imported."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in tree if isinstance(node, kinds) and node.name.startswith("test_")}


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_every_test_that_is_named_is_there(file: str) -> None:
    """Whoever follows a name on the page finds a test."""
    named = {name for where, name in NAMED if where == file}
    assert named <= functions_of(ROOT / file)


def test_every_feature_has_one_row() -> None:
    """F1 to F58, each once and in order."""
    assert [row[0] for row in ROWS] == [f"F{number}" for number in range(1, 59)]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_feature_has_a_state(row: list[str]) -> None:
    """Here, differs with a reason, or not yet; what there is has a spelling, what is here a test."""
    _, _, spelling, state, shown = row
    assert re.match(r"here\b|differs: \w|not yet\b", state)
    assert spelling or state == "not yet"
    assert "::" in shown or not state.startswith("here")


@pytest.mark.parametrize("file", TOLD)
def test_every_case_is_told(file: str) -> None:
    """No case is tested and not on the page."""
    cases = {name for name in functions_of(Path(__file__).with_name(file)) if name.startswith("test_case_")}
    assert cases
    assert cases <= {name for where, name in NAMED if where == f"tests/parity/{file}"}
