"""Code digests: equal for the same code, different for different code, absent where nobody can know."""

from __future__ import annotations

import datetime as dt
import enum
import functools
import math
import re
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from eventflow.fingerprints import code
from eventflow.fingerprints.code import code_of


class Colour(enum.Enum):
    """Something immutable that is no plain value."""

    RED = 1
    BLUE = 2


def as_function(fn: Callable[..., Any]) -> FunctionType:
    """The same function, known as one to the type checker."""
    assert isinstance(fn, FunctionType)
    return fn


def digest(fn: Callable[..., Any], **options: Any) -> bytes:
    """The digest, which must be there."""
    found = code_of(as_function(fn), **options)
    assert found.digest, found.reason
    assert len(found.digest) == 16
    return found.digest


def reason(fn: Callable[..., Any], **options: Any) -> str:
    """Why there is no digest."""
    found = code_of(as_function(fn), **options)
    assert found.digest == b""
    return found.reason


def define(tmp_path: Path, source: str, name: str = "f") -> FunctionType:
    """A function from a file of its own."""
    path = tmp_path / f"case_{len(list(tmp_path.iterdir()))}.py"
    path.write_text(source)
    space: dict[str, Any] = {"__name__": path.stem}
    exec(compile(source, str(path), "exec"), space)
    return as_function(space[name])


BASE = "def f(a, b=1):\n    return a + b\n"


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n\n\ndef f(a, b=1):\n    # why\n    return a + b  # indeed\n",
        'def f(a, b=1):\n    """What it does."""\n    return a + b\n',
        "def f(\n    a,\n    b=1,\n):\n    return (\n        a + b\n    )\n",
        "def same(g):\n    return g\n\n@same\n@same\ndef f(a, b=1):\n    return a + b\n",
        "if True:\n    def f(a, b=1):\n        return a + b\n",
        "ONE = 1\ndef f(a, b=ONE):\n    return a + b\n",
        "def g(a, b=1):\n    return a + b\nf = g\n",
    ],
)
def test_what_does_not_change_the_digest(tmp_path: Path, same: str) -> None:
    """Comments, docstring, layout, place, name, decorators and the words of a default are no code."""
    assert digest(define(tmp_path, same)) == digest(define(tmp_path, BASE))


@pytest.mark.parametrize(
    "other",
    [
        "def f(a, b=1):\n    return a - b\n",
        "def f(a, b=2):\n    return a + b\n",
        "def f(a, b=True):\n    return a + b\n",
        "def f(a, b=1.0):\n    return a + b\n",
        "def f(a, b):\n    return a + b\n",
        "def f(a, *, b=1):\n    return a + b\n",
        "async def f(a, b=1):\n    return a + b\n",
        "def f(a: int, b=1):\n    return a + b\n",
        "def f(a, b=1):\n    'doc'\n    'more'\n    return a + b\n",
        "f = lambda a, b=1: a + b\n",
        "def f(b, a=1):\n    return a + b\n",
    ],
)
def test_what_changes_the_digest(tmp_path: Path, other: str) -> None:
    """Body, parameters, their kinds and types, and the value of a default are code."""
    assert digest(define(tmp_path, other)) != digest(define(tmp_path, BASE))


def closing_over(value: object) -> Callable[..., Any]:
    """A function with one closure variable."""

    def inner() -> object:
        return value

    return inner


VALUES = [
    None, True, False, 0, 1, 1.0, 0.0, -0.0, float("nan"), float("inf"), 1j, 10**5000, "1", "", b"1", b"", (), (1,),
    ((1,),), (1, "a"), ("1",), frozenset(), frozenset({1}), frozenset({"a", "b"}), Decimal(1), Decimal("1.0"),
    Fraction(1, 2), dt.date(2026, 11, 22), dt.datetime(2026, 11, 22),  # noqa: DTZ001
    dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
    dt.datetime(2026, 11, 22, tzinfo=ZoneInfo("Europe/Berlin")), dt.timedelta(1), dt.time(1), UUID(int=1),
    Path("a"), Path("b"), range(3), range(4), Colour.RED, Colour.BLUE, ..., sys, math.sqrt,
    len, "\ud800",
]  # fmt: skip


