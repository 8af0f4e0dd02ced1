"""What differences are worth in compute and in time."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.evidence.effects import compute_effect, slope_of, time_effect
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import write_lengths, write_run

seeds = st.integers(3, 8)


def drawn(seed: int, n: int, *, noise: float = 0.02) -> tuple[dict[int, float], dict[int, float]]:
    rng = np.random.default_rng(seed)
    d, b = rng.normal(-0.01, 0.01, n), 0.67 + rng.normal(0, noise, n)
    return dict(enumerate(map(float, d))), dict(enumerate(map(float, b)))


@given(st.integers(0, 10**6), seeds)
def test_fiellers_interval_is_what_the_t_test_of_d_minus_r_b_does_not_reject(seed: int, n: int) -> None:
    d, b = drawn(seed, n)
    effect = compute_effect(d, b)
    assert effect.value is not None and effect.low is not None and effect.high is not None
    assert effect.value == pytest.approx(math.expm1(-np.mean(list(d.values())) / np.mean(list(b.values()))))
    for bound in (effect.low, effect.high):
        r = -math.log1p(bound)
        test = stats.ttest_1samp([d[s] - r * b[s] for s in d], 0.0)
        assert test.pvalue == pytest.approx(0.05, abs=1e-6)


@given(st.integers(0, 10**6), seeds)
def test_a_slope_that_is_certain_leaves_students_interval(seed: int, n: int) -> None:
    d, _ = drawn(seed, n)
    effect = compute_effect(d, dict.fromkeys(d, 0.5))
    low, high = stats.ttest_1samp(list(d.values()), 0.0).confidence_interval(0.95)
    assert (effect.low, effect.high) == pytest.approx((math.expm1(-high / 0.5), math.expm1(-low / 0.5)))


def test_a_slope_that_is_not_shown_leaves_no_interval() -> None:
    effect = compute_effect({1: 0.01, 2: 0.02, 3: 0.01}, {1: 1.0, 2: 0.1, 3: -0.5})
    assert effect.value is not None and (effect.low, effect.high) == (None, None)
    assert effect.note == "no interval in compute: the slope itself is too uncertain"
    effect = compute_effect({1: 0.01, 2: 0.02, 3: 0.01}, {1: -1.0, 2: -1.1, 3: -0.5})
    assert (effect.value, effect.note) == (None, "the loss of the reference does not fall with its length")


def test_nothing_is_worth_nothing_whatever_the_slope() -> None:
    effect = compute_effect(dict.fromkeys((1, 2, 3), 0.0), {1: 0.5})
    assert (effect.value, effect.low, effect.high) == (0.0, 0.0, 0.0)


def test_one_slope_is_worth_no_interval() -> None:
    effect = compute_effect({1: 0.01, 2: 0.02, 3: 0.01}, {1: 0.5})
    assert effect.value is not None and effect.low is None and "one seed" in effect.note


@pytest.mark.parametrize("fewer", [2, 3, 4])
def test_fewer_slopes_than_differences_make_a_wider_interval(fewer: int) -> None:
    d, b = drawn(3, 8)
    whole, part = compute_effect(d, b), compute_effect(d, {s: b[s] for s in range(fewer)})
    assert whole.low is not None and whole.high is not None and part.low is not None and part.high is not None
    assert part.high - part.low > whole.high - whole.low


def test_a_time_that_is_certain_shifts_the_interval() -> None:
    d, b = drawn(1, 5)
    compute = compute_effect(d, b)
    time = time_effect(compute, [0.8] * 5)
    assert compute.low is not None and compute.high is not None and compute.value is not None
    expected = [(1 + x) / 0.8 - 1 for x in (compute.value, compute.low, compute.high)]
    assert [time.value, time.low, time.high] == pytest.approx(expected)


def test_the_uncertainty_of_times_is_carried() -> None:
    d, b = drawn(1, 5)
    sure, unsure = (time_effect(compute_effect(d, b), ratios) for ratios in ([1.0] * 5, [0.9, 1.1, 1.0, 0.95, 1.05]))
    assert sure.low is not None and sure.high is not None and unsure.low is not None and unsure.high is not None
    assert unsure.low < sure.low < sure.high < unsure.high


def test_the_slope_is_least_squares_of_each_seed(tmp_path: Path) -> None:
    for seed, loss in enumerate([3.5, 3.6, 3.7], start=1):
        write_run(tmp_path, "baseline", seed, val_loss=loss)
    write_lengths(tmp_path, [3.5, 3.6, 3.7], tilts=[0.0, 0.1, -0.1])
    write_run(tmp_path, "baseline@MAX_ITERS=400", 3, iters=400, val_loss=9.0, data_hash="e" * 64)
    write_run(tmp_path, "baseline@MAX_ITERS=400", 2, iters=400, status="failed")
    experiment = load_experiment(tmp_path)
    slope = slope_of(experiment.arms[0], experiment, "val_loss")
    assert slope is not None and slope.lengths == (400, 500, 625)
    assert slope.by_seed == pytest.approx({1: 0.67, 2: 0.77, 3: 0.57})
    assert slope_of(experiment.arms[1], experiment, "val_loss") is None
