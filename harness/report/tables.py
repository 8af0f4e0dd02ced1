"""The tables of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpt2.base.numbers import decimal
from harness.evidence.comparison import Comparison
from harness.evidence.contamination import identity_differences
from harness.evidence.noise import EFFECTS, Noise, measure_noise
from harness.evidence.paired import ALPHA, MIN_SEEDS
from harness.evidence.references import reference_of
from harness.evidence.runs import RunRecord, compile_ran, lines_beside_others
from harness.evidence.stats import compare_besides
from harness.evidence.store import Experiment
from harness.evidence.verdicts import margin_of
from harness.report.numbers import (
    DASH,
    effect_interval,
    interval,
    interval_percent,
    mean_and_spread,
    p_value,
    percent,
    setting,
    signed,
)

IN_COMPUTE, ITS_INTERVAL = "compute", "95 % of it"
"""Columns of the losses' table, where there is a slope."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 1
    """So many columns from the left hold text; the rest hold numbers or short words."""

    note: str = ""
    """One paragraph below it."""

    remarks: Sequence[str] = ()
    """On single rows, each a line that begins with its step: a column of them would push numbers out of sight."""


def loss_table(experiment: Experiment, losses: Sequence[Comparison]) -> Table:
    """The losses of each arm and its reference: what the verdict rests on."""
    titles = {arm.step: arm.title for arm in experiment.arms}
    columns: dict[str, list[str]] = {
        "step": [titles[c.step] for c in losses],
        "reference": [titles[c.reference] for c in losses],
        "n": [str(c.n) for c in losses],
    }
    verdicts = [c.verdict for c in losses]
    if any(c.compute is not None for c in losses):
        columns[IN_COMPUTE] = [percent(c.compute) for c in losses]
        columns[ITS_INTERVAL] = [effect_interval(c) for c in losses]
        columns["verdict"] = verdicts  # the rest may be out of sight
    columns |= {
        "Δ loss": [signed(c.delta_mean, 4) for c in losses],
        "Δ %": [DASH if c.relative is None else f"{signed(100 * c.relative, 2)} %" for c in losses],
        "95 % interval": [interval(c, 4) for c in losses],
        "p": [p_value(c.p_value) for c in losses],
        "p (Holm)": [p_value(c.p_holm) for c in losses],
        "detectable": [DASH if c.detectable is None else decimal(c.detectable, 4) for c in losses],
    }
    if any(c.failed_seeds for c in losses):
        columns["failed"] = [c.failed for c in losses]
    if any(len(c.block.sizes) > 1 for c in losses):
        columns["look"] = [c.look for c in losses]
    columns["registered"] = [c.registered for c in losses]
    columns.setdefault("verdict", verdicts)
    in_compute = (
        " Compute: by how much more compute the reference would have come to that loss, by the slope over its lengths; "
        "higher is better." * (IN_COMPUTE in columns)
    )
    unknown = " Without other lengths of the reference (STUDY_LENGTHS) none does but a difference of 0." * (
        not in_compute
    )
    looks = " Of several planned looks, the intervals hold at all of them together." * ("look" in columns)
    return Table(
        title="Validation loss against the reference",
        columns=list(columns),
        rows=[list(row) for row in zip(*columns.values(), strict=True)],
        text_columns=2,
        remarks=_remarks(losses, titles),
        note="Differences in nats/token, step minus reference, paired by seed: lower is better. Interval and p are "
        "Student's, two-sided; p (Holm) is adjusted over the steps, and the verdict goes by it at "
        f"{ALPHA} with at least {MIN_SEEDS} seeds. Detectable: the true difference that so many seeds of this spread "
        "show with probability 0.8, as one of so many comparisons. Equivalent: the whole interval of the effect "
        f"lies within {100 * margin_of(experiment):.3g} % of compute.{in_compute}{unknown}{looks} "
        "Registered: arm, reference and seeds were written down before these runs began; an amendment was later.",
    )


def _remarks(comparisons: Sequence[Comparison], titles: Mapping[str, str]) -> list[str]:
    """What is to be known of single comparisons, those of which the same is to be said together."""
    of_note: dict[str, dict[str, None]] = {}
    for c in comparisons:
        if c.note:
            of_note.setdefault(c.note, {})[titles[c.step]] = None
    return [f"{', '.join(steps)}: {note}." for note, steps in of_note.items()]


def beside_table(experiment: Experiment) -> Table | None:
    """What arms add to others than their reference; None where there is none."""
    found = compare_besides(experiment)
    if not found:
        return None
    titles = {arm.step: arm.title for arm in experiment.arms}
    return Table(
        title="What one arm adds to another",
        columns=["step", "beside", "n", "Δ loss", "95 % interval", "p", IN_COMPUTE, ITS_INTERVAL],
        rows=[
            [
                titles[c.step],
                titles[c.reference],
                str(c.n),
                signed(c.delta_mean, 4),
                interval(c, 4),
                p_value(c.p_value),
                percent(c.compute),
                effect_interval(c),
            ]
            for c in found
        ],
        text_columns=2,
        remarks=_remarks(found, titles),
        note="As above, over all seeds that both have finished, adjusted for nothing: no verdict rests on it."
        + " RA v5 beside the gated baseline is what reciprocity adds to a learned temperature."
        * any(c.reference.startswith("gated-baseline") for c in found),
    )


