"""Planned looks at an experiment that goes on: O'Brien and Fleming's bounds, for t-tests over seeds.

    sizes = look_sizes(10, 2)            # (5, 10): at 5 seeds and at 10
    nominal_levels(sizes)                # (0.0049, 0.0465): below which p-values at these looks
    overall_p(0.004, sizes, look=1)      # what 0.004 at the first of them is worth: compare with 0.05

Whoever looks K times at p < 0.05 sees something in nothing more often than in 5 % of experiments. With S the sum of the
standardised differences of n seeds, the bound is the same for |S| at every look, so that an early look asks for much
and the last for little more than one look would (O'Brien & Fleming 1979, Biometrics 35). Each look's bound is handed to
its t-test as a nominal p-value: the significance level approach of Jennison & Turnbull (2000), section 3.8.

For normal differences of known spread S is a Brownian motion, and its level comes from recursive numerical integration
(Armitage, McPherson & Rowe 1969). The t-tests of few seeds have less to do with each other from look to look, and would
pass one of those bounds in 5.7 % of experiments with looks at 3, 4, 6 and 8 seeds; so the level is also that of drawn
sequences of t-tests, whichever is higher.

With several arms each has to pass at a level of its own, so a p-value is first turned into the level whose bound it
just reaches (`overall_p`), to which Holm's adjustment applies (Maurer & Bretz 2013, Statistics in Biopharmaceutical
Research 5). The nominal levels themselves, divided by the arms, would not do: bounds of a smaller level are more than
proportionally stricter at early looks.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from harness.evidence.paired import ALPHA, MIN_SEEDS

_CERTAIN = 12.0
"""Standard deviations beyond which all looks but the last are beside the point."""

_DRAWS = 200_000
_ROOT_2PI = math.sqrt(2 * math.pi)


def look_sizes(seeds: int, looks: int) -> tuple[int, ...]:
    """How many seeds there are at each look, ascending. None has fewer than MIN_SEEDS, of as many seeds at least."""
    planned = (-(-seeds * k // looks) for k in range(1, looks + 1))
    return tuple(sorted({min(seeds, max(MIN_SEEDS, n)) for n in planned}))


@cache
def nominal_levels(sizes: tuple[int, ...], alpha: float = ALPHA) -> tuple[float, ...]:
    """Below which a p-value shows something, at each look; two-sided, at the level `alpha` of all looks together."""
    if len(sizes) == 1:
        return (alpha,)
    low = float(stats.norm.isf(alpha / 2))  # of the last look alone
    bound = optimize.brentq(lambda c: _level(c, sizes) - alpha, low, _CERTAIN, xtol=1e-9)
    return tuple(float(2 * stats.norm.sf(bound / math.sqrt(n / sizes[-1]))) for n in sizes)


@cache
def overall_p(p_value: float, sizes: tuple[int, ...], look: int) -> float:
    """The level at which a p-value at a look (1 is the first) lies on the bound."""
    if len(sizes) == 1:
        return p_value
    return _level(float(stats.norm.isf(p_value / 2)) * math.sqrt(sizes[look - 1] / sizes[-1]), sizes)


def _level(bound: float, sizes: tuple[int, ...]) -> float:
    """The probability that one of the looks passes `bound`, which is sqrt(n / N) times the normal quantile of p."""
    drawn = _drawn(sizes)
    return max(_crossing(bound, sizes), 1 - np.searchsorted(drawn, bound) / len(drawn))


@cache
def _drawn(sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """[draws], ascending: the largest bound that sequences of t-tests pass where there is nothing."""
    rng = np.random.default_rng(0)
    total, squares, largest = np.zeros(_DRAWS), np.zeros(_DRAWS), np.zeros(_DRAWS)
    for n, more in zip(sizes, np.diff([0, *sizes]), strict=True):
        z = rng.standard_normal(_DRAWS)
        total += math.sqrt(more) * z
        squares += z**2 + (rng.chisquare(more - 1, _DRAWS) if more > 1 else 0)
        t = np.abs(total) / np.sqrt(n * (squares - total**2 / n) / (n - 1))
        largest = np.maximum(largest, -special.ndtri(special.stdtr(n - 1, -t)) * math.sqrt(n / sizes[-1]))
    return np.sort(largest)


def _crossing(bound: float, sizes: tuple[int, ...]) -> float:
    """The probability that |B(n / N)| reaches `bound` at one of the looks, B being a Brownian motion."""
    if bound > _CERTAIN:
        return float(2 * stats.norm.sf(bound))
    steps = np.sqrt(np.diff([0.0, *sizes]) / sizes[-1])  # standard deviations
    half = 16 + math.ceil(10 * bound / min(steps))
    x = np.linspace(-bound, bound, 2 * half + 1)
    simpson = np.full(len(x), 2.0)
    simpson[1::2], simpson[[0, -1]] = 4.0, 1.0
    weights = simpson * bound / (3 * half)
    crossed = 2 * stats.norm.sf(bound / steps[0])
    density = stats.norm.pdf(x, scale=steps[0])  # of those that have not
    for step in steps[1:]:
        crossed += np.sum(weights * density * (special.ndtr((x - bound) / step) + special.ndtr(-(x + bound) / step)))
        density = (weights * density) @ (np.exp(-(((x[None, :] - x[:, None]) / step) ** 2) / 2) / (step * _ROOT_2PI))
    return float(min(1.0, crossed))
