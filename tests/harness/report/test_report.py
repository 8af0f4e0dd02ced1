"""What a report says, and that it is one file that says it safely."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gpt2.base.errors import UserError
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.report.report import Report, make_report, print_report, render, write_report
from scripts import plots, report
from tests.harness.report.test_figures import write_tuned
from tests.harness.synthetic_runs import write_ablation, write_config, write_lengths, write_run


class Page(HTMLParser):
    """The elements of a page; fails where they do not nest."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report_of(path: Path) -> Report:
    experiment = load_experiment(path)
    return make_report(experiment, compare(experiment), [])


def write_pairs(path: Path, deltas: list[float], events: Sequence[str] = ()) -> None:
    for seed, delta in enumerate(deltas, start=1):
        write_run(path, "baseline", seed, val_loss=3.5, title="Baseline", reference="")
        write_run(path, "ra-v5-eager", seed, val_loss=3.5 + delta, title="RA v5", events=events)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "four"
    write_ablation(path)
    write_report(load_experiment(path))
    return path


def test_everything_is_written_and_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.1])
    paths = write_report(load_experiment(tmp_path)).paths
    assert set(paths) == {path for path in tmp_path.rglob("*") if path.is_file() and "seed-" not in str(path)}


def test_the_page_is_one_file_that_holds_every_figure(ablation: Path) -> None:
    page = Page((ablation / "report.html").read_text())
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "base"}
    addresses = [a[name] for _, a in page.elements for name in ("src", "href", "data", "action") if a.get(name)]
    prefix = "data:image/svg+xml;base64,"
    assert all(address and address.startswith(prefix) for address in addresses)
    shown = {base64.b64decode(address.removeprefix(prefix)) for address in addresses if address}
    assert shown == {path.read_bytes() for path in (ablation / "figures").glob("*.svg")}
    assert len(shown) == 10
    assert "url(" not in (ablation / "report.html").read_text()


def test_markdown_shows_every_figure(ablation: Path) -> None:
    text = (ablation / "report.md").read_text()
    for path in (ablation / "figures").glob("*.png"):
        assert f"](figures/{path.name})" in text


def test_rows_of_markdown_tables_have_as_many_cells_as_their_heads(ablation: Path) -> None:
    lines = (ablation / "report.md").read_text().replace(r"\|", "").splitlines()
    tables: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    assert len(tables) - 1 == 6
    assert all(len({row.count("|") for row in table}) == 1 and len(table) > 2 for table in tables[:-1])


def test_both_formats_say_the_same(ablation: Path) -> None:
    found = report_of(ablation)
    page = Page((ablation / "report.html").read_text()).text
    text = (ablation / "report.md").read_text().replace("\\", "").replace("&lt;", "<")
    for table in (found.comparison, *found.tables):
        for row in table.rows:
            for cell in row:
                assert cell in page
                assert cell in text


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | **x** <img src=http://x.example/>"
    write_pairs(tmp_path, [0.1, 0.2], events=[evil])
    (tmp_path / "baseline/seed-1/config").write_text('CONFIG_STEP_TITLE="<b onload=x>"\nCONFIG_STEP_REFERENCE=""\n')
    write_report(load_experiment(tmp_path))
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.elements} and "b" not in {tag for tag, _ in page.elements}
    assert evil in page.text and "<b onload=x>" in page.text
    text = (tmp_path / "report.md").read_text()
    assert "<" not in text
    assert r"&lt;script&gt;alert(1)&lt;/script&gt; \| \*\*x\*\*" in text


@pytest.mark.parametrize(
    ("deltas", "verdict"),
    [
        (
            [-0.010, -0.011, -0.012],
            "Lower validation loss: RA v5 (−0.0110 nats/token, −0.31 % against Baseline).",  # noqa: RUF001
        ),
        (
            [0.010, 0.011, 0.012],
            "Higher validation loss: RA v5 (+0.0110 nats/token, +0.31 % against Baseline).",
        ),
        ([0.0, 0.0, 0.0], "Equivalent in validation loss: RA v5."),
        (
            [0.02, -0.02, 0.0],
            "Undecided: RA v5. Where undecided, these seeds would probably have shown a difference of 0.0653 nats",
        ),
        ([0.02, 0.03], "Undecided: 2 seeds cannot show a difference"),
        ([0.02], "Undecided: 1 seed cannot show a difference"),
    ],
)
def test_verdicts(tmp_path: Path, deltas: list[float], verdict: str) -> None:
    write_pairs(tmp_path, deltas)
    assert report_of(tmp_path).verdict.startswith(verdict)


