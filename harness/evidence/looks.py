"""Planned looks at an experiment that goes on: O'Brien and Fleming's bounds, for t-tests over seeds.

    sizes = look_sizes(10, 2)            # (5, 10): at 5 seeds and at 10
    nominal_levels(sizes)                # (0.0052, 0.0480): below which p-values at these looks
    overall_p(0.004, sizes, look=1)      # what 0.004 at the first of them is worth: compare with 0.05

Whoever looks K times at p < 0.05 sees something in nothing more often than in 5 % of experiments. With S the sum of the
standardised differences of n seeds, the bound is the same for |S| at every look, so that an early look asks for much
and the last for little more than one look would (O'Brien & Fleming 1979, Biometrics 35). The level is that of a
Brownian motion, by recursive numerical integration (Armitage, McPherson & Rowe 1969), and is handed to the t-test of
each look as a nominal p-value: the significance level approach of Jennison & Turnbull (2000), section 3.8.

With several arms each has to pass at a level of its own, so a p-value is first turned into the level whose bound it
just reaches (`overall_p`): the smallest over the looks so far is a p-value by itself, to which Holm's adjustment
applies (Maurer & Bretz 2013, Statistics in Biopharmaceutical Research 5). Holm at the nominal levels themselves would
not hold the level: bounds of a smaller level are more than proportionally stricter at early looks.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy import optimize, stats

from harness.evidence.paired import ALPHA, MIN_SEEDS

_CERTAIN = 12.0
"""Standard deviations beyond which all looks but the last are beside the point."""


def look_sizes(seeds: int, looks: int) -> tuple[int, ...]:
    """How many seeds there are at each look, ascending. None has fewer than MIN_SEEDS, of as many seeds at least."""
    planned = (-(-seeds * k // looks) for k in range(1, looks + 1))
    return tuple(sorted({min(seeds, max(MIN_SEEDS, n)) for n in planned}))


@cache
def nominal_levels(sizes: tuple[int, ...], alpha: float = ALPHA) -> tuple[float, ...]:
    """Below which a p-value shows something, at each look; two-sided, at the level `alpha` of all looks together."""
    if len(sizes) == 1:
        return (alpha,)
    # The maximum of |B| passes a bound at most twice as often as its end does (Lévy).
    low, high = stats.norm.isf(alpha / 2), stats.norm.isf(alpha / 4)
    bound = optimize.brentq(lambda c: _crossing(c, sizes) - alpha, low, high, xtol=1e-9)
    return tuple(float(2 * stats.norm.sf(bound / math.sqrt(n / sizes[-1]))) for n in sizes)


@cache
def overall_p(p_value: float, sizes: tuple[int, ...], look: int) -> float:
    """The level at which a p-value at a look (1 is the first) lies on the bound."""
    if len(sizes) == 1:
        return p_value
    return _crossing(float(stats.norm.isf(p_value / 2)) * math.sqrt(sizes[look - 1] / sizes[-1]), sizes)


def _crossing(bound: float, sizes: tuple[int, ...]) -> float:
    """The probability that |B(n / N)| reaches `bound` at one of the looks, B being a Brownian motion."""
    if bound > _CERTAIN:
        return float(2 * stats.norm.sf(bound))
    times = [n / sizes[-1] for n in sizes]
    steps = np.sqrt(np.diff([0.0, *times]))  # standard deviations
    nodes, weights = np.polynomial.legendre.leggauss(48 + math.ceil(12 * bound / min(steps)))
    x, weights = bound * nodes, bound * weights
    crossed = 2 * stats.norm.sf(bound / steps[0])
    density = stats.norm.pdf(x, scale=steps[0])  # of those that have not
    for step in steps[1:]:
        crossed += np.sum(weights * density * (stats.norm.sf((bound - x) / step) + stats.norm.sf((bound + x) / step)))
        density = (weights * density) @ stats.norm.pdf(x[None, :] - x[:, None], scale=step)
    return float(min(1.0, crossed))
