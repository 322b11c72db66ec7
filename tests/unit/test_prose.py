"""Docstrings, comments and pages use the words of the style guide in CONTRIBUTING.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import prose


def report(name: str) -> str:
    """Say where the counted words of a file are."""
    words, hits = prose.counted(name)
    places = ", ".join(f"{word} (line {line})" for line, word in hits)
    return f"{name} has {len(hits)} of {words} words, {prose.allowed(words)} allowed: {places}"


@pytest.mark.parametrize("name", prose.files())
def test_a_file_keeps_to_the_plain_words(name: str) -> None:
    """Of 1,000 words of a file at most three are those that the guide advises against."""
    assert prose.is_clean(name), report(name)


def test_the_whole_keeps_to_the_plain_words() -> None:
    """All files together keep the limit too, although short files may have a word each."""
    counts = [prose.counted(name) for name in prose.files()]
    words = sum(count for count, _ in counts)
    assert sum(len(hits) for _, hits in counts) <= prose.allowed(words)


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], list[tuple[int, str]]]:
    """Return the counted words of a file with a name and a text."""

    def check(name: str, text: str) -> list[tuple[int, str]]:
        monkeypatch.setattr(prose, "ROOT", tmp_path)
        (tmp_path / name).write_text(text)
        return prose.counted(name)[1]

    return check


def test_docstrings_comments_fields_and_messages_are_counted(
    checked: Callable[[str, str], list[tuple[int, str]]],
) -> None:
    """Prose of a module is its docstrings, the strings after fields, its comments, and strings of three words."""
    source = (
        '"""Read a log. Who."""\n\nx: int = 0\n"""What it has."""\nwho = "nobody"  # told\n'
        'raise ValueError(f"{x} lies in {x}, not here")\n'
    )
    assert sorted(checked("a.py", source)) == [(1, "who"), (4, "what"), (5, "told"), (6, "lies")]


def test_code_and_quoted_names_are_not_counted(
    checked: Callable[[str, str], list[tuple[int, str]]],
) -> None:
    """Names in backticks, fenced blocks, links and directives are no prose; lines are counted over them."""
    page = "# `what`\n\n```python\nwho = told\n```\n\n[x](what.md) Stands.\n"
    assert checked("a.md", page) == [(7, "stands")]
    assert checked("a.py", "x = 1  # noqa: E501 - told\n") == []
