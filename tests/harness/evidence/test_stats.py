"""Paired comparisons and what spoils them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gpt2.base.errors import UserError
from harness.evidence.comparison import Comparison, write_comparison_csv
from harness.evidence.references import reference_of
from harness.evidence.stats import compare, compare_besides
from harness.evidence.store import load_experiment
from harness.report.report import verdict
from harness.report.tables import beside_table
from tests.harness.synthetic_runs import LOSSES, write_ablation, write_config, write_lengths, write_run


def compared(path: Path, metric: str = "val_loss") -> dict[str, Comparison]:
    return {c.step: c for c in compare(load_experiment(path)) if c.metric.name == metric}


def write_pairs(path: Path, ours: list[float], theirs: list[float], step: str = "ra-v5-eager") -> None:
    for seed, (a, b) in enumerate(zip(ours, theirs, strict=True), start=1):
        write_run(path, "baseline", seed, val_loss=b)
        write_run(path, step, seed, val_loss=a, identity={"ATTENTION": "ra_v5"})


def test_a_paired_test_is_scipys_on_both_columns(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    theirs = LOSSES["baseline"][1]
    for step, c in compared(tmp_path).items():
        ours = LOSSES[step][1]
        expected = stats.ttest_rel(ours, theirs)
        low, high = expected.confidence_interval(0.95)
        assert c.n == 3
        assert c.delta_mean == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)
        assert (c.ci_low, c.ci_high) == pytest.approx((low, high), abs=1e-12)
        assert c.p_value == pytest.approx(expected.pvalue, rel=1e-9)


def test_what_an_arm_adds_to_another_is_told_without_a_verdict(tmp_path: Path) -> None:
    ours, theirs = [3.40, 3.41, 3.43, 3.39], [3.42, 3.41, 3.44]
    for seed, loss in enumerate(ours, start=1):
        write_run(tmp_path, "baseline", seed, val_loss=3.5)
        write_run(tmp_path, "ra-v5-eager", seed, val_loss=loss, identity={"ATTENTION": "ra_v5"})
    assert compare_besides(load_experiment(tmp_path)) == []
    for seed, loss in enumerate(theirs, start=1):
        write_run(tmp_path, "gated-baseline", seed, val_loss=loss, identity={"ATTENTION": "ra_v5"})
    experiment = load_experiment(tmp_path)
    (c,) = compare_besides(experiment)
    expected = stats.ttest_rel(ours[:3], theirs)
    assert (c.step, c.reference, c.n) == ("ra-v5-eager", "gated-baseline", 3)
    assert (c.delta_mean, c.p_value) == pytest.approx((np.mean(ours[:3]) - np.mean(theirs), expected.pvalue))
    assert (c.ci_low, c.ci_high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (c.p_holm, c.verdict) == (None, "undecided")
    write_run(tmp_path, "gated-baseline", 4, status="failed", error="loss nan")
    (c,) = compare_besides(load_experiment(tmp_path))
    assert c.n == 3 and c.note == "without seed 4: failed in gated-baseline"
    # The verdicts are those that they would be without.
    assert {row.reference for row in compare(experiment)} == {"baseline"}
    table = beside_table(experiment)
    assert table is not None and [row[:3] for row in table.rows] == [["ra-v5-eager", "gated-baseline", "3"]]


@pytest.mark.parametrize("beside", ["mine", "mine,mine", "baseline", "nosuch", ""])
def test_nothing_is_held_against_itself_or_its_reference_besides(tmp_path: Path, beside: str) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "baseline", seed)
        write_run(tmp_path, "mine", seed)
        with (tmp_path / "mine" / f"seed-{seed}" / "config").open("a") as file:
            file.write(f'CONFIG_STEP_BESIDE="{beside}"\n')
    assert compare_besides(load_experiment(tmp_path)) == []


@pytest.mark.parametrize(
    ("deltas", "word"),
    [
        ([-0.010, -0.011, -0.012], "better"),
        ([0.010, 0.011, 0.012], "worse"),
        ([0.0, 0.0, 0.0], "equivalent"),
        ([0.0001, -0.0001, 0.0], "undecided"),
        ([0.0008, 0.0009, 0.0010], "worse"),
        ([0.02, -0.03, 0.01], "undecided"),
        ([-0.010, -0.0101], "undecided"),
        ([-0.5], "undecided"),
    ],
)
def test_verdicts(tmp_path: Path, deltas: list[float], word: str) -> None:
    theirs = [3.5, 3.6, 3.4][: len(deltas)]
    write_pairs(tmp_path, [b + d for b, d in zip(theirs, deltas, strict=True)], theirs)
    assert compared(tmp_path)["ra-v5-eager"].verdict == word
    assert compared(tmp_path, "val_bpb")["ra-v5-eager"].verdict == word


def test_higher_throughput_is_better(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "baseline", seed, ms_per_step=100 + seed)
        write_run(tmp_path, "ra-v5-eager", seed, ms_per_step=80 + 1.1 * seed)
    assert compared(tmp_path, "tokens_per_s")["ra-v5-eager"].verdict == "better"
    assert compared(tmp_path, "ms_per_step")["ra-v5-eager"].verdict == "better"


def test_one_of_many_has_to_show_more(tmp_path: Path) -> None:
    theirs = [3.5, 3.6, 3.4]
    write_pairs(tmp_path, [3.49, 3.588, 3.394], theirs)
    alone = compared(tmp_path)["ra-v5-eager"]
    assert alone.p_value is not None and 0.025 < alone.p_value < 0.05
    assert (alone.verdict, alone.p_holm) == ("better", alone.p_value)
    write_pairs(tmp_path, [3.51, 3.58, 3.41], theirs, step="ra-v5-direct")
    among = compared(tmp_path)["ra-v5-eager"]
    assert (among.verdict, among.p_holm) == ("undecided", 2 * alone.p_value)
    assert "not as one of 2 comparisons" in among.note
    assert among.detectable is not None and alone.detectable is not None and among.detectable > alone.detectable


@pytest.mark.parametrize(
    ("difference", "note"),
    [
        ({"compiled": "model"}, "compile differs: model vs none"),
        ({"compiled": "model", "mode": "max_autotune"}, "compile differs: model, max_autotune vs none"),
        ({"device_name": "NVIDIA A10G"}, "device differs: NVIDIA A10G vs NVIDIA H100 80GB HBM3"),
    ],
)
def test_costs_are_compared_on_equal_terms_only(tmp_path: Path, difference: dict[str, str], note: str) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "baseline", seed, val_loss=3.5 + seed)
        write_run(tmp_path, "ra-v5-eager", seed, val_loss=3.4 + 1.001 * seed, ms_per_step=50, **difference)  # type: ignore[arg-type]
    for metric in ("ms_per_step", "tokens_per_s", "peak_mem_gib", "train_time_s"):
        c = compared(tmp_path, metric)["ra-v5-eager"]
        assert (c.verdict, c.p_holm, c.note) == ("not comparable", None, note)
    assert compared(tmp_path)["ra-v5-eager"].verdict == "better"


def test_losses_on_different_data_are_not_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "baseline", seed)
        write_run(tmp_path, "ra-v5-eager", seed, val_loss=1.0, data_hash="e" * 64)
    c = compared(tmp_path)["ra-v5-eager"]
    assert (c.verdict, c.note) == ("not comparable", "data differs: eeeeeeeeeeee vs dddddddddddd")


def test_only_seeds_finished_on_both_sides_are_paired(tmp_path: Path) -> None:
    write_pairs(tmp_path, [3.4, 3.5, 3.3], [3.5, 3.6, 3.4])
    write_run(tmp_path, "ra-v5-eager", 2, status="failed", val_loss=9.0)
    write_run(tmp_path, "baseline", 4, val_loss=3.7)
    c = compared(tmp_path)["ra-v5-eager"]
    assert sorted(c.deltas) == [1, 3]
    assert c.note == "without seed 2: failed in ra-v5-eager; without seed 4: not finished on both sides"


def test_a_metric_that_neither_side_knows_is_left_out(tmp_path: Path) -> None:
    write_pairs(tmp_path, [3.4, 3.5], [3.5, 3.6])
    for path in tmp_path.glob("*/*/summary.json"):
        path.write_text(path.read_text().replace('"val_bpb": ', '"val_bpb": null, "was": '))
    assert compared(tmp_path, "val_bpb") == {}
    assert compared(tmp_path)["ra-v5-eager"].n == 2


@pytest.mark.parametrize(
    ("steps", "expected", "note"),
    [
        (["baseline", "baseline-compiled"], "baseline-compiled", ""),
        (["baseline"], "baseline", "compared with baseline: baseline-compiled, its fair reference, was not run"),
        ([], None, "not compared: baseline-compiled and baseline not run"),
    ],
)
def test_the_reference_is_the_best_that_was_run(
    tmp_path: Path, steps: list[str], expected: str | None, note: str
) -> None:
    write_run(tmp_path, "ra-v5-compiled", 1, reference="baseline-compiled,baseline")
    for step in steps:
        write_run(tmp_path, step, 1, reference="")
    experiment = load_experiment(tmp_path)
    arm = next(arm for arm in experiment.arms if arm.step == "ra-v5-compiled")
    reference, said = reference_of(arm, experiment)
    assert (reference and reference.step, said) == (expected, note)


def test_swept_arms_meet_references_that_sweep_the_same_value(tmp_path: Path) -> None:
    for rate in ("1e-3", "6e-4"):
        write_run(tmp_path, f"baseline@LEARNING_RATE={rate}", 1, reference="")
        for r in (4, 8):
            write_run(tmp_path, f"ra-v5-eager@LEARNING_RATE={rate}@RA_V5_R={r}", 1)
    found = {c.step: c.reference for c in compare(load_experiment(tmp_path)) if c.metric.name == "val_loss"}
    assert found == {
        f"ra-v5-eager@LEARNING_RATE={rate}@RA_V5_R={r}": f"baseline@LEARNING_RATE={rate}"
        for rate in ("1e-3", "6e-4")
        for r in (4, 8)
    }


def test_comparison_csv(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    experiment = load_experiment(tmp_path)
    with write_comparison_csv(experiment, compare(experiment)).open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [
        *("step", "reference", "metric", "n", "delta_mean", "ci_low", "ci_high", "p_value", "verdict"),
        *("p_holm", "detectable", "reference_mean", "note"),
        *("compute", "compute_low", "compute_high", "time", "time_low", "time_high"),
        *("p_pooled", "pooled_low", "pooled_high", "failed", "look", "registered"),
    ]
    assert [row["metric"] for row in rows[:6]] == [
        *("val_loss", "val_bpb", "ms_per_step", "tokens_per_s", "peak_mem_gib", "train_time_s"),
    ]
    assert [row["verdict"] for row in rows if row["metric"] == "val_loss"] == ["better", "undecided", "worse"]


def write_study(path: Path, deltas: list[float], *, slope: float = 0.67, tilts: list[float] | None = None) -> None:
    """An arm against a baseline that was trained at other lengths too."""
    theirs = [3.5 + 0.01 * seed for seed in range(len(deltas))]
    write_pairs(path, [b + d for b, d in zip(theirs, deltas, strict=True)], theirs)
    write_lengths(path, theirs, slope=slope, tilts=tilts or [0.01, -0.01, 0.0, 0.02, -0.02][: len(deltas)])


@pytest.mark.parametrize(
    ("deltas", "word"),
    [
        ([0.0010, -0.0010, 0.0], "equivalent"),  # 0.0067 nats are 1 %
        ([0.0030, 0.0031, 0.0032], "equivalent"),
        ([0.0060, 0.0061, 0.0062], "equivalent"),
        ([0.0070, 0.0071, 0.0072], "worse"),
        ([-0.0070, -0.0071, -0.0072], "better"),
        ([0.02, -0.02, 0.0], "undecided"),
    ],
)
def test_verdicts_against_the_margin_in_compute(tmp_path: Path, deltas: list[float], word: str) -> None:
    write_study(tmp_path, deltas)
    for metric in ("val_loss", "val_bpb"):
        c = compared(tmp_path, metric)["ra-v5-eager"]
        assert c.verdict == word
        assert c.compute is not None and c.compute_low is not None and c.compute_high is not None
        assert c.compute_low <= c.compute <= c.compute_high
        assert c.compute == pytest.approx(math.expm1(-float(np.mean(deltas)) / 0.67), rel=1e-2)
    assert "baseline@MAX_ITERS=400" not in compared(tmp_path)


def test_the_margin_is_what_was_set(tmp_path: Path) -> None:
    write_study(tmp_path, [0.0060, 0.0061, 0.0062])
    write_config(tmp_path, {"STUDY_MARGIN": "0.5"})
    assert compared(tmp_path)["ra-v5-eager"].verdict == "worse"
    write_config(tmp_path, {"STUDY_MARGIN": "half"})
    with pytest.raises(UserError, match=r'config: STUDY_MARGIN="half": must be a number, in % of compute'):
        compared(tmp_path)


def test_a_reference_without_lengths_takes_those_of_its_own(tmp_path: Path) -> None:
    write_study(tmp_path, [0.0, 0.001, -0.001])
    for seed in (1, 2, 3):
        write_run(tmp_path, "gated-baseline", seed, val_loss=3.49 + 0.01 * seed)
        write_run(tmp_path, "ra-v5-direct", seed, val_loss=3.48 + 0.0101 * seed, reference="gated-baseline")
    c = compared(tmp_path)["ra-v5-direct"]
    assert c.compute is not None and c.compute > 0
    assert "compute by the lengths of baseline" in c.note


def test_time_is_compute_by_the_ratio_of_times_where_these_are_comparable(tmp_path: Path) -> None:
    write_study(tmp_path, [-0.0670, -0.0671, -0.0669])
    for seed, loss in enumerate([3.5, 3.51, 3.52], start=1):
        write_run(tmp_path, "ra-v5-eager", seed, val_loss=loss - 0.067, ms_per_step=125.0)
    c = compared(tmp_path)["ra-v5-eager"]
    assert c.compute is not None and c.time is not None and c.time_low is not None and c.time_high is not None
    assert c.time == pytest.approx((1 + c.compute) / 1.25 - 1)
    assert c.time_low < c.time < c.time_high < 0 < c.compute
    write_run(tmp_path, "ra-v5-eager", 1, val_loss=3.433, ms_per_step=125.0, compiled="model")
    c = compared(tmp_path)["ra-v5-eager"]
    assert c.compute is not None and (c.time, c.time_low, c.time_high) == (None, None, None)


def test_sizes_are_never_mixed(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        for step in ("baseline", "ra-v5-eager", "ra-v5-eager@STUDY_SIZE=45m", "ra-v5-direct@STUDY_SIZE=9m"):
            write_run(tmp_path, step, seed)
        write_run(tmp_path, "baseline@STUDY_SIZE=45m", seed, val_loss=3.1)
    found = {c.step: c.reference for c in compared(tmp_path).values()}
    assert found == {"ra-v5-eager": "baseline", "ra-v5-eager@STUDY_SIZE=45m": "baseline@STUDY_SIZE=45m"}


def test_survivors_are_never_better(tmp_path: Path) -> None:
    theirs = [3.5, 3.6, 3.4, 3.5, 3.55]
    write_pairs(tmp_path, [b - 0.01 - 0.0001 * i for i, b in enumerate(theirs)], theirs)
    assert compared(tmp_path)["ra-v5-eager"].verdict == "better"
    for seed in (2, 4):
        write_run(tmp_path, "ra-v5-eager", seed, status="failed", error="loss is not finite")
    c = compared(tmp_path)["ra-v5-eager"]
    assert (c.verdict, c.failed, c.n) == ("undecided", "2 of 5", 3)
    assert c.note.startswith(
        "better on the seeds it survived, failed on 2 of 5; without seed 2, 4: failed in ra-v5-eager"
    )
    assert "not finished" not in c.note
    experiment = load_experiment(tmp_path)
    sentence = verdict(experiment, [c for c in compare(experiment) if c.metric.name == "val_loss"])
    assert sentence.startswith("Undecided: ra-v5-eager (better on the seeds it survived, failed on 2 of 5 seeds).")


def test_survivors_that_are_worse_are(tmp_path: Path) -> None:
    theirs = [3.5, 3.6, 3.4, 3.5]
    write_pairs(tmp_path, [b + 0.01 + 0.0001 * i for i, b in enumerate(theirs)], theirs)
    write_run(tmp_path, "ra-v5-eager", 2, status="failed")
    c = compared(tmp_path)["ra-v5-eager"]
    assert (c.verdict, c.failed) == ("worse", "1 of 4")


def test_the_error_is_pooled_over_arms_of_the_same_reference(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 3))
    for place, step in enumerate(("baseline", "ra-v5-eager", "ra-v5-direct", "gated-baseline")):
        for seed in (1, 2, 3):
            write_run(tmp_path, step, seed, val_loss=3.5 + 0.1 * seed + noise[place, seed - 1])
    c = compared(tmp_path)["ra-v5-eager"]
    losses = noise - noise.mean(0) - noise.mean(1)[:, None] + noise.mean()
    error = math.sqrt(2 / 3 * (losses**2).sum() / 6)
    assert c.delta_mean is not None and c.pooled_low is not None and c.pooled_high is not None
    assert c.pooled_high - c.pooled_low == pytest.approx(2 * stats.t.isf(0.025, 6) * error)
    assert c.p_pooled == pytest.approx(2 * stats.t.sf(abs(c.delta_mean) / error, 6))
    (cost,) = [x for x in compare(load_experiment(tmp_path)) if (x.step, x.metric.name) == (c.step, "ms_per_step")]
    assert cost.p_pooled is None


def test_a_noisier_arm_is_said_to_spoil_the_pooled_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for step in ("baseline", "ra-v5-eager", "ra-v5-direct", "gated-baseline", "mla"):
        for seed in range(1, 7):
            write_run(tmp_path, step, seed, val_loss=3.5 + (0.1 if step == "mla" else 0.001) * rng.normal())
    assert "the pooled error does not hold: arms are not equally noisy (p = 5e-05)" in compared(tmp_path)["mla"].note
