"""`make check`: what it finds, and that it goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

import gpt2.checks.dry_run
from gpt2.attention.ra_ultimate_v5 import FOLDS, fold_lerp
from gpt2.base.errors import UserError
from gpt2.checks.dry_run import dry_run
from gpt2.config import GPTConfig
from gpt2.data.dataset import open_dataset
from gpt2.model import GPT
from gpt2.run.record import run_identity
from harness.configure.plan import Plan, make_plan
from harness.launch.check import check_plan, print_checks
from harness.launch.runner import run_plan
from tests.tiny import tiny


def planned(folder: Path, **symbols: str) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2,4", "ABLATION_SEEDS": "1,2"} | symbols
    return make_plan(tiny(folder, **settings))


def test_every_run_has_a_line_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    assert print_checks(plan) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:6]] == [["ok", run.name] for run in plan.runs]
    assert lines[-1].startswith("6 runs, 0 failed; ")
    assert not plan.directory.exists()


def test_a_failure_is_named_and_the_others_are_still_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The mistake of the project this one replaces: gates that are there, and never read.
    monkeypatch.setitem(FOLDS, "lerp", lambda rows, w_std, w_rec, R: fold_lerp(rows, w_std, torch.zeros_like(w_rec), R))
    checks = {check.run.name: check for check in check_plan(planned(tmp_path))}
    failed = [name for name, check in checks.items() if check.error]
    assert failed == ["ra-v5-eager/seed-1", "ra-v5-eager/seed-2"]
    assert (
        checks[failed[0]].error == "parameter transformer.h.0.attn.w_rec learns nothing: the loss does not depend on it"
    )


def test_a_graph_break_is_a_failure_of_compiled_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = gpt2.checks.dry_run.GPT.forward

    def broken(self: torch.nn.Module, *args: torch.Tensor, **options: bool) -> object:
        torch._dynamo.graph_break()
        return forward(self, *args, **options)

    monkeypatch.setattr(gpt2.checks.dry_run.GPT, "forward", broken)
    checks = list(check_plan(planned(tmp_path, RA_MLA_ABLATION_STEPS="1,5", ABLATION_SEEDS="1")))
    assert checks[0].error is None
    assert checks[1].error is not None
    assert "graph_break" in checks[1].error or "graph break" in checks[1].error.lower()


def test_missing_data_fails_the_check(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    (tmp_path / "text.txt").unlink()
    errors = {check.error for check in check_plan(plan)}
    assert len(errors) == 1
    assert "text.txt" in str(errors.pop())


def test_dry_run_measures_the_real_model(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    result = dry_run(plan.runs[0].config)
    C, V, T = 32, 256, 32
    assert result.params == V * C + T * C + 2 * (12 * C * C + 13 * C) + 2 * C
    assert result.loss == pytest.approx(5.55, abs=0.15)  # ln 256 = 5.545
    assert result.checkpoint_gib == pytest.approx(3 * 12 * result.params / 2**30)
    larger = dry_run(planned(tmp_path, BATCH_SIZE="8").runs[0].config)
    assert result.memory_gib < larger.memory_gib < 2 * result.memory_gib


def test_not_finite_is_a_failure(tmp_path: Path) -> None:
    config = planned(tmp_path, RA_V5_GATE_INIT="1e38").runs[1].config
    with pytest.raises(UserError, match="not finite in the first step"):
        dry_run(config)


def failures(plan: Plan) -> list[str]:
    """What fails in a plan, each reason once."""
    return list(dict.fromkeys(check.error for check in check_plan(plan) if check.error))


def checkpoint(path: Path, config: GPTConfig, **change: object) -> str:
    """A checkpoint of a model's initial weights, with entries changed."""
    state = {"model_config": dataclasses.asdict(config), "model": GPT(config, seed=5).state_dict()}
    torch.save(state | change, path)
    return str(path)


