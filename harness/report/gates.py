"""The figures of per-head gates: where they ended, and how they got there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.evidence.gate_noise import noise_of
from harness.evidence.store import Arm, Experiment
from harness.report.series import Course, averaged_over, drawn, of_seeds, shared_seeds, shared_steps
from harness.report.style import WIDTH, Sketch, integer_ticks, look_of, short


@dataclass(frozen=True, kw_only=True)
class GateCourse(Course):
    """The gates of one arm over training."""

    gates: dict[str, NDArray[np.float64]]
    """By name, [seeds, P, layers that have it, n_head]."""

    layers: dict[str, list[int]]
    """By name, the layers that have it."""

    n_layer: int
    """Layers of the model."""

    def first(self, name: str) -> float:
        """The mean over heads and seeds of what was logged first: where they started, if that was at step 0."""
        return float(self.gates[name][:, 0].mean())

    def last(self, name: str) -> NDArray[np.float64]:
        """What was logged last, mean over seeds, [n_layer, n_head]; NaN in layers that do not have it."""
        found = np.full((self.n_layer, self.gates[name].shape[-1]), np.nan)
        found[self.layers[name]] = self.gates[name][:, -1].mean(axis=0)
        return found


def gate_courses(arms: Sequence[Arm]) -> list[GateCourse]:
    """The gates of each arm that has any, over the seeds that all of these have."""
    logged = {}
    for arm in arms:
        runs = {run.seed: {n["step"]: n["gates"] for n in run.metrics if n["kind"] == "gates"} for run in drawn(arm)}
        if runs := {seed: lines for seed, lines in runs.items() if lines}:
            logged[arm.step] = runs
    shared = shared_seeds(list(logged.values()))
    courses = []
    for arm in (arm for arm in arms if arm.step in logged):
        runs = logged[arm.step]
        over = of_seeds(runs, shared)
        steps = shared_steps([runs[seed] for seed in over])
        if steps:
            first = runs[over[0]][steps[0]]
            layers = {name: _with_gates(rows) for name, rows in first.items()}
            gates = {
                name: np.array(
                    [[_rows(runs[seed][step][name], layers[name]) for step in steps] for seed in over], float
                )
                for name in first
            }
            n_layer = max(len(rows) for rows in first.values())
            courses.append(GateCourse(arm=arm, over=over, steps=steps, gates=gates, layers=layers, n_layer=n_layer))
    return courses


def _with_gates(rows: Sequence[Sequence[float | None]]) -> list[int]:
    """The layers of a line that have a gate: in the others every number is null."""
    return [i for i, row in enumerate(rows) if any(value is not None for value in row)] or list(range(len(rows)))


def _rows(rows: Sequence[Sequence[float | None]], layers: Sequence[int]) -> list[Sequence[float | None]]:
    return [rows[i] for i in layers]


def _gate_names(courses: Sequence[GateCourse]) -> list[str]:
    return sorted({name for course in courses for name in course.gates})


def _not_from_the_start(courses: Sequence[GateCourse]) -> str:
    """For the caption: the arms whose first values are not those they started with."""
    late = [f"{c.arm.title} (first at step {c.steps[0]})" for c in courses if c.steps[0] != 0]
    return f" Gates at step 0 were not logged by {', '.join(late)}." * bool(late)


def _of_forms(courses: Sequence[GateCourse]) -> str:
    """For the caption: what is shown of gates that are not a number in each head."""
    size = " w_rec_rms is the root mean square of a w_rec that is more than a number per head."
    some = " Layers that have the baseline's attention have no gates."
    placed = any(len(layers) < course.n_layer for course in courses for layers in course.layers.values())
    return size * ("w_rec_rms" in _gate_names(courses)) + some * placed


BAND = (0.1, 0.9)
"""Quantiles of heads between which bands run."""

BEYOND = 0.99
"""Quantile of how far noise moves heads, beyond which one is marked."""


def noise_courses(experiment: Experiment) -> dict[str, GateCourse]:
    """By step, the gates of the arms that were also trained on random tokens, where that logged something."""
    noise = noise_of(experiment)
    return {course.arm.step: course for course in gate_courses(noise.arms)} if noise else {}


def _reach_of_noise(course: GateCourse, name: str) -> float:
    """How far noise moves a head, mean over its seeds, in BEYOND of the heads."""
    moved = course.gates[name][:, -1].mean(axis=0) - course.first(name)
    return float(np.quantile(np.abs(moved), BEYOND))


def final_gates(experiment: Experiment) -> Sketch | None:
    """The last gates by layer and head; None where no arm has any."""
    courses = gate_courses(experiment.arms)
    if not courses:
        return None
    noise = noise_courses(experiment)
    names = _gate_names(courses)
    figure = Figure(figsize=(WIDTH, 0.4 + 2.0 * len(courses)))
    panels = figure.subplots(len(courses), len(names), squeeze=False)
    width = 68 // max(2, len(names))
    for column, name in enumerate(names):
        last = {c.arm.step: c.last(name) for c in courses if name in c.gates}
        moved = [np.abs(last[c.arm.step] - c.first(name))[c.layers[name]].max() for c in courses if name in c.gates]
        reach = float(max(filter(np.isfinite, moved), default=0.0)) or 0.1
        for row, course in enumerate(courses):
            axes = panels[row, column]
            if name not in course.gates:
                axes.set_axis_off()
                continue
            shown, centre = last[course.arm.step], course.first(name)
            norm = TwoSlopeNorm(centre, centre - reach, centre + reach)
            image = axes.imshow(shown, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
            axes.grid(visible=False)
            if (on_noise := noise.get(course.arm.step)) and name in on_noise.gates:
                layers, heads = np.nonzero(np.abs(shown - centre) > _reach_of_noise(on_noise, name))
                axes.plot(heads, layers, "o", color="black", markersize=2.8, markeredgecolor="white")
            integer_ticks(axes, shown.shape)
            axes.set_title(f"{short(course.arm.title, width)}: {name}")
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            bar = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02)
            bar.outline.set_linewidth(0.5)
    return Sketch(
        name="gates-final",
        title="Gates by layer and head",
        caption="The gates at the last step that all seeds logged, mean over the seeds. White is their mean at the "
        "first, step 0; the colours of one gate span the same distance in every arm. "
        f"{averaged_over(courses)}{_not_from_the_start(courses)}{_MARKED * bool(noise)}{_of_forms(courses)}",
        figure=figure,
    )


_MARKED = (
    f" Dots mark heads that moved further than {BEYOND:.0%} of those of the same arm trained on random tokens, mean "
    "over the seeds that were."
)


def gates_over_training(experiment: Experiment) -> Sketch | None:
    """Their course; None where there is none yet."""
    courses = [course for course in gate_courses(experiment.arms) if len(course.steps) > 1]
    if not courses:
        return None
    names = _gate_names(courses)
    noise = noise_courses(experiment)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.65 * len(courses)))
    panels = figure.subplots(len(courses), len(names), squeeze=False, sharex=True, sharey="col")
    layers = max(course.n_layer for course in courses)
    depth = matplotlib.colormaps["viridis"]
    for row, course in enumerate(courses):
        colour, steps = look_of(course.arm, experiment)["color"], course.steps
        for column, name in enumerate(names):
            axes = panels[row, column]
            if name not in course.gates:
                axes.set_axis_off()
                continue
            values = course.gates[name]  # [seeds, P, layers, n_head]
            by_step = values.transpose(1, 0, 2, 3).reshape(len(steps), -1)
            if (on_noise := noise.get(course.arm.step)) and name in on_noise.gates:
                axes.fill_between(on_noise.steps, *_band(on_noise.gates[name]), color="black", alpha=0.12, linewidth=0)
            axes.fill_between(steps, *_band(values), color=colour, alpha=0.15, linewidth=0)
            for i, layer in enumerate(course.layers[name]):
                axes.plot(
                    steps, values[:, :, i].mean(axis=(0, 2)), color=depth(layer / max(1, layers - 1)), linewidth=0.7
                )
            axes.plot(steps, by_step.mean(axis=1), color=colour, linewidth=1.8)
            if steps[0] == 0:
                axes.axhline(course.first(name), color="black", linewidth=0.6, linestyle=":")
            axes.set_title(short(course.arm.title, 44))
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
        "Thin: mean of each layer. Dotted: their mean at step 0, where they started. "
        f"{averaged_over(courses)}{_not_from_the_start(courses)}"
        + " Grey: the same band of the same arm trained on random tokens, which teach nothing." * bool(noise)
        + _of_forms(courses),
        figure=figure,
    )


def _band(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Between which quantiles of all heads gates lie, of [seeds, P, layers, n_head]: two of [P]."""
    low, high = np.quantile(values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1), BAND, axis=1)
    return low, high
