"""What the commands write: nothing that a terminal obeys, and nothing that it cannot take."""

from __future__ import annotations

import io
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from eventflow.cli.output import (
    Colored,
    Unprintable,
    as_json,
    escaped,
    say,
    write_json,
    write_line,
    write_table,
)
from eventflow.cli.progress import _table
from eventflow.views.durations import duration
from eventflow.views.progress import Counts

HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\x7f\u202etxt\u2066\u2028\U000e0041\ufeff\r\n\t\x00"
"""Titles, colours, C1, DEL, marks that turn the direction of text, separators, tags, a byte order mark."""
SAFE = "Zürich 北京 👩\u200d👩\u200d👧 نمی\u200cشود a\u00a0b \\x1b [red]x[/red] :smile:"
"""Nothing of this is for a terminal to obey."""


def obeyed(text: str) -> list[str]:
    """Characters that a terminal, or an eye, could be misled by; ends of lines are none."""
    return [c for c in text if c != "\n" and escaped(c) != c]


def test_what_a_terminal_obeys_is_written_as_an_escape_and_all_else_as_it_is() -> None:
    """Escapes are Python's; text of any language and emoji stay."""
    assert escaped(SAFE) == SAFE
    shown = escaped(HOSTILE)
    assert shown == r"\x1b]0;title\x07\x1b[31m\x9b2J\x7f\u202etxt\u2066\u2028\U000e0041\ufeff\r\n\t\x00"
    assert shown.isascii()
    assert escaped("a\n\tb\r", lines=True) == "a\n\tb\\r"
    assert escaped("\ud800") == r"\ud800"


@given(st.text())
def test_whatever_is_written_has_no_control_no_format_and_fits_the_stream(text: str) -> None:
    """Through each of the ways out, for any text, on a stream that knows few characters."""
    for encoding in ("ascii", "cp1252", "utf-8"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding)
        say(text, Colored(text, "failed"), lines=True, file=stream)
        write_json(as_json([text, {text: text}]), stream, ascii_only=False)
        stream.flush()
        written = raw.getvalue().decode(encoding)
        assert not [c for c in obeyed(written) if c != "\t"]
        assert json.loads(written.splitlines()[-1]) == [text, {text: text}]


def test_a_cell_of_a_table_is_one_line_and_columns_stay_in_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An end of line in a name makes no row of its own, and a tab no column."""
    write_table(("A", "B"), [("x\ny", "1"), (Colored("z", "failed"), "2\t\x1b[0m"), ("", "")])
    assert capsys.readouterr().out == "A\tB\nx\\ny\t1\nz\t2\\t\\x1b[0m\n\t\n"


def test_colour_comes_from_us_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is coloured is escaped first."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    write_line("a\x1b[32m", Colored("b\x1b[1m", "failed"))
    assert capsys.readouterr().out == "a\\x1b[32m\x1b[31mb\\x1b[1m\x1b[0m\n"


def test_the_bars_on_a_terminal_show_names_as_they_are_and_no_markup() -> None:
    """Group names are text for rich, never its markup, and escaped."""
    group = f"[red]{HOSTILE}"
    counts = Counts(
        Counter({group: 5}), Counter(), Counter({group: 2}), Counter({group: 1}), Counter({group: 2})
    )
    out = io.StringIO()
    Console(file=out, width=300, no_color=True, color_system=None).print(_table(HOSTILE, counts))
    shown = out.getvalue()
    assert not obeyed(shown)
    assert "[red]\\x1b]0" in shown
    assert shown.count("2/5") == 2
    assert shown.count("1 failed, 2 not run") == 2


def cyclic() -> list[Any]:
    """A list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (object(), "object cannot be written as JSON: "),
        ([1.0, math.nan], "list cannot be written as JSON: JSON has no NaN and no infinity"),
        (math.inf, "float cannot be written as JSON: JSON has no NaN"),
        (cyclic(), "nested too deeply"),
    ],
)
def test_a_value_that_has_no_json_says_why(value: Any, why: str) -> None:
    """Neither `null` for NaN nor an empty place."""
    with pytest.raises(Unprintable, match=why):
        as_json(value)


def test_values_of_standard_types_and_large_numbers_are_json() -> None:
    """What msgspec can say as JSON is said, and numbers keep their digits."""
    assert as_json({1: (2**70, {"é"}), "b": b"x"}) == '{"1":[1180591620717411303424,["é"]],"b":"eA=="}'


def test_a_pipe_that_was_closed_is_no_error() -> None:
    """`| head` may have seen enough; what is written later goes nowhere."""
    read, wrote = os.pipe()
    os.close(read)
    with os.fdopen(wrote, "w", buffering=1) as stream:
        say("a", file=stream)
        say("b", file=stream)
        assert os.fstat(wrote).st_rdev == Path(os.devnull).stat().st_rdev


def test_a_duration_has_three_digits_below_a_second_and_hundredths_above() -> None:
    """No short time is shown as zero, and none in the form of an exponent."""
    shown = [duration(seconds) for seconds in (0, 0.000005, 0.0412, 0.9994, 0.9996, 3.04, 86_400, -2)]
    assert shown == ["0ms", "0.005ms", "41.2ms", "999ms", "1.00s", "3.04s", "86400.00s", "-2.00s"]
