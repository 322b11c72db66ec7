"""A script, and programs that import it or resume its runs, read each other's values and agree in what counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import command, document, environment

STEPS = """
import asyncio
import enum
import sys
from pathlib import Path

from eventflow import Flow, flow, task

class Order:
    def __init__(self, name):
        self.name = name
        self.color = Color.RED

class Color(enum.Enum):
    RED = 1

@task(cache_on=CACHE_ON)
async def fetch(name: str = "a", color: Color = Color.RED):
    with open("fetched", "a") as file:
        file.write("x")
    return Order(name)

@task
async def describe(order):
    assert type(order) is Order and order.color is Color.RED
    if not Path("go").exists():
        raise KeyboardInterrupt
    return f"{type(order).__name__} {order.name}"

@flow
def orders(name: str = "a"):
    return describe(fetch(name))

with Flow("block") as block:
    describe(fetch("b"))

if __name__ == "__main__":
    name, run_id = sys.argv[1:]
    made = {"orders": orders, "block": block}[name].options(run_id=run_id)
    try:
        state = asyncio.run(made.run())
        print(type(state).__name__, state.result["describe"].result)
    except KeyboardInterrupt:
        print("interrupted")
""".replace("cache_on=CACHE_ON", "cache_on=inputs()").replace("Flow, flow, task", "Flow, flow, inputs, task")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script, and with a package that holds the same."""
    (tmp_path / ".eventflow").mkdir()
    (tmp_path / "steps.py").write_text(STEPS)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack/__init__.py").write_text("")
    (tmp_path / "pack/names.py").write_text("")
    (tmp_path / "pack/flows.py").write_text("from . import names\n" + STEPS)
    return tmp_path


def python(*words: str, cwd: Path) -> str:
    """What a Python program says; it must not fail."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fetched(folder: Path) -> int:
    """How often the first task has run."""
    return len((folder / "fetched").read_text())


@pytest.mark.parametrize("name", ["orders", "block"])
@pytest.mark.parametrize("script", [("steps.py",), ("-m", "pack.flows"), ("-m", "steps")])
def test_a_run_of_a_script_is_resumed_by_the_command(
    folder: Path, script: tuple[str, ...], name: str
) -> None:
    """The entry finds the code, the pickled class is found in its home, and no code has changed."""
    assert python(*script, name, "one", cwd=folder) == "interrupted"
    (folder / "go").touch()
    command("resume", "one", cwd=folder)
    assert fetched(folder) == 1
    [row] = document("runs", cwd=folder)
    assert row["state"] == "success"


def test_a_script_reads_what_the_command_has_written(folder: Path) -> None:
    """The other way round: the command imports `steps`, the script is `__main__`."""
    command("run", "steps.py:orders", "--run-id", "one", cwd=folder, code=130)
    (folder / "go").touch()
    assert python("steps.py", "orders", "one", cwd=folder) == "Success Order a"
    assert fetched(folder) == 1


def test_script_and_import_share_the_cache(folder: Path) -> None:
    """Keys name classes by their home, in arguments, declared types and code."""
    (folder / "go").touch()
    assert python("steps.py", "orders", "one", cwd=folder) == "Success Order a"
    importing = (
        "import steps, asyncio; s = asyncio.run(steps.orders.run()); print(s.result['describe'].result)"
    )
    assert python("-c", importing, cwd=folder) == "Order a"
    assert fetched(folder) == 1


def test_a_class_of_a_session_is_not_taken_for_one_of_a_script(folder: Path) -> None:
    """An interactive class and a script's class of the same name are two; the script refuses it by name."""
    session = """
from eventflow.serializers import Keyring, Serializer
class Order: pass
payload = Serializer(keyring=Keyring({"k": b"k" * 32})).serialize(Order())
open("payload", "wb").write(payload.codec.encode() + b" " + payload.data)
"""
    python("-c", session, cwd=folder)
    (folder / "reader.py").write_text(
        """
from eventflow.result import DeserializationError, Inline
from eventflow.serializers import Keyring, Serializer, digest_of
class Order: pass
codec, _, data = open("payload", "rb").read().partition(b" ")
try:
    Serializer(keyring=Keyring({"k": b"k" * 32})).deserialize(Inline(codec.decode(), data, digest_of(data)))
except DeserializationError as error:
    print(error)
"""
    )
    assert "interactive session" in python("reader.py", cwd=folder)
