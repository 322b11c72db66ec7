r"""Where the text of the commands goes out: escaped, coloured, and such that the stream can encode it.

Names, messages, labels, keys, values and paths come from logs and flows of anyone's.  What could act on a terminal
(escape sequences, other controls, marks that turn the direction of text, invisible characters) is written as
`\x1b` or `\u202e` is written in Python.  `escaped` does it, and all that is said or written goes through it:
colour is added after it, here, so that no other text can bring its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, Final, NamedTuple, TypeAlias
from unicodedata import category

import click
import msgspec

__all__ = [
    "COLORS",
    "Cell",
    "Colored",
    "Unprintable",
    "as_json",
    "data_stream",
    "escaped",
    "say",
    "wants_color",
    "write",
    "write_json",
    "write_table",
]

COLORS: Final = {
    "success": "green", "Success": "green", "Cached": "green", "Mapped": "green",
    "failed": "red", "Failed": "red", "TimedOut": "red", "Crashed": "red",
    "running": "cyan", "Running": "cyan",
    "cancelled": "yellow", "TriggerFailed": "yellow", "Retrying": "yellow",
}  # fmt: skip
"""Of states and outcomes, on a terminal."""

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of what is not shown as it is: controls, formats, surrogates, separators of lines and paragraphs."""
_JOINERS: Final = "\u200c\u200d"
"""Formats that spelling needs: Persian and Hindi words, families of emoji."""


class Colored(NamedTuple):
    """Text in the colour of a state or an outcome, where the terminal has colours."""

    text: str
    state: str
    bold: bool = False


Cell: TypeAlias = str | Colored


# -- what is safe ---------------------------------------------------------------------------------


def escaped(text: str, *, lines: bool = False) -> str:
    """The text with everything that a terminal could take for a command written as an escape.

    With `lines` ends of lines and tabs stay as they are. A backslash stays one, so this is for reading only.
    """
    if text.isprintable():
        return text
    kept = f"{_JOINERS}\n\t" if lines else _JOINERS
    return "".join(
        c if c.isprintable() or c in kept or category(c) not in _UNSAFE else _python_escape(c) for c in text
    )


def _python_escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _encodable(text: str, stream: IO[Any], escape: Callable[[str], str]) -> str:
    """The text with what the stream's encoding lacks as escapes."""
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


# -- talk and tables ------------------------------------------------------------------------------


def say(*parts: Cell, lines: bool = False, file: IO[Any] | None = None) -> None:
    """Talk to the person: one line on stderr, the parts joined as they are; with `lines` it may be several."""
    stream = sys.stderr if file is None else file
    _send(_line(parts, stream, lines=lines), stream)


def write(*parts: Cell) -> None:
    """Write one line for people to stdout, the parts joined as they are."""
    _send(_line(parts, sys.stdout), sys.stdout)


def write_table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Write columns as wide as their widest cell; states in their colours."""
    cells = [[_safe(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(cell.text) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        parts: list[Cell] = []
        for cell, width in zip(row, widths, strict=True):
            parts += [cell, " " * (width - len(cell.text) + 2)]
        while parts and not _safe(parts[-1]).text.strip():
            parts.pop()
        lines.append(_line(parts, sys.stdout))
    _send("\n".join(lines), sys.stdout)


def _safe(cell: Cell, *, lines: bool = False) -> Colored:
    text, state, bold = cell if isinstance(cell, Colored) else Colored(cell, "")
    return Colored(escaped(text, lines=lines), state, bold)


def _line(parts: Sequence[Cell], stream: IO[Any], *, lines: bool = False) -> str:
    shown = []
    for part in parts:
        text, state, bold = _safe(part, lines=lines)
        text = _encodable(text, stream, _python_escape)
        is_plain = not wants_color(stream) or state not in COLORS
        shown.append(text if is_plain else click.style(text, fg=COLORS[state], bold=bold or None))
    return "".join(shown)


def _send(text: str, stream: IO[Any]) -> None:
    """Write what is safe by now; whoever reads it may have seen enough (`| head`)."""
    try:
        click.echo(text, file=stream, color=wants_color(stream))
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def wants_color(stream: IO[Any]) -> bool:
    """Whether to colour what is written there: on a terminal, unless `NO_COLOR` or `FORCE_COLOR` says."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


# -- data for programs ----------------------------------------------------------------------------


class Unprintable(ValueError):
    """A value has no JSON; the message is the reason."""


_NEVER_IN_JSON: Final = re.compile("[\x7f-\U0010ffff]")


def as_json(value: Any) -> str:
    """A value as JSON in one line, everything in it kept; raises `Unprintable`."""
    try:
        plain = msgspec.to_builtins(value, str_keys=True)
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise Unprintable("it is nested too deeply, or contains itself") from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
        why = "JSON has no NaN and no infinity" if "JSON compliant" in str(error) else str(error)
        raise Unprintable(f"{type(value).__qualname__} cannot be written as JSON: {why}") from None


def write_json(text: str, stream: IO[Any] | None = None, *, ascii_only: bool = True) -> None:
    """Write JSON to a stream (else stdout), with escapes of JSON's own for what a terminal could obey."""
    out = sys.stdout if stream is None else stream

    def rewritten(match: re.Match[str]) -> str:
        char = match[0]
        is_safe = not ascii_only and (char.isprintable() or char in _JOINERS or category(char) not in _UNSAFE)
        return char if is_safe else _json_escape(char)

    _send(_encodable(_NEVER_IN_JSON.sub(rewritten, text), out, _json_escape), out)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def data_stream() -> IO[Any]:
    """The stream for data, which from here on is no longer stdout: what else is printed goes to stderr.

    That holds for `print` of task bodies and of modules as they are imported, and for what programs and libraries
    write to the file descriptor below it; it lasts as long as the process.
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
