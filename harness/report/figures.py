"""The figures of an experiment, each a function of the runs' own files. harness/report/style.py says how they look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import matplotlib

from harness.evidence.comparison import Comparison
from harness.evidence.store import Experiment
from harness.report.costs import bars
from harness.report.curves import (
    loss_against_flop_figure,
    loss_against_time_figure,
    loss_against_tokens_figure,
    training_figure,
)
from harness.report.differences import difference_course_figure, effects_figure, loss_differences_figure
from harness.report.gates import final_gates, gates_over_training
from harness.report.style import STYLE, Drawing, Sketch, write_sketch
from harness.report.sweeps import sweep_figures, tuning_figure


def draw_figures(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Drawing]:
    """Draw and write every figure there is data for, to `figures/` in the experiment's directory."""
    experiment = replace(experiment, arms=experiment.compared)
    sketches: list[Callable[[], Sketch | None]] = [
        lambda: effects_figure(experiment, comparisons),
        lambda: loss_differences_figure(experiment, comparisons),
        *sweep_figures(experiment, comparisons),
        lambda: difference_course_figure(experiment),
        lambda: loss_against_tokens_figure(experiment),
        lambda: loss_against_flop_figure(experiment),
        lambda: loss_against_time_figure(experiment),
        lambda: training_figure(experiment),
        lambda: bars(experiment, "ms_per_step", "ms-per-step", "Time per step"),
        lambda: bars(experiment, "peak_mem_gib", "peak-memory", "Peak memory"),
        lambda: final_gates(experiment),
        lambda: gates_over_training(experiment),
        lambda: tuning_figure(experiment),
    ]
    directory = experiment.path / "figures"
    directory.mkdir(exist_ok=True)
    with matplotlib.rc_context(STYLE):
        return [write_sketch(sketch, directory) for draw in sketches if (sketch := draw()) is not None]
