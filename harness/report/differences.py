"""The figures of what arms differ by from their references: in compute, in final loss, and over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray
from scipy import stats

from harness.evidence.comparison import Comparison
from harness.evidence.paired import ALPHA
from harness.evidence.references import reference_of
from harness.evidence.store import Experiment
from harness.evidence.verdicts import margin_of
from harness.report.curves import TOKENS, ZOOM, end_of, start_of, unit_of
from harness.report.numbers import effect_bounds, percent
from harness.report.series import Curves, averaged_over, difference, loss_curves
from harness.report.style import WIDTH, Sketch, draw_interval, look_of, robust_limits, short

_STEPS = (1, 3)
"""Of each decade of a broken axis, where there may be a tick."""


def effects_figure(experiment: Experiment, comparisons: Sequence[Comparison]) -> Sketch | None:
    """The answer, a forest plot: what each arm is worth in compute; None where no reference has a slope."""
    shown = _of_loss(comparisons)
    if not any(c.compute is not None for c in shown):
        return None
    margin = margin_of(experiment)
    figure, axes = _rows(experiment, shown)
    limits = _effect_limits(shown, margin)
    axes.set_xscale("symlog", linthresh=2 * margin, linscale=1.0)
    axes.axvspan(-margin, margin, color="#000000", alpha=0.09, linewidth=0)
    arms = {arm.step: arm for arm in experiment.arms}
    for row, c in enumerate(shown):
        words = [c.verdict, "no slope"]
        if c.compute is not None:
            low, high = effect_bounds(c)
            draw_interval(axes, row, (low, c.compute, high), limits, look_of(arms[c.step], experiment))
            words[1] = f"{percent(c.compute)}, n = {c.n}"
        _words(axes, row, words)
    axes.set_xlim(*limits)
    axes.set_xticks(ticks := _effect_ticks(limits, margin))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    axes.xaxis.set_minor_locator(NullLocator())
    assert ticks
    axes.set_xlabel("worth in compute (right of zero is better)")
    return Sketch(
        name="effects",
        title="What each arm is worth in compute",
        caption="By how much more compute the reference would have come to the arm's validation loss: mean and 95 % "
        f"interval, from the paired differences and the slope of the reference's loss over its lengths. Grey: the "
        f"margin of {100 * margin:.3g} %, within which two arms count as the same. The axis is linear within "
        f"twice the margin and logarithmic beyond; an arrow marks an interval that leaves the picture.",
        figure=figure,
    )


def _effect_limits(shown: Sequence[Comparison], margin: float) -> tuple[float, float]:
    """Limits that hold the margin and all effects with some room, and of intervals as far as three times beyond."""
    reach = 3 * margin
    sides = []
    for sign in (-1, 1):
        means = [sign * c.compute for c in shown if c.compute is not None]
        ends = [sign * b for c in shown for b in (c.compute_low, c.compute_high) if b is not None]
        most = max([reach, *means])
        sides.append(sign * min(3 * most, 1.25 * max([most, *ends])))
    return max(sides[0], -1.0), sides[1]


def _effect_ticks(limits: tuple[float, float], margin: float) -> list[float]:
    """0, the margin on both sides, and beyond it 10 %, 30 %, 100 % and the like, as far as there is room."""
    sizes = [margin, *(step * 10.0**power for power in range(-5, 6) for step in _STEPS)]
    beyond = [size for size in sizes if size == margin or size >= 3 * margin]
    return sorted({0.0, *(sign * size for size in beyond for sign in (-1, 1) if limits[0] <= sign * size <= limits[1])})


def loss_differences_figure(experiment: Experiment, comparisons: Sequence[Comparison]) -> Sketch | None:
    """Each arm's paired difference in final loss, with its interval; None where no pair has finished."""
    shown = _of_loss(comparisons)
    if not shown:
        return None
    arms = {arm.step: arm for arm in experiment.arms}
    figure, axes = _rows(experiment, shown)
    intervals = [(c.ci_low, c.ci_high) for c in shown if c.ci_low is not None and c.ci_high is not None]
    limits = robust_limits([d for c in shown for d in c.deltas.values()], intervals)
    for row, c in enumerate(shown):
        assert c.delta_mean is not None
        look = look_of(arms[c.step], experiment)
        spread = np.linspace(-0.13, 0.13, c.n) if c.n > 1 else [0.0]
        axes.scatter(list(c.deltas.values()), row + 0.24 + np.array(spread), s=9, color=look["color"], alpha=0.55, lw=0)
        low, high = (c.delta_mean if bound is None else bound for bound in (c.ci_low, c.ci_high))
        draw_interval(axes, row - 0.12, (low, c.delta_mean, high), limits, look)
        _words(axes, row, [c.verdict, f"n = {c.n}"])
    axes.set_xlim(*limits)
    axes.set_xlabel("difference in final validation loss (nats/token); left of zero is better")
    return Sketch(
        name="loss-differences",
        title="Difference in final validation loss",
        caption="Final validation loss, step minus reference, paired by seed. The marker is the mean with its 95 % "
        "interval (Student's t; an arrow marks one that leaves the picture); the dots below it are the seeds. Verdicts "
        "are adjusted for the number of comparisons.",
        figure=figure,
    )


