"""The technical report says what is committed, and only that."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from harness.evidence.launches import Launch
from harness.report import paper
from harness.report.numbers import MINUS
from harness.report.paper import EXPERIMENTS, MARKDOWN, MEASUREMENTS, TEMPLATE, Paper
from harness.report.paper_answer import answer
from harness.report.paper_pdf import write_pdf
from harness.report.paper_rates import lower_at_higher_rate, pairs_won, rates_table
from harness.report.paper_study import Study
from tests.harness.report.test_figures import write_tuned
from tests.harness.synthetic_runs import write_config, write_lengths, write_run

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
    # What it says besides is the report's too.
    effects = re.findall(rf"[{MINUS}+]\d[\d.]* %", lead)
    assert len(effects) > 4 and [effect for effect in effects if effect not in MARKDOWN.read_text()] == []


def write_study(path: Path) -> None:
    """A tuned study of RA v5 at two widths and of MLA, with lengths, over four seeds."""
    noise = np.random.default_rng(1)
    losses = [3.42, 3.43, 3.41, 3.42]
    write_config(path, {"MODEL_NAME": path.name})
    write_lengths(path, losses)
    arms = {
        "baseline": 0.0,
        "ra-v5-eager@RA_V5_R=4": -0.002,
        "ra-v5-eager@RA_V5_R=8": -0.012,
        "mla": 0.03,
        "placebo": 0.0005,
        "rope": -0.1,
        "ra-mla": 0.02,
    }
    for step, delta in arms.items():
        gates = ("w_std", "w_rec") if step.startswith("ra") else ()
        reference = {"baseline": "", "ra-mla": "mla"}.get(step, "baseline")
        for seed, loss in enumerate(losses, start=1):
            at = loss + delta + 0.002 * noise.normal() * bool(delta)
            title = step.split("@")[0]
            write_run(path, step, seed, val_loss=at, title=title, reference=reference, gates=gates)
            if gates:
                write_run(path / "noise", step, seed, val_loss=10.8, gates=gates)
    rates = [{"LEARNING_RATE": rate} for rate in ("3e-4", "1e-3", "3e-3")]
    write_tuned(path, {arm: list(zip(rates, (3.6, 3.5, 3.55), strict=True)) for arm in arms})


def test_an_experiment_has_its_section_once_it_is_there(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for place in (EXPERIMENTS["controls"], *MEASUREMENTS.values()):
        (results / place).parent.mkdir(parents=True, exist_ok=True)
        (results / place).symlink_to(ROOT / "results" / place)
    before = Paper(results=results).render()
    assert "**Not run yet:** there is no `results/h100/gpt2-ra-v5-ladder`" in before

    write_study(results / EXPERIMENTS["study"])
    figures = results / EXPERIMENTS["study"] / "figures"
    figures.mkdir()
    (figures / "effects.svg").write_text("<svg/>")
    for within in (".", "noise"):
        Launch(devices=2, slots=2, runs=1, train_s=1800, wall_s=1800).record(figures.parent / within)
    paper = Paper(results=results)
    text = paper.render()
    assert text.count("Not run yet") == before.count("Not run yet") - 1
    # The answer is the study's from then on, of each of its arms.
    assert re.fullmatch(
        r"At 124 M parameters and \d+ M tokens a run, each arm tuned alike, ra-v5-eager \(RA_V5_R=4\) is worth "
        r".* n = 4\): \w+; ra-v5-eager \(RA_V5_R=8\) \+1\.\d % \(\+.* n = 4\): better\.",
        paper.answer(),
    )
    assert paper.answer() in text and "](../results/h100/gpt2-ra-v5-study-2/figures/effects.svg)" in text
    assert "| baseline | `LEARNING_RATE=1e-3` | 3 | none |" in text
    gates = text.partition("Gates of `gpt2-ra-v5-study-2`, 4 runs an arm, and 4 on noise.")[2]
    assert re.search(r"\| `w_rec` \| .* \| 0\.\d+ to 0\.\d+ \|", gates)  # above noise
    assert "tuned.json: the trials that it was chosen from" in text and str(tmp_path) not in text
    assert re.search(r"^\| gpt2-ra-v5-study-2 \| \d+ \| 2 \| 2\.00 \| 0\.50 \|$", text, re.MULTILINE)
    assert "- gpt2-controls was trained with the exact GELU" in text
    assert re.search(r"^\| ra-mla \| mla \| 4 \|", text, re.MULTILINE)
    assert "The first study" not in text

    # Another run of it has a section that says what the first was.
    write_study(results / EXPERIMENTS["first_study"])
    again = Paper(results=results).render()
    assert "### The first study, and higher rates" in again and "(`gpt2-ra-v5-study`, " in again
    assert re.search(r"^\| placebo \| `1e-3` \| 3\.\d+ \| 0\.\d+ \| `1e-3` \| ", again, re.MULTILINE)


def test_two_studies_are_held_against_each_other_by_the_rate_of_each_arm(tmp_path: Path) -> None:
    losses = {"baseline": (3.5, 3.5), "mla": (3.3, 3.4), "placebo": (3.6, 3.5)}
    trials = [
        ({"LEARNING_RATE": rate, "GATE": gate}, loss)
        for rate, gate, loss in (("1e-3", "1", 3.5), ("1e-3", "10", 3.6), ("2e-3", "1", 3.4), ("2e-3", "10", 3.3))
    ]
    studies = []
    for i, rate in enumerate(("2e-3", "1e-3")):
        path = tmp_path / str(i)
        for spread, (step, of) in zip((0.01, 0.02, 0.04), losses.items(), strict=True):
            for seed in (1, 2):
                write_run(path, step, seed, val_loss=of[i] + spread * seed, title=step)
        one = [({"LEARNING_RATE": rate}, 3.5)]
        write_tuned(path, {"baseline": [({"LEARNING_RATE": "1e-3"}, 3.5)], "mla": one, "placebo": one, "gone": trials})
        studies.append(Study(path))
    first, again = studies
    assert rates_table(first, again).rows == [
        ["baseline", "`1e-3`", "3.5150", "0.0071", "`1e-3`", "3.5150", "0.0071"],
        ["mla", "`2e-3`", "3.3300", "0.0141", "`1e-3`", "3.4300", "0.0141"],
        ["placebo", "`2e-3`", "3.6600", "0.0283", "`1e-3`", "3.5600", "0.0283"],
    ]
    assert lower_at_higher_rate(first, again) == ["mla"]
    assert pairs_won(first, "GATE", "1", "10") == (1, 2)


def test_costs_have_medians_and_gates_their_mean_on_noise(tmp_path: Path) -> None:
    write_study(tmp_path / "study")
    for seed in (1, 2, 3, 4):
        slow = 500.0 if seed == 1 else 102.0  # one run that was timed by its first steps alone
        write_run(tmp_path / "study", "placebo", seed, val_loss=3.42, title="placebo", ms_per_step=slow)
    study = Study(tmp_path / "study")
    assert study.costs is not None
    (row,) = (row for row in study.costs.rows if row[0] == "placebo")
    assert row[1] == "+101.5 %" and row[3] == "+2.0 %" and row[4] == "0 %"
    assert study.step_time("placebo").startswith("+101.5 % (") and study.step_time("baseline") == ""
    found = study.gate("ra-mla", "w_rec")
    assert found is not None and found.on_noise is not None and found.superiority is not None
    assert study.gate("placebo", "w_rec") is None


def write_controlled(path: Path, *, placebo: float, due: str, reference: str = "baseline", apart: str = "") -> Study:
    """That study with a gated baseline, and a placebo that is so much worse and has to be what is due; one arm was
    tuned to another rate than all others."""
    write_study(path)
    for seed, loss in enumerate((3.42, 3.43, 3.41, 3.42), start=1):
        run = write_run(path, "placebo", seed, val_loss=loss + placebo, title="placebo", reference=reference)
        with (run / "config").open("a") as file:
            file.write(f"CONFIG_STEP_CONTROL_{due}=y\n" * bool(due))
        write_run(path, "gated-baseline", seed, val_loss=loss - 0.001 * seed, title="gated-baseline")
    arms = ["baseline", "gated-baseline", "placebo", *(f"ra-v5-eager@RA_V5_R={r}" for r in (4, 8))]
    write_tuned(path, {arm: [({"LEARNING_RATE": "2e-3" if arm == apart else "1e-3"}, 3.5)] for arm in arms})
    return Study(path)


@pytest.mark.parametrize(
    ("placebo", "due", "reference"),
    [
        (0.0, "NULL", "baseline"),
        (0.1, "WORSE", "baseline"),
        (0.1, "", "baseline"),  # is no control
        (0.1, "NULL", "mla"),  # touches what is compared with MLA alone
    ],
)
def test_the_answer_is_by_the_baseline_unless_a_control_against_it_failed(
    tmp_path: Path, placebo: float, due: str, reference: str
) -> None:
    found = answer(write_controlled(tmp_path, placebo=placebo, due=due, reference=reference))
    assert re.fullmatch(r"At .*, each arm tuned alike, .* is worth .*: better\.", found)


@pytest.mark.parametrize(
    ("placebo", "due", "said"),
    [(0.1, "NULL", "is worse .* has to be equivalent"), (-0.1, "WORSE", "is better .* has to be worse")],
)
@pytest.mark.parametrize(
    ("apart", "beside"), [("", [4, 8]), ("placebo", [4, 8]), ("ra-v5-eager@RA_V5_R=4", [8]), ("gated-baseline", [])]
)
def test_where_a_control_failed_the_answer_is_what_it_does_not_touch(
    tmp_path: Path, placebo: float, due: str, said: str, apart: str, beside: list[int]
) -> None:
    study = write_controlled(tmp_path, placebo=placebo, due=due, apart=apart)
    first, *others = re.split(r"(?<=\.) (?=[A-Z])", answer(study))
    assert re.fullmatch(
        rf"At 124 M parameters and 16 M tokens a run a control failed: placebo {said}, so that no verdict against "
        r"baseline counts, RA v5's included\.",
        first,
    )
    if beside:  # arms that were tuned to the same
        sentence = others.pop(0)
        assert sentence.startswith("Beside gated-baseline, tuned to the same values and without verdict, ra-v5-eager (")
        assert [int(r) for r in re.findall(r"RA_V5_R=(\d+)", sentence)] == beside
    (sentence,) = others
    assert re.fullmatch(
        r"Against mla, which no failed control touches, ra-mla is worth \+.* % \(.*\): better\.", sentence
    )
    said_apart = "placebo was tuned to `LEARNING_RATE` 2e-3, and baseline to 1e-3"
    assert study.failed_apart == said_apart * (apart == "placebo")


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
    template.write_text("# Title\n\n{{ attention.layer.n_heads }}")
    with pytest.raises(UserError, match=r"page\.md\.j2:3: .*n_heads"):
        Paper(template=template).render()


def test_rows_are_found_by_all_that_is_asked() -> None:
    rows = [{"arm": "a", "compiled": True}, {"arm": "a", "compiled": False}]
    assert paper.the(rows, arm="a", compiled=True) is rows[0]
    for wanted in ({"arm": "a"}, {"arm": "b"}):
        with pytest.raises(UserError, match="the report wants one"):
            paper.the(rows, **wanted)


@pytest.mark.parametrize("package", ["pypandoc", "typst"])
def test_a_package_that_is_missing_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, "pypandoc", ModuleType("pypandoc"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"^{package} is not installed: `make paper` brings it"):
        write_pdf(MARKDOWN, tmp_path / "report.pdf", "2026-01-02")


def test_the_pdf_has_pages(tmp_path: Path, committed: Paper) -> None:
    pytest.importorskip("pypandoc")
    pytest.importorskip("typst")
    pdf = tmp_path / "report.pdf"
    write_pdf(MARKDOWN, pdf, committed.date)
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    write_pdf(MARKDOWN, pdf, committed.date)
    assert pdf.read_bytes() == first
