"""Examples in docstrings run and print what they show, and every public function has one.

An example is a fenced `python` block inside a docstring.  It is complete: it imports all that it uses, and may
`await` at its top level.  A `text` block right after it is what it prints.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import eventflow
import eventflow.events
import eventflow.records
import eventflow.states
import eventflow.testing
from eventflow.ports import EventLog, World

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
#: A method that implements one of these is shown by the protocol's example.
PROTOCOLS = (EventLog, World)
FACE = (eventflow, eventflow.states, eventflow.events, eventflow.records, eventflow.testing)

#: Public functions and methods without an example of their own, each with the reason.
WITHOUT_EXAMPLE = {
    "eventflow.records.checksum": "it is `zlib.crc32`",
    "eventflow.testing.VirtualLoop.advance": "a test's own event loop calls it; `simulate` is the way in",
    "eventflow.testing.VirtualLoop.time": "a method of every event loop of asyncio",
}


def examples() -> Iterator[tuple[str, str, str]]:
    """Yield the examples of all docstrings of the package: where each is, its code, and the text that it prints."""
    for path in sorted((ROOT / "eventflow").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    for code, printed in BLOCK.findall(inspect.cleandoc(text)):
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", code, printed


def run(code: str, folder: Path) -> None:
    """Run an example as a module of its own; a top-level `await` gets an event loop."""
    file = folder / "example.py"
    file.write_text(code)  # where `inspect` finds the source of its tasks
    module = sys.modules["example"] = ModuleType("example")
    module.__file__ = str(file)
    compiled = compile(code, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    pending = eval(compiled, vars(module))
    if inspect.iscoroutine(pending):
        asyncio.run(pending)


@pytest.mark.parametrize(
    ("where", "code", "printed"), [pytest.param(*parts, id=parts[0]) for parts in examples()]
)
@pytest.mark.filterwarnings("ignore:SQLite")
def test_an_example_runs_and_prints_the_text_below_it(
    where: str,
    code: str,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A reader who copies an example sees the text that the docstring shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "example", ModuleType("example"))
    run(code, tmp_path)
    assert capsys.readouterr().out == printed


def shown(docstring: str | None) -> str:
    """Return the code of a docstring's examples."""
    return "\n".join(code for code, _ in BLOCK.findall(inspect.cleandoc(docstring or "")))


def methods(cls: type) -> Iterator[str]:
    """Yield the public methods that a class defines itself."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and inspect.isroutine(inspect.unwrap(getattr(value, "__func__", value))):
            yield name


def method_has_example(cls: type, name: str) -> bool:
    """Whether a method is called in an example of its own, of its class, or of a base class or protocol."""
    for base in (*cls.__mro__, *(protocol for protocol in PROTOCOLS if name in vars(protocol))):
        own = shown(getattr(vars(base).get(name), "__doc__", None))
        if own or re.search(rf"\.{name}\(", shown(base.__doc__)):
            return True
    return False


def without_example(module: ModuleType) -> Iterator[str]:
    """Yield the public functions and methods of a module that no example shows."""
    for name in module.__all__:
        value: Any = getattr(module, name)
        home = f"{module.__name__}.{name}"
        if inspect.isclass(value):
            yield from (f"{home}.{part}" for part in methods(value) if not method_has_example(value, part))
        elif inspect.isroutine(value) and not shown(value.__doc__):
            yield home


def missing() -> set[str]:
    """Return the public functions and methods that no example shows."""
    return {name for module in FACE for name in without_example(module)}


def listed(name: str, names: Collection[str]) -> bool:
    """Whether a function, or the class of a method, is listed."""
    return name in names or name.rpartition(".")[0] in names


def test_every_public_function_has_an_example() -> None:
    """A function has an example in its docstring, a method in its own or in that of its class."""
    assert {name for name in missing() if not listed(name, WITHOUT_EXAMPLE)} == set()


@pytest.mark.parametrize("entry", sorted(WITHOUT_EXAMPLE))
def test_a_function_that_has_an_example_leaves_the_list(entry: str) -> None:
    """The list of functions without an example is exact."""
    assert any(listed(name, [entry]) for name in missing())
