"""Student's t on differences paired by seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.evidence.paired import detectable_difference, holm, paired_test, seeds_needed

losses = st.floats(2.0, 5.0)
pairs = st.lists(st.tuples(losses, losses), min_size=2, max_size=6)


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


def test_holm_of_a_larger_family_counts_those_that_are_not_there() -> None:
    assert holm([0.01, 0.04], family=4) == pytest.approx(holm([0.01, 0.04, 1.0, 1.0])[:2])


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_so_many_seeds_show_it_and_one_less_would_not(alpha: float) -> None:
    for sd in (0.3, 1.0, 20.0):
        n = seeds_needed(sd, 1.0, alpha)
        spread = [
            sd * math.sqrt((n - 1) / 2),
            -sd * math.sqrt((n - 1) / 2),
            *[0.0] * (n - 2),
        ]  # of standard deviation sd
        assert detectable_difference(spread, alpha) <= 1.0
        if n > 3:
            critical = stats.t.isf(alpha / 2, n - 2)
            power = stats.nct.sf(critical, n - 2, math.sqrt(n - 1) / sd)
            assert power < 0.8
