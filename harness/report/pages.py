"""Pages from templates: what those of the report and of the heads have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"
"""The report's templates, and the style sheet of all pages."""


def templates(
    folder: Path = TEMPLATES, *, html: bool = True, finalize: Callable[[object], str] | None = None
) -> jinja2.Environment:
    """The templates of a folder; those of the report may be included. A name that is not defined is an error.

    html: escape everything that is put in. finalize: what is done with it before that.
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
