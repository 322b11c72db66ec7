"""What a type checker says of flows: wrong data flow is found where it is written, right flows are clean."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted((Path(__file__).parent / "cases").glob("*.py"))
_FOUND = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[int, str]]:
    """Everything that mypy finds in the cases, by file and line; one run for all of them."""
    cache = tmp_path_factory.getbasetemp().parent / "mypy-of-cases"  # warm from one test run to the next
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", "--no-pretty"]
    options += ["--hide-error-codes", "--no-warn-unused-configs", "--cache-dir", str(cache)]
    # In a process of its own: mypy raises the recursion limit of the one it runs in, for all tests after it.
    mypy = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *map(str, CASES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert mypy.returncode in (0, 1), mypy.stdout + mypy.stderr
    assert not mypy.stderr, mypy.stderr
    found: dict[str, dict[int, str]] = {case.name: {} for case in CASES}
    for match in _FOUND.finditer(mypy.stdout):
        lines = found.get(Path(match["file"]).name)
        if lines is not None:
            line = int(match["line"])
            lines[line] = "\n".join(filter(None, (lines.get(line), match["text"])))
    return found


def test_there_are_cases_of_both_kinds() -> None:
    """Nothing is proved by an empty folder."""
    assert {case.name.partition("_")[0] for case in CASES} == {"good", "bad"}


@pytest.mark.timeout(300)  # the first run has no cache
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_mypy_finds_what_is_wrong_and_nothing_else(
    case: Path, errors: Mapping[str, Mapping[int, str]]
) -> None:
    """Errors are exactly on the lines marked `# E: text`, and each says that text."""
    wanted = {
        number: line.partition("# E: ")[2].strip()
        for number, line in enumerate(case.read_text().splitlines(), 1)
        if "  # E: " in line
    }
    assert bool(wanted) == case.name.startswith("bad_")
    found = errors[case.name]
    assert sorted(found) == sorted(wanted), found
    for line, text in wanted.items():
        assert text in found[line], f"line {line}: {found[line]}"