def _of_loss(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [c for c in comparisons if c.metric.name == "val_loss" and c.n > 0]


def _rows(experiment: Experiment, shown: Sequence[Comparison]) -> tuple[Figure, Axes]:
    """A figure with a row for each comparison, from the top, and a line at zero."""
    titles = {arm.step: arm.title for arm in experiment.arms}
    steps = [c.step for c in shown]
    labels = [
        short(titles[c.step]) + f"\nvs {short(titles[c.reference])}" + f"\n({c.registered})" * (steps.count(c.step) > 1)
        for c in shown
    ]
    figure = Figure(figsize=(WIDTH, 0.75 + sum(0.14 + 0.13 * (1 + label.count("\n")) for label in labels)))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    return figure, axes


def _words(axes: Axes, row: int, words: Sequence[str]) -> None:
    """Lines of text to the right of a row."""
    place = ("axes fraction", "data")
    axes.annotate("\n".join(words), (1.025, row), xycoords=place, va="center", fontsize=7.5)


# Over training


def difference_course_figure(experiment: Experiment) -> Sketch | None:
    """Each arm's paired difference over training; None where no arm and its reference were evaluated together."""
    curves = loss_curves(experiment.arms, "tokens")
    differences = [c for c in _from_references(curves, experiment) if c.x[-1] >= start_of(curves)]
    if not differences:
        return None
    unit, scale = unit_of(end_of(curves), TOKENS)
    start = start_of(curves) / scale
    differences = [c.scaled(scale) for c in differences]
    columns = min(2, len(differences))
    rows = -(-len(differences) // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.75 * rows))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for i, (axes, c) in enumerate(zip(panels, differences, strict=False)):
        _draw_difference(axes, c, experiment, start)
        if i + columns >= len(differences):
            axes.set_xlabel(f"training tokens ({unit})")
            axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel("difference (nats/token)")
    for axes in panels[len(differences) :]:
        axes.set_axis_off()
    panels[0].set_xlim(start, end_of(differences) * 1.01)
    return Sketch(
        name="difference-vs-tokens",
        title="Difference from the reference over training",
        caption="Validation loss minus that of the reference with the same seed at the same step; below zero is "
        "better. The line is the mean, the band its 95 % interval at each step by itself (Student's t; arrows mark "
        "where it leaves the picture), thin lines are single seeds. Each panel has a scale of its own. "
        f"{averaged_over(differences)} {ZOOM}",
        figure=figure,
    )


def _draw_difference(axes: Axes, c: Curves, experiment: Experiment, start: float) -> None:
    colour = look_of(c.arm, experiment)["color"]
    shown = c.x >= start
    low, high = mean_interval(c.seeds) if len(c.seeds) > 1 else (c.mean, c.mean)
    limits = robust_limits(
        np.quantile(c.seeds[:, shown], [0.01, 0.99]).tolist(), [(low[shown].min(), high[shown].max())]
    )
    axes.plot(c.x, c.seeds.T, color=colour, linewidth=0.4, alpha=0.5)
    axes.plot(c.x, c.mean, color=colour, linewidth=1.5, zorder=3)
    axes.fill_between(c.x, low, high, color=colour, alpha=0.15, linewidth=0)
    for arrow, edge, leaves in (("v", limits[0], low < limits[0]), ("^", limits[1], high > limits[1])):
        at = c.x[leaves & shown][:: max(1, int(shown.sum()) // 6)]
        if len(at):
            axes.plot(at, [edge] * len(at), arrow, color=colour, markersize=4, clip_on=False, alpha=0.7)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(*limits)
    reference, _ = reference_of(c.arm, experiment)
    assert reference is not None
    axes.set_title(f"{short(c.arm.title)}\nvs {short(reference.title)}")


def mean_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % interval of the mean over seeds, by Student's t, of [seeds, P]: two of [P]. Two seeds at least."""
    n = len(values)
    half = stats.t.isf(ALPHA / 2, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)
    return values.mean(axis=0) - half, values.mean(axis=0) + half


def _from_references(curves: Sequence[Curves], experiment: Experiment) -> list[Curves]:
    """Each arm's loss minus its reference's."""
    of = {c.arm.step: c for c in curves}
    pairs = [(c, other) for c in curves if (other := reference_of(c.arm, experiment)[0]) is not None]
    return [d for c, other in pairs if other.step in of and (d := difference(c, of[other.step]))]
