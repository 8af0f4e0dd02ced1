"""Differences of estimates that are not paired."""

from __future__ import annotations

import numpy as np

from harness.evidence.unpaired import Estimate, mover, welch


def test_intervals_of_differences_hold_what_they_say() -> None:
    """Coverage of both, with spreads that are not the same."""
    random = np.random.default_rng(1)
    held = {"mover": 0, "welch": 0}
    draws = 2000
    for _ in range(draws):
        a, b = random.normal(0.3, 1.0, 8), random.normal(0.5, 2.0, 6)
        halves = [2.365 * a.std(ddof=1) / 8**0.5, 2.571 * b.std(ddof=1) / 6**0.5]
        means = [a.mean(), b.mean()]
        found = mover(*(Estimate(value=m, low=m - h, high=m + h) for m, h in zip(means, halves, strict=True)))
        held["mover"] += found.low <= 0.2 <= found.high
        found = welch(a.tolist(), b.tolist())
        held["welch"] += found.low <= 0.2 <= found.high
    assert all(0.935 < count / draws < 0.985 for count in held.values()), held


def test_samples_without_a_spread_differ_for_certain() -> None:
    assert welch([1.0, 1.0], [3.0, 3.0]) == Estimate(value=2.0, low=2.0, high=2.0)
