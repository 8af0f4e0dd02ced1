"""A comparison of an arm with its reference in one metric: what is known of it, and its row of comparison.csv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2.base.files import write_csv
from harness.evidence.looks import nominal_levels
from harness.evidence.paired import ALPHA
from harness.evidence.registered import Block
from harness.evidence.store import Experiment

COMPARISON_COLUMNS = (
    *("step", "reference", "metric", "n", "delta_mean", "ci_low", "ci_high", "p_value", "verdict"),
    *("p_holm", "detectable", "reference_mean", "note"),
    *("compute", "compute_low", "compute_high", "time", "time_low", "time_high"),
    *("p_pooled", "pooled_low", "pooled_high", "failed", "look", "registered"),
)
"""Columns of comparison.csv."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of a run's summary that arms are compared in."""

    name: str
    """Its key in summary.json."""

    label: str
    """For tables and axes."""

    unit: str
    """Of the value."""

    higher_is_better: bool = False
    """Rates; losses and costs are better low."""

    is_cost: bool = True
    """Whether it depends on the device and on compilation."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A step against its reference in one metric. Differences are step minus reference."""

    step: str
    reference: str
    metric: Metric
    block: Block
    """The seeds it is about, and how they were registered."""

    look_number: int
    """Of the planned looks, the last that has been reached; 0 before the first."""

    deltas: dict[int, float]
    """The difference of each seed of that look that both sides have finished."""

    failed_seeds: tuple[int, ...]
    """Those at which the arm failed."""

    reference_mean: float | None
    """Mean of the reference over the seeds of `deltas`: what a difference is relative to."""

    delta_mean: float | None
    """None where there is no pair."""

    ci_low: float | None
    ci_high: float | None
    """The interval of the mean difference, by Student's t; None below two pairs. It is one of 95 % at the only look. Of
    several, each has a repeated confidence interval, 1 less the nominal level there: all of them hold together, and
    leave out 0 where the look by itself shows something."""

    p_value: float | None
    """Of the paired, two-sided t-test."""

    p_overall: float | None = None
    """`p_value` adjusted for the planned looks."""

    p_holm: float | None = None
    """`p_overall` adjusted over the comparisons in this metric."""

    detectable: float | None = None
    """The true difference these seeds would have shown with probability 0.8, given their spread and the number of
    comparisons in this metric (at Holm's first and strictest level)."""

    compute: float | None = None
    """Of a loss: what the difference is worth in compute, +0.01 being 1 % more. None where there are no lengths."""

    compute_low: float | None = None
    """Its interval, at the level of `ci_low`; None where it has no end."""

    compute_high: float | None = None

    time: float | None = None
    """What it is worth in time; None where times are not comparable, too."""

    time_low: float | None = None
    time_high: float | None = None

    p_pooled: float | None = None
    """Of a loss: by the error pooled over the arms of the same reference and seeds; unadjusted, as `p_value` is."""

    pooled_low: float | None = None
    pooled_high: float | None = None

    verdict: str = "undecided"
    """One of the words that harness/evidence/stats.py explains."""

    note: str = ""
    """What a reader of the numbers must know besides."""

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.deltas)

    @property
    def relative(self) -> float | None:
        """`delta_mean` as a share of the reference."""
        return self.delta_mean / self.reference_mean if self.delta_mean is not None and self.reference_mean else None

    @property
    def level(self) -> float:
        """At which this look's p-value and intervals are."""
        return nominal_levels(self.block.sizes)[self.look_number - 1] if self.look_number else ALPHA

    @property
    def was_shown_earlier(self) -> bool:
        """Whether an earlier look has shown a difference, which stays, that this one by itself would not show."""
        has_zero = self.ci_low is not None and self.ci_high is not None and self.ci_low <= 0 <= self.ci_high
        return self.verdict in ("better", "worse") and has_zero

    @property
    def failed(self) -> str:
        """On how many of its seeds the arm failed."""
        seeds = self.block.sizes[self.look_number - 1] if self.look_number else len(self.block.seeds)
        return f"{len(self.failed_seeds)} of {seeds}"

    @property
    def look(self) -> str:
        """Which look this is, of how many."""
        return f"{self.look_number} of {len(self.block.sizes)}"

    @property
    def registered(self) -> str:
        """The block's: "yes", "no", or "amendment" and its date."""
        return self.block.registered


def write_comparison_csv(experiment: Experiment, comparisons: Sequence[Comparison]) -> Path:
    """Write comparison.csv and return its path."""
    path = experiment.path / "comparison.csv"
    write_csv(path, COMPARISON_COLUMNS, [comparison_row(comparison) for comparison in comparisons])
    return path


def comparison_row(comparison: Comparison) -> dict[str, Any]:
    """A comparison's row of comparison.csv."""
    return {column: getattr(comparison, column) for column in COMPARISON_COLUMNS} | {"metric": comparison.metric.name}
