"""Series are joined on step and seed: what a file lacks changes no number that is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.evidence.references import reference_of
from harness.evidence.store import Experiment, load_experiment
from harness.report.curves import loss_against_time_figure, loss_against_tokens_figure
from harness.report.gates import final_gates, gate_courses, gates_over_training
from harness.report.series import averaged_over, difference, loss_curves
from tests.harness.synthetic_runs import TOKENS_PER_STEP, write_run

ARMS = ("baseline", "ra-v5-eager", "ra-mla")
SEEDS = (1, 2, 3)
STEPS = range(0, 60, 10)


def loss(arm: str, seed: int, step: int) -> float:
    return 4.0 - 0.03 * step + 1e-6 * ARMS.index(arm) + 0.01 * seed * seed


def gate(arm: str, seed: int, step: int) -> float:
    return 8.0 + ARMS.index(arm) + 0.1 * seed + 0.001 * step


def lines(arm: str, seed: int) -> list[dict[str, Any]]:
    written: list[dict[str, Any]] = []
    for step in STEPS:
        at = {"step": step, "tokens": step * TOKENS_PER_STEP, "time_s": step * (1 + 0.1 * seed)}
        written.append({"kind": "eval", **at, "val_loss": loss(arm, seed, step), "val_bpb": 1.0})
        written.append({"kind": "gates", "step": step, "gates": {"w_rec": [[gate(arm, seed, step)]]}})
    return written


def write(
    path: Path, keep: Callable[[str, int, dict[str, Any]], bool], seeds: dict[str, tuple[int, ...]]
) -> Experiment:
    shutil.rmtree(path, ignore_errors=True)
    for arm, of in seeds.items():
        for seed in of:
            run = write_run(path, arm, seed)
            kept = [line for line in lines(arm, seed) if keep(arm, seed, line)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    return load_experiment(path)


def check(experiment: Experiment) -> None:
    """Every number shown is the mean over the seeds it says of what was logged at its step."""
    curves = {c.arm.step: c for c in loss_curves(experiment.arms, "tokens")}
    for arm, c in curves.items():
        expected = [[loss(arm, seed, step) for step in c.steps] for seed in c.over]
        assert c.seeds.tolist() == expected
        assert c.mean == pytest.approx(np.mean(expected, axis=0), abs=1e-12)
        assert c.x.tolist() == [step * TOKENS_PER_STEP for step in c.steps]
        other = reference_of(c.arm, experiment)[0]
        if other is not None and other.step in curves and (d := difference(c, curves[other.step])) is not None:
            assert d.seeds == pytest.approx(1e-6 * ARMS.index(arm), abs=1e-12)
            assert d.x.tolist() == [step * TOKENS_PER_STEP for step in d.steps]
    for c in loss_curves(experiment.arms, "time_s"):
        assert c.x == pytest.approx([np.mean([step * (1 + 0.1 * seed) for seed in c.over]) for step in c.steps])
    for g in gate_courses(experiment.arms):
        expected = [[gate(g.arm.step, seed, step) for step in g.steps] for seed in g.over]
        assert g.gates["w_rec"][..., 0, 0].tolist() == expected
    for shown in (list(curves.values()), gate_courses(experiment.arms)):
        has_shared = len({c.over for c in shown}) == 1
        assert has_shared or not set.intersection(*(set(c.over) for c in shown)), "a mean over other seeds than others"


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_that_are_missing_change_no_number_that_is_shown(tmp_path: Path, data: st.DataObject) -> None:
    each = [(arm, seed, line["kind"], line["step"]) for arm in ARMS for seed in SEEDS for line in lines(arm, seed)]
    dropped = data.draw(st.sets(st.sampled_from(each), max_size=len(each) // 2))
    subsets = st.sets(st.sampled_from(SEEDS), min_size=1).map(lambda seeds: tuple(sorted(seeds)))
    seeds = {arm: data.draw(subsets) for arm in ARMS}
    check(write(tmp_path, lambda arm, seed, line: (arm, seed, line["kind"], line["step"]) not in dropped, seeds))


def test_of_a_point_that_is_missing_the_difference_is_still_that_of_one_step(tmp_path: Path) -> None:
    def keep(arm: str, seed: int, line: dict[str, Any]) -> bool:
        return (arm, seed, line["kind"], line["step"]) != ("ra-v5-eager", 2, "eval", 20)

    experiment = write(tmp_path, keep, dict.fromkeys(ARMS, SEEDS))
    check(experiment)
    curves = {c.arm.step: c for c in loss_curves(experiment.arms, "tokens")}
    assert curves["baseline"].steps == (0, 10, 20, 30, 40, 50)
    assert curves["ra-v5-eager"].steps == (0, 10, 30, 40, 50)
    assert curves["ra-v5-eager"].over == SEEDS


def test_the_caption_says_which_seeds_were_averaged(tmp_path: Path) -> None:
    experiment = write(tmp_path, lambda *_: True, {"baseline": (1, 2, 3), "ra-v5-eager": (2, 3), "ra-mla": (3,)})
    for figure in (loss_against_tokens_figure, loss_against_time_figure, final_gates, gates_over_training):
        sketch = figure(experiment)
        assert sketch is not None and "Means are over seed 3, which all arms shown have." in sketch.caption
    apart = write(tmp_path, lambda *_: True, {"baseline": (1, 2), "ra-v5-eager": (3,)})
    assert averaged_over(loss_curves(apart.arms, "tokens")) == (
        "No seed is in all arms shown, and means are over each arm's own: baseline: seeds 1, 2; ra-v5-eager: seed 3."
    )


@pytest.mark.parametrize("start", [8.0, 0.0, -0.5, 1.0])
def test_where_gates_started_is_read_and_not_assumed(tmp_path: Path, start: float) -> None:
    starts = {"w_std": start, "w_rec": start + 1}
    write_run(tmp_path, "ra-v5-eager", 1, gates=("w_std", "w_rec"), gate_starts=starts)
    experiment = load_experiment(tmp_path)
    final, course = final_gates(experiment), gates_over_training(experiment)
    assert final is not None and course is not None
    centres = {
        axes.get_title().split(": ")[-1]: axes.images[0].norm.vcenter  # type: ignore[attr-defined]
        for axes in final.figure.axes
        if axes.images
    }
    assert centres == pytest.approx(starts)
    dotted = {
        axes.get_ylabel(): line.get_ydata()[0]  # type: ignore[index]
        for axes in course.figure.axes
        for line in axes.lines
        if line.get_linestyle() == ":"
    }
    assert dotted == pytest.approx(starts)
    assert "were not logged" not in final.caption + course.caption


def test_gates_are_shown_in_the_layers_that_have_them(tmp_path: Path) -> None:
    for seed in (1, 2):
        run = write_run(tmp_path, "ra-v5-matrix", seed)
        rows = [{"w_rec_rms": [[None, None], [seed * step, step], [None, None]]} for step in (0, 1)]
        lines = [{"kind": "gates", "step": step, "gates": row} for step, row in enumerate(rows)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    experiment = load_experiment(tmp_path)
    (course,) = gate_courses(experiment.arms)
    assert course.layers == {"w_rec_rms": [1]}
    assert course.gates["w_rec_rms"][:, -1].tolist() == [[[1, 1]], [[2, 1]]]
    np.testing.assert_array_equal(course.last("w_rec_rms"), [[np.nan] * 2, [1.5, 1], [np.nan] * 2])
    for sketch in (final_gates(experiment), gates_over_training(experiment)):
        assert sketch is not None
        assert sketch.caption.endswith(
            "w_rec_rms is the root mean square of a w_rec that is more than a number per head. "
            "Layers that have the baseline's attention have no gates."
        )


def test_a_start_that_was_not_logged_is_not_shown_as_one(tmp_path: Path) -> None:
    experiment = write(tmp_path, lambda _, __, line: line["step"] > 0, {"ra-v5-eager": (1, 2)})
    final, course = final_gates(experiment), gates_over_training(experiment)
    assert final is not None and course is not None
    for sketch in (final, course):
        assert "Gates at step 0 were not logged by ra-v5-eager (first at step 10)." in sketch.caption
    assert not [line for axes in course.figure.axes for line in axes.lines if line.get_linestyle() == ":"]
