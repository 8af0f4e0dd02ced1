"""The technical report says what is committed, and only that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from harness.report import paper
from harness.report.paper import MARKDOWN, TEMPLATE, Paper
from harness.report.paper_pdf import write_pdf

NAMES = (
    r"GPT-2( 124M)?|RA v5( R)?|v[1-5]\b|[AH]10+G?\b|V2\b|FP16|bfloat16|float(16|32|64)|124M|95 %|1 % of compute"
    r"|\*\*(Table|Figure|\{\{)|seeds for 1 %"
)
"""What has digits and is no number: names, and the two conventions, intervals of 95 % and one per cent as a unit."""


@pytest.fixture(scope="module")
def committed() -> Paper:
    return Paper()


def test_the_committed_report_is_what_the_committed_results_give(committed: Paper) -> None:
    assert MARKDOWN.read_text() == committed.render(), "python -m scripts.paper writes it anew"


def test_readme_leads_with_the_answer_and_its_picture(committed: Paper) -> None:
    readme = (ROOT / "README.md").read_text()
    lead = " ".join(readme.partition("## Two commands")[0].split())
    assert committed.answer() in lead
    assert f"]({committed.figure().relative_to(ROOT)})" in lead


def prose(template: str) -> str:
    """A template without what is no prose: expressions, code, formulas, addresses, references."""
    text = template.partition("\n## References")[0]
    for pattern in (
        *(r"\{#.*?#\}", r"\{%.*?%\}", r"\{\{.*?\}\}"),
        *(r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]+\$", r"\]\([^)]*\)"),
    ):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return re.sub(NAMES, "", text)


def test_no_number_is_written_by_hand() -> None:
    found = [line.strip() for line in prose(TEMPLATE.read_text()).splitlines() if re.search(r"\d", line)]
    assert found == []


@pytest.mark.parametrize("text", ["a loss of 5.28", "worth -1.4 % of compute", "in 24 runs", "n = 4"])
def test_the_search_for_numbers_finds_some(text: str) -> None:
    assert re.search(r"\d", prose(f"{text} in RA v5, `R = 4`, $g = 1$, {{{{ x[1] }}}}"))


def test_a_missing_record_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attention\.json"):
        _ = Paper(results=tmp_path).measured


def test_a_name_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    template = tmp_path / "page.md.j2"
    template.write_text("{{ attention.layer.n_heads }}")
    with pytest.raises(UserError, match=r"page\.md\.j2: .*n_heads"):
        Paper(template=template).render()


def test_rows_are_found_by_all_that_is_asked() -> None:
    rows = [{"arm": "a", "compiled": True}, {"arm": "a", "compiled": False}]
    assert paper.the(rows, arm="a", compiled=True) is rows[0]
    for wanted in ({"arm": "a"}, {"arm": "b"}):
        with pytest.raises(UserError, match="the report wants one"):
            paper.the(rows, **wanted)


def test_the_pdf_has_pages(tmp_path: Path, committed: Paper) -> None:
    pytest.importorskip("pypandoc")
    pytest.importorskip("typst")
    pdf = tmp_path / "report.pdf"
    write_pdf(MARKDOWN, pdf, committed.date)
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    write_pdf(MARKDOWN, pdf, committed.date)
    assert pdf.read_bytes() == first
