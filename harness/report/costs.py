"""The figures of costs: a bar for each arm."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from harness.evidence.runs import compile_ran, device_name
from harness.evidence.stats import METRICS
from harness.evidence.store import Experiment
from harness.report.style import WIDTH, Sketch, look_of, short


def bars(experiment: Experiment, metric_name: str, name: str, title: str) -> Sketch | None:
    """The mean of a cost over seeds, and each seed; None where no finished run has one."""
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
