"""Parts of error messages: the name that was probably meant, and a noun with its article."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "with_article"]


def did_you_mean(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Suggest the known name that is most like an unknown one, as the end of a message.

        did_you_mean("dya", ["day", "count"])       "; did you mean 'day'?"
        did_you_mean("x", ["day", "count"])         "; there is 'day', 'count'"
        did_you_mean("x", [], "see the manual")     "; see the manual"

    If no name is alike, `otherwise` follows the semicolon; by default, the known names. An empty `otherwise`
    adds nothing.
    """
    names = list(known)
    close = get_close_matches(name, names, 1)
    if close and close[0] != name:
        return f"; did you mean {close[0]!r}?"
    if otherwise is None:
        otherwise = f"there is {', '.join(map(repr, names)) or 'none'}"
    return f"; {otherwise}" if otherwise else ""


def with_article(noun: str) -> str:
    """Return a noun after `a` or `an`: `a str`, `an int`."""
    begins_with_vowel = noun[:1].lower() in tuple("aeio")  # a `u` is mostly said as in `UserDict`
    return f"an {noun}" if begins_with_vowel else f"a {noun}"
