r"""Text on its way out: escaped, coloured, encodable by its stream; as lines, as a table or as JSON.

Names, messages, labels, keys, values and paths come from logs and flows of other people.  Characters that could act on a
terminal (escape sequences, other controls, marks that change the direction of text, invisible characters) are written
as Python writes them: `\x1b`, `\u202e`.  All text is escaped in this module before it is written.  Colour is added
after that, so no other text can bring its own.

On a terminal tables are drawn with the help of rich, which is imported for that only.  No cell is cut, since ids, numbers
and dates are copied from tables.  Into a pipe they go as text with a tab between two cells; a tab inside a cell is written
as `\t`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from unicodedata import category

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "COLORS",
    "Cell",
    "Colored",
    "Unprintable",
    "as_json",
    "data_stream",
    "escaped",
    "say",
    "terminal",
    "wants_color",
    "when",
    "write_json",
    "write_line",
    "write_table",
]

COLORS: Final = {
    "success": "green", "Success": "green", "Cached": "green", "Mapped": "green",
    "failed": "red", "Failed": "red", "TimedOut": "red", "Crashed": "red",
    "running": "cyan", "Running": "cyan",
    "cancelled": "yellow", "Cancelled": "yellow", "TriggerFailed": "yellow", "Retrying": "yellow",
}  # fmt: skip
"""State or outcome → its colour on a terminal."""

_LAST_US: Final = 253_402_214_400_000_000
"""The last moment that exists in every time zone, in microseconds UTC."""
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of what is not shown as it is: controls, formats, surrogates, separators of lines and paragraphs."""
_JOINERS: Final = "\u200c\u200d"
"""Formats that spelling needs: Persian and Hindi words, families of emoji."""
_GAP: Final = "  "
"""Between two columns on a terminal."""
_INDENT: Final = "    "
"""Before the columns of a row that are drawn in a line below."""
_PROSE_MIN: Final = 24
"""Width on a terminal in which prose can be read."""


class Colored(NamedTuple):
    """Text in the colour of a state or an outcome, if colours are wanted."""

    text: str
    state: str
    bold: bool = False


Cell: TypeAlias = str | Colored


# -- escaping -------------------------------------------------------------------------------------


def escaped(text: str, *, lines: bool = False) -> str:
    """Return the text with all characters that a terminal could obey written as escapes.

    With `lines`, line breaks and tabs stay as they are. Backslashes are not doubled, so the result is for reading only.
    """
    if text.isprintable():
        return text
    kept = f"{_JOINERS}\n\t" if lines else _JOINERS
    return "".join(c if _is_safe(c, kept) else _python_escape(c) for c in text)


def _is_safe(char: str, kept: str = _JOINERS) -> bool:
    """Whether a character is written as it is: no terminal obeys it, or it is one of those that are kept."""
    return char.isprintable() or char in kept or category(char) not in _UNSAFE


def _python_escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _encodable(text: str, stream: IO[Any], escape: Callable[[str], str]) -> str:
    """Return the text with the characters that the stream cannot encode written as escapes."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if _fits(c, encoding) else escape(c) for c in text)
    return text


def _fits(char: str, encoding: str) -> bool:
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


# -- lines and tables -----------------------------------------------------------------------------


def say(*parts: Cell, lines: bool = False, file: IO[Any] | None = None) -> None:
    """Write a message to stderr, the parts joined as they are: one line, or several with `lines`."""
    stream = sys.stderr if file is None else file
    _send(_line(parts, stream, lines=lines), stream)


def write_line(*parts: Cell) -> None:
    """Write one line to stdout, the parts joined as they are."""
    _send(_line(parts, sys.stdout), sys.stdout)


def write_table(head: Sequence[str], rows: Sequence[Sequence[Cell]], *, ends_in_prose: bool = False) -> None:
    """Write a table to stdout: drawn on a terminal, with a tab between two cells otherwise.

    With `ends_in_prose` the last column may be folded between two words; no other cell is folded, and none is cut.
    """
    if sys.stdout.isatty():
        _draw_table(head, rows, ends_in_prose=ends_in_prose)
    else:
        _send("\n".join(map(_tabbed, (head, *rows))), sys.stdout)


def _tabbed(row: Sequence[Cell]) -> str:
    return "\t".join(_line([cell], sys.stdout) for cell in row)


def _draw_table(head: Sequence[str], rows: Sequence[Sequence[Cell]], *, ends_in_prose: bool) -> None:
    """Draw a table on a terminal. If its columns do not fit into one line, each row takes several lines."""
    room = terminal(sys.stdout).width
    titles = [Colored(title, "", bold=True) for title in head]
    table = [[_shown(cell, sys.stdout) for cell in row] for row in (titles, *rows)]
    widths = [max(_width(cell.text) for cell in column) for column in zip(*table, strict=True)]
    if ends_in_prose:
        widths[-1] = min(widths[-1], _PROSE_MIN)
    layout = _columns_by_line(widths, room)
    last_line = layout[-1]
    prose_at = len(_INDENT if len(layout) > 1 else "") + sum(widths[n] + len(_GAP) for n in last_line[:-1])
    drawn: list[str] = []
    for row in table:
        more_prose: list[str] = []
        if ends_in_prose:
            prose, *more_prose = _folded(row[-1].text, max(room - prose_at, _PROSE_MIN))
            row[-1] = row[-1]._replace(text=prose)
        drawn += _drawn_row(row, widths, layout)
        drawn += (" " * prose_at + line for line in more_prose)
    _send("\n".join(drawn), sys.stdout)


def _columns_by_line(widths: Sequence[int], room: int) -> list[list[int]]:
    """Distribute columns over as few lines as have room for them, each line below the first one indented."""
    lines: list[list[int]] = [[0]]
    used = widths[0]
    for column, width in enumerate(widths[1:], 1):
        used += len(_GAP) + width
        if used <= room:
            lines[-1].append(column)
        else:
            lines.append([column])
            used = len(_INDENT) + width
    return lines


def _drawn_row(
    row: Sequence[Colored], widths: Sequence[int], layout: Sequence[Sequence[int]]
) -> Iterator[str]:
    """Yield the lines of one row, its cells padded to the widths of their columns."""
    for nth, columns in enumerate(layout):
        cells = []
        for column in columns:
            padding = " " * (widths[column] - _width(row[column].text))
            cells.append(_styled(row[column], sys.stdout) + padding)
        line = (_INDENT if nth else "") + _GAP.join(cells)
        if not nth or not line.isspace():
            yield line.rstrip()


def _folded(text: str, width: int) -> list[str]:
    """Return a text as lines of a width, broken between words only; a longer word has a line of its own."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _width(text: str) -> int:
    """The columns that a text takes on a terminal: two for each Chinese character and most emoji."""
    from rich.cells import cell_len  # noqa: PLC0415 - costs 45 ms, and is for terminals only

    return cell_len(text)


