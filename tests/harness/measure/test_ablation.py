"""The efficiency of ablations, measured on a tiny one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from harness.evidence.launches import read_launches
from harness.measure.ablation import Bench
from scripts import benchmark_ablation
from tests.tiny import SETTINGS, tiny


def test_what_is_no_checkout_is_refused_and_nothing_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(UserError, match=r"^--code .*: is no checkout of this project"):
        Bench(code=tmp_path, work=tmp_path, defconfig="x", settings=[])
    with pytest.raises(UserError, match=r"^--work .*: is not empty"):
        Bench(code=ROOT, work=tmp_path, defconfig="x", settings=[])
    assert (tmp_path / "kept").exists()


@pytest.mark.parametrize("flag", ["--seconds=0", "--seconds=15,x", "--gpus=-1", "--cache=lukewarm", "--cache="])
def test_arguments_that_are_none_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_ablation", flag, "--work", str(tmp_path / "work")])
    with pytest.raises(UserError, match=rf"^{flag.partition('=')[0]}"):
        benchmark_ablation.main()
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_what_is_measured_is_what_make_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    tiny(data)  # so that no time goes into preparing it
    of_run = {name: value for name, value in SETTINGS.items() if name not in ("MODEL_NAME", "MAX_ITERS")}
    of_run |= {"DATASET_TEXT_PATHS": str(data / "text.txt"), "DATA_DIR": str(data / "data"), "RUNS_PER_DEVICE": "2"}
    of_run |= {"RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1", "GRADIENT_ACCUMULATION_STEPS": "1"}
    of_run |= {"STUDY_LENGTHS": ""}
    arguments = ["--seconds", "1", "--work", str(tmp_path / "work"), "--json", str(tmp_path / "out.json")]
    settings = [f"{name}={value}" for name, value in of_run.items()]
    monkeypatch.setattr(sys, "argv", ["benchmark_ablation", *arguments, *settings])
    assert benchmark_ablation.main() == 0
    report = read_json(tmp_path / "out.json")
    (case,) = report["cases"]
    (launch,) = read_launches(tmp_path / "work" / "results" / "warm-1-1")
    assert report["code"]["commit"] and (ROOT / "defconfigs" / report["defconfig"]).exists()
    assert (case["runs"], case["slots"], case["gpus"]) == (launch.runs, launch.slots, 1) == (2, 2, 1)
    assert case["iters"] == round(1000 / report["ms_per_step"])
    # make's own wall time is that of its runner: what make and Python take to start is not in it.
    assert launch.wall_s < case["wall_s"] < launch.wall_s + 10
    assert case["ready_s"] == launch.ready_s
    assert case["efficiency"] == pytest.approx(case["train_s"] / (2 * case["wall_s"]))
    assert "2 x 1 runs of" in capsys.readouterr().out
