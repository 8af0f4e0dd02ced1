"""`make check`: what it finds, and that it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gpt2.checks.dry_run
from gpt2.attention.ra_ultimate_v5 import FOLDS, fold_lerp
from gpt2.base.errors import UserError
from gpt2.checks.dry_run import dry_run
from gpt2.dotconfig import Assignment, resolve
from harness.configure.plan import Plan, make_plan
from harness.launch.check import check_plan, print_checks
from harness.launch.runner import run_plan
from tests.tiny import SETTINGS, tiny


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


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize(
    ("n_chars", "settings", "message"),
    [
        (400, {"BLOCK_SIZE": "64"}, "40 validation tokens do not fill one sequence of BLOCK_SIZE=64"),
        (400, {"BLOCK_SIZE": "512"}, "360 training tokens do not fill one sequence of BLOCK_SIZE=512"),
        (400, {"BLOCK_SIZE": "39"}, None),
        (400, {"BLOCK_SIZE": "39", "BATCH_SIZE": "64"}, None),
        (400, {"BLOCK_SIZE": "8", "EVAL_TOKENS": "0"}, None),
        (400, {"BLOCK_SIZE": "8", "EVAL_TOKENS": "1000000"}, None),
    ],
)
def test_what_cannot_be_evaluated_fails_the_check_as_it_fails_the_run(
    tmp_path: Path, prepared: bool, n_chars: int, settings: dict[str, str], message: str | None
) -> None:
    (tmp_path / "text.txt").write_text("".join(chr(97 + i * i % 26) for i in range(n_chars)))
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1", MAX_ITERS="1", **settings)
    if not prepared:
        shutil.rmtree(tmp_path / "data")
    (check,) = check_plan(plan)
    assert (check.error is None) == (message is None)
    assert message is None or message in str(check.error)
    if settings.get("EVAL_TOKENS") == "1000000":
        assert "EVAL_TOKENS=1000000 is more than there are: all of validation is evaluated" in check.data
    if message is None:
        assert run_plan(plan) == 0
    else:
        with pytest.raises(UserError, match=message):
            run_plan(plan)


def test_what_is_known_of_the_data_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = np.random.default_rng(1).integers(0, 10, size=3000).astype(np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    tokens[-500:].tofile(tmp_path / "val.bin")
    settings = {s: v for s, v in SETTINGS.items() if s != "DATASET_TEXT"}
    settings |= {"DATASET_BIN": "y", "DATASET_BIN_DIR": str(tmp_path), "DATA_DIR": str(tmp_path), "TOKENIZER_BYTE": "y"}
    resolved = resolve([Assignment(symbol, value, "test") for symbol, value in settings.items()])
    assert print_checks(make_plan(resolved)) == 0
    output = capsys.readouterr().out
    assert f"data: {tmp_path}: 3,000 training, 500 validation tokens" in output
    assert "bits per byte unknown: TOKENIZER_BYTE: the validation tokens are not its" in output
    assert "100% of the validation text is in training too" in output


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