def noise_table(experiment: Experiment, comparisons: Sequence[Comparison]) -> Table | None:
    """How noisy the losses are, and what small effects would take; None below two pairs."""
    found = measure_noise(experiment, comparisons)
    if not found:
        return None
    titles = {arm.step: arm.title for arm in experiment.arms}

    def needed(noise: Noise, effect: float) -> str:
        of = next((needed for needed in noise.needed if needed.effect == effect), None)
        if of is None:
            return DASH
        return str(of.seeds) + ("" if of.device_hours is None else f" ({decimal(of.device_hours, 1)} h)")

    rows = [
        [
            titles[noise.step],
            titles[noise.reference],
            str(noise.n),
            *(decimal(sd, 4) for sd in (noise.sd_step, noise.sd_reference, noise.sd_difference)),
            DASH if noise.correlation is None else signed(noise.correlation, 2),
            DASH if noise.pairing is None else f"{noise.pairing:.1f}",
            DASH if noise.sd_rerun is None else f"{decimal(noise.sd_rerun, 4)} ({noise.reruns})",
            *(needed(noise, effect) for effect in EFFECTS),
        ]
        for noise in found
    ]
    return Table(
        title="Noise of the losses",
        columns=[
            *("step", "reference", "n", "sd of step", "of reference", "of difference", "correlation", "pairing gains"),
            *("of a rerun", *(f"seeds for {100 * effect:g} %" for effect in EFFECTS)),
        ],
        rows=rows,
        text_columns=2,
        note="Standard deviations over seeds, in nats/token; their correlation between step and reference. Pairing "
        "gains: how many times as many seeds an unpaired comparison of this power takes. Of a rerun: of the difference "
        "between two runs of one seed of the reference, by so many repetitions. Seeds for: what it takes to show "
        "so much compute with probability 0.8, as one of so many comparisons, and the device hours of both arms.",
    )


def cost_table(experiment: Experiment, comparisons: Sequence[Comparison]) -> Table:
    """Time and memory of each arm and its reference."""
    titles = {arm.step: arm.title for arm in experiment.arms}
    found = [c for c in comparisons if c.metric.name in ("ms_per_step", "peak_mem_gib") and c.n > 0]
    rows = [
        [
            titles[c.step],
            titles[c.reference],
            c.metric.label,
            str(c.n),
            f"{c.reference_mean:.4g} {c.metric.unit}",
            DASH if c.relative is None else f"{signed(100 * c.relative, 2)} %",
            interval_percent(c),
            c.verdict,
        ]
        for c in found
    ]
    return Table(
        title="Cost against the reference",
        columns=["step", "reference", "of", "n", "reference's", "Δ %", "95 % interval", "verdict"],
        rows=rows,
        text_columns=3,
        remarks=_remarks(found, titles),
        note="Lower is better. Equivalent: the whole interval lies within 1 %. Costs are compared only where both "
        "sides ran on the same device, with the same threads, versions, kernel of attention and compilation. "
        "Throughput and training time: comparison.csv.",
    )


def arm_table(experiment: Experiment) -> Table:
    """Every arm's figures, over its finished seeds."""
    digits = {"val_loss": 4, "val_bpb": 4, "ms_per_step": 1, "tokens_per_s": 0, "mfu": 3, "peak_mem_gib": 2}
    rows = []
    for arm in experiment.arms:
        values = [[v for run in arm.done if (v := run.value(metric)) is not None] for metric in digits]
        cells = [mean_and_spread(of, d) for of, d in zip(values, digits.values(), strict=True)]
        compiled = ", ".join(sorted({str(compile_ran(run)) for run in arm.done})) or DASH
        rows.append([arm.title, arm.step, compiled, f"{len(arm.done)} of {len(arm.runs)}", *cells])
    return Table(
        title="Arms",
        columns=["arm", "step", "compiled", "done", "val. loss", "bits/byte", "ms/step", "tokens/s", "MFU", "GiB"],
        rows=rows,
        text_columns=3,
        note="Mean over finished seeds ± standard deviation between them. The comparison rests on the spread of the "
        "paired differences, which is another.",
    )


def run_table(experiment: Experiment) -> Table:
    """Every run's figures."""

    def cell(run: RunRecord, metric: str, digits: int) -> str:
        value = run.value(metric)
        return DASH if value is None else decimal(value, digits)

    before = {"iters": 0, "val_loss": 4, "train_loss": 4, "ms_per_step": 1}
    after = {"peak_mem_gib": 2, "train_time_s": 0}
    return Table(
        title="Runs",
        columns=["run", "status", "steps", "val. loss", "train loss", "ms/step", "shared", "GiB", "seconds", "config"],
        rows=[
            [
                run.name,
                run.status,
                *(cell(run, metric, digits) for metric, digits in before.items()),
                lines_beside_others(run) or DASH,
                *(cell(run, metric, digits) for metric, digits in after.items()),
                str((run.provenance or {}).get("config_hash", DASH))[:8],
            ]
            for run in experiment.runs
        ],
        text_columns=2,
        note="Shared: lines of the log during which another process of this harness used the device, such as the next "
        "run while it got ready. Times per step are of the other lines, where there are any; times of a run without "
        "are not compared.",
    )


def differences_table(experiment: Experiment) -> Table:
    """The settings in which an arm and its reference differ."""
    rows = []
    for arm in experiment.arms:
        other, _ = reference_of(arm, experiment)
        if other is not None:
            rows += [
                [arm.title, other.title, d.symbol, setting(d.value), setting(d.reference_value)]
                for d in identity_differences(arm, other)
            ]
    return Table(
        title="In what each arm differs from its reference",
        columns=["step", "reference", "setting", "step's", "reference's"],
        rows=rows,
        text_columns=5,
        note="Every setting that affects the numbers and is not the same on both sides.",
    )
