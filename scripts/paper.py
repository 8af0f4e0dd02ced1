"""Write the technical report: docs/technical-report.md, from its template and what is committed in results/.

    python -m scripts.paper [--pdf | --answer]

--pdf makes docs/technical-report.pdf of it too; --answer prints the sentence that README leads with, and writes
nothing.
"""

from __future__ import annotations

import argparse

from gpt2.base.errors import run_command
from gpt2.base.files import write_text
from harness.report.paper import MARKDOWN, Paper
from harness.report.paper_pdf import write_pdf


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the technical report.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--pdf", action="store_true", help="a PDF too; needs the extra `paper` of pyproject.toml")
    what.add_argument("--answer", action="store_true", help="print the answer in a sentence, and write nothing")
    args = parser.parse_args()
    paper = Paper()
    if args.answer:
        print(paper.answer())
        return
    write_text(MARKDOWN, paper.render())
    print(MARKDOWN)
    if args.pdf:
        pdf = MARKDOWN.with_suffix(".pdf")
        write_pdf(MARKDOWN, pdf, paper.date)
        print(pdf)


if __name__ == "__main__":
    run_command(main)
