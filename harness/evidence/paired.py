"""Student's t on differences paired by seed: tests, intervals, power, and p-values of several.

    test = paired_test([-0.011, -0.009, -0.010])
    holm([test.p_value, 0.2])

A pair is an arm and its reference, trained with one seed. With three to five seeds that is about all there is to test:
a bootstrap of three numbers only looks like more. docs/evidence.md has level and power of all of it, by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import integrate, optimize, stats

ALPHA = 0.05
"""Level of the tests; intervals are 95 %."""

POWER = 0.8
"""Probability with which `detectable` would have been shown."""

MIN_SEEDS = 3
"""Below this no difference counts as shown: two differences hardly tell their own spread."""


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A paired t-test."""

    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None


def paired_test(deltas: Sequence[float], alpha: float = ALPHA) -> PairedTest:
    """Student's t on differences; the interval is one of 1 - alpha. Of one difference only the mean is known, and of
    none nothing.

    Differences that are all equal (peak memory often is) have no spread: their mean is then taken as certain.
    """
    n = len(deltas)
    if n < 2:
        return PairedTest(mean=deltas[0] if deltas else None)
    if max(deltas) == min(deltas):
        mean = deltas[0]
        return PairedTest(mean=mean, ci_low=mean, ci_high=mean, p_value=0.0 if mean else 1.0)
    result = stats.ttest_1samp(deltas, 0.0)
    interval = result.confidence_interval(1 - alpha)
    return PairedTest(
        mean=float(np.mean(deltas)),
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        p_value=float(result.pvalue),
    )


def detectable_difference(deltas: Sequence[float], alpha: float = ALPHA) -> float:
    """The true mean that a paired t-test at level `alpha` of so many differences, with their spread, is likely to show.

    Likely is a probability of POWER. Two differences at least.
    """
    return _noncentrality(len(deltas), alpha) * float(np.std(deltas, ddof=1)) / math.sqrt(len(deltas))


_MANY = 1_000_000
"""Pairs from which on Student's t is the normal, and a few more or less are no matter."""


def seeds_needed(sd: float, difference: float, alpha: float = ALPHA) -> int:
    """How many pairs show a true mean `difference` with probability POWER, where the differences have spread `sd`."""
    # A normal's number is too small by a few; from there on up.
    normal = ((stats.norm.isf(alpha / 2) + stats.norm.isf(1 - POWER)) * sd / difference) ** 2
    n = max(MIN_SEEDS, math.ceil(min(normal, 1e18)))
    if n > _MANY:
        return n
    while _noncentrality(n, alpha) * sd > abs(difference) * math.sqrt(n):
        n += 1
    return n


@cache
def _noncentrality(n: int, alpha: float) -> float:
    """The mean difference, in standard errors, that a paired t-test of n pairs shows with probability POWER."""
    critical = stats.t.isf(alpha / 2, n - 1)
    spread = stats.chi(n - 1, scale=1 / math.sqrt(n - 1))  # of the estimated standard error, about the true one

    def missing_power(noncentrality: float) -> float:
        def shown(s: float) -> float:
            beyond = stats.norm.sf(critical * s - noncentrality) + stats.norm.sf(critical * s + noncentrality)
            return float(beyond * spread.pdf(s))

        return integrate.quad(shown, spread.ppf(1e-9), spread.isf(1e-9), limit=200)[0] - POWER

    return float(optimize.brentq(missing_power, 0.0, 3.0 * critical, xtol=1e-6))


def holm(p_values: Sequence[float], family: int = 0) -> list[float]:
    """Holm's step-down adjustment; as some of `family` comparisons, where these are more."""
    adjusted, running = [0.0] * len(p_values), 0.0
    family = max(family, len(p_values))
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (family - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