def judged(path: Path, **facts: Any) -> Report:
    """The report, had the losses been given these facts as well."""
    experiment = load_experiment(path)
    comparisons = [replace(c, **facts) if c.metric.name == "val_loss" else c for c in compare(experiment)]
    return make_report(experiment, comparisons, [])


def test_an_effect_in_compute_comes_first_and_the_loss_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path, [-0.010, -0.011, -0.012])
    found = judged(tmp_path, compute=0.0166, compute_low=0.0127, compute_high=0.0204)
    assert found.verdict == (
        "Lower validation loss: RA v5 (worth +1.7 % of compute, +1.3 % to +2 %; "
        "−0.0110 nats/token, −0.31 % against Baseline)."  # noqa: RUF001
    )
    (row,) = found.comparison.rows
    cells = dict(zip(found.comparison.columns, row, strict=True))
    assert (cells["compute"], cells["95 % of it"]) == ("+1.7 %", "+1.3 % to +2 %")
    print_report(found)
    table = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(("Lower", "What"))]
    assert "+1.3 % to +2 %" in table[2] and max(map(len, table)) <= 80
    assert "compute" not in report_of(tmp_path).comparison.columns
    undecided = judged(tmp_path, compute=0.001, compute_low=-0.02, compute_high=0.02, verdict="undecided")
    assert undecided.verdict.startswith("Undecided: RA v5 (worth +0.1 % of compute, −2 % to +2 %).")  # noqa: RUF001


def test_an_arm_that_failed_is_not_better_without_that(tmp_path: Path) -> None:
    write_pairs(tmp_path, [-0.010, -0.011, -0.012])
    write_run(tmp_path, "baseline", 4, val_loss=3.5)
    assert "failed" not in report_of(tmp_path).verdict
    assert "failed" not in report_of(tmp_path).comparison.columns
    write_run(tmp_path, "ra-v5-eager", 4, status="failed", error="step 7: loss nan", title="RA v5")
    found = report_of(tmp_path)
    assert "RA v5 (better on the seeds it survived, failed on 1 of 4 seeds)" in found.verdict
    cells = dict(zip(found.comparison.columns, found.comparison.rows[0], strict=True))
    assert (cells["verdict"], cells["failed"], cells["registered"]) == ("undecided", "1 of 4", "no")


def test_what_became_of_the_controls_is_said(tmp_path: Path) -> None:
    write_pairs(tmp_path, [-0.010, -0.011, -0.012])
    assert report_of(tmp_path).controls.startswith("What this experiment could see is not shown")
    for control, said in {"BETTER": "as it has to be", "NULL": "where it has to be equivalent"}.items():
        with (tmp_path / "ra-v5-eager/seed-1/config").open("a") as file:
            file.write(f"CONFIG_STEP_CONTROL_{control}=y\n")
        found = report_of(tmp_path)
        assert found.controls == f"What this experiment could see: RA v5 is better, {said}."
        assert found.controls in Page(render(found, "report.html")).text
        assert found.controls in render(found, "report.md")
        text = (tmp_path / "ra-v5-eager/seed-1/config").read_text()
        (tmp_path / "ra-v5-eager/seed-1/config").write_text(text.replace(f"CONFIG_STEP_CONTROL_{control}=y\n", ""))


def as_control(path: Path, step: str, control: str) -> None:
    with (path / step / "seed-1/config").open("a") as file:
        file.write(f"CONFIG_STEP_CONTROL_{control}=y\n")


