"""The figures: which are drawn, from what, and that the same results give the same files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from gpt2.config import GPTConfig
from gpt2.model import GPT
from harness.evidence.comparison import Comparison
from harness.evidence.paired import paired_test
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.evidence.tuning import at_edges
from harness.report.curves import loss_against_tokens_figure
from harness.report.differences import effects_figure, mean_interval
from harness.report.figures import Drawing, draw_figures
from harness.report.gates import final_gates, gates_over_training
from harness.report.series import loss_against_flop, loss_curves
from harness.report.style import STYLE, write_sketch
from harness.report.sweeps import edges, sweep_figures, tuned, tuning_figure
from tests.harness.synthetic_runs import write_ablation, write_run


def draw(path: Path) -> dict[str, Drawing]:
    experiment = load_experiment(path)
    return {drawing.name: drawing for drawing in draw_figures(experiment, compare(experiment))}


def loss_curves_of(path: Path) -> Path:
    """The figure of loss against tokens, and none of the others."""
    with matplotlib.rc_context(STYLE):
        sketch = loss_against_tokens_figure(load_experiment(path))
        assert sketch is not None
        return write_sketch(sketch, path).svg


def text_in(svg: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(svg).iter() if "text" in element.tag)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    path = tmp_path_factory.mktemp("results") / "four"
    write_ablation(path)
    return draw(path)


def test_an_ablation_has_every_figure_as_png_and_svg(ablation: dict[str, Drawing]) -> None:
    assert list(ablation) == [
        *("loss-differences", "difference-vs-tokens", "loss-vs-tokens", "loss-vs-flop", "loss-vs-time", "training"),
        *("ms-per-step", "peak-memory"),
        *("gates-final", "gates-course"),
    ]
    for name, drawing in ablation.items():
        assert (drawing.png.name, drawing.svg.name) == (f"{name}.png", f"{name}.svg")
        assert drawing.caption.endswith(".")
        with Image.open(drawing.png) as image:
            assert image.info["dpi"] == pytest.approx((250, 250), abs=0.1)
            assert image.width == pytest.approx(6.75 * 250, abs=1)


def test_text_in_an_svg_is_text_and_names_arms_and_units(ablation: dict[str, Drawing]) -> None:
    curves = text_in(ablation["loss-vs-tokens"].svg)
    for label in ("GPT-2, eager", "RA v5, eager", "RA v5, compiled", "RA + MLA", "nats/token", "training tokens"):
        assert label in curves
    assert "compiled: model" in text_in(ablation["ms-per-step"].svg)
    assert "worse" in text_in(ablation["loss-differences"].svg)
    assert "w_rec" in text_in(ablation["gates-final"].svg)


def test_an_arm_has_one_colour_in_all_figures(ablation: dict[str, Drawing]) -> None:
    for name in ("loss-differences", "loss-vs-tokens", "loss-vs-time", "ms-per-step", "gates-course"):
        svg = ablation[name].svg.read_text()
        for colour in ("#0072b2", "#d55e00", "#009e73"):
            assert colour in svg, name


def test_the_same_results_give_the_same_svg_and_no_state_is_left(ablation: dict[str, Drawing]) -> None:
    first = {name: drawing.svg.read_bytes() for name, drawing in ablation.items()}
    before = dict(matplotlib.rcParams)
    again = draw(ablation["gates-final"].svg.parent.parent)
    assert dict(matplotlib.rcParams) == before
    assert {name: drawing.svg.read_bytes() for name, drawing in again.items()} == first


def test_runs_that_have_only_begun_draw_what_they_can(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, status=None)
    write_run(tmp_path, "ra-v5-eager", 1, status=None, gates=("w_std", "w_rec"))
    (tmp_path / "ra-v5-eager/seed-1/metrics.jsonl").write_text("")
    assert set(draw(tmp_path)) == {"loss-vs-tokens", "loss-vs-time", "training"}


def test_a_run_that_is_not_finished_does_not_change_the_curves_of_those_that_are(tmp_path: Path) -> None:
    for step in ("baseline", "ra-v5-eager"):
        write_run(tmp_path, step, 1)
    whole = loss_curves_of(tmp_path).read_bytes()
    for status in ("failed", None):
        write_run(tmp_path, "ra-v5-eager", 2, val_loss=9.0, status=status)
        assert loss_curves_of(tmp_path).read_bytes() == whole


def test_names_that_look_like_mathematics_are_shown_as_they_are(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, title=r"costs $5 or $6 {_^")
    assert r"costs $5 or $6 {_^" in text_in(loss_curves_of(tmp_path))


def test_many_arms_with_long_names(tmp_path: Path) -> None:
    for r in range(4, 14):
        write_run(tmp_path, f"ra-v5-eager@RA_V5_R={r}", 1, title="Reciprocal attention with a very long title indeed")
    write_run(tmp_path, "baseline", 1)
    drawings = draw(tmp_path)
    assert "(RA_V5_R=13)" in text_in(drawings["loss-differences"].svg)
    assert drawings.keys() == {
        *("loss-differences", "sweep-ra_v5_r", "difference-vs-tokens", "loss-vs-tokens", "loss-vs-flop"),
        *("loss-vs-time", "training", "ms-per-step", "peak-memory"),
    }


def test_the_flop_of_a_curve_are_those_of_the_model(tmp_path: Path) -> None:
    """By the records of earlier versions too, and as `GPT.flops_per_token` counts them."""
    config = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=64)
    model = GPT(config, seed=1)
    for name, said in {"baseline": {}, "mla": {"flops_per_token": 7}}.items():
        run = write_run(tmp_path, name, 1, identity={"N_LAYER": 2, "N_HEAD": 2, "N_EMBD": 32, "BLOCK_SIZE": 16})
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"params": model.num_params()} | said))
    write_run(tmp_path, "ra-mla", 1, status=None)  # says nothing of its size yet
    arms = load_experiment(tmp_path).arms
    curves = loss_against_flop(arms)
    assert [c.arm.step for c in curves] == ["baseline", "mla"]
    (tokens, *_) = loss_curves(arms, "tokens")
    assert curves[0].x == pytest.approx(tokens.x * model.flops_per_token())
    assert curves[1].x == pytest.approx(tokens.x * 7)


def with_effects(path: Path, effects: dict[str, tuple[float, float, float]]) -> list[Comparison]:
    """The comparisons of an experiment, with what some steps' losses are worth in compute: mean, low, high."""
    return [
        replace(c, compute=effects[c.step][0], compute_low=effects[c.step][1], compute_high=effects[c.step][2])
        if c.metric.name == "val_loss" and c.step in effects
        else c
        for c in compare(load_experiment(path))
    ]


