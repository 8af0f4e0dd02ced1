"""How numbers are written in tables, sentences and figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from gpt2.base.numbers import decimal
from gpt2.base.text import shown
from harness.evidence.comparison import Comparison

DASH = "–"  # noqa: RUF001 - an empty cell
MINUS = "−"  # noqa: RUF001 - as wide as the plus


def signed(value: float | None, digits: int) -> str:
    """A number with its sign, or a dash."""
    return DASH if value is None else decimal(value, digits, plus=True).replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share as a signed percentage of two or three digits, or a dash."""
    if share is None:
        return DASH
    if math.isinf(share):
        return "∞" if share > 0 else f"{MINUS}∞"
    if abs(share) >= 10:
        return f"{round(100 * share, -2):+,.0f} %"  # a digit more would say nothing
    return "0 %" if share == 0 else f"{100 * share:+.{2 if abs(share) < 0.1 else 3}g} %".replace("-", MINUS)


def effect_bounds(c: Comparison) -> tuple[float, float]:
    """The ends of the interval of what a difference is worth in compute. One that is not known lies anywhere."""
    return -1.0 if c.compute_low is None else c.compute_low, math.inf if c.compute_high is None else c.compute_high


def effect_interval(c: Comparison) -> str:
    """That interval, or a dash where neither end is known."""
    if c.compute_low is None and c.compute_high is None:
        return DASH
    low, high = effect_bounds(c)
    return f"{percent(low)} to {percent(high)}"


def interval(c: Comparison, digits: int) -> str:
    """The interval of a difference, or a dash."""
    if c.ci_low is None or c.ci_high is None:
        return DASH
    return f"{signed(c.ci_low, digits)} to {signed(c.ci_high, digits)}"


def interval_percent(c: Comparison) -> str:
    """The same relative to the reference."""
    if c.ci_low is None or c.ci_high is None or not c.reference_mean:
        return DASH
    low, high = (signed(100 * bound / c.reference_mean, 2) for bound in (c.ci_low, c.ci_high))
    return f"{low} to {high}"


def p_value(value: float | None) -> str:
    """A p-value, or a dash."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation, of one value the value, of none a dash."""
    if not values:
        return DASH
    mean = decimal(statistics.fmean(values), digits)
    return f"{mean} ± {decimal(statistics.stdev(values), digits)}" if len(values) > 1 else mean


def setting(value: object) -> str:
    """A setting's value as it can be shown; of one that does not exist a dash."""
    return DASH if value is None else shown(value)


def count(n: int, noun: str) -> str:
    """So many of them: "1 run", "2 runs"."""
    return f"{n} {noun}{'s' * (n != 1)}"