@pytest.mark.parametrize("due", ["better", "worse", "equivalent"])
@pytest.mark.parametrize(
    ("verdict", "deltas"),
    [
        ("better", [-0.010, -0.011, -0.012]),
        ("worse", [0.010, 0.011, 0.012]),
        ("equivalent", [0.0, 0.0, 0.0]),
        ("undecided", [0.02, -0.02, 0.0]),
        ("undecided", [0.02, 0.03]),
    ],
)
def test_a_control_that_is_decided_to_be_something_else_comes_first(
    tmp_path: Path, due: str, verdict: str, deltas: list[float]
) -> None:
    write_pairs(tmp_path, deltas)
    before = report_of(tmp_path).verdict
    as_control(tmp_path, "ra-v5-eager", {"equivalent": "NULL"}.get(due, due.upper()))
    found = report_of(tmp_path)
    failed = (
        f"A control failed: RA v5 is {verdict}, where it has to be {due}: whatever made it so may be behind every "
        "verdict against Baseline, and none of them counts. "
    )
    assert found.verdict == (failed if verdict not in ("undecided", due) else "") + before
    for name in ("report.html", "report.md"):
        assert (failed.strip() in render(found, name)) == (found.verdict != before)


def test_a_failed_control_is_said_of_its_reference_alone(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.0, 0.0, 0.0])
    for step, reference in {"placebo": "baseline", "uniform": "baseline", "mla": "", "ra-mla": "mla"}.items():
        for seed in (1, 2, 3):
            loss = 3.5 - 0.01 * (step in ("placebo", "uniform")) + 0.001 * seed * (step == "uniform")
            write_run(tmp_path, step, seed, val_loss=loss, title=step, reference=reference)
    as_control(tmp_path, "placebo", "NULL")
    assert report_of(tmp_path).verdict.startswith("A control failed: placebo is better, where it has to be equivalent:")
    as_control(tmp_path, "uniform", "WORSE")
    verdict = report_of(tmp_path).verdict
    assert verdict.startswith(
        "Controls failed: placebo is better, where it has to be equivalent; uniform is better, where it has to be worse"
    )
    assert "every verdict against Baseline, " in verdict and "verdict against mla" not in verdict
    as_control(tmp_path, "ra-mla", "BETTER")
    assert "A control failed: ra-mla is equivalent, where it has to be better: " in report_of(tmp_path).verdict
    assert report_of(tmp_path).verdict.count("none of them counts") == 2


@pytest.mark.parametrize(
    ("slope", "said"),
    [(0.67, r" nats/token, which is 4\.1 % of compute\.$"), (-0.67, r" nats/token\.$"), (1e-9, r" nats/token, .*$")],
)
def test_what_would_have_shown_is_told_in_compute_where_that_is_known(tmp_path: Path, slope: float, said: str) -> None:
    write_pairs(tmp_path, [0.01, -0.01, 0.012, -0.012])
    losses = [run.value("val_loss") or 0.0 for run in load_experiment(tmp_path).runs if run.step == "baseline"]
    assert report_of(tmp_path).verdict.endswith("nats/token.")
    write_lengths(tmp_path, losses, slope=slope)
    assert re.search(said, report_of(tmp_path).verdict)


def test_a_best_value_at_the_edge_of_what_was_tried_is_warned_of(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.1])
    write_tuned(tmp_path, {"ra-v5-eager": [({"LEARNING_RATE": "1e-3"}, 3.5), ({"LEARNING_RATE": "3e-3"}, 3.4)]})
    warnings = report_of(tmp_path).warnings
    assert any(
        w.startswith("LEARNING_RATE: what was chosen is at the edge of what was tried, ") and "ra-v5-eager (3e-3)" in w
        for w in warnings
    )
    assert any("not here any more" in w for w in warnings)  # the trials that it was chosen from