def test_the_first_figure_is_what_arms_are_worth_in_compute(tmp_path: Path) -> None:
    for step in ("baseline", "ra-v5-eager", "rope", "mla"):
        for seed in (1, 2, 3):
            write_run(tmp_path, step, seed, title=step)
    effects = {"ra-v5-eager": (0.004, -0.006, 0.014), "rope": (0.69, 0.6, 9.0)}
    experiment = load_experiment(tmp_path)
    sketch = effects_figure(experiment, with_effects(tmp_path, effects))
    assert sketch is not None
    (axes,) = sketch.figure.axes
    low, high = axes.get_xlim()
    assert low <= -0.01 and 0.69 < high < 9.0  # which leaves the picture
    assert {0.0, 0.01, -0.01, 0.1}.issubset(set(axes.get_xticks().tolist()))
    ends = {line.get_color(): line for line in axes.lines if line.get_marker() == ">"}
    assert len(ends) == 1 and next(iter(ends.values())).get_xdata()[0] == high  # type: ignore[index]
    endless = [replace(c, compute_low=None, compute_high=None) for c in with_effects(tmp_path, effects)]
    sketch = effects_figure(experiment, endless)
    assert sketch is not None
    assert [line.get_marker() for line in sketch.figure.axes[0].lines if line.get_marker() in "<>"] == ["<", ">"] * 2
    words = [text.get_text() for text in axes.texts]
    assert len(words) == 3 and any("+69 %, n = 3" in text for text in words) and any("no slope" in w for w in words)
    drawn = draw_figures(experiment, with_effects(tmp_path, effects))
    assert [drawing.name for drawing in drawn][:2] == ["effects", "loss-differences"]
    assert "+10 %" in text_in(drawn[0].svg)
    assert effects_figure(experiment, compare(experiment)) is None