def test_closure_values_count_by_type_and_content() -> None:
    """No two different closure values give the same digest, and the same one gives it again."""
    found = [digest(closing_over(value)) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert found == [digest(closing_over(value)) for value in VALUES]


def test_closure_functions_count_by_their_code(tmp_path: Path) -> None:
    """A function in a closure is followed into its own code and closure."""

    def outer(step: int) -> Callable[..., Any]:
        def helper(x: int) -> int:
            return x + step

        def inner(x: int) -> int:
            return helper(x)

        return inner

    assert digest(outer(1)) == digest(outer(1))
    assert digest(outer(1)) != digest(outer(2))
    assert digest(closing_over(define(tmp_path, BASE))) != digest(
        closing_over(define(tmp_path, BASE + "    pass\n"))
    )


def test_functions_that_refer_to_each_other_end() -> None:
    """A ring of closures has a digest."""

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert digest(even) != digest(odd)


def late() -> Callable[..., Any]:
    """A function whose closure variable is still empty."""

    def inner() -> object:
        return value

    if inner.__name__ == "never":
        value = 1
    return inner


def counting() -> Callable[..., Any]:
    """A function that rebinds its closure variable."""
    count = 0

    def inner() -> int:
        nonlocal count
        count += 1
        return count

    return inner


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (closing_over([1]), "closure variable 'value' .* is a list, which may change"),
        (closing_over({"a": 1}), "is a dict, which may change"),
        (closing_over({1}), "is a set, which may change"),
        (closing_over((1, [2])), "is a list, which may change"),
        (closing_over(object()), "is a object, whose content is not known"),
        (closing_over(Colour), "is a EnumType, whose content is not known"),
        (closing_over([].append), "builtin_function_or_method, whose content is not known"),
        (closing_over(functools.partial(len)), "is a partial"),
        (late(), "has no value yet"),
        (counting(), "is rebound"),
        (eval("lambda: 1"), "source of '<lambda>' was not found"),
    ],
)
def test_what_has_no_digest_says_why(fn: Callable[..., Any], said: str) -> None:
    """Where equal digests could hide different code there is none, and the reason names the part."""
    assert re.search(said, reason(fn))


def test_a_default_that_may_change_has_no_digest() -> None:
    """Defaults follow the rule of closures."""

    def f(x: list[int] = []) -> None:  # noqa: B006
        x.append(1)

    assert "a default of" in reason(f)
    assert "which may change" in reason(f)


def test_one_of_several_lambdas_in_a_line_has_no_digest() -> None:
    """Which one is meant cannot be told, unless they are the same."""
    one, _two = (lambda x: x + 1), (lambda x: x + 2)
    assert "one of several" in reason(one)
    three, _four = (lambda x: x + 1), (lambda x: x + 1)
    assert digest(three)


def test_a_file_that_changed_shape_has_no_digest(tmp_path: Path) -> None:
    """A function is not looked up in a file that no longer has it there."""
    fn = define(tmp_path, BASE)
    path = Path(fn.__code__.co_filename)
    path.write_text("\n" + BASE)
    assert "was not found" in reason(fn)


def test_version_stands_for_the_code(tmp_path: Path) -> None:
    """With `version=` nothing else counts, not even that there is no source."""
    one, other = define(tmp_path, BASE), define(tmp_path, "def f():\n    return 2\n")
    assert digest(one, version="1") == digest(other, version="1") == digest(closing_over([]), version="1")
    assert digest(one, version="1") != digest(one, version="2")
    assert digest(one, version="1") != digest(one)


def test_depends_on_counts_helpers(tmp_path: Path) -> None:
    """Helpers count by their code, in their order; one without a digest takes it from the whole."""
    task, helper = define(tmp_path, BASE), define(tmp_path, "def f():\n    return 1\n")
    changed = define(tmp_path, "def f():\n    return 2\n")
    with_helper = digest(task, depends_on=[helper])
    assert with_helper not in (digest(task), digest(helper), digest(task, depends_on=[changed]))
    assert with_helper == digest(task, depends_on=[helper])
    assert "which may change" in reason(task, depends_on=[as_function(closing_over([]))])


def test_a_digest_is_kept_for_its_function(tmp_path: Path) -> None:
    """It is worked out once per function object: a file edited later does not change a running process."""
    fn = define(tmp_path, BASE)
    first = digest(fn)
    Path(fn.__code__.co_filename).write_text("")
    assert digest(fn) == first


def test_functions_made_in_a_loop_are_normalized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred closures of one source cost one look into the source, and have digests of their own."""
    normalized: list[object] = []

    def counted(node: Any) -> str:
        normalized.append(node)
        return normal(node)

    normal = code._normal
    monkeypatch.setattr(code, "_normal", counted)
    made = [closing_over(number) for number in range(100)]
    assert len({digest(fn) for fn in made}) == 100
    assert len(normalized) <= 1


def test_a_file_is_parsed_once_for_all_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten functions of a file cost one parse of the file, and one of each function's own lines."""
    path = tmp_path / "many.py"
    path.write_text("\n".join(f"def f{number}(a):\n    return a + {number}" for number in range(10)))
    space: dict[str, Any] = {"__name__": "many"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    parsed: list[int] = []

    def counted(source: str) -> Any:
        parsed.append(len(source.splitlines()))
        return parse(source)

    parse = code.ast.parse
    monkeypatch.setattr(code.ast, "parse", counted)
    assert len({digest(space[f"f{number}"]) for number in range(10)}) == 10
    assert sorted(parsed) == [2] * 10 + [20]


SCRIPT = """
from eventflow.fingerprints.code import code_of
def make(value, zones=frozenset({"x", "y", "z"})):
    def inner(a, b=("k", frozenset({"p", "q", "r"})), *, c=1.5):
        return value, zones
    return inner
print(code_of(make(frozenset({"a", "b", "c", "d"}))).digest.hex())
"""


def test_a_digest_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Neither the process nor its hash seed shows."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    found = {
        subprocess.run(
            [sys.executable, str(path)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1
    assert len(found.pop()) == 32
