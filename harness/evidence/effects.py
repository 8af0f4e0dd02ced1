"""What a difference in loss is worth: in per cent of compute, and of time.

    slope, note = slope_of(reference, experiment, "val_loss")
    compute_effect({1: -0.011, 2: -0.009, 3: -0.010}, slope.by_seed)

With C the compute of training, tokens at equal parameters, loss falls by b = -dL/d ln C nats per e-fold. The reference
at other lengths (STUDY_LENGTHS) tells b: of each seed the least squares slope of loss over ln(steps). A difference d is
then worth exp(-d / b) - 1 of compute: so much longer the reference would have to train to get there.

d / b is a ratio of two means that are both uncertain and, being of the same seeds, correlated. Its interval is
Fieller's (1954): all ratios r for which Student's t-test of d - r b over the seeds does not reject 0. That is exact
where both are normal. Where the slope itself is not shown to differ from 0, the set has no end, and there is no
interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.evidence.paired import ALPHA, paired_test
from harness.evidence.runs import data_hash
from harness.evidence.store import Arm, Experiment
from harness.evidence.unpaired import Estimate, mover


@dataclass(frozen=True, kw_only=True)
class Slope:
    """How fast the loss of an arm falls with compute."""

    step: str
    """The arm."""

    lengths: tuple[int, ...]
    """Steps that it was trained for, ascending."""

    by_seed: Mapping[int, float]
    """Loss per e-fold of compute, positive where it falls."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_seed.values())))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference as a share: +0.01 is worth 1 % more compute. None where it cannot be told; `note` says why."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def slope_of(arm: Arm, experiment: Experiment, metric: str) -> Slope | None:
    """The slope of an arm's loss over its lengths, its own among them; None where no seed has two.

    A run of another data set than the arm's own run of the seed is left out.
    """
    own = {run.seed: run for run in arm.done}
    by_seed, lengths = {}, set()
    for seed in sorted(own):
        beside = [run for other in experiment.lengths_of(arm) for run in other.done if run.seed == seed]
        runs = [own[seed], *(run for run in beside if data_hash(run) == data_hash(own[seed]))]
        points = [(iters, loss) for run in runs if (iters := run.value("iters")) and (loss := run.value(metric))]
        if len({iters for iters, _ in points}) > 1:
            steps, values = zip(*points, strict=True)
            by_seed[seed] = -float(np.polyfit(np.log(steps), values, 1)[0])
            lengths |= set(map(int, steps))
    return Slope(step=arm.step, lengths=tuple(sorted(lengths)), by_seed=by_seed) if by_seed else None


def compute_effect(deltas: Mapping[int, float], slopes: Mapping[int, float], alpha: float = ALPHA) -> Effect:
    """exp(-d / b) - 1 with its interval of 1 - alpha, from differences and slopes by seed.

    Seeds that have both tell how the two depend on each other. Where lengths were run for fewer seeds, all
    differences count for d, and Student's quantile is that of the smaller number.
    """
    d, b = np.array(list(deltas.values())), np.array(list(slopes.values()))
    if not d.any():
        return Effect(value=0.0, low=0.0, high=0.0)
    if b.mean() <= 0:
        return Effect(note="the loss of the reference does not fall with its length")
    ratio = float(d.mean() / b.mean())
    if min(len(d), len(b)) < 2:
        return Effect(value=gain(ratio), note="no interval in compute: one seed has both a difference and a slope")
    critical = float(stats.t.isf(alpha / 2, min(len(d), len(b)) - 1)) ** 2
    dd, bb, db = _covariance(deltas, slopes)
    # critical >= (d - r b)^2 / var(d - r b): a quadratic in r.
    square = float(b.mean()) ** 2 - critical * bb
    half = float(d.mean() * b.mean()) - critical * db
    constant = float(d.mean()) ** 2 - critical * dd
    if square <= 0:
        return Effect(value=gain(ratio), note="no interval in compute: the slope itself is too uncertain")
    root = math.sqrt(max(0.0, half**2 - square * constant))
    return Effect(value=gain(ratio), low=gain((half + root) / square), high=gain((half - root) / square))


def time_effect(compute: Effect, ratios: Sequence[float], alpha: float = ALPHA) -> Effect:
    """(1 + compute) / r - 1, r being the ratio of the times per step, arm to reference, of each seed.

    How noisy a machine is has nothing to do with the loss, so the two are independent (`mover`).
    """
    slower = paired_test([math.log(ratio) for ratio in ratios], alpha)
    if compute.value is None or slower.mean is None:
        return Effect(note=compute.note)
    gained = math.log1p(compute.value)
    if compute.low is None or compute.high is None or slower.ci_low is None or slower.ci_high is None:
        return Effect(value=math.expm1(gained - slower.mean), note=compute.note)
    net = mover(
        Estimate(value=slower.mean, low=slower.ci_low, high=slower.ci_high),
        Estimate(value=gained, low=math.log1p(compute.low), high=math.log1p(compute.high)),
    )
    return Effect(value=math.expm1(net.value), low=math.expm1(net.low), high=math.expm1(net.high))


def _covariance(deltas: Mapping[int, float], slopes: Mapping[int, float]) -> tuple[float, float, float]:
    """Variances of the mean difference and of the mean slope, and their covariance."""
    d, b = np.array(list(deltas.values())), np.array(list(slopes.values()))
    sd_d, sd_b = float(d.std(ddof=1)), float(b.std(ddof=1))
    both = sorted(deltas.keys() & slopes.keys())
    correlation = 0.0
    if len(both) > 1:
        shared_d, shared_b = np.array([deltas[s] for s in both]), np.array([slopes[s] for s in both])
        if shared_d.std() and shared_b.std():
            correlation = float(np.corrcoef(shared_d, shared_b)[0, 1])
    shared = correlation * sd_d * sd_b * len(both) / (len(d) * len(b))
    return sd_d**2 / len(d), sd_b**2 / len(b), shared


def gain(ratio: float) -> float:
    """What a difference is worth, as a share of compute, that is `ratio` times the slope: exp(-ratio) - 1."""
    return math.expm1(max(-30.0, min(-ratio, 700.0)))  # finite, and above -1
