"""The technical report as a PDF, from its Markdown: pandoc makes typst's markup of it and typst sets the pages.

Both come as wheels (the extra `paper` of pyproject.toml), so that no TeX has to be installed, and both know the
formulas that a forge shows. Fonts are those that typst brings, and the date is the report's: the same Markdown gives
the same file.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from harness.report.pages import TEMPLATES

READS = "markdown-implicit_figures-citations-yaml_metadata_block+tex_math_dollars"
"""pandoc's name for the Markdown that the report is written in."""


def write_pdf(markdown: Path, pdf: Path, date: str) -> None:
    """Set a page of Markdown, whose pictures are files of this checkout. date: ISO 8601, of the document.

    Raises UserError where pandoc or typst is not installed, or cannot do it.
    """
    try:
        import pypandoc
        import typst
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: `make paper` brings it into .venv; with a Python of your own, "
            "pip install pypandoc_binary typst"
        ) from error
    options = [
        *("--standalone", f"--template={TEMPLATES / 'paper.typ'}", f"--lua-filter={TEMPLATES / 'paper.lua'}"),
        *("--shift-heading-level-by=-1", "--columns=10000"),  # tables are as wide as their cells
    ]
    # typst looks for pictures beside its source.
    source = markdown.with_suffix(".typ.tmp")
    try:
        pypandoc.convert_file(str(markdown), "typst", format=READS, extra_args=options, outputfile=str(source))
        when = datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
        typst.compile(str(source), output=str(pdf), root=str(ROOT), ignore_system_fonts=True, timestamp=when)
    except RuntimeError as error:  # what both raise
        raise UserError(f"{markdown}: cannot be set: {' '.join(str(error).split())}") from error
    finally:
        source.unlink(missing_ok=True)
