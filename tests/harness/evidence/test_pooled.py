"""The error pooled over arms, and whether it may be."""

from __future__ import annotations

import numpy as np
import pytest

from harness.evidence.paired import paired_test
from harness.evidence.pooled import cochran, equal_variances, pooled_test


def test_two_arms_make_the_paired_test() -> None:
    losses = np.random.default_rng(0).normal(3.5, 0.1, (2, 5))
    paired, pooled = paired_test(list(losses[1] - losses[0])), pooled_test(losses, arm=1, reference=0)
    for name in ("mean", "ci_low", "ci_high", "p_value"):
        assert getattr(pooled, name) == pytest.approx(getattr(paired, name))


def test_what_seeds_and_arms_add_changes_no_error() -> None:
    rng = np.random.default_rng(1)
    losses = rng.normal(0, 1, (4, 5))
    shifted = losses + rng.normal(0, 9, 5) + rng.normal(0, 9, (4, 1))
    assert equal_variances(losses) == equal_variances(shifted)
    a, b = (pooled_test(table, arm=2, reference=1) for table in (losses, shifted))
    assert a.ci_high is not None and b.ci_high is not None and a.mean is not None and b.mean is not None
    assert a.ci_high - a.mean == pytest.approx(b.ci_high - b.mean)


def test_arms_that_are_all_equal_have_no_error() -> None:
    test = pooled_test(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]), arm=1, reference=0)
    assert (test.mean, test.ci_low, test.ci_high, test.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert equal_variances(np.ones((3, 3))) is None
    assert equal_variances(np.random.default_rng(0).normal(size=(2, 5))) is None  # their residuals mirror each other


@pytest.mark.parametrize(("arms", "seeds"), [(3, 3), (8, 3), (5, 5)])
def test_the_level_of_the_test_of_equal_variances(arms: int, seeds: int) -> None:
    rng = np.random.default_rng(7)
    p_values = [equal_variances(rng.normal(size=(arms, seeds))) for _ in range(1000)]
    assert np.mean([p is not None and p < 0.05 for p in p_values]) == pytest.approx(0.05, abs=0.021)


def test_a_noisy_arm_is_found() -> None:
    losses = np.random.default_rng(3).normal(size=(5, 5))
    losses[4] *= 10
    p = equal_variances(losses)
    assert p is not None and p < 0.01 and 0.2 < cochran(losses) < 1
