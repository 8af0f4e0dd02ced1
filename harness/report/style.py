"""How figures look, and how they are written: as PNG and SVG, ready for a paper's column.

They are drawn with matplotlib's object interface: no global state and no display. An arm has one colour, line style and
marker in all of them. The same results give the same SVG.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpt2.base.files import write_atomic
from harness.evidence.store import Arm, Experiment

WIDTH = 6.75
"""Inches: the text width of the usual two-column paper. Narrow figures are half of it."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,  # a browser sets the text of an SVG a little wider
    "savefig.dpi": 250,
    "svg.fonttype": "none",
    "svg.hashsalt": "figures",
}

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#7f4fc9")
"""Told apart with any of the common colour deficiencies, after Okabe and Ito, with their yellow darkened."""

MARKERS = "osD^vPX<"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that was written."""

    name: str
    """Of its files, without the ending."""

    title: str
    caption: str
    """What it shows and how: for the report, and for whoever puts it into a paper."""

    png: Path
    svg: Path


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """A figure that is drawn and not yet written."""

    name: str
    title: str
    caption: str
    figure: Figure


def write_sketch(sketch: Sketch, directory: Path) -> Drawing:
    """Write a figure that was drawn under `STYLE` to a directory, as PNG and SVG. Call it under `STYLE` too."""
    FigureCanvasAgg(sketch.figure)
    sketch.figure.draw_without_rendering()
    sketch.figure.set_layout_engine("none")  # laid out once; the layout takes longer than the drawing
    for axes in sketch.figure.axes:
        _thin_labels(axes)
    paths = {ending: directory / f"{sketch.name}.{ending}" for ending in ("png", "svg")}
    for ending, path in paths.items():
        metadata: dict[str, Any] = {"Software": None} if ending == "png" else {"Date": None, "Creator": None}
        image = io.BytesIO()
        sketch.figure.savefig(image, format=ending, metadata=metadata)
        write_atomic(path, lambda file, image=image: file.write(image.getvalue()))  # type: ignore[misc]
    return Drawing(name=sketch.name, title=sketch.title, caption=sketch.caption, **paths)


def _thin_labels(axes: Axes) -> None:
    """Below an axis, hide each label that would lie on one to its left, or all but touch it."""
    free = -math.inf
    for label in axes.get_xticklabels():
        if label.get_visible():
            box = label.get_window_extent()
            label.set_visible(box.x0 > free)
            free = box.x1 + box.height / 4 if box.x0 > free else free


def look_of(arm: Arm, experiment: Experiment) -> dict[str, Any]:
    """Colour, dashes and marker of an arm: by its place in the experiment, the same in every figure."""
    place = experiment.arms.index(arm)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[(place + place // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def short(text: str, width: int = 38) -> str:
    """A label that leaves room for the axes: long ones are broken in two or more lines at spaces."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines).replace("$", r"\$")


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend below the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:  # matplotlib keeps names that begin with "_" to itself
        return
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (0.55 + 0.062 * longest))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def integer_ticks(axes: Axes, shape: tuple[int, ...], most: int = 12) -> None:
    """Ticks at whole layers and heads, `most` at most."""
    for count, set_ticks in zip(shape, (axes.set_yticks, axes.set_xticks), strict=True):
        set_ticks(range(0, count, -(-count // most)))


def draw_interval(
    axes: Axes,
    at: float,
    bounds: tuple[float, float, float],
    limits: tuple[float, float],
    look: dict[str, Any],
    *,
    upright: bool = False,
) -> None:
    """An interval (low, mean, high) on a row, or with `upright` in a column, within the limits of its axis.

    Where it leaves them there is an arrow at the edge.
    """
    low, mean, high = bounds
    ends = [float(min(max(end, limits[0]), limits[1])) for end in (low, high)]

    def draw(along: list[float], **style: Any) -> None:
        across = [at] * len(along)
        axes.plot(*((across, along) if upright else (along, across)), color=look["color"], **style)

    draw(ends, linewidth=1.6, solid_capstyle="butt")
    arrows = "v^" if upright else "<>"
    for arrow, edge, leaves in zip(arrows, limits, (low < limits[0], high > limits[1]), strict=True):
        if leaves:
            draw([edge], marker=arrow, markersize=5, linestyle="none", clip_on=False)
    draw([mean], marker=look["marker"], markersize=5.5, linestyle="none")


def robust_limits(points: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Limits that hold zero, every point, and of an interval no more than three times their width.

    Of two seeds the interval is 25 times as wide as their distance, and would hide everything else.
    """
    dots = [0.0, *points]
    width = max(dots) - min(dots) or 1.0
    lows = [max(low, min(dots) - width) for low, _ in intervals]
    highs = [min(high, max(dots) + width) for _, high in intervals]
    return min([*dots, *lows]) - 0.04 * width, max([*dots, *highs]) + 0.04 * width
