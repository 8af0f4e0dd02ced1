"""The figure of `harness/measure/loss_curves.py`: the curves, and below them how far they lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.measure.loss_curves import NANOGPT, Curves
from harness.report.style import COLOURS, DASHES, STYLE, WIDTH, Drawing, Sketch, write_sketch


def draw_loss_curves(curves: Sequence[Curves], labels: Mapping[str, str], png: Path) -> Drawing:
    """Draw the curves of all seeds to `png`, and as SVG beside it. `labels`: the arms, and what they are in words."""
    with matplotlib.rc_context(STYLE):
        return write_sketch(_sketch(curves, labels, png.stem), png.parent)


def _sketch(curves: Sequence[Curves], labels: Mapping[str, str], name: str) -> Sketch:
    figure = Figure(figsize=(WIDTH, 4.6))
    upper, lower = figure.subplots(2, 1, sharex=True)
    # [seeds, steps]
    losses = {arm: np.array([of.losses[arm] for of in curves]) for arm in labels}
    for place, (arm, label) in enumerate(labels.items()):
        # Curves that coincide are told apart by their dashes: through the gaps of one shows the one before.
        _draw(upper, losses[arm], label, color=COLOURS[place], linestyle=DASHES[place])
        if arm == NANOGPT:
            continue
        apart = np.abs(losses[arm] - losses[NANOGPT])
        label += "" if apart.any() else ": none"
        # With dots, for a step whose neighbours have no difference.
        _draw(lower, apart, label, color=COLOURS[place], linewidth=0.9, marker=".", markersize=2)
    name_axes(upper, lower, labels[NANOGPT])
    means = " Lines are means over seeds, thin lines single seeds." * (len(curves) > 1)
    return Sketch(
        name=name,
        title="Training loss beside nanoGPT's",
        caption="Loss of each step from the same weights on the same batches. Below: absolute differences, ours and "
        f"what another order of rounding makes of nanoGPT itself. Steps without any are left out.{means}",
        figure=figure,
    )


def name_axes(upper: Axes, lower: Axes, reference: str) -> None:
    """Say what is drawn: training losses above, and how far they lie from those of `reference` below."""
    upper.set_ylabel("training loss (nats/token)")
    lower.set_ylabel(f"difference from {reference}\n(absolute, nats/token)")
    lower.set_yscale("log", nonpositive="mask")
    lower.set_xlabel("step")
    for axes in (upper, lower):
        axes.legend()


def _draw(axes: Axes, seeds: NDArray[np.float64], label: str, **look: Any) -> None:
    """The mean over seeds [seeds, steps], and each of several as a thin line."""
    axes.plot(seeds.mean(axis=0), label=label, **look)
    if len(seeds) > 1:
        axes.plot(seeds.T, color=look["color"], linewidth=0.4, alpha=0.35)