def test_a_sweep_has_its_symbol_on_the_axis(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path, "baseline", seed)
        for step in ("ra-v5-eager", "ra-mla"):
            for r in (2, 4, 16):
                write_run(tmp_path, f"{step}@RA_V5_R={r}", seed, val_loss=3.5 + r / 100 + seed / 1000)
        write_run(tmp_path, "mla@GELU=y", seed)
    experiment = load_experiment(tmp_path)
    sketches = {s.name: s for draw in sweep_figures(experiment, compare(experiment)) if (s := draw())}
    assert set(sketches) == {"sweep-ra_v5_r"}  # y is no number
    (axes,) = sketches["sweep-ra_v5_r"].figure.axes
    assert axes.get_xticks().tolist() == [2, 4, 16] and axes.get_xscale() == "log"
    curves = [line for line in axes.lines if not line.get_label().startswith("_")]  # type: ignore[union-attr]
    assert [line.get_label() for line in curves] == ["ra-v5-eager", "ra-mla"]
    assert curves[0].get_ydata() == pytest.approx([0.021, 0.041, 0.161], abs=0.001 + 1e-9)


def test_a_ladder_has_parameters_on_the_axis(tmp_path: Path) -> None:
    for size, params in {"small": 1_000_000, "large": 16_000_000}.items():
        for step in ("baseline", "ra-v5-eager"):
            for seed in (1, 2):
                run = write_run(tmp_path, f"{step}@STUDY_SIZE={size}", seed, val_loss=3.5 + 0.001 * seed)
                summary = json.loads((run / "summary.json").read_text())
                (run / "summary.json").write_text(json.dumps(summary | {"params": params}))
    experiment = load_experiment(tmp_path)
    (sketch,) = [s for draw in sweep_figures(experiment, compare(experiment)) if (s := draw())]
    (axes,) = sketch.figure.axes
    assert (sketch.name, axes.get_xscale(), axes.get_xlabel()) == ("sweep-study_size", "log", "parameters")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1 M", "16 M"]


def write_tuned(
    path: Path,
    arms: dict[str, list[tuple[dict[str, str], float | None]]],
    asked: dict[str, list[str]] | None = None,
) -> None:
    """A tuned.json: of each arm the settings that were tried, with their losses; None of one that diverged. What was
    asked for is all of them, if nothing else."""
    choices = {}
    for arm, trials in arms.items():
        best = min((loss, i) for i, (_, loss) in enumerate(trials) if loss is not None)[1]
        choices[arm] = {
            "settings": trials[best][0],
            "at_edge": at_edges(trials[best][0], [settings for settings, _ in trials]),
            "trials": [{"arm": arm, "settings": settings, "val_loss": loss} for settings, loss in trials],
        }
    if asked is None:
        asked = {}
        for symbol, value in (of for trials in arms.values() for settings, _ in trials for of in settings.items()):
            asked[symbol] = list(dict.fromkeys([*asked.get(symbol, []), value]))
    (path / "tuned.json").write_text(json.dumps({"asked": asked, "seeds": [101], "arms": choices}))


def test_tuning_marks_the_best_and_warns_of_an_edge(tmp_path: Path) -> None:
    losses: dict[str, tuple[float | None, ...]] = {
        "baseline": (3.6, 3.4, 3.5),
        "ra-v5-eager": (3.6, 3.5, 3.45),
        "mla": (3.6, 3.4, None),
    }
    rates = [{"LEARNING_RATE": rate} for rate in ("3e-4", "1e-3", "3e-3")]
    for step in losses:
        write_run(tmp_path, step, 1, title=step)
    write_tuned(tmp_path, {step: list(zip(rates, of, strict=True)) for step, of in losses.items()})
    experiment = load_experiment(tmp_path)
    # Beyond the best a rate diverged: that is no edge.
    assert {(t.step, t.best, t.at_edge, len(t.losses)) for t in tuned(experiment)} == {
        ("baseline", "1e-3", False, 3),
        ("ra-v5-eager", "3e-3", True, 3),
        ("mla", "1e-3", False, 2),
    }
    assert edges(experiment) == [
        "LEARNING_RATE: what was chosen is at the edge of what was tried, 3e-4 to 3e-3, for ra-v5-eager (3e-3)"
    ]
    # Neither trials nor lengths and reruns are arms of the other figures.
    for step in ("baseline@MAX_ITERS=400", "baseline@RERUN=1"):
        write_run(tmp_path, step, 1, title="baseline")
    assert [arm.step for arm in load_experiment(tmp_path).compared] == ["baseline", "ra-v5-eager", "mla"]
    drawings = draw(tmp_path)
    assert "MAX_ITERS" not in text_in(drawings["loss-vs-tokens"].svg)
    drawing = drawings["tuning"]
    assert "chosen at the edge" in text_in(drawing.svg) and "at an edge: LEARNING_RATE: " in drawing.caption


