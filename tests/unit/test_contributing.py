"""CONTRIBUTING.md is true: its tables are those of the project, and the files that it names exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def first_column(page: str, heading: str) -> list[list[str]]:
    """Return the names in the first column of the table below a heading, row by row."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [re.findall(r"`([\w/]+)`", cell) for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_the_table_of_rooms_is_that_of_the_import_linter(page: str) -> None:
    """The tables have the rooms in the order of the layers in pyproject.toml, neighbours on one line."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    rooms = [re.split(r"\s*[|:]\s*", layer) for layer in layers]
    assert first_column((ROOT / page).read_text(), "Rooms") == rooms


def test_the_table_of_rings_has_every_folder_of_tests() -> None:
    """Each folder with tests is a row of the table, and no row is left of a folder that is gone."""
    folders = {test.relative_to(ROOT).parent.as_posix() for test in ROOT.glob("tests/*/test_*.py")}
    assert {name for row in first_column(PAGE, "Rings of tests") for name in row} == folders


def test_every_file_that_is_named_exists() -> None:
    """The lists of files for a change lead to files; paths have a slash."""
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", PAGE)
    assert len(named) > 30
    assert [name for name in named if name != "site/" and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("module", sorted(ROOT.glob("eventflow/**/*.py")), ids=lambda path: path.stem)
def test_modules_and_functions_are_short(module: Path) -> None:
    """A module has at most 500 lines, a function at most 60 without its docstring."""
    source = module.read_text()
    assert source.count("\n") <= 500
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, functions)]
    assert [node.name for node in nodes if lines_of(node) > 60] == []


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without its docstring."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    spared = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - spared
