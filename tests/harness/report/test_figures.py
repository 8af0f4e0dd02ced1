"""The figures: which are drawn, from what, and that the same results give the same files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.report.figures import Drawing, draw_figures
from tests.harness.synthetic_runs import write_ablation, write_run


def draw(path: Path) -> dict[str, Drawing]:
    experiment = load_experiment(path)
    return {drawing.name: drawing for drawing in draw_figures(experiment, compare(experiment))}


def text_in(svg: Path) -> str:
    return " ".join("".join(element.itertext()) for element in ElementTree.parse(svg).iter() if "text" in element.tag)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    path = tmp_path_factory.mktemp("results") / "four"
    write_ablation(path)
    return draw(path)


def test_an_ablation_has_every_figure_as_png_and_svg(ablation: dict[str, Drawing]) -> None:
    assert list(ablation) == [
        *("loss-differences", "loss-vs-tokens", "loss-vs-time", "ms-per-step", "peak-memory"),
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


def test_the_same_results_give_the_same_svg_and_no_state_is_left(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1)
    write_run(tmp_path, "ra-v5-eager", 1, gates=("w_rec",))
    before = dict(matplotlib.rcParams)
    first = {name: drawing.svg.read_bytes() for name, drawing in draw(tmp_path).items()}
    assert dict(matplotlib.rcParams) == before
    assert {name: drawing.svg.read_bytes() for name, drawing in draw(tmp_path).items()} == first


def test_runs_that_have_only_begun_draw_what_they_can(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, status=None)
    write_run(tmp_path, "ra-v5-eager", 1, status=None, gates=("w_std", "w_rec"))
    (tmp_path / "ra-v5-eager/seed-1/metrics.jsonl").write_text("")
    assert set(draw(tmp_path)) == {"loss-vs-tokens", "loss-vs-time"}


@pytest.mark.parametrize("status", ["failed", None])
def test_a_run_that_is_not_finished_does_not_change_the_curves_of_those_that_are(
    tmp_path: Path, status: str | None
) -> None:
    for step in ("baseline", "ra-v5-eager"):
        write_run(tmp_path, step, 1)
    whole = draw(tmp_path)["loss-vs-tokens"].svg.read_bytes()
    write_run(tmp_path, "ra-v5-eager", 2, val_loss=9.0, status=status)
    assert draw(tmp_path)["loss-vs-tokens"].svg.read_bytes() == whole


def test_names_that_look_like_mathematics_are_shown_as_they_are(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline", 1, title=r"costs $5 or $6 {_^")
    assert r"costs $5 or $6 {_^" in text_in(draw(tmp_path)["loss-vs-tokens"].svg)


def test_many_arms_with_long_names(tmp_path: Path) -> None:
    for r in range(4, 14):
        write_run(tmp_path, f"ra-v5-eager@RA_V5_R={r}", 1, title="Reciprocal attention with a very long title indeed")
    write_run(tmp_path, "baseline", 1)
    drawings = draw(tmp_path)
    assert "(RA_V5_R=13)" in text_in(drawings["loss-differences"].svg)
    assert drawings.keys() == {"loss-differences", "loss-vs-tokens", "loss-vs-time", "ms-per-step", "peak-memory"}
