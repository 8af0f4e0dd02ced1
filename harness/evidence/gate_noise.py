"""How far Adam's noise moves gates: the same arm, trained on tokens in which there is nothing to learn.

Adam divides each gradient by its own size, so that a gate whose gradient says nothing walks about as fast as one that
learns, at ten times the learning rate of the weights where RA_V5_GATE_LR_MULT says so. That some gate is far from where
it started is no evidence. What is, is that gates end higher than those of the same arm, trained for as many steps from
the same weights on uniform random tokens of the same vocabulary: the experiment `noise/` below the one that is judged
(harness/configure/gate_noise.py).

    superiority(real, noise)

is the probability that a head's gate is above that of a head trained on noise, 1/2 where nothing has been learned
(Mann and Whitney 1947), with an interval that takes a run, not a head, for what is repeated, since the heads of a run
share its loss: the variance is that of the runs' mean placements on both sides, the degrees of freedom are
Satterthwaite's, as in Brunner and Munzel (2000), Biometrical Journal 42, 17, and it is never taken for less than it
would be if all heads were independent, (1/N + 1/M) / 12. Simulated with nothing to be found, 4 to 48 heads and 3 to 10
runs, the whole interval was above 1/2 in 0.2 to 2.5 % where gates of a run had a correlation up to 0.1, and in 2 to 4 %
where it was 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gpt2.base.errors import UserError
from harness.configure.gate_noise import NOISE
from harness.evidence.store import Experiment, load_experiment, run_directories


def noise_of(experiment: Experiment) -> Experiment | None:
    """The runs of an experiment that were trained on random tokens; None where there are none."""
    path = experiment.path / NOISE
    return load_experiment(path) if run_directories(path) else None


def of_heads(recorded: Sequence[Sequence[float | None]]) -> tuple[float, ...]:
    """A gate as records have it, layer by layer, of the heads that have one: the others are null."""
    return tuple(value for heads in recorded for value in heads if value is not None)


@dataclass(frozen=True, kw_only=True)
class Superiority:
    """The probability that a head's gate is above that of a head trained on noise."""

    value: float
    low: float | None
    high: float | None
    """Its 95 % interval; None where one of the sides has a single run."""


def superiority(real: Sequence[Sequence[float]], noise: Sequence[Sequence[float]]) -> Superiority:
    """Of gates [runs, heads] on both sides, each run with as many heads. Raises UserError where there are none."""
    a, b = np.asarray(real, dtype=float), np.asarray(noise, dtype=float)
    if not a.size or not b.size:
        raise UserError("there are no gates to compare")
    above, below = _placements(a, b).mean(axis=1), 1 - _placements(b, a).mean(axis=1)
    n, m = len(above), len(below)
    value = float(above.mean())
    if min(n, m) < 2:
        return Superiority(value=value, low=None, high=None)
    parts = above.var(ddof=1) / n, below.var(ddof=1) / m
    least = (1 / a.size + 1 / b.size) / 12
    freedom = n + m - 2
    if sum(parts) > least:
        freedom = sum(parts) ** 2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (m - 1))
    half = float(stats.t.isf(0.025, freedom) * np.sqrt(max(sum(parts), least)))
    return Superiority(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0))


def _placements(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of `among` below each of `of`, equals by half."""
    ordered = np.sort(among.ravel())
    return (np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")) / (2 * ordered.size)
