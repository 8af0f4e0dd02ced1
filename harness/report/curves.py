"""The figures of losses over training: against tokens, FLOP and time; and what the optimizer saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from harness.evidence.store import Experiment
from harness.report.series import Curves, averaged_over, logged_curves, loss_against_flop, loss_curves
from harness.report.style import WIDTH, Sketch, legend_below, look_of, short

WARM_UP = 0.2
"""Share of training that the loss axes leave out: falling from ln(vocabulary) would squash all else."""

SPREAD = (
    "Lines are means, bands run from the lowest to the highest seed, thin lines are single seeds. A point is drawn "
    "where each of these seeds has one; unfinished runs are drawn only for an arm that has no finished one."
)
ZOOM = f"The axes leave out the first {WARM_UP:.0%} of training."

TOKENS = (("billions", 1e9), ("millions", 1e6), ("thousands", 1e3))
TIMES = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))

LOSS = "validation loss (nats/token)"


def loss_against_tokens_figure(experiment: Experiment) -> Sketch | None:
    """None where no arm has been evaluated twice."""
    curves = loss_curves(experiment.arms, "tokens")
    if not curves:
        return None
    unit, scale = unit_of(end_of(curves), TOKENS)
    return _loss_figure(
        experiment,
        [c.scaled(scale) for c in curves],
        name="loss-vs-tokens",
        title="Validation loss against tokens",
        caption="Validation loss against training tokens.",
        x=f"training tokens ({unit})",
    )


def loss_against_flop_figure(experiment: Experiment) -> Sketch | None:
    """None where no run has ended that was evaluated twice."""
    curves = loss_against_flop(experiment.arms)
    if not curves:
        return None
    scale = 10.0 ** np.floor(np.log10(end_of(curves)))
    return _loss_figure(
        experiment,
        [c.scaled(scale) for c in curves],
        name="loss-vs-flop",
        title="Validation loss against FLOP",
        caption="Validation loss against the floating-point operations of the training steps, 6 N + 12 L C T for each "
        "token (PaLM, appendix B), whatever the kernels make of them.",
        x=f"training FLOP ($10^{{{np.log10(scale):.0f}}}$)",
    )


def loss_against_time_figure(experiment: Experiment) -> Sketch | None:
    """None where no arm has been evaluated twice."""
    curves = loss_curves(experiment.arms, "time_s")
    if not curves:
        return None
    unit, scale = unit_of(end_of(curves) / 2, TIMES)
    return _loss_figure(
        experiment,
        [c.scaled(scale) for c in curves],
        name="loss-vs-time",
        title="Validation loss against time",
        caption="Validation loss against the time spent in training steps, without evaluation, checkpoints and "
        "compilation.",
        x=f"time in training steps ({unit})",
    )


def training_figure(experiment: Experiment) -> Sketch | None:
    """Training loss and gradient norm; None where no arm has logged both twice."""
    losses = logged_curves(experiment.arms, "train", "tokens", "loss")
    norms = logged_curves(experiment.arms, "train", "tokens", "grad_norm")
    if not losses or not norms:
        return None
    unit, scale = unit_of(end_of(losses), TOKENS)
    losses, norms = ([c.scaled(scale) for c in of] for of in (losses, norms))
    figure = Figure(figsize=(WIDTH, 4.6))
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, of in ((above, losses), (below, norms)):
        for c in of:
            draw_curves(axes, c, experiment)
    _zoom(above, losses)
    above.set_ylabel("training loss (nats/token)")
    after = np.concatenate([c.seeds[:, c.x >= start_of(norms)].ravel() for c in norms])
    after = after[after > 0]
    below.set_yscale("log")
    below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter(NullFormatter())
    if len(after):
        below.set_ylim(after.min() / 1.1, after.max() * 1.1)
    below.set_ylabel("gradient norm")
    below.set_xlabel(f"training tokens ({unit})")
    legend_below(figure, above)
    return Sketch(
        name="training",
        title="Training loss and gradient norm",
        caption="Training loss of the logged steps' batches, and the norm of all gradients before clipping (log axis). "
        f"{averaged_over(losses)} {SPREAD} {ZOOM}",
        figure=figure,
    )


def draw_curves(axes: Axes, curves: Curves, experiment: Experiment) -> None:
    """Mean over seeds, the range between them as a band, and each seed as a thin line."""
    look = look_of(curves.arm, experiment)
    colour = look["color"]
    every = max(1, len(curves.x) // 8)
    first = experiment.arms.index(curves.arm) % every  # markers of curves that coincide stay apart
    axes.plot(curves.x, curves.mean, **look, markevery=(first, every), label=short(curves.arm.title), zorder=3)
    if len(curves.seeds) > 1:
        axes.fill_between(curves.x, curves.seeds.min(0), curves.seeds.max(0), color=colour, alpha=0.12, linewidth=0)
        axes.plot(curves.x, curves.seeds.T, color=colour, linewidth=0.4, alpha=0.45)


def end_of(curves: Sequence[Curves]) -> float:
    """Where the longest ends."""
    return float(max(c.x[-1] for c in curves))


def start_of(curves: Sequence[Curves]) -> float:
    """The first point after the warm-up."""
    end = end_of(curves)
    return float(min(c.x[c.x >= WARM_UP * end].min(initial=end) for c in curves))


def unit_of(value: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The first unit that a value has at least one of, else the last."""
    return next(((name, scale) for name, scale in units if value >= scale), units[-1])


def _loss_figure(
    experiment: Experiment, curves: Sequence[Curves], *, name: str, title: str, caption: str, x: str
) -> Sketch:
    figure = Figure(figsize=(WIDTH, 3.0))
    axes = figure.subplots()
    for c in curves:
        draw_curves(axes, c, experiment)
    _zoom(axes, curves)
    axes.set_xlabel(x)
    axes.set_ylabel(LOSS)
    legend_below(figure, axes)
    return Sketch(name=name, title=title, caption=f"{caption} {averaged_over(curves)} {SPREAD} {ZOOM}", figure=figure)


def _zoom(axes: Axes, curves: Sequence[Curves]) -> None:
    """Limit the axes to what follows the warm-up. An arm that diverges leaves the picture instead of setting it."""
    start = start_of(curves)
    shown = [c.seeds[:, c.x >= start] for c in curves if (c.x >= start).sum() > 1]
    falling = [values for values in shown if values[:, -1].max() <= values[:, 0].max()] or shown
    if not falling:
        return
    low, high = min(v.min() for v in falling), max(v[:, 0].max() for v in falling)
    room = 0.05 * (high - low)
    axes.set_xlim(start, end_of(curves) * 1.01)
    axes.set_ylim(low - room, high + room)