def terminal(stream: IO[str]) -> Console:
    """Return a rich console for a terminal that shows text as it is, coloured if that is wanted."""
    from rich.console import Console  # noqa: PLC0415 - costs 45 ms, and is for terminals only

    return Console(file=stream, highlight=False, markup=False, emoji=False, no_color=not wants_color(stream))


def when(at_us: int) -> str:
    """Return a moment (µs UTC) in local time, to the second."""
    shown_us = min(max(at_us, 0), _LAST_US)  # a log may have any number
    return datetime.fromtimestamp(shown_us / 1e6, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _shown(cell: Cell, stream: IO[Any], *, lines: bool = False) -> Colored:
    """Return a cell with its text escaped, in characters of the stream."""
    colored = cell if isinstance(cell, Colored) else Colored(cell, "")
    text = _encodable(escaped(colored.text, lines=lines), stream, _python_escape)
    return colored._replace(text=text)


def _line(parts: Sequence[Cell], stream: IO[Any], *, lines: bool = False) -> str:
    return "".join(_styled(_shown(part, stream, lines=lines), stream) for part in parts)


def _styled(cell: Colored, stream: IO[Any]) -> str:
    """Return a text that was escaped in its colour, if colours are wanted."""
    if not wants_color(stream) or not (cell.bold or cell.state in COLORS):
        return cell.text
    return click.style(cell.text, fg=COLORS.get(cell.state), bold=cell.bold or None)


def _send(text: str, stream: IO[Any]) -> None:
    """Write text that was escaped; if its reader has closed the pipe, as `head` does, drop it and all later text."""
    try:
        click.echo(text, file=stream, color=wants_color(stream))
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def wants_color(stream: IO[Any]) -> bool:
    """Whether text for a stream is coloured: on a terminal, unless `NO_COLOR` or `FORCE_COLOR` is set."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


# -- data for programs ----------------------------------------------------------------------------


class Unprintable(ValueError):
    """A value has no JSON; the message is the reason."""


_NEVER_IN_JSON: Final = re.compile("[\x7f-\U0010ffff]")


def as_json(value: Any) -> str:
    """Return a value as JSON in one line, with nothing left out; raises `Unprintable`."""
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise Unprintable("it is nested too deeply, or contains itself") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        why = str(error)
        if "JSON compliant" in why:
            why = "JSON has no NaN and no infinity"
        raise Unprintable(f"{type(value).__qualname__} cannot be written as JSON: {why}") from None


def write_json(text: str, stream: IO[Any] | None = None, *, ascii_only: bool = True) -> None:
    """Write JSON to a stream, by default stdout; characters that a terminal could obey become JSON's escapes."""
    out = sys.stdout if stream is None else stream

    def rewritten(match: re.Match[str]) -> str:
        char = match[0]
        if ascii_only or not _is_safe(char):
            return _json_escape(char)
        return char

    _send(_encodable(_NEVER_IN_JSON.sub(rewritten, text), out, _json_escape), out)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def data_stream() -> IO[Any]:
    """Return a stream for data that goes to stdout, and send all other text for stdout to stderr from now on.

    The other text is that of `print` in task bodies and in imported modules, and of programs and libraries that write
    to the file descriptor. It lasts as long as the process.
    """
    data = sys.stdout
    data.flush()
    try:
        number, errors = data.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # no files of the system, as in a test that captures them
        pass
    else:
        data = os.fdopen(os.dup(number), "w", encoding=data.encoding)
        os.dup2(errors, number)
    sys.stdout = sys.stderr
    return data
