"""The figures of an experiment, each a function of the runs' own files. harness/report/style.py says how they look."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.evidence.comparison import Comparison
from harness.evidence.stats import METRICS, reference_of
from harness.evidence.store import Experiment, compile_ran, device_name
from harness.report.gates import final_gates, gates_over_training
from harness.report.series import Curves, averaged_over, difference, loss_curves
from harness.report.style import STYLE, WIDTH, Drawing, Sketch, legend_below, look_of, short, write_sketch


def draw_figures(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Drawing]:
    """Draw and write every figure there is data for, to `figures/` in the experiment's directory."""
    sketches: list[Callable[[], Sketch | None]] = [
        lambda: _differences(experiment, comparisons),
        lambda: _loss_against_tokens(experiment),
        lambda: _loss_against_time(experiment),
        lambda: _bars(experiment, "ms_per_step", "ms-per-step", "Time per step"),
        lambda: _bars(experiment, "peak_mem_gib", "peak-memory", "Peak memory"),
        lambda: final_gates(experiment),
        lambda: gates_over_training(experiment),
    ]
    directory = experiment.path / "figures"
    directory.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [write_sketch(sketch, directory) for draw in sketches if (sketch := draw()) is not None]


def _draw_curves(axes: Axes, curves: Curves, experiment: Experiment) -> None:
    """Mean over seeds, the range between them as a band, and each seed as a thin line."""
    look = look_of(curves.arm, experiment)
    colour = look["color"]
    every = max(1, len(curves.x) // 8)
    first = experiment.arms.index(curves.arm) % every  # markers of curves that coincide stay apart
    axes.plot(curves.x, curves.mean, **look, markevery=(first, every), label=short(curves.arm.title), zorder=3)
    if len(curves.seeds) > 1:
        axes.fill_between(curves.x, curves.seeds.min(0), curves.seeds.max(0), color=colour, alpha=0.12, linewidth=0)
        axes.plot(curves.x, curves.seeds.T, color=colour, linewidth=0.4, alpha=0.45)


WARM_UP = 0.2
"""Share of training that the loss axes leave out: falling from ln(vocabulary) would squash all else."""

SPREAD = (
    "Lines are means, bands run from the lowest to the highest seed, thin lines are single seeds. A point is drawn "
    "where each of these seeds has one; unfinished runs are drawn only for an arm that has no finished one."
)
ZOOM = f"The axes leave out the first {WARM_UP:.0%} of training."


def _zoom(axes: Axes, curves: Sequence[Curves]) -> None:
    """Limit the axes to what follows the warm-up. An arm that diverges leaves the picture instead of setting it."""
    end = max(c.x[-1] for c in curves)
    start = min(c.x[c.x >= WARM_UP * end].min(initial=end) for c in curves)
    shown = [c.seeds[:, c.x >= start] for c in curves if (c.x >= start).sum() > 1]
    falling = [values for values in shown if values[:, -1].max() <= values[:, 0].max()] or shown
    if not falling:
        return
    low, high = min(v.min() for v in falling), max(v[:, 0].max() for v in falling)
    room = 0.05 * (high - low)
    axes.set_xlim(start, end * 1.01)
    axes.set_ylim(low - room, high + room)


def _loss_against_tokens(experiment: Experiment) -> Sketch | None:
    """Loss against tokens, and below it each arm's difference from its reference, where curves would coincide."""
    curves = loss_curves(experiment.arms, "tokens")
    differences = _from_references(curves, experiment)
    if not curves:
        return None
    figure = Figure(figsize=(WIDTH, 5.0 if differences else 3.0))
    panels = figure.subplots(2 if differences else 1, 1, sharex=True, squeeze=False)[:, 0]
    unit, scale = _unit(max(c.x[-1] for c in curves), [("billions", 1e9), ("millions", 1e6), ("thousands", 1e3)])
    curves, differences = ([c.scaled(scale) for c in of] for of in (curves, differences))
    for c in curves:
        _draw_curves(panels[0], c, experiment)
    panels[0].set_ylabel("validation loss (nats/token)")
    _zoom(panels[0], curves)
    if differences:
        for c in differences:
            _draw_curves(panels[1], c, experiment)
        panels[1].axhline(0, color="black", linewidth=0.8)
        panels[1].set_ylabel("difference from reference\n(nats/token)")
        after = [c.seeds[:, c.x >= panels[0].get_xlim()[0]] for c in differences]
        low, high = np.quantile(np.concatenate([[0.0], *(v.ravel() for v in after)]), [0.01, 0.99])
        room = 0.08 * (high - low) or 1e-3
        panels[1].set_ylim(min(low, 0) - room, max(high, 0) + room)
    panels[-1].set_xlabel(f"training tokens ({unit})")
    legend_below(figure, panels[0])
    below = " Below: loss minus that of the reference with the same seed at the same step." * bool(differences)
    return Sketch(
        name="loss-vs-tokens",
        title="Validation loss against tokens",
        caption=f"Validation loss against training tokens.{below} {averaged_over(curves)} {SPREAD} {ZOOM}",
        figure=figure,
    )


def _from_references(curves: Sequence[Curves], experiment: Experiment) -> list[Curves]:
    """Each arm's loss minus its reference's."""
    of = {c.arm.step: c for c in curves}
    pairs = [(c, other) for c in curves if (other := reference_of(c.arm, experiment)[0]) is not None]
    return [d for c, other in pairs if other.step in of and (d := difference(c, of[other.step]))]


def _unit(value: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The first unit that a value has at least one of, else the last."""
    return next(((name, scale) for name, scale in units if value >= scale), units[-1])


def _loss_against_time(experiment: Experiment) -> Sketch | None:
    curves = loss_curves(experiment.arms, "time_s")
    if not curves:
        return None
    longest = max(c.x[-1] for c in curves)
    unit, scale = _unit(longest / 2, [("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0)])
    curves = [c.scaled(scale) for c in curves]
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    for c in curves:
        _draw_curves(axes, c, experiment)
    _zoom(axes, curves)
    axes.set_xlabel(f"time in training steps ({unit})")
    axes.set_ylabel("validation loss (nats/token)")
    legend_below(figure, axes)
    return Sketch(
        name="loss-vs-time",
        title="Validation loss against time",
        caption="Validation loss against the time spent in training steps, without evaluation, checkpoints and "
        f"compilation. {averaged_over(curves)} {SPREAD} {ZOOM}",
        figure=figure,
    )


def _differences(experiment: Experiment, comparisons: Sequence[Comparison]) -> Sketch | None:
    """The answer: each arm's paired difference in final loss, with its interval."""
    shown = [c for c in comparisons if c.metric.name == "val_loss" and c.n > 0]
    if not shown:
        return None
    titles = {arm.step: arm for arm in experiment.arms}
    labels = [short(titles[c.step].title) + f"\nvs {short(titles[c.reference].title)}" for c in shown]
    figure = Figure(figsize=(WIDTH, 0.75 + sum(0.14 + 0.13 * (1 + label.count("\n")) for label in labels)))
    axes = figure.subplots()
    for row, c in enumerate(shown):
        assert c.delta_mean is not None
        look = look_of(titles[c.step], experiment)
        spread = np.linspace(-0.13, 0.13, c.n) if c.n > 1 else [0.0]
        axes.scatter(list(c.deltas.values()), row + 0.24 + np.array(spread), s=9, color=look["color"], alpha=0.55, lw=0)
        if c.ci_low is not None and c.ci_high is not None:
            axes.plot([c.ci_low, c.ci_high], [row - 0.12] * 2, color=look["color"], linewidth=1.6)
        axes.plot(c.delta_mean, row - 0.12, marker=look["marker"], color=look["color"], markersize=5.5)
        axes.annotate(
            f"{c.verdict}\nn = {c.n}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7.5
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("difference in final validation loss (nats/token); left of zero is better")
    low, high = _robust_limits(shown)
    axes.set_xlim(low, high)
    return Sketch(
        name="loss-differences",
        title="Difference in final validation loss",
        caption="Final validation loss, step minus reference, paired by seed. The marker is the mean with its 95 % "
        "interval (Student's t; an interval may leave the picture); the dots below it are the seeds. Verdicts are "
        "adjusted for the number of comparisons.",
        figure=figure,
    )


def _robust_limits(shown: Sequence[Comparison]) -> tuple[float, float]:
    """Limits that hold zero, every seed and every mean, and of an interval no more than three times their width.

    Of two seeds the interval is 25 times as wide as their distance, and would hide everything else.
    """
    dots = [0.0, *(d for c in shown for d in c.deltas.values())]
    width = max(dots) - min(dots) or 1.0
    lows = [max(c.ci_low, min(dots) - width) for c in shown if c.ci_low is not None]
    highs = [min(c.ci_high, max(dots) + width) for c in shown if c.ci_high is not None]
    return min([*dots, *lows]) - 0.04 * width, max([*dots, *highs]) + 0.04 * width


# Cost


def _bars(experiment: Experiment, metric_name: str, name: str, title: str) -> Sketch | None:
    metric = next(metric for metric in METRICS if metric.name == metric_name)
    values = [(arm, [v for run in arm.done if (v := run.value(metric.name)) is not None]) for arm in experiment.arms]
    values = [(arm, of) for arm, of in values if max(of, default=0.0) > 0]
    if not values:
        return None
    labels = []
    for arm, _ in values:
        compiled = sorted({str(compile_ran(run)) for run in arm.done} - {"none"})
        labels.append(short(arm.title) + ("\n" + short(f"[compiled: {', '.join(compiled)}]")) * bool(compiled))
    figure = Figure(figsize=(WIDTH, 0.6 + sum(0.13 + 0.13 * (1 + label.count("\n")) for label in labels)))
    axes = figure.subplots()
    highest = max(max(of) for _, of in values)
    digits = max(0, 3 - math.floor(math.log10(highest)))  # four in the largest
    for row, (arm, of) in enumerate(values):
        colour = look_of(arm, experiment)["color"]
        axes.barh(row, np.mean(of), height=0.62, color=colour, alpha=0.35, edgecolor=colour, linewidth=0.8)
        axes.scatter(of, row + np.linspace(-0.18, 0.18, len(of)) if len(of) > 1 else [row], s=9, color=colour, zorder=3)
        axes.annotate(
            f"{np.mean(of):.{digits}f}",
            (max(of), row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    axes.set_yticks(range(len(values)), labels)
    axes.set_ylim(len(values) - 0.45, -0.55)
    axes.set_xlim(0, highest * 1.12)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{metric.label} ({metric.unit})")
    devices = sorted({device for run in experiment.runs if (device := device_name(run)) is not None})
    return Sketch(
        name=name,
        title=title,
        caption=f"{title} on {' and '.join(devices)}: mean over seeds (bar, number) and each seed (dots). Only arms "
        "with the same compile setting are comparable.",
        figure=figure,
    )
