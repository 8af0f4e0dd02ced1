"""Heat maps of what the heads of a model do, layer by head, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from harness.heads.measures import Array, Heads, Measure
from harness.report.style import STYLE, WIDTH, Drawing, Sketch, integer_ticks, write_sketch


def draw_heads(heads: Heads, directory: Path) -> list[Drawing]:
    """Draw and write every figure there is data for."""
    with matplotlib.rc_context(STYLE):
        sketches = [_measures(heads.measures), _distances(heads)]
        if heads.d_bias is not None:
            sketches.append(_biases(heads.d_bias))
        return [write_sketch(sketch, directory) for sketch in sketches]


def _measures(measures: Sequence[Measure]) -> Sketch:
    columns = min(4, len(measures))
    rows = -(-len(measures) // columns)
    n_layer, n_head = measures[0].values.shape
    panel = WIDTH / columns
    height = 0.45 + min(max(0.72 * panel * n_layer / n_head, 0.9), 3.2)
    figure = Figure(figsize=(WIDTH, rows * height))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(measures) :]:
        axes.set_axis_off()
    for axes, measure in zip(panels.flat, measures, strict=False):
        image = _heat_map(axes, measure.values, measure.centre)
        axes.set_title(measure.title)
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        integer_ticks(axes, measure.values.shape, most=6)
        bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
        bar.outline.set_linewidth(0.5)
    explained = " ".join(f"{measure.title}: {measure.meaning}" for measure in measures)
    return Sketch(name="heads", title="What the heads do", caption=explained, figure=figure)


def _distances(heads: Heads) -> Sketch:
    profile = heads.distance_profile
    figure, panels = _layer_panels(*profile.shape[:2])
    norm = Normalize(0, float(profile.max()))
    labels = [str(a) if a == b else f"{a}-{b}" for a, b in heads.bins]
    for axes, of_layer in zip(panels, profile, strict=True):
        image = axes.imshow(of_layer, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest")
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=6)
    _share_colours(figure, panels, image, "share of attention")
    return Sketch(
        name="distances",
        title="How far back the heads attend",
        caption="Share of a query's attention by the distance to the key, in tokens, mean over the queries; one panel "
        "a layer. The bins double in width. Early queries have no distant keys: shares of texts of one length compare.",
        figure=figure,
    )


def _biases(d_bias: Array) -> Sketch:
    figure, panels = _layer_panels(*d_bias.shape[:2])
    for axes, of_layer in zip(panels, d_bias, strict=True):
        image = _heat_map(axes, of_layer, 0.0, float(np.nanmax(np.abs(d_bias))))
    _share_colours(figure, panels, image, "bias")
    return Sketch(
        name="d-bias",
        title="Discoverability bias",
        caption="What is added to the score of a key for its position (across), less each head's mean; one panel a "
        "layer.",
        figure=figure,
    )


def _layer_panels(n_layer: int, n_head: int) -> tuple[Figure, list[Axes]]:
    """A panel per layer, with a row per head to be drawn in it."""
    columns = min(4, n_layer)
    rows = -(-n_layer // columns)
    figure = Figure(figsize=(WIDTH, rows * (0.75 + max(0.09 * n_head, 0.6))))
    panels = figure.subplots(rows, columns, squeeze=False)
    for layer, axes in enumerate(panels.flat):
        if layer >= n_layer:
            axes.set_axis_off()
            continue
        axes.grid(visible=False)
        axes.set_title(f"layer {layer}")
        axes.set_yticks(range(0, n_head, -(-n_head // 6)))
        if layer % columns == 0:
            axes.set_ylabel("head")
    return figure, list(panels.flat[:n_layer])


def _share_colours(figure: Figure, panels: Sequence[Axes], image: AxesImage, label: str) -> None:
    """One colour bar for all panels."""
    bar = figure.colorbar(image, ax=panels, shrink=1.0 if len(panels) <= 4 else 0.5, pad=0.01, label=label)
    bar.outline.set_linewidth(0.5)


def _heat_map(axes: Axes, values: Array, centre: float | None, reach: float | None = None) -> AxesImage:
    """Diverging colours, `reach` to either side of `centre`, where there is one; else from the least to the most."""
    axes.grid(visible=False)
    if centre is None:
        return axes.imshow(values, cmap="viridis", aspect="auto", interpolation="nearest")
    known = values[np.isfinite(values)]
    reach = reach or float(np.abs(known - centre).max(initial=0)) or 0.1
    norm = TwoSlopeNorm(centre, centre - reach, centre + reach)
    return axes.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
