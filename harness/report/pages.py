"""Pages from templates: what those of the report and of the heads have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2
from markupsafe import Markup

from gpt2.base.text import shown

TEMPLATES = Path(__file__).parent / "templates"
"""The report's templates, and the style sheet of all pages."""

LONGEST = 20_000
"""Characters of anything in a page: the names of a few hundred runs."""


def show(value: object) -> object:
    """Text as it can be shown. What a template calls safe is left alone, and so is what is no text."""
    return shown(value, LONGEST) if isinstance(value, str) and not isinstance(value, Markup) else value


def escape_markdown(value: object) -> str:
    """Text that Markdown shows as it is, in a table's cell too. What the template calls safe is left alone."""
    if isinstance(value, Markup):
        return value
    text = str(show(" ".join(str(value).split()))).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|#~$" else c for c in text)


def templates(
    folder: Path = TEMPLATES, *, html: bool = True, finalize: Callable[[object], object] = show
) -> jinja2.Environment:
    """The templates of a folder; those of the report may be included. A name that is not defined is an error.

    html: escape everything that is put in. finalize: what is done with it before that, by default `show`.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=html,  # noqa: S701 - report.md is not HTML
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
