"""Does an arm differ from its reference? Comparisons paired by seed, and what may have spoiled them.

Arms of one seed share the order of the data and, where shapes agree, the initial weights, so that the difference
within a seed is much steadier than either loss. Every comparison here is a paired t-test on those differences. With
three to five seeds that is about all there is to test: a bootstrap of three numbers only looks like more.

A verdict is one word:

    better, worse   the difference is shown: Holm-adjusted p < 0.05, at least three seeds
    equivalent      the whole 95 % interval lies within the margin of the metric: too small to matter, zero or not
    undecided       neither; `detectable` says how large a difference these seeds would have shown
    not comparable  the sides differ in what the metric depends on (data, device, compilation): the note says in what

Holm's adjustment runs over the steps of an experiment, for each metric by itself: with seven steps against one
baseline, one in three experiments would show a "better" at p < 0.05 where there is nothing.

The margins are 0.05 % of a loss and 1 % of a cost. They belong together: loss falls about as the twentieth power of
training compute (Kaplan et al. 2020), so that 1 % of compute buys about 0.05 % of loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import integrate, optimize, stats

from harness.evidence.store import (
    Arm,
    Experiment,
    RunRecord,
    compile_ran,
    device_name,
    devices,
    has_clean_times,
    own_symbols,
    write_csv,
)

ALPHA = 0.05
"""Level of the tests; intervals are 95 %."""

POWER = 0.8
"""Probability with which `detectable` would have been shown."""

MIN_SEEDS = 3
"""Below this no difference counts as shown: two differences hardly tell their own spread."""

RUN_SYMBOLS = {"SEED", "DATA_HASH"}
"""Symbols of an identity that are not an arm's own."""

