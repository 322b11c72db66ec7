"""Count the words that plain English seldom needs, in docstrings, comments, messages and pages.

`python -m tests.prose` prints the files with too many of them; `python -m tests.prose FILE ...` prints each counted
word of these files with its line.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ROOT", "allowed", "counted", "files", "is_clean", "text_of"]

ROOT = Path(__file__).parents[1]

PER_THOUSAND = 3

#: Free relatives and persons ("what cannot", "whoever finds"), and verbs that make people of things.
WORDS = frozenset(
    [
        "what",
        "whatever",
        "who",
        "whom",
        "whoever",
        "nobody",
        "somebody",
        "stand",
        "stands",
        "stood",
        "lie",
        "lies",
        "lain",
        "bear",
        "bears",
        "bore",
        "borne",
        "tell",
        "tells",
        "told",
        "anew",
    ]
)

_CODE = re.compile(
    r"^ *```.*?^ *```$|``.+?``|`[^`]+`|\]\([^)]*\)|^ *(?:>>>|\.\.\.) .*$", re.MULTILINE | re.DOTALL
)
_WORD = re.compile(r"[A-Za-z]+")
_DIRECTIVE = re.compile(r"#\s*(?:noqa|type:|pragma|fmt:|ruff:).*")


def files() -> list[str]:
    """Name the checked files, relative to the root: every module of the package, and every page."""
    modules = (ROOT / "eventflow").rglob("*.py")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in [*modules, *pages])


def text_of(name: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file as pairs of a line number and a line; code and quoted names are left out."""
    source = (ROOT / name).read_text()
    pieces = _pieces_of_module(source) if name.endswith(".py") else [(1, source)]
    for first, piece in pieces:
        prose = _CODE.sub(lambda code: "\n" * code[0].count("\n"), piece)
        yield from enumerate(prose.splitlines(), first)


def _pieces_of_module(source: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a module and its strings of three words or more: docstrings, messages, output."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if text.count(" ") >= 2:
                yield node.lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], _DIRECTIVE.sub("", token.string)


def counted(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Return how many words of prose a file has, and the counted ones with their lines."""
    words = [(line, word.lower()) for line, text in text_of(name) for word in _WORD.findall(text)]
    return len(words), [(line, word) for line, word in words if word in WORDS]


def allowed(words: int) -> int:
    """Return how many counted words a file of so many words may have: a short one, one."""
    return max(1, words * PER_THOUSAND // 1000)


def is_clean(name: str) -> bool:
    """Whether a file has no more counted words than allowed."""
    words, hits = counted(name)
    return len(hits) <= allowed(words)


def main(names: list[str]) -> None:
    """Print the counted words of the named files, or the files that have too many."""
    for name in names or [name for name in files() if not is_clean(name)]:
        for line, word in counted(name)[1]:
            print(f"{name}:{line}: {word}")  # noqa: T201 - a command prints


if __name__ == "__main__":
    main(sys.argv[1:])
