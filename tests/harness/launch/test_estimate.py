"""What an ablation will take, from a few steps of each arm."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from gpt2.assignments import Assignment
from gpt2.config import TrainConfig
from gpt2.data.batches import check_eval_windows, check_windows
from gpt2.data.dataset import open_dataset
from gpt2.data.evaluation import open_eval_datasets
from gpt2.dotconfig import resolve
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.train_ra_mla import train
from harness.configure.gate_noise import on_noise
from harness.configure.kconfig import overlay
from harness.configure.plan import Plan, make_plan
from harness.launch.estimate import (
    STEPS,
    Estimate,
    Failure,
    _trial,
    estimate_plan,
    evaluations,
    print_estimates,
    seconds_of_run,
)
from harness.launch.runner import run_plan
from tests.tiny import tiny


def planned(folder: Path, **symbols: str) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1,2"} | symbols
    return make_plan(tiny(folder, **settings))


@pytest.mark.parametrize(("max_iters", "eval_interval"), [(7, 3), (6, 3), (5, 100), (4, 1), (4, 4)])
def test_evaluations_are_counted_as_the_trainer_does_them(tmp_path: Path, max_iters: int, eval_interval: int) -> None:
    settings = {"MAX_ITERS": str(max_iters), "EVAL_INTERVAL": str(eval_interval)}
    config = tiny(tmp_path, **settings, WARMUP_ITERS="0").run_config()
    out = tmp_path / "run"
    out.mkdir()
    train(Run(config, out), Stop())
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert evaluations(config.train) == sum(line["kind"] == "eval" for line in lines)


def test_a_run_takes_its_parts() -> None:
    train = TrainConfig(max_iters=1000, eval_interval=250, checkpoint_interval=500)
    taken = seconds_of_run(train, ms_per_step=20, eval_s=3, checkpoint_s=2, startup_s=10)
    assert taken == 10 + 20 + 5 * 3 + 2 * 2


def test_every_arm_is_tried_and_counted_without_what_is_done(tmp_path: Path) -> None:
    done = planned(tmp_path, ABLATION_SEEDS="1", RA_MLA_ABLATION_STEPS="1")
    assert run_plan(done) == 0
    plan = planned(tmp_path, STUDY_GATE_NOISE="1")
    before = sorted(plan.directory.parent.rglob("*"))
    outcomes = list(estimate_plan(plan))
    assert all(isinstance(outcome, Estimate) for outcome in outcomes)
    assert [(outcome.step, outcome.runs) for outcome in outcomes] == [("baseline", 1), ("ra-v5-eager", 3)]
    for outcome in outcomes:
        assert isinstance(outcome, Estimate)
        assert outcome.run_s > plan.runs[0].config.train.max_iters * outcome.ms_per_step / 1000 > 0
        assert outcome.startup_s > 0
        assert outcome.peak_mem_gib > 0
    assert sorted(path for path in plan.directory.parent.rglob("*") if ".compiled" not in path.parts) == before


def test_arms_that_fail_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    weights = tmp_path / "weights.pt"
    weights.write_text("no weights")
    runs = [
        dataclasses.replace(run, resolved=overlay(run.resolved, [Assignment("INIT_FROM", str(weights), "test")]))
        if run.step == "baseline"
        else run
        for run in plan.runs
    ]
    plan = dataclasses.replace(plan, runs=tuple(runs))
    failure, estimate = estimate_plan(plan)
    assert isinstance(failure, Failure)
    assert isinstance(estimate, Estimate)
    assert "weights.pt" in failure.reason
    assert "train.log" not in failure.reason, "which is gone by then"
    assert print_estimates(plan) == 1
    printed = capsys.readouterr().out
    assert "FAIL  baseline: " in printed
    assert "2 runs, one after another: " in printed


def test_nothing_is_tried_where_all_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, ABLATION_SEEDS="1", RA_MLA_ABLATION_STEPS="1")
    assert run_plan(plan) == 0
    capsys.readouterr()
    assert print_estimates(plan) == 0
    assert capsys.readouterr().out == f"{plan.directory}: all 1 runs are done\n"


@pytest.mark.parametrize(
    "settings",
    [
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y"},
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_GPT2": "y"},
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y", "EVAL_DATASETS": "a=no/where;b=b"},
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y", "EVAL_TOKENS": "32", "BATCH_SIZE": "8"},
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y", "FUSED_LOSS": "n"},
        {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y", "EVAL_TOKENS": "0"},
    ],
)
def test_data_that_is_not_there_is_random_tokens_and_all_else_the_same(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    minimal = [a for a in tiny(tmp_path).minimal() if not a.symbol.startswith(("DATASET_", "TOKENIZER_"))]
    run, *_ = make_plan(
        resolve(minimal, [Assignment(symbol, value, "test") for symbol, value in settings.items()])
    ).runs
    trial = _trial(run, tmp_path)
    assert trial.config.model == run.config.model
    short = {"max_iters": STEPS, "eval_interval": STEPS, "log_interval": 2, "checkpoint_interval": 0}
    assert trial.config.train == dataclasses.replace(run.config.train, **short)
    assert trial.config.optimizer == dataclasses.replace(run.config.optimizer, warmup_iters=0)
    # It is what a run on noise is, in another place, and with something in the place of what is evaluated besides.
    noise = on_noise(overlay(run.resolved, [Assignment("MAX_ITERS", str(STEPS), "test")])).run_config().data
    data, folder = trial.config.data, Path(trial.config.data.bin_dir)
    assert (folder.parent, folder.name) == (tmp_path, Path(noise.bin_dir).name)
    assert dataclasses.replace(data, bin_dir=noise.bin_dir, eval_datasets="") == noise
    assert data.vocab_size == run.config.data.vocab_size
    assert data.eval_paths.keys() == run.config.data.eval_paths.keys()
    block_size = run.config.model.block_size
    check_windows(open_dataset(data), block_size=block_size)
    check_eval_windows(open_eval_datasets(data), block_size=block_size)


def test_what_is_evaluated_besides_and_is_not_there_is_tried_too(tmp_path: Path) -> None:
    settings = {"DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y", "EVAL_DATASETS": f"books={tmp_path / 'nowhere'}"}
    minimal = [a for a in tiny(tmp_path).minimal() if not a.symbol.startswith("DATASET_")]
    plan = make_plan(resolve(minimal, [Assignment(symbol, value, "test") for symbol, value in settings.items()]))
    (outcome,) = estimate_plan(plan)
    assert isinstance(outcome, Estimate), outcome
