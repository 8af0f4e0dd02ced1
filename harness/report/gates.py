"""The figures of per-head gates: where they ended, and how they got there."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.evidence.stats import identity
from harness.evidence.store import Arm, Experiment
from harness.report.style import WIDTH, Sketch, drawn, integer_ticks, look_of, short


def _gate_history(arm: Arm) -> tuple[list[int], dict[str, NDArray[np.float64]]] | None:
    """Steps [P] and, for each gate, its values [seeds, P, n_layer, n_head], as far as every run of the arm has come."""
    runs = [[line for line in run.metrics if line["kind"] == "gates"] for run in drawn(arm)]
    runs = [lines for lines in runs if lines]
    if not runs:
        return None
    length = min(len(lines) for lines in runs)
    steps = [line["step"] for line in runs[0][:length]]
    names = list(runs[0][0]["gates"])
    return steps, {
        name: np.array([[line["gates"][name] for line in lines[:length]] for lines in runs], dtype=float)
        for name in names
    }


def _gated_arms(experiment: Experiment) -> list[tuple[Arm, list[int], dict[str, NDArray[np.float64]]]]:
    return [(arm, *history) for arm in experiment.arms if (history := _gate_history(arm))]


def _initial(arm: Arm, gate: str) -> float:
    """The value a gate starts from."""
    return float(identity(arm).get("RA_V5_GATE_INIT", 0.0)) if gate == "w_rec" else 1.0


def _gate_names(gated: Sequence[tuple[Arm, list[int], dict[str, NDArray[np.float64]]]]) -> list[str]:
    return sorted({name for _, _, gates in gated for name in gates})


def final_gates(experiment: Experiment) -> Sketch | None:
    """The last gates by layer and head; None where no arm has any."""
    gated = _gated_arms(experiment)
    if not gated:
        return None
    names = _gate_names(gated)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.0 * len(gated)))
    panels = figure.subplots(len(gated), len(names), squeeze=False)
    for column, name in enumerate(names):
        shown = {arm.step: gates[name][:, -1].mean(axis=0) for arm, _, gates in gated if name in gates}
        moved = [np.abs(shown[arm.step] - _initial(arm, name)).max() for arm, _, _ in gated if arm.step in shown]
        reach = float(max(filter(np.isfinite, moved), default=0.0)) or 0.1
        for row, (arm, _, gates) in enumerate(gated):
            axes = panels[row, column]
            if name not in gates:
                axes.set_axis_off()
                continue
            centre = _initial(arm, name)
            norm = TwoSlopeNorm(centre, centre - reach, centre + reach)
            image = axes.imshow(shown[arm.step], cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
            axes.grid(visible=False)
            integer_ticks(axes, shown[arm.step].shape)
            axes.set_title(f"{short(arm.title, 34)}: {name}")
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
            bar.outline.set_linewidth(0.5)
    return Sketch(
        name="gates-final",
        title="Gates by layer and head",
        caption="The gates at the last log line, mean over seeds. White is the value they started from; the colours of "
        "one gate span the same distance in every arm.",
        figure=figure,
    )


def gates_over_training(experiment: Experiment) -> Sketch | None:
    """Their course; None where there is none yet."""
    gated = [(arm, steps, gates) for arm, steps, gates in _gated_arms(experiment) if len(steps) > 1]
    if not gated:
        return None
    names = _gate_names(gated)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.65 * len(gated)))
    panels = figure.subplots(len(gated), len(names), squeeze=False, sharex=True, sharey="col")
    layers = max(values.shape[2] for _, _, gates in gated for values in gates.values())
    depth = matplotlib.colormaps["viridis"]
    for row, (arm, steps, gates) in enumerate(gated):
        colour = look_of(arm, experiment)["color"]
        for column, name in enumerate(names):
            axes = panels[row, column]
            if name not in gates:
                axes.set_axis_off()
                continue
            values = gates[name]  # [seeds, P, n_layer, n_head]
            by_step = values.transpose(1, 0, 2, 3).reshape(len(steps), -1)
            low, high = np.quantile(by_step, [0.1, 0.9], axis=1)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
            for layer in range(values.shape[2]):
                axes.plot(
                    steps, values[:, :, layer].mean(axis=(0, 2)), color=depth(layer / max(1, layers - 1)), linewidth=0.7
                )
            axes.plot(steps, by_step.mean(axis=1), color=colour, linewidth=1.8)
            axes.axhline(_initial(arm, name), color="black", linewidth=0.6, linestyle=":")
            axes.set_title(short(arm.title, 44))
            axes.set_ylabel(name)
    for axes in panels[-1]:
        axes.set_xlabel("step")
    scale = matplotlib.cm.ScalarMappable(norm=matplotlib.colors.Normalize(0, max(1, layers - 1)), cmap=depth)
    bar = figure.colorbar(scale, ax=panels, shrink=0.6, pad=0.01, label="layer")
    bar.outline.set_linewidth(0.5)
    bar.set_ticks(list(range(0, layers, -(-layers // 6))))
    return Sketch(
        name="gates-course",
        title="Gates over training",
        caption="Thick: mean over all heads, layers and seeds. Band: from the 10 % to the 90 % quantile of the heads. "
        "Thin: mean of each layer. Dotted: where the gates started.",
        figure=figure,
    )
