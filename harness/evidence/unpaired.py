"""Two independent estimates, of different experiments or of a loss and a time, and their difference.

Effects in compute come with intervals that need not be symmetric. That of their difference is made of the two by MOVER,
the method of variance estimates recovery (Zou and Donner 2008, Statistics in Medicine 27, 1693): for independent
estimates a and b within (la, ua) and (lb, ub),

    b - a - sqrt((b - lb)^2 + (ua - a)^2)  to  b - a + sqrt((ub - b)^2 + (a - la)^2).

Differences in nats are compared by Welch's t. Neither pairs seeds: two experiments share no seed's data order unless
they share data, code and settings, and where they do the interval is too wide rather than too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

from harness.evidence.paired import ALPHA


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An effect with its 95 % interval."""

    value: float
    low: float
    high: float


def mover(a: Estimate, b: Estimate) -> Estimate:
    """b - a, of independent estimates."""
    difference = b.value - a.value
    return Estimate(
        value=difference,
        low=difference - math.hypot(b.value - b.low, a.high - a.value),
        high=difference + math.hypot(b.high - b.value, a.value - a.low),
    )


def welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The difference of means, b - a, of two samples of two values or more, with variances of their own."""
    mean = fmean(b) - fmean(a)
    if min(a) == max(a) and min(b) == max(b):
        return Estimate(value=mean, low=mean, high=mean)
    interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval(1 - ALPHA)
    return Estimate(value=mean, low=float(interval.low), high=float(interval.high))
