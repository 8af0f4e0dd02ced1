"""The error pooled over arms, with seeds as blocks, beside the paired t-test; and whether it may be pooled.

    losses = np.array([[3.42, 3.43, 3.41], [3.41, 3.42, 3.40], [3.44, 3.45, 3.44]])   # [arms, seeds]
    pooled_test(losses, arm=1, reference=0)
    equal_variances(losses)

A loss is taken as what the arm adds, what the seed adds and noise of one variance. The residual mean square then has
(arms - 1)(seeds - 1) degrees of freedom, against seeds - 1 of a paired test: with eight arms and three seeds 14 against
2, and Student's quantile 2.14 against 4.30. With two arms it is the paired test. Where one arm is noisier than the
rest, its differences are taken for surer than they are, so equal variances are tested. docs/evidence.md has what both
do.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.evidence.paired import ALPHA, PairedTest

Losses = NDArray[np.float64]
"""[arms, seeds], of one experiment. Adding a number to all arms of a seed changes nothing here."""

_DRAWS = 20_000


def residuals(losses: Losses) -> Losses:
    """[.., arms, seeds] -> what neither arm nor seed explains."""
    of_arms, of_seeds = losses.mean(axis=-1, keepdims=True), losses.mean(axis=-2, keepdims=True)
    rest: Losses = losses - of_arms - of_seeds + losses.mean(axis=(-2, -1), keepdims=True)
    return rest


def pooled_test(losses: Losses, *, arm: int, reference: int, alpha: float = ALPHA) -> PairedTest:
    """Of the difference between two rows, by the error of all. Two seeds at least."""
    arms, seeds = losses.shape
    mean = float((losses[arm] - losses[reference]).mean())
    df = (arms - 1) * (seeds - 1)
    error = float(np.sqrt(2 / seeds * (residuals(losses) ** 2).sum() / df))
    if not error:
        return PairedTest(mean=mean, ci_low=mean, ci_high=mean, p_value=0.0 if mean else 1.0)
    half = float(stats.t.isf(alpha / 2, df)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, df))
    return PairedTest(mean=mean, ci_low=mean - half, ci_high=mean + half, p_value=p_value)


def equal_variances(losses: Losses) -> float | None:
    """p-value of all arms being equally noisy, against one that is noisier; None below three arms or two seeds.

    Cochran's C: the largest arm's share of the residuals' sum of squares. The residuals of arms and of seeds depend on
    each other, so C's distribution is drawn, from arms that are equal, and the level is right by construction. (Brown
    and Forsythe's test has the level 0.00 with three seeds and 0.001 with five, and no power there.)
    """
    arms, seeds = losses.shape
    if arms < 3 or seeds < 2 or not residuals(losses).any():
        return None
    drawn = _cochran_null(arms, seeds)
    return float((1 + np.count_nonzero(drawn >= cochran(losses))) / (1 + len(drawn)))


def cochran(losses: Losses) -> Losses:
    """[.., arms, seeds] -> [..], Cochran's C of the residuals."""
    squares = (residuals(losses) ** 2).sum(axis=-1)
    share: Losses = squares.max(axis=-1) / squares.sum(axis=-1)
    return share


@cache
def _cochran_null(arms: int, seeds: int) -> Losses:
    return cochran(np.random.default_rng(0).standard_normal((_DRAWS, arms, seeds)))
