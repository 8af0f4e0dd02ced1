"""How noisy an experiment is, and what it would take to see a small effect through that.

    for noise in measure_noise(experiment, compare(experiment)):
        print(noise.step, noise.sd_difference, noise.needed)

Three sources are told apart: the seed (order of the data, initial weights), which an arm and its reference have partly
in common; rounding, which the same seed run again shows (STUDY_RERUNS); and what is left of both in a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from harness.evidence.comparison import Comparison
from harness.evidence.paired import ALPHA, MIN_SEEDS, seeds_needed
from harness.evidence.references import effective_slope
from harness.evidence.runs import RunRecord
from harness.evidence.store import Arm, Experiment

EFFECTS = (0.005, 0.01, 0.02)
"""Shares of compute that seeds are counted for."""


@dataclass(frozen=True, kw_only=True)
class Needed:
    """What showing an effect takes, with probability 0.8, as one of as many comparisons as there are."""

    effect: float
    """A share of compute."""

    seeds: int

    device_hours: float | None
    """Of all runs of the arm and its reference with so many seeds, on what they ran on; None where no run says."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Of an arm and its reference, over the seeds that both have finished. In nats per token."""

    step: str
    reference: str
    n: int
    """Seeds, two at least."""

    sd_step: float
    """Over seeds, of the arm's final loss."""

    sd_reference: float
    sd_difference: float
    """Of the paired differences."""

    correlation: float | None
    """Of the two over seeds; None where one of them does not vary."""

    sd_rerun: float | None
    """Of the difference between two runs of one seed of the reference; None where none was repeated. What is
    amplified rounding in it is in every difference too, however well it is paired."""

    reruns: int
    """Repetitions it is from."""

    needed: tuple[Needed, ...]
    """For each of EFFECTS; none where the reference has no other lengths."""

    @property
    def pairing(self) -> float | None:
        """How many times as many seeds a comparison of the same power would take unpaired; None where differences do
        not vary."""
        if not self.sd_difference:
            return None
        return (self.sd_step**2 + self.sd_reference**2) / self.sd_difference**2


def measure_noise(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Noise]:
    """Of each comparison of final losses that has two pairs at least and can be compared."""
    arms = {arm.step: arm for arm in experiment.arms}
    losses = [c for c in comparisons if c.metric.name == "val_loss" and c.n > 1 and c.verdict != "not comparable"]
    return [_noise(c, arms[c.step], arms[c.reference], experiment, max(len(losses), c.block.family)) for c in losses]


def spread_of_reruns(arm: Arm, experiment: Experiment) -> tuple[float | None, int]:
    """The standard deviation of the difference in final loss between two runs of one seed, and from how many
    repetitions it is: the mean variance within seeds, twice. 0 where all are equal to the last digit."""
    squares, repetitions = 0.0, 0
    for run in arm.done:
        beside = (other for again in experiment.reruns_of(arm) for other in again.done if other.seed == run.seed)
        values = [v for each in (run, *beside) if (v := each.value("val_loss")) is not None]
        if len(values) > 1:
            squares += float(np.var(values)) * len(values)
            repetitions += len(values) - 1
    return (math.sqrt(2 * squares / repetitions) if repetitions else None), repetitions


def correlation(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Of two sides over the same seeds; None where one of them does not vary."""
    return float(np.corrcoef(ours, theirs)[0, 1]) if stdev(ours) and stdev(theirs) else None


def _noise(c: Comparison, arm: Arm, reference: Arm, experiment: Experiment, family: int) -> Noise:
    ours, theirs = ([run.value("val_loss") or 0.0 for run in _of_seeds(of, c.deltas)] for of in (arm, reference))
    sd_difference = stdev(c.deltas.values())
    sd_rerun, reruns = spread_of_reruns(reference, experiment)
    slope = effective_slope(reference, experiment, "val_loss")
    needed = []
    for effect in EFFECTS if slope is not None and slope.mean > 0 else ():
        worth = slope.mean * math.log1p(effect)  # type: ignore[union-attr]
        seeds = seeds_needed(sd_difference, worth, ALPHA / family) if sd_difference else MIN_SEEDS
        hours = [_device_hours(of) for of in (arm, reference)]
        cost = None if None in hours else seeds * math.fsum(filter(None, hours))
        needed.append(Needed(effect=effect, seeds=seeds, device_hours=cost))
    return Noise(
        step=c.step,
        reference=c.reference,
        n=c.n,
        sd_step=stdev(ours),
        sd_reference=stdev(theirs),
        sd_difference=sd_difference,
        correlation=correlation(ours, theirs),
        sd_rerun=sd_rerun,
        reruns=reruns,
        needed=tuple(needed),
    )


def _of_seeds(arm: Arm, seeds: dict[int, float]) -> list[RunRecord]:
    return [run for run in arm.done if run.seed in seeds]


def _device_hours(arm: Arm) -> float | None:
    """Of a run of the arm, from its start to its end, on average."""
    taken = [
        seconds * (run.provenance or {}).get("parallel", {}).get("processes", 1) / 3600
        for run in arm.done
        if (seconds := run.value("wall_time_s")) is not None
    ]
    return fmean(taken) if taken else None
