"""Paired comparisons and what spoils them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.evidence.stats import (
    Comparison,
    compare,
    contamination,
    detectable_difference,
    holm,
    identity_differences,
    paired_test,
    reference_of,
    write_comparison_csv,
)
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import LOSSES, write_ablation, write_run

losses = st.floats(2.0, 5.0)
pairs = st.lists(st.tuples(losses, losses), min_size=2, max_size=6)


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


def test_an_interval_worked_out_by_hand() -> None:
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt(3).
    test = paired_test([1.0, 2.0, 3.0])
    assert (test.mean, test.ci_low, test.ci_high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)
    assert test.p_value == pytest.approx(0.0741799, abs=1e-6)


@given(pairs)
def test_exchanging_the_sides_turns_the_sign(values: list[tuple[float, float]]) -> None:
    forth, back = paired_test([a - b for a, b in values]), paired_test([b - a for a, b in values])
    assert back.mean is not None and back.ci_low is not None and back.ci_high is not None
    assert (forth.mean, forth.ci_low, forth.ci_high) == pytest.approx((-back.mean, -back.ci_high, -back.ci_low))
    assert forth.p_value == pytest.approx(back.p_value)


@given(pairs, st.lists(st.integers(-4, 4), min_size=6, max_size=6))
def test_what_a_seed_does_to_both_sides_does_not_matter(values: list[tuple[float, float]], shifts: list[int]) -> None:
    # Sums of eighths are exact, so that the invariance is too.
    values = [(round(a * 8) / 8, round(b * 8) / 8) for a, b in values]
    shifted = [(a + shift, b + shift) for (a, b), shift in zip(values, shifts, strict=False)]
    assert paired_test([a - b for a, b in values]) == paired_test([a - b for a, b in shifted])


@given(pairs, st.integers(-20, 20))
def test_units_do_not_change_p(values: list[tuple[float, float]], power: int) -> None:
    deltas = [a - b for a, b in values]
    assert paired_test([d * 2.0**power for d in deltas]).p_value == pytest.approx(paired_test(deltas).p_value)


def test_one_pair_has_a_mean_and_no_more() -> None:
    test = paired_test([0.25])
    assert (test.mean, test.ci_low, test.ci_high, test.p_value) == (0.25, None, None, None)


@pytest.mark.parametrize(("delta", "p_value"), [(0.5, 0.0), (0.0, 1.0)])
def test_equal_differences_have_no_spread(delta: float, p_value: float) -> None:
    test = paired_test([delta] * 3)
    assert (test.mean, test.ci_low, test.ci_high, test.p_value) == (delta, delta, delta, p_value)


def test_detectable_is_shown_with_probability_80_percent() -> None:
    deltas, n = [0.1, 0.2, 0.4, 0.5], 4
    noncentrality = detectable_difference(deltas) / (np.std(deltas, ddof=1) / math.sqrt(n))
    critical = stats.t.isf(0.025, n - 1)
    power = stats.nct.sf(critical, n - 1, noncentrality) + stats.nct.cdf(-critical, n - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=1e-5)
    assert detectable_difference(deltas, 0.01) > detectable_difference(deltas, 0.05)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert all(a <= b for a, b in zip(np.take(adjusted, order), np.take(adjusted, order)[1:], strict=False))


@pytest.mark.parametrize(
    ("deltas", "verdict"),
    [
        ([-0.010, -0.011, -0.012], "better"),
        ([0.010, 0.011, 0.012], "worse"),
        ([0.0001, -0.0001, 0.0], "equivalent"),
        ([0.0008, 0.0009, 0.0010], "equivalent"),
        ([0.02, -0.03, 0.01], "undecided"),
        ([-0.010, -0.0101], "undecided"),
        ([-0.5], "undecided"),
    ],
)
def test_verdicts(tmp_path: Path, deltas: list[float], verdict: str) -> None:
    theirs = [3.5, 3.6, 3.4][: len(deltas)]
    write_pairs(tmp_path, [b + d for b, d in zip(theirs, deltas, strict=True)], theirs)
    assert compared(tmp_path)["ra-v5-eager"].verdict == verdict
    assert compared(tmp_path, "val_bpb")["ra-v5-eager"].verdict == verdict


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
    assert c.note == "without seed 2, 4: not finished on both sides"


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


def test_a_clean_ablation_has_nothing_against_it(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    assert contamination(load_experiment(tmp_path)) == []


@pytest.mark.parametrize(
    ("difference", "warning"),
    [
        (
            {"data_hash": "e" * 64},
            "data differs between runs: dddddddddddd (baseline/seed-1); eeeeeeeeeeee (ra-v5-eager",
        ),
        ({"device_name": "cpu"}, "device differs between runs: "),
        ({"torch_version": "2.6.0"}, "torch version differs between runs: 2.13.0 (baseline/seed-1); 2.6.0 ("),
        ({"commit": "b" * 40}, "code commit differs between runs: cccccccccccc"),
        (
            {"identity": {"LEARNING_RATE": 1e-3}},
            "ra-v5-eager: LEARNING_RATE is 0.001, but 0.0006 in its reference baseline, and the step does not ask",
        ),
    ],
)
def test_contamination_is_named(tmp_path: Path, difference: dict[str, object], warning: str) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "ra-v5-eager", 1, **difference)  # type: ignore[arg-type]
    (found,) = contamination(load_experiment(tmp_path))
    assert found.startswith(warning)


def test_what_a_step_sets_or_sweeps_is_not_contamination(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, identity={"COMPILE": "none"})
    write_run(tmp_path, "ra-v5-compiled@LEARNING_RATE=1e-3", 1, identity={"COMPILE": "model", "LEARNING_RATE": 1e-3})
    assert contamination(load_experiment(tmp_path)) == []


def test_seeds_of_an_arm_that_differ_in_a_setting_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "baseline", 2, identity={"LEARNING_RATE": 1e-3})
    assert contamination(load_experiment(tmp_path)) == [
        "baseline/seed-2: LEARNING_RATE is 0.001, unlike 0.0006 in baseline/seed-1"
    ]


def test_identity_differences_leave_out_seed_and_data(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "ra-v5-eager", 2, data_hash="e" * 64, identity={"ATTENTION": "ra_v5", "RA_V5_R": 4})
    baseline, ra = load_experiment(tmp_path).arms
    found = [(d.symbol, d.value, d.reference_value) for d in identity_differences(ra, baseline)]
    assert found == [("ATTENTION", "ra_v5", "baseline"), ("RA_V5_R", 4, None)]


def test_comparison_csv(tmp_path: Path) -> None:
    write_ablation(tmp_path)
    experiment = load_experiment(tmp_path)
    with write_comparison_csv(experiment, compare(experiment)).open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == [
        *("step", "reference", "metric", "n", "delta_mean", "ci_low", "ci_high", "p_value", "verdict"),
        *("p_holm", "detectable", "reference_mean", "note"),
    ]
    assert [row["metric"] for row in rows[:6]] == [
        *("val_loss", "val_bpb", "ms_per_step", "tokens_per_s", "peak_mem_gib", "train_time_s"),
    ]
    assert [row["verdict"] for row in rows if row["metric"] == "val_loss"] == ["better", "undecided", "worse"]
