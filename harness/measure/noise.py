"""What the end of a run, and how it is read, do to the noise of a difference and to an effect.

An experiment whose runs log more than one number at their end (EMA_DECAY, EVAL_TAIL, EVAL_DATASETS), and whose arms are
trained in more than one way (a sweep, of MIN_LR say), has several ways to the same comparison. Which one needs the
fewest seeds is a matter of the spread of a difference in per cent of compute: in nats it could be small because the
loss hardly falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from harness.evidence.effects import compute_effect
from harness.evidence.noise import correlation
from harness.evidence.paired import ALPHA, seeds_needed
from harness.evidence.references import effective_slope, reference_of
from harness.evidence.store import Arm, Experiment

READINGS = {
    "val_loss": "last evaluation",
    "val_loss_tail": "mean of the last evaluations",
    "ema_val_loss": "moving average of the weights",
}
"""Numbers of a summary that are read at a run's end; beside them the losses on EVAL_DATASETS."""

EFFECT = 0.01
"""Of compute: what seeds are counted for."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way of reading one arm against its reference."""

    step: str
    reference: str
    reading: str
    """Its key in summary.json."""

    seeds: int
    slope: float
    """Nats per e-fold of compute."""

    reference_mean: float
    sd_reference: float
    """Over seeds, nats/token."""

    sd_difference: float
    """Of the paired differences, nats/token."""

    correlation: float | None
    """Of arm and reference over seeds."""

    noise: float
    """`sd_difference` in compute: 0.007 is 0.7 %."""

    noise_low: float
    noise_high: float
    """The 95 % interval of `noise`, by the chi-square distribution: that of a spread is wide."""

    compute: float
    compute_low: float | None
    compute_high: float | None
    """What the arm is worth in compute, with its 95 % interval."""

    needed: int
    """Seeds for an effect of EFFECT, with probability 0.8."""


def readings(experiment: Experiment) -> list[Reading]:
    """Every arm against its reference, read in every way that its runs allow; without lengths none."""
    ways = [*READINGS, *(f"val_loss/{name}" for name in experiment.eval_datasets)]
    pairs = [(arm, other) for arm in experiment.compared if (other := reference_of(arm, experiment)[0]) is not None]
    found = (_read(arm, other, way, experiment) for arm, other in pairs for way in ways)
    return [reading for reading in found if reading is not None]


def _read(arm: Arm, reference: Arm, way: str, experiment: Experiment) -> Reading | None:
    ours, theirs = _losses(arm, way), _losses(reference, way)
    seeds = sorted(ours.keys() & theirs.keys())
    slope = effective_slope(reference, experiment, way)
    if len(seeds) < 3 or slope is None or slope.mean <= 0:
        return None
    deltas = {seed: ours[seed] - theirs[seed] for seed in seeds}
    spread = stdev(deltas.values())
    if not spread:
        return None
    effect = compute_effect(deltas, slope.by_seed)
    low, high = (math.sqrt((len(seeds) - 1) / stats.chi2.isf(p, len(seeds) - 1)) for p in (ALPHA / 2, 1 - ALPHA / 2))
    return Reading(
        step=arm.step,
        reference=reference.step,
        reading=way,
        seeds=len(seeds),
        slope=slope.mean,
        reference_mean=fmean(theirs[seed] for seed in seeds),
        sd_reference=stdev(theirs[seed] for seed in seeds),
        sd_difference=spread,
        correlation=correlation([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]),
        noise=spread / slope.mean,
        noise_low=low * spread / slope.mean,
        noise_high=high * spread / slope.mean,
        compute=effect.value or 0.0,
        compute_low=effect.low,
        compute_high=effect.high,
        needed=seeds_needed(spread, slope.mean * math.log1p(EFFECT)),
    )


def _losses(arm: Arm, way: str) -> Mapping[int, float]:
    return {run.seed: value for run in arm.done if (value := run.value(way)) is not None}


def table_row(reading: Reading) -> Sequence[str]:
    """What a terminal and docs/evidence.md show of it."""
    interval = "–"  # noqa: RUF001
    if reading.compute_low is not None and reading.compute_high is not None:
        interval = f"{100 * reading.compute_low:+.1f} to {100 * reading.compute_high:+.1f} %"
    return (
        reading.step,
        READINGS.get(reading.reading, reading.reading.removeprefix("val_loss/")),
        str(reading.seeds),
        f"{reading.reference_mean:.4f}",
        f"{reading.sd_difference:.4f}",
        f"{100 * reading.noise:.2f} %",
        f"{100 * reading.noise_low:.2f} to {100 * reading.noise_high:.2f}",
        "–" if reading.correlation is None else f"{reading.correlation:.2f}",  # noqa: RUF001
        f"{100 * reading.compute:+.1f} %",
        interval,
        str(reading.needed),
    )


COLUMNS = (
    *("arm", "read from", "n", "reference", "sd of Δ", "in compute", "95 % of it", "corr.", "effect"),
    *("95 % interval", "seeds for 1 %"),
)
"""Of `table_row`."""
