"""Looking at a log that somebody else made is safe: bounded in time and memory, and damage has one name."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import warnings
from typing import Any, Final

import pytest

from tests.logs import hostile

pytestmark = pytest.mark.slow

HARMLESS: Final = {
    "no inputs",
    "an input from version 2**62",
    "a value of 2**60 bytes",
    "a value of -1 bytes",
    "a pickle",
    "a value that is no msgpack",
    "a value that is an endless range",
    "parts of a key of three bytes",
    "a hit from nowhere",
    "a run without parameters",
    "3,000,000,000 positions pruned",
    "2**50 positions pruned",
    "a pruned range that ends before it begins",
    "a pruned range over records",
    "50,000 pruned ranges",
    "a checkpoint at -2**62",
    "a checkpoint at 2**62",
    "a checkpoint of the cache at -2**62",
    "a model of 2**62 rows",
    "a model with the number -1",
    "rows with huge numbers",
    "rows of another checksum",
    "rows that are gone",
    "a snapshot of noise",
    "a snapshot of 32 MB",
    "no kinds",
    "no values",
    "values of other bytes",
    "values far out in packs",
    "values of 2**60 bytes",
    "kinds that fan out for ever",
    "a schema linked in a circle",
}
"""What says nothing false of the run, or only of what is not looked at or is made again."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Shape → what the commands said of it."""
    folder = tmp_path_factory.mktemp("hostile")
    base = folder / "base" / "log.db"
    base.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asyncio.run(hostile.make(base))
    trials = folder / "trials"
    names = {}
    for number, (name, shape) in enumerate(hostile.SHAPES.items()):
        path = trials / f"{number:03}" / "log.db"
        path.parent.mkdir(parents=True)
        hostile.write(base, path, shape)
        names[f"{number:03}"] = name
    found: dict[str, dict[str, Any]] = {}
    command = [sys.executable, "-m", "tests.logs.hostile", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = ""
    for line in map(json.loads, done.stdout.splitlines()):
        if "file" in line:
            last = names[line["file"]]
        else:
            found[last] = line
    assert done.returncode == 0, f"looking ended by {done.returncode} at {last!r}: {done.stderr[-2000:]}"
    return found


@pytest.mark.timeout(180)
def test_every_shape_is_looked_at_in_bounds_and_told(seen: dict[str, dict[str, Any]]) -> None:
    """Each command ends within seconds and 2 GiB: with exit code 5 and one message, or with what is right."""
    assert len(seen) == len(hostile.SHAPES) >= 79
    wrong = []
    for name, line in seen.items():
        for command, (code, said) in line["answers"].items():
            if code not in (0, 3, 5) or "Traceback" in said or (code == 5 and not said):
                wrong.append(f"{name}: `{command}` gave {code} {said}")
        codes = {code for code, _ in line["answers"].values()}
        if (5 in codes) == (name in HARMLESS):
            wrong.append(f"{name}: gave {sorted(map(str, codes))}")
    assert not wrong, "\n".join(wrong)
