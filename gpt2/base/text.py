"""Text from elsewhere, made fit to be shown: records of others, names of directories, what a model says.

What is written to a terminal is obeyed by it: an escape sequence moves the cursor or renames the window, and a
right-to-left mark makes a line read as another. So whatever is not our own words passes through here first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

VALUE = 120
"""Characters that are shown of a single value."""


def showable(text: str, keep: str = "") -> str:
    r"""`text` with what has no picture of its own written as in Python: "\x1b", "\u202e".

    That is control characters, those that only change how others are shown (bidirectional, zero-width), ends of lines,
    halves of surrogate pairs, and what Unicode has not assigned. Blanks of any width stay, and so do those of `keep`.
    """
    if text.isprintable():
        return text

    def stays(c: str) -> bool:
        return c.isprintable() or c in keep or unicodedata.category(c) == "Zs"

    return "".join(c if stays(c) else repr(c)[1:-1] for c in text)


def shown(value: object, limit: int = VALUE) -> str:
    """A value as text that can be shown, in one line, of about `limit` characters: what is longer loses its middle."""
    text = _text(value, str)
    if len(text) <= limit:
        return showable(text)
    tail = limit // 3
    head = limit - tail
    return f"{showable(text[:head])}[... {len(text) - limit:,} characters ...]{showable(text[-tail:])}"


def quoted(value: object, limit: int = VALUE) -> str:
    """`shown`, written as in Python: text in quotes."""
    return shown(_text(value, repr), limit)


def _text(value: object, form: Callable[[object], str]) -> str:
    try:
        return form(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"{type(value).__name__} with thousands of digits"
