"""What an ablation takes besides time, and what is kept of it for the runner."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from gpt2.assignments import Assignment
from gpt2.base.files import read_json
from gpt2.dotconfig import resolve
from gpt2.model import GPT
from gpt2.run.checkpoint import bytes_held, bytes_kept, n_written
from gpt2.run.record import code_state
from harness.configure.plan import Plan, make_plan
from harness.evidence.launches import read_launches
from harness.launch import outlook
from harness.launch.estimate import estimate_plan, evaluations, flop_of_run, print_estimates
from harness.launch.forecast import SWITCH_S, Cost, forecast
from harness.launch.launch import run_plan
from harness.launch.launchers import Slot
from harness.launch.outlook import Estimate, print_outlook
from harness.launch.prediction import NAME, hash_of_runs, predicted_wall_s, write_prediction
from tests.tiny import tiny


def planned(folder: Path, **symbols: str) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1-4"}
    settings |= {"RESULTS_DIR": str(folder), "MODEL_NAME": "it"} | symbols
    return make_plan(resolve([Assignment(*setting, "test") for setting in settings.items()]))


def estimate(step: str, **values: Any) -> Estimate:
    cost = Cost(shape=step, prepare_s=8, compile_s=30, train_s=100, other_s=10, save_s=4)
    known = {"runs": 4, "ms_per_step": 20.0, "eval_s": 2.0, "checkpoint_s": 4.0, "startup_s": 8.0, "compile_s": 30.0}
    known |= {"peak_mem_gib": 10.0, "run_s": 130.0, "flop": 1e15, "params": 124_000_000, "power_w": None}
    known |= {"checkpoint_bytes": 3 << 29, "disk_bytes": 3 << 30, "more_bytes": 3 << 29, "cost": cost}
    return Estimate(step=step, **known | values)  # type: ignore[arg-type]


def test_flop_are_those_of_the_model_for_every_token(tmp_path: Path) -> None:
    small = {"MODEL_CUSTOM": "y", "N_LAYER": "2", "N_HEAD": "2", "N_EMBD": "32", "MAX_ITERS": "7"}
    config = planned(tmp_path, **small).runs[0].config
    per_token = GPT(config.model, seed=1).flops_per_token()
    assert flop_of_run(config) == 7 * config.tokens_per_iter * per_token


@pytest.mark.parametrize(("keep", "interval"), [("ALL", "3"), ("WEIGHTS", "3"), ("NONE", "3"), ("NONE", "0")])
def test_an_arm_is_said_to_write_and_leave_the_checkpoints_that_it_has(
    tmp_path: Path, keep: str, interval: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {f"CHECKPOINT_KEEP_{keep}": "y", "CHECKPOINT_INTERVAL": interval, "MAX_ITERS": "12"}
    plan = make_plan(tiny(tmp_path, **asked))
    (of,) = estimate_plan(plan)
    assert isinstance(of, Estimate)
    train, sizes = plan.runs[0].config.train, {"whole": of.checkpoint_bytes, "weights": 4 * of.params}
    assert of.more_bytes == bytes_held(train, **sizes) - bytes_kept(train, **sizes)
    records = 40_000 + len(json.dumps(code_state()))  # which hold the text of uncommitted changes
    assert bytes_kept(train, **sizes) < of.disk_bytes < bytes_kept(train, **sizes) + records
    copies_s = n_written(train) * of.checkpoint_s
    assert of.cost.other_s == pytest.approx(evaluations(train) * of.eval_s + copies_s)
    assert (of.cost.save_s == 0) == (keep == "NONE")
    print_outlook(plan, [of], complete=True)
    assert ("and up to 0.0 MiB more while it trains" in capsys.readouterr().out) == (of.more_bytes == 0)


def test_the_outlook_is_the_forecasts_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(tmp_path)
    estimates = [estimate(run.step) for run in plan.arms]
    names = [run.name for run in plan.runs]
    costs = [Cost(shape=r.step, prepare_s=8, compile_s=30, train_s=100, other_s=10, save_s=4) for r in plan.runs]
    for devices in (1, 4):
        here = [Slot(device=f"GPU {i}", turn=0) for i in range(devices)]
        monkeypatch.setattr(outlook, "slots", lambda plan, here=here: here)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        print_outlook(plan, estimates, complete=True)
        printed = capsys.readouterr().out
        expected = forecast(costs, slots=devices, compilers=2)
        assert f"efficiency {expected.efficiency:.2f}" in printed
        assert "8e+15 FLOP" in printed and "energy not measured" in printed and "24.00 GiB on the disk" in printed
        assert "assumed: while a run trains" in printed
        assert predicted_wall_s(plan.directory, runs=names[::-1], devices=devices, slots=devices) == expected.wall_s
        for other in ({"runs": names[1:]}, {"devices": 9}, {"slots": 9}):
            of = {"runs": names, "devices": devices, "slots": devices} | other
            assert predicted_wall_s(plan.directory, **of) is None  # type: ignore[arg-type]
    assert "the best of what can be foretold: 4 devices, a run on each: " in printed


def test_runs_of_several_processes_are_foretold_as_they_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, PROCESSES_PER_RUN="2", GRADIENT_ACCUMULATION_STEPS="2")
    monkeypatch.setattr(outlook, "slots", lambda plan: [Slot(device="GPU 0+1", turn=0, devices=2)])
    print_outlook(plan, [estimate(run.step) for run in plan.arms], complete=True)
    told = read_json(plan.directory / NAME)
    assert (told["devices"], told["slots"]) == (2, 1)
    assert told["train_s"] == len(plan.runs) * 100


def test_what_is_not_of_all_arms_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    print_outlook(plan, [estimate("baseline")], complete=False)
    assert not plan.directory.exists()
    assert "4e+15 FLOP" in capsys.readouterr().out


def test_energy_is_told_only_where_every_arm_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    measured = [estimate(run.step, power_w=700.0) for run in plan.arms]
    print_outlook(plan, measured, complete=True)
    assert "kWh" in capsys.readouterr().out
    hours = 8 * (110 + SWITCH_S) / 3600
    assert read_json(plan.directory / NAME)["energy_kwh"] == pytest.approx(hours * 0.7)
    print_outlook(plan, [measured[0], dataclasses.replace(measured[1], power_w=None)], complete=True)
    assert "energy not measured" in capsys.readouterr().out
    assert read_json(plan.directory / NAME)["energy_kwh"] is None


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"wall_s": "1"}', '{"wall_s": NaN}'])
def test_a_damaged_prediction_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert predicted_wall_s(tmp_path, runs=["a"], devices=1, slots=1) is None


def test_a_prediction_is_of_its_runs(tmp_path: Path) -> None:
    assert hash_of_runs(["a", "b"]) == hash_of_runs(["b", "a"]) != hash_of_runs(["ab"])
    write_prediction(tmp_path / "new", runs=["a"], devices=1, slots=2, wall_s=3.0)
    assert predicted_wall_s(tmp_path / "new", runs=["a"], devices=1, slots=2) == 3.0


@pytest.mark.slow
def test_every_stage_is_held_against_a_prediction_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials, the runs themselves, and those on noise: each is a directory of runs, whose names may be another's."""
    monkeypatch.chdir(tmp_path)
    tuned = {"STUDY_TUNE": "LEARNING_RATE=1e-3,2e-3", "STUDY_TUNE_SEEDS": "1001"}
    asked = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "ra-v5-eager", "STUDY_GATE_NOISE": "1"}
    plan = make_plan(tiny(tmp_path, ABLATION_SEEDS="1,2", **asked, **tuned))
    trials, runs, noise = plan.stages
    assert print_estimates(plan) == 0
    told = {stage.directory: read_json(stage.directory / NAME) for stage in plan.stages}
    assert run_plan(plan) == 0
    for stage in (trials, runs, noise):
        (launch,) = read_launches(stage.directory)
        assert launch.predicted_s == pytest.approx(told[stage.directory]["wall_s"], abs=1e-4)
        assert launch.runs == len(stage.runs) == sum(arm["runs"] for arm in told[stage.directory]["arms"])
    # What has nothing left to train is not foretold again.
    more = make_plan(tiny(tmp_path, ABLATION_SEEDS="1,2,3", **asked, **tuned))
    assert print_estimates(more) == 0
    assert [read_json(stage.directory / NAME) == told[stage.directory] for stage in (trials, runs, noise)] == [1, 0, 1]