def write_choices(path: Path, choices: dict[str, dict[str, str]]) -> None:
    """Two arms against the baseline, MLA and RA + MLA with a reference of its own, each tuned to what is given."""
    write_pairs(path, [0.01, 0.02, 0.03])
    for step, reference in {"gated-baseline": "baseline", "mla": "baseline", "ra-mla": "mla"}.items():
        for seed in (1, 2, 3):
            write_run(path, step, seed, title=step, reference=reference)
    write_tuned(path, {arm: [(settings, 3.5)] for arm, settings in choices.items()})


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        # Nothing that both have is another value.
        ({arm: {"LEARNING_RATE": "2e-3"} for arm in ("baseline", "ra-v5-eager", "gated-baseline")}, []),
        ({"baseline": {"LEARNING_RATE": "2e-3"}, "ra-v5-eager": {"LEARNING_RATE": "0.002"}}, []),
        ({"baseline": {"LEARNING_RATE": "2e-3"}, "ra-v5-eager": {"RA_V5_GATE_LR_MULT": "10"}}, []),
        ({"ra-v5-eager": {"LEARNING_RATE": "2e-3"}}, []),  # of the reference nothing is known
        ({"mla": {"MLA_KIND": "a"}, "ra-mla": {"MLA_KIND": "a"}}, []),
        (
            {"mla": {"MLA_KIND": "a"}, "ra-mla": {"MLA_KIND": "b"}},
            ["MLA_KIND: tuned to a for mla, and to b for ra-mla"],
        ),
        (
            {
                "baseline": {"LEARNING_RATE": "2e-3"},
                "ra-v5-eager": {"LEARNING_RATE": "2.8e-3", "RA_V5_GATE_LR_MULT": "1"},
                "gated-baseline": {"LEARNING_RATE": "2.8e-3", "RA_V5_GATE_LR_MULT": "10"},
                "mla": {"LEARNING_RATE": "1.4e-3"},
                "ra-mla": {"LEARNING_RATE": "0.002"},
            },
            [
                # RA v5 is held against the gated baseline besides, and RA + MLA against the baseline.
                "LEARNING_RATE: tuned to 2e-3 for Baseline, and to 2.8e-3 for RA v5, gated-baseline; to 1.4e-3 for mla",
                "RA_V5_GATE_LR_MULT: tuned to 10 for gated-baseline, and to 1 for RA v5",
                "LEARNING_RATE: tuned to 1.4e-3 for mla, and to 0.002 for ra-mla",
            ],
        ),
    ],
)
def test_what_was_tuned_to_different_values_is_warned_of(
    tmp_path: Path, choices: dict[str, dict[str, str]], said: list[str]
) -> None:
    write_choices(tmp_path, choices)
    found = [warning for warning in report_of(tmp_path).warnings if ": tuned to " in warning]
    assert sorted(found) == sorted(f"{s}: what they differ by is also {s.partition(':')[0]}'s" for s in said)


def test_arms_with_too_few_seeds_are_not_counted_among_what_would_have_been_shown(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.02, -0.02, 0.0])
    for step, seeds in {"mla": (1,), "ra-mla": (1, 2)}.items():
        for seed in seeds:
            write_run(tmp_path, step, seed, val_loss=3.4 + 0.05 * seed)
    assert report_of(tmp_path).verdict.startswith(
        "Undecided: RA v5. Undecided with fewer than 3 seeds, which can show no difference: ra-mla (2 seeds); "
        "mla (1 seed). Where undecided with 3 seeds or more, these seeds would probably have shown a difference of 0.0"
    )


def test_a_difference_that_is_small_is_not_shown_as_none(tmp_path: Path) -> None:
    write_pairs(tmp_path, [-0.00001, -0.000012, -0.000011])
    (row,) = report_of(tmp_path).comparison.rows
    assert row[3] == "−0.000011" and row[4] == "−0.00031 %"  # noqa: RUF001
    assert not [cell for cell in row if re.search(r"[+−]0\.0+\b(?!\d)", cell)]  # noqa: RUF001


def test_without_pairs_there_is_no_verdict(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, title="Baseline", val_loss=3.5)
    assert report_of(tmp_path).verdict == (
        "Nothing to compare: Baseline is the only arm. Its final validation loss is 3.5000 nats/token."
    )
    write_run(tmp_path, "ra-v5-eager", 2)
    assert report_of(tmp_path).verdict.startswith("No verdict yet: no arm and its reference")
    for step, seed in (("baseline", 1), ("ra-v5-eager", 2)):
        write_run(tmp_path, step, seed, status="interrupted")
    assert report_of(tmp_path).verdict == "No verdict yet: no run has finished."