def test_weights_to_start_from_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = planned(tmp_path, ABLATION_SEEDS="1").runs[0].config.model
    good = checkpoint(tmp_path / "good.pt", ours)
    # A GPT-2 is a start for the baseline and for RA v5; MLA has other parameters.
    reasons = failures(planned(tmp_path, INIT_FROM=good, ABLATION_SEEDS="1"))
    assert len(reasons) == 1
    assert reasons[0].startswith(f'CONFIG_INIT_FROM="{good}": ')

    (tmp_path / "text").write_text("no checkpoint")
    (tmp_path / "empty").touch()
    wider = dataclasses.replace(ours, n_embd=64)
    bad = {
        "gpt2": "gpt2: no such checkpoint (`make convert` makes",
        str(tmp_path / "nowhere" / "x.pt"): "no such checkpoint",
        str(tmp_path): "is a directory",
        str(tmp_path / "text"): "text: ",
        str(tmp_path / "empty"): "empty: ",
        str(tmp_path / "text" / "x.pt"): "text/x.pt: ",
        checkpoint(tmp_path / "wide.pt", wider): "is (256, 64) there and (256, 32) in the model",
        checkpoint(tmp_path / "deep.pt", dataclasses.replace(ours, n_layer=3)): "the model has no transformer.h.2.",
        checkpoint(tmp_path / "none.pt", ours, model=None): 'has no entry "model"',
    }
    for init_from, expected in bad.items():
        plan = planned(tmp_path, INIT_FROM=init_from, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1")
        (reason,) = failures(plan)
        assert reason.startswith(f'CONFIG_INIT_FROM="{init_from}": ')
        assert expected in reason
        assert "\n" not in reason
        if not Path(init_from).is_file():  # `make` refuses it before anything is trained
            with pytest.raises(UserError, match=r'^CONFIG_INIT_FROM="') as caught:
                run_plan(plan)
            assert "\n" not in str(caught.value)
            assert not plan.directory.exists()


@pytest.mark.parametrize(("warmup", "iters", "ok"), [(13, 12, False), (12, 12, True), (0, 1, True), (1, 1, True)])
def test_a_warm_up_longer_than_the_run_fails(tmp_path: Path, warmup: int, iters: int, ok: bool) -> None:
    settings = {"WARMUP_ITERS": str(warmup), "MAX_ITERS": str(iters), "RA_MLA_ABLATION_STEPS": "1"}
    reason = f"WARMUP_ITERS={warmup}: is more than MAX_ITERS={iters}: the run would end in its warm-up"
    assert failures(planned(tmp_path, **settings)) == ([] if ok else [reason])


def test_a_directory_that_cannot_be_had_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1")
    assert failures(plan) == []
    plan.directory.parent.mkdir()
    for taken in (plan.directory, plan.runs[0].path.parent, plan.runs[0].path):
        taken.parent.mkdir(parents=True, exist_ok=True)
        taken.touch()
        (reason,) = failures(plan)
        assert reason.startswith(f"{taken}: is in the way of {plan.runs[0].path}; ")
        taken.unlink()
    shutil.rmtree(plan.directory)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != plan.directory.parent)
    assert failures(plan) == [f"{plan.directory.parent}: cannot be written to; choose another CONFIG_RESULTS_DIR"]
    assert list(plan.directory.parent.iterdir()) == []
    long = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1", MODEL_NAME="x" * 300)
    assert failures(long) == [f"{long.runs[0].path}: File name too long"]


def test_a_directory_that_holds_another_run_fails(tmp_path: Path) -> None:
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1,2")
    run = plan.runs[1]
    run.path.mkdir(parents=True)
    (run.path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    identity = run_identity(run.config, open_dataset(run.config.data))
    for recorded, ok in [(identity, True), ({**identity, "BETA1": 0.8}, False), ({**identity, "TF32": False}, False)]:
        (run.path / "provenance.json").write_text(json.dumps({"identity": recorded}))
        checks = {check.run.name: check.error for check in check_plan(plan)}
        assert checks["baseline/seed-1"] is None
        assert (checks["baseline/seed-2"] is None) == ok
        assert ok or "holds another run: CONFIG_" in str(checks["baseline/seed-2"])
        # The settings can be compared without the data.
        shutil.rmtree(tmp_path / "data")
        assert (check_plan_errors(plan)[1] is None) == ok
        plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1,2")


def check_plan_errors(plan: Plan) -> list[str | None]:
    return [check.error for check in check_plan(plan)]


@pytest.mark.parametrize("what", ["no compiler", pytest.param("a path with blanks", marks=pytest.mark.slow)])
def test_a_cpu_for_which_nothing_can_be_compiled_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        results = tmp_path / "results"
    else:
        results = tmp_path / "my results"
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1,5", ABLATION_SEEDS="1", RESULTS_DIR=str(results))
    eager, compiled = check_plan_errors(plan)
    assert eager is None
    assert str(compiled).startswith(f"COMPILE_MODEL=y: torch cannot compile for this CPU in {results / '.compiled'}: ")
    assert "\n" not in str(compiled)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "text.txt"]


@pytest.mark.slow
def test_a_cpu_for_which_code_can_be_compiled_passes(tmp_path: Path) -> None:
    assert failures(planned(tmp_path, RA_MLA_ABLATION_STEPS="5", ABLATION_SEEDS="1")) == []