COMPARISON_COLUMNS = (
    *("step", "reference", "metric", "n", "delta_mean", "ci_low", "ci_high", "p_value", "verdict"),
    *("p_holm", "detectable", "reference_mean", "note"),
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

    margin: float
    """A relative difference below which two arms count as the same."""

    higher_is_better: bool = False
    """Rates; losses and costs are better low."""

    is_cost: bool = True
    """Whether it depends on the device and on compilation."""


METRICS = (
    Metric(name="val_loss", label="validation loss", unit="nats/token", margin=0.0005, is_cost=False),
    Metric(name="val_bpb", label="validation loss", unit="bits/byte", margin=0.0005, is_cost=False),
    Metric(name="ms_per_step", label="time per step", unit="ms", margin=0.01),
    Metric(name="tokens_per_s", label="throughput", unit="tokens/s", margin=0.01, higher_is_better=True),
    Metric(name="peak_mem_gib", label="peak memory", unit="GiB", margin=0.01),
    Metric(name="train_time_s", label="training time", unit="s", margin=0.01),
)
"""What is compared, in the order of comparison.csv."""

_TIMES = ("ms_per_step", "tokens_per_s", "train_time_s")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A step against its reference in one metric. Differences are step minus reference."""

    step: str
    reference: str
    metric: Metric

    deltas: dict[int, float]
    """The difference of each seed that both sides have finished."""

    reference_mean: float | None
    """Mean of the reference over those seeds: what a difference is relative to."""

    delta_mean: float | None
    """None where there is no pair."""

    ci_low: float | None
    ci_high: float | None
    """The 95 % interval of the mean difference, by Student's t; None below two pairs."""

    p_value: float | None
    """Of the paired, two-sided t-test."""

    p_holm: float | None = None
    """`p_value` adjusted over the steps that were compared in this metric."""

    detectable: float | None = None
    """The true difference these seeds would have shown with probability 0.8, given their spread and the number of
    comparisons in this metric (at Holm's first and strictest level)."""

    verdict: str = "undecided"
    """One of the words this module's docstring explains."""

    note: str = ""
    """What a reader of the numbers must know besides."""

    compute: float | None = None
    """What the difference is worth in compute, as a share: +0.01 is a gain that 1 % more compute would have brought.
    None where the reference's lengths give no slope, and so for the bounds of its 95 % interval."""

    compute_low: float | None = None
    compute_high: float | None = None

    failed: str = ""
    """On how many of its seeds the arm failed, as "1 of 3"; empty where that is not told."""

    look: str = ""
    """Which look this is, of how many, as "1 of 2"."""

    registered: str = ""
    """Whether it was registered before the first run: "yes", "no", or "amendment" and its date."""

    @property
    def n(self) -> int:
        """Pairs."""
        return len(self.deltas)

    @property
    def relative(self) -> float | None:
        """`delta_mean` as a share of the reference."""
        return self.delta_mean / self.reference_mean if self.delta_mean is not None and self.reference_mean else None


def compare(experiment: Experiment) -> list[Comparison]:
    """Every step against its reference in every metric that both have, by step and metric."""
    pairs = [(arm, *reference_of(arm, experiment)) for arm in experiment.arms]
    table: dict[str, list[Comparison]] = {}
    for metric in METRICS:
        compared = [_compare(arm, other, metric, note) for arm, other, note in pairs if other is not None]
        table[metric.name] = _judge([c for c in compared if c.metric.name == "val_loss" or c.n > 0])
    steps = [arm.step for arm in experiment.arms]
    return sorted((c for column in table.values() for c in column), key=lambda c: steps.index(c.step))


def margin_of(experiment: Experiment) -> float:
    """STUDY_MARGIN: the share of compute below which two arms count as the same."""
    return float(experiment.settings.get("STUDY_MARGIN") or 0.01)


def reference_of(arm: Arm, experiment: Experiment) -> tuple[Arm | None, str]:
    """The reference of an arm in an experiment, and a note where it is not the best one or there is none.

    A reference is the first of the arm's references that is in the experiment. Where values are swept, they have to
    agree in what both sweep: ra-v5@LEARNING_RATE=1e-3@RA_V5_R=8 is compared with baseline@LEARNING_RATE=1e-3.
    """
    wanted = [name for name in arm.references if name != arm.base]
    for name in wanted:
        fitting = [other for other in experiment.arms if other.base == name and other.swept <= arm.swept]
        if fitting:
            note = "" if name == wanted[0] else f"compared with {name}: {wanted[0]}, its fair reference, was not run"
            return max(fitting, key=lambda other: len(other.swept)), note
    return None, f"not compared: {' and '.join(wanted)} not run" if wanted else ""


def write_comparison_csv(experiment: Experiment, comparisons: Sequence[Comparison]) -> Path:
    """Write comparison.csv and return its path."""
    path = experiment.path / "comparison.csv"
    write_csv(path, COMPARISON_COLUMNS, [comparison_row(comparison) for comparison in comparisons])
    return path


def comparison_row(comparison: Comparison) -> dict[str, Any]:
    """A comparison's row of comparison.csv."""
    return {column: getattr(comparison, column) for column in COMPARISON_COLUMNS} | {"metric": comparison.metric.name}


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """A paired t-test."""

    mean: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None


def paired_test(deltas: Sequence[float]) -> PairedTest:
    """Student's t on differences. Of one difference only the mean is known, and of none nothing.

    Differences that are all equal (peak memory often is) have no spread: their mean is then taken as certain.
    """
    n = len(deltas)
    if n < 2:
        return PairedTest(mean=deltas[0] if deltas else None)
    if max(deltas) == min(deltas):
        mean = deltas[0]
        return PairedTest(mean=mean, ci_low=mean, ci_high=mean, p_value=0.0 if mean else 1.0)
    result = stats.ttest_1samp(deltas, 0.0)
    interval = result.confidence_interval(1 - ALPHA)
    return PairedTest(
        mean=float(np.mean(deltas)),
        ci_low=float(interval.low),
        ci_high=float(interval.high),
        p_value=float(result.pvalue),
    )


def detectable_difference(deltas: Sequence[float], alpha: float = ALPHA) -> float:
    """The true mean that a paired t-test at level `alpha` of so many differences, with their spread, is likely to show.

    Likely is a probability of POWER. Two differences at least.
    """
    return _noncentrality(len(deltas), alpha) * float(np.std(deltas, ddof=1)) / math.sqrt(len(deltas))


@cache
def _noncentrality(n: int, alpha: float) -> float:
    """The mean difference, in standard errors, that a paired t-test of n pairs shows with probability POWER."""
    critical = stats.t.isf(alpha / 2, n - 1)
    spread = stats.chi(n - 1, scale=1 / math.sqrt(n - 1))  # of the estimated standard error, about the true one

    def missing_power(noncentrality: float) -> float:
        def shown(s: float) -> float:
            beyond = stats.norm.sf(critical * s - noncentrality) + stats.norm.sf(critical * s + noncentrality)
            return float(beyond * spread.pdf(s))

        return integrate.quad(shown, 0, spread.isf(1e-9), limit=200)[0] - POWER

    return float(optimize.brentq(missing_power, 0.0, 3.0 * critical, xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _compare(arm: Arm, other: Arm, metric: Metric, note: str) -> Comparison:
    """The numbers of a comparison, with the verdict left to `_judge` unless the sides cannot be compared."""
    references = {run.seed: run for run in other.done}
    values = {
        run.seed: (run.value(metric.name), references[run.seed].value(metric.name), run, references[run.seed])
        for run in arm.done
        if run.seed in references
    }
    pairs = {seed: (a, b, x, y) for seed, (a, b, x, y) in values.items() if a is not None and b is not None}
    deltas = {seed: a - b for seed, (a, b, _, _) in pairs.items()}
    notes = [note] if note else []
    unpaired = sorted({run.seed for run in (*arm.runs, *other.runs)} - set(deltas))
    if unpaired and pairs:
        notes.append(f"without seed {', '.join(map(str, unpaired))}: not finished on both sides")
    differing = _spoiled([(x, y) for _, _, x, y in pairs.values()], metric)
    test = paired_test(list(deltas.values()))
    return Comparison(
        step=arm.step,
        reference=other.step,
        metric=metric,
        deltas=deltas,
        reference_mean=float(np.mean([b for _, b, _, _ in pairs.values()])) if pairs else None,
        delta_mean=test.mean,
        ci_low=test.ci_low,
        ci_high=test.ci_high,
        p_value=test.p_value,
        verdict="not comparable" if differing else "undecided",
        note="; ".join([*differing, *notes]),
    )


def _spoiled(pairs: Sequence[tuple[RunRecord, RunRecord]], metric: Metric) -> list[str]:
    """What differs within pairs and makes a metric's difference mean something else, as `compile differs: a vs b`."""
    facts = {"data": data_hash}
    if metric.is_cost:
        facts |= {"compile": compile_ran, "device": device_name}
    differing = {
        f"{name} differs: {fact(run)} vs {fact(reference)}": None
        for name, fact in facts.items()
        for run, reference in pairs
        if fact(run) != fact(reference)
    }
    if metric.name in _TIMES and (shared := [x.name for pair in pairs for x in pair if not has_clean_times(x)]):
        differing[f"times of a device that others used meanwhile: {_some(shared)}"] = None
    return list(differing)


def data_hash(run: RunRecord) -> str | None:
    """The first digits of the hash of the data a run was trained on."""
    return None if run.provenance is None else str(run.provenance["data"]["hash"])[:12]


def _judge(comparisons: list[Comparison]) -> list[Comparison]:
    """Fill in p_holm, detectable and verdict of all comparisons in one metric."""
    tested = [c for c in comparisons if c.p_value is not None and c.verdict != "not comparable"]
    adjusted = {c.step: p for c, p in zip(tested, holm([c.p_value or 0.0 for c in tested]), strict=True)}

    def judged(c: Comparison) -> Comparison:
        detectable = detectable_difference(list(c.deltas.values()), ALPHA / len(tested))
        return _verdict(replace(c, p_holm=adjusted[c.step], detectable=detectable), len(tested))

    return [judged(c) if c.step in adjusted else c for c in comparisons]


def _verdict(c: Comparison, family: int) -> Comparison:
    """A tested comparison with its verdict; `family` is the number of comparisons that p_holm was adjusted for."""
    assert c.delta_mean is not None and c.ci_low is not None and c.ci_high is not None
    assert c.reference_mean is not None and c.p_value is not None and c.p_holm is not None
    if c.n < MIN_SEEDS:
        return c
    margin = c.metric.margin * abs(c.reference_mean)
    if -margin <= c.ci_low and c.ci_high <= margin:
        return replace(c, verdict="equivalent")
    if c.p_holm < ALPHA:
        is_better = (c.delta_mean > 0) == c.metric.higher_is_better
        return replace(c, verdict="better" if is_better else "worse")
    if c.p_value < ALPHA:
        note = f"p < {ALPHA} by itself, but not as one of {family} comparisons"
        return replace(c, note="; ".join(filter(None, [c.note, note])))
    return c


def contamination(experiment: Experiment) -> list[str]:
    """Reasons to distrust the comparisons: what differs between runs and should not. One sentence each."""
    found = []
    for name, fact in _SHARED_FACTS.items():
        runs: dict[Any, list[str]] = {}
        for run in experiment.runs:
            if run.provenance is not None:
                runs.setdefault(fact(run.provenance), []).append(run.name)
        if len(runs) > 1:
            found.append(f"{name} differs between runs: " + "; ".join(f"{v} ({_some(of)})" for v, of in runs.items()))
    for arm in experiment.arms:
        found += [
            f"{run.name}: {symbol} is {run.provenance['identity'].get(symbol)}, unlike {value} in {arm.runs[0].name}"
            for run in arm.runs
            if run.provenance is not None
            for symbol, value in identity(arm).items()
            if symbol not in RUN_SYMBOLS and run.provenance["identity"].get(symbol) != value
        ]
        other, _ = reference_of(arm, experiment)
        if other is not None:
            own = {*own_symbols(arm), *own_symbols(other), "ATTENTION"}
            found += [
                f"{arm.step}: {d.symbol} is {d.value}, but {d.reference_value} in its reference {other.step}, and the "
                "step does not ask for that"
                for d in identity_differences(arm, other)
                if None not in (d.value, d.reference_value) and not any(_belongs(s, d.symbol) for s in own)
            ]
    dirty = [run.name for run in experiment.runs if run.provenance is not None and run.provenance["code"]["dirty"]]
    if dirty:
        found.append(f"the code had uncommitted changes, kept in provenance.json: {_some(dirty)}")
    return found


_SHARED_FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "data": lambda provenance: str(provenance["data"]["hash"])[:12],
    "device": devices,
    "torch version": lambda provenance: provenance["versions"]["torch"],
    "code commit": lambda provenance: str(provenance["code"]["commit"])[:12],
}
"""What all runs of an experiment should share, from their provenance."""


def _some(names: list[str]) -> str:
    """Names, or the first two of them and their number."""
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _belongs(asked: str, symbol: str) -> bool:
    """Whether a setting of a step decides a symbol of the identity. ATTENTION_RA_V5 is a member of ATTENTION."""
    return asked == symbol or asked.startswith(f"{symbol}_")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which an arm differs from its reference."""

    symbol: str
    value: Any
    """The arm's; None where the setting does not exist for it."""

    reference_value: Any


def identity_differences(arm: Arm, other: Arm) -> list[Difference]:
    """The settings that affect numbers and differ between the first started runs of two arms; seed and data aside.

    A setting that one of them does not have, such as RA_V5_R of a baseline, is part of the variant itself.
    """
    mine, theirs = identity(arm), identity(other)
    symbols = sorted((mine.keys() | theirs.keys()) - RUN_SYMBOLS)
    return [
        Difference(symbol=symbol, value=mine.get(symbol), reference_value=theirs.get(symbol))
        for symbol in symbols
        if mine and theirs and mine.get(symbol) != theirs.get(symbol)
    ]


def identity(arm: Arm) -> dict[str, Any]:
    started = [run.provenance["identity"] for run in arm.runs if run.provenance is not None]
    return dict(started[0]) if started else {}
