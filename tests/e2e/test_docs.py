"""What the README and the documentation show is true: every Python block runs, and prints what it says.

The blocks of a page run in order in one fresh interpreter.  A `text` block right after a Python block is
what that block prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import eventflow
import eventflow.events
import eventflow.records
import eventflow.states
import eventflow.testing
from eventflow.authoring.options import TaskOptions
from eventflow.runner.request import RunOptions

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/api/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
MARK = "\u241e"  # printed between blocks, to tell their outputs apart


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """A newcomer who copies the blocks of a page in order sees what the page shows."""
    blocks = BLOCK.findall(page.read_text())
    if not blocks:
        assert "```python" not in page.read_text()
        return
    script = tmp_path / "page.py"
    script.write_text(f"\nprint({MARK!r})\n".join(code for code, _ in blocks))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:SQLite", str(script)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "EVENTFLOW_LOG"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(f"{MARK}\n")
    for (code, said), found in zip(blocks, printed, strict=True):
        if said:
            assert found == said, f"after:\n{code}"


def documented(module: str) -> list[str]:
    """Return the names of a module that the pages of the API ask mkdocstrings for."""
    pages = "\n".join(page.read_text() for page in sorted(ROOT.glob("docs/api/*.md")))
    return sorted(re.findall(rf"^::: {re.escape(module)}\.(\w+)$", pages, re.MULTILINE))


@pytest.mark.parametrize(
    "module",
    [eventflow, eventflow.states, eventflow.events, eventflow.records, eventflow.testing],
    ids=lambda m: m.__name__,
)
def test_the_api_pages_document_every_public_name(module: ModuleType) -> None:
    """Each public name is on one page of the API, and no page asks for a name that is gone."""
    assert documented(module.__name__) == sorted(module.__all__)


def reference(heading: str) -> set[str]:
    """Return the names that one table of the reference lists."""
    text = (ROOT / "docs/reference.md").read_text()
    section = text.partition(f"\n## `{heading}`\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("heading", "options"),
    [
        ("@task(...)", set(TaskOptions.__annotations__)),
        ("flow.options(...)", set(RunOptions.__annotations__)),
    ],
    ids=["task", "flow"],
)
def test_the_reference_names_every_option(heading: str, options: set[str]) -> None:
    """No option of a task or of a run is without its line in the reference."""
    assert reference(heading) == options


def test_the_diagram_in_the_docs_is_the_table() -> None:
    """The page of states shows the very table that the engine goes by."""
    from eventflow.machine.rules import diagram

    assert f"```text\n{diagram()}\n```" in (ROOT / "docs/states.md").read_text()