@pytest.mark.parametrize(
    ("asked", "between", "labels"),
    [
        (["7e-4", "1.4e-3", "2.8e-3"], ["0.000832", "0.00099", "0.00198"], ["0.0007", "0.0014", "0.0028"]),
        (["1e-3", "1.01e-3", "4e-3"], [], ["0.001", "0.004"]),
        (["0.00123", "0.00124", "0.00125"], ["0.001235"], ["0.00123", "0.00124", "0.00125"]),
        ([f"{value:.3g}" for value in np.linspace(0.001, 0.002, 60)], [], None),
        ([f"{value:.3g}" for value in np.geomspace(0.0001, 1, 60)], [], None),
        (["1", "10"], [], ["1", "10"]),
        (["1"], ["2", "3"], ["1"]),
    ],
)
def test_labels_of_what_was_tuned_are_of_values_asked_for_and_apart(
    tmp_path: Path, asked: list[str], between: list[str], labels: list[str] | None
) -> None:
    write_run(tmp_path, "baseline", 1)
    trials: list[tuple[dict[str, str], float | None]] = [
        ({"LEARNING_RATE": value}, 3.5 + i / 100) for i, value in enumerate([*asked, *between])
    ]
    write_tuned(tmp_path, {"baseline": trials}, {"LEARNING_RATE": asked})
    with matplotlib.rc_context(STYLE):
        sketch = tuning_figure(load_experiment(tmp_path))
        assert sketch is not None
        write_sketch(sketch, tmp_path)
        sketch.figure.draw_without_rendering()
        (axes,) = sketch.figure.axes
        shown = [label for label in axes.get_xticklabels() if label.get_visible()]
        assert labels is None or [label.get_text() for label in shown] == labels
        boxes = [label.get_window_extent() for label in shown]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_sweeps_and_sizes_of_an_experiment_are_not_what_was_tuned(tmp_path: Path) -> None:
    for size in ("small", "large"):
        write_run(tmp_path, f"baseline@STUDY_SIZE={size}", 1)
    tried = [
        ({"LEARNING_RATE": rate, "RA_V5_GATE_LR_MULT": gates}, 3.5 + (rate == "3e-3") + int(gates) / 100)
        for rate, gates in (("1e-3", "1"), ("1e-3", "10"), ("3e-3", "1"))
    ]
    write_tuned(tmp_path, {f"baseline@STUDY_SIZE={size}": list(tried) for size in ("small", "large")})
    assert {(t.step, t.symbol, t.best) for t in tuned(load_experiment(tmp_path))} == {
        (f"baseline@STUDY_SIZE={size}", symbol, best)
        for size in ("small", "large")
        for symbol, best in (("LEARNING_RATE", "1e-3"), ("RA_V5_GATE_LR_MULT", "1"))
    }


def test_gates_are_shown_beside_those_that_noise_moved(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path, "ra-v5-eager", seed, gates=("w_rec",))
    bare = load_experiment(tmp_path)
    for sketch in (final_gates(bare), gates_over_training(bare)):
        assert sketch is not None and "random tokens" not in sketch.caption
    for seed in (1, 2):
        write_run(tmp_path / "noise", "ra-v5-eager", seed, gates=("w_rec",))
    experiment = load_experiment(tmp_path)
    final, course = final_gates(experiment), gates_over_training(experiment)
    assert final is not None and course is not None
    assert "trained on random tokens" in final.caption and "trained on random tokens" in course.caption
    (axes,) = [axes for axes in course.figure.axes if axes.get_ylabel() == "w_rec"]
    assert len(axes.collections) == 2
    # The same gates as on noise: of 16 heads, one at most is beyond 99 % of them.
    (heads,) = [line for axes in final.figure.axes if axes.images for line in axes.lines]
    assert len(heads.get_xdata()) <= 1  # type: ignore[arg-type]


def test_the_band_of_a_difference_is_the_interval_of_its_mean() -> None:
    values = np.array([[1.0, 2.0], [2.0, 2.5], [4.0, 2.25]])
    low, high = mean_interval(values)
    for i in range(2):
        test = paired_test(values[:, i].tolist())
        assert (low[i], high[i]) == pytest.approx((test.ci_low, test.ci_high))