def test_an_unfinished_ablation_says_so(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.1, 0.2])
    assert report_of(tmp_path).partial == ""
    (tmp_path / "config").write_text(
        "CONFIG_RA_MLA_ABLATION_MODE=y\n"
        'CONFIG_RA_MLA_ABLATION_STEPS="1,2"\nCONFIG_ABLATION_SEEDS="1,2"\nCONFIG_ABLATION_SWEEP="RA_V5_R=4,8"\n'
    )
    for seed in (1, 2):
        (tmp_path / f"ra-v5-eager/seed-{seed}").rename(tmp_path / f"moved-{seed}")
    write_run(tmp_path, "baseline", 2, status="failed", error="loss is nan at step 7")
    write_run(tmp_path, "ra-v5-eager@RA_V5_R=4", 1)
    write_run(tmp_path, "ra-v5-eager@RA_V5_R=4", 2, status=None)
    found = report_of(tmp_path)
    assert found.partial == (
        "This report is partial: 2 runs done, 4 not: baseline/seed-2 (failed), ra-v5-eager@RA_V5_R=4/seed-2 "
        "(unfinished), ra-v5-eager@RA_V5_R=8/seed-1 (not started), ra-v5-eager@RA_V5_R=8/seed-2 (not started)."
    )
    assert "baseline/seed-2 failed: loss is nan at step 7" in found.warnings
    assert found.partial in render(found, "report.html")


def test_a_plan_that_can_no_longer_be_made_is_warned_of(tmp_path: Path) -> None:
    write_pairs(tmp_path, [0.1])
    write_config(tmp_path, {"A_SYMBOL_OF_LONG_AGO": 1})
    (warning,) = report_of(tmp_path).warnings
    assert "whether runs are missing cannot be told" in warning and "A_SYMBOL_OF_LONG_AGO" in warning


def test_fallbacks_and_unfair_references_are_warned_of(tmp_path: Path) -> None:
    message = "torch.compile failed (no compiler): ran eager"
    write_run(tmp_path, "baseline", 1)
    write_run(
        tmp_path,
        "ra-v5-compiled",
        1,
        reference="baseline-compiled,baseline",
        asked="model",
        events=[message],
    )
    assert report_of(tmp_path).warnings == [
        f"ra-v5-compiled/seed-1: {message}",
        "ra-v5-compiled: compared with baseline: baseline-compiled, its fair reference, was not run",
    ]


def test_settings_that_differ_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, title="Baseline")
    write_run(tmp_path, "ra-v5-eager", 1, title="RA v5", identity={"ATTENTION": "ra_v5", "RA_V5_R": 4})
    table = next(table for table in report_of(tmp_path).tables if table.title.startswith("In what"))
    assert table.rows == [
        ["RA v5", "Baseline", "ATTENTION", "ra_v5", "baseline"],
        ["RA v5", "Baseline", "RA_V5_R", "4", "–"],  # noqa: RUF001
    ]


def test_commands_take_an_experiment_and_print_what_they_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    write_pairs(path, [-0.010, -0.011, -0.012])
    monkeypatch.setattr("sys.argv", ["report", str(path)])
    report.main()
    printed = capsys.readouterr().out
    assert "better" in printed and "Lower validation loss: RA v5" in printed
    assert str(path / "report.html") in printed.splitlines()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    monkeypatch.setattr("sys.argv", ["plots"])
    Path(".config").write_text('CONFIG_RESULTS_DIR="."\nCONFIG_MODEL_NAME="x"\n')
    plots.main()
    printed = capsys.readouterr().out
    assert printed.splitlines()[:2] == ["x/summary.csv", "x/comparison.csv"]
    assert all(Path(line).exists() for line in printed.splitlines())


def test_an_experiment_without_runs_says_what_makes_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    monkeypatch.setattr("sys.argv", ["report"])
    Path(".config").write_text('CONFIG_MODEL_NAME="untrained"\n')
    with pytest.raises(UserError, match=r"results/untrained: holds no runs; `make`"):
        report.main()
