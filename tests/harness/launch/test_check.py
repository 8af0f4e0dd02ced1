"""`make check`: what it finds, and that it goes on."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import gpt2.checks.dry_run
from gpt2.assignments import Assignment
from gpt2.attention import baseline
from gpt2.attention.ra_ultimate_v5 import FOLDS, fold_lerp
from gpt2.base.errors import UserError
from gpt2.base.numbers import decimal
from gpt2.checks.dry_run import dry_run
from gpt2.config import GPTConfig, TrainConfig
from gpt2.data.dataset import open_dataset
from gpt2.dotconfig import resolve
from gpt2.model import GPT
from gpt2.run.record import run_identity
from harness.configure.plan import Plan, make_plan
from harness.launch.check import check_plan, print_checks
from harness.launch.runner import get_ready_to_run, run_plan
from tests.harness.synthetic_runs import provenance_of
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


def test_each_model_is_tried_once_and_counted_by_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(
        tmp_path,
        MAX_ITERS="100",
        RA_MLA_ABLATION_STEPS="1,2,2@RA_V5_R=3",
        STUDY_LENGTHS="0.8,1.2",
        STUDY_TUNE="LEARNING_RATE=1e-3,2e-3;RA_V5_GATE_LR_MULT=1,3",
    )
    tried = []
    monkeypatch.setattr("harness.launch.check.dry_run", lambda config: tried.append(config) or dry_run(config))
    assert print_checks(plan) == 0
    assert len(tried) == 3
    flop = {line.split()[1]: float(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[:-2]}
    assert len(flop) == 2 * 5 + 2 * 3 * 4
    one = flop["baseline/seed-1"]
    for length in (80, 120):
        assert flop[f"baseline@MAX_ITERS={length}/seed-1"] == pytest.approx(length / 100 * one, rel=5e-3)


def test_a_failure_is_named_and_the_others_are_still_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The mistake of the project this one replaces: gates that are there, and never read.
    def without_w_rec(rows: Tensor, w_std: Tensor, w_rec: Tensor, R: int) -> Tensor:
        return fold_lerp(rows, w_std, torch.zeros_like(w_rec), R)

    monkeypatch.setitem(FOLDS, "lerp", dataclasses.replace(FOLDS["lerp"], rows=without_w_rec))
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
    settings = {"ABLATION_SEEDS": "1", "MAX_ITERS": "1", "WARMUP_ITERS": "0"} | settings
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", **settings)
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
    assert result.checkpoint_bytes == 12 * result.params
    larger = dry_run(planned(tmp_path, BATCH_SIZE="8").runs[0].config)
    assert result.memory_gib < larger.memory_gib < 2 * result.memory_gib


@pytest.mark.parametrize(
    ("keep", "interval", "kept", "more"),
    [("ALL", 5, [1, 2], [0, 1]), ("NONE", 5, [0, 0], [0, 2]), ("NONE", 0, [0], [0])],
)
def test_checkpoints_are_those_that_each_run_writes_and_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, interval: int, kept: list[int], more: list[int]
) -> None:
    # Of one shape, so that they are tried once, and of two lengths.
    asked = {"RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1", "MAX_ITERS": "11", "STUDY_LENGTHS": "0.4"}
    plan = planned(tmp_path, **asked, **{f"CHECKPOINT_KEEP_{keep}": "y", "CHECKPOINT_INTERVAL": str(interval)})
    assert print_checks(plan) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    one = 12 * dry_run(plan.runs[0].config).params / 2**30
    for run, line in zip(plan.runs, lines, strict=False):
        i = 0 if run.config.train.max_iters < 5 else -1
        assert f"checkpoints {decimal(kept[i] * one, 1)} GiB, {decimal(more[i] * one, 1)} GiB more" in line
    in_all = sum(kept) * one
    assert f"{decimal(in_all, 1)} GiB of checkpoints, and up to {decimal(max(more) * one, 1)} GiB more" in last


@pytest.mark.parametrize("attention", ["baseline", "ra_v5", "mla", "ra_mla"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_memory_is_counted_without_computing_and_is_that_of_a_real_pass(
    tmp_path: Path, attention: str, dtype: str
) -> None:
    config = tiny(tmp_path, **{f"ATTENTION_{attention.upper()}": "y", f"DTYPE_{dtype.upper()}": "y"}).run_config()
    traced = gpt2.checks.dry_run._kept(config, 32, FakeTensorMode())
    assert traced == gpt2.checks.dry_run._kept(config, 32, nullcontext())


def test_an_arm_that_looks_at_values_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fold(rows: torch.Tensor, w_std: torch.Tensor, w_rec: torch.Tensor, R: int) -> torch.Tensor:
        return fold_lerp(rows, w_std, w_rec, R) * (2.0 if w_std.sum().item() < 0 else 1.0)

    run = planned(tmp_path).runs[2]
    expected = dry_run(run.config)
    monkeypatch.setitem(FOLDS, "lerp", fold)
    assert dry_run(run.config).loss == expected.loss


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without bfloat16 and float16 products."""
    for name in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_on_a_processor_that_is_slow_at_a_precision_little_is_computed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    config = planned(tmp_path, **{f"DTYPE_{dtype.upper()}": "y"}).runs[0].config
    slow(monkeypatch)
    computed: list[tuple[str, int, int]] = []
    loss = gpt2.checks.dry_run._loss

    def counted(model: GPT, tokens: torch.Tensor, train: TrainConfig, dtype: str) -> torch.Tensor:
        if not isinstance(tokens, FakeTensor):
            computed.append((dtype, model.config.n_layer, tokens.size(1) - 1))
        return loss(model, tokens, train, dtype)

    monkeypatch.setattr(gpt2.checks.dry_run, "_loss", counted)
    result = dry_run(config)
    assert computed == [(dtype, 1, 2), ("float32", 2, 32)]
    in_float32 = planned(tmp_path).runs[0].config
    assert result.loss == dry_run(in_float32).loss
    assert result.memory_gib < dry_run(in_float32).memory_gib, "memory is that of the run's precision"


@pytest.mark.parametrize("is_slow", [False, True])
@pytest.mark.parametrize("arm", ["raises", "is not finite"])
def test_what_fails_in_the_runs_precision_alone_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_slow: bool, arm: str
) -> None:
    if is_slow:
        slow(monkeypatch)
    once = baseline.causal_attention

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        if q.dtype == torch.bfloat16:
            if arm == "raises":
                raise RuntimeError("expected m1 and m2 to have the same dtype")
            v = v / 0
        return once(q, k, v, **options)

    monkeypatch.setattr(baseline, "causal_attention", attention)
    checks = list(check_plan(planned(tmp_path, DTYPE_BFLOAT16="y", RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1")))
    expected = "same dtype" if arm == "raises" else "not finite in the first step"
    assert expected in str(checks[0].error)
    assert [check.error for check in check_plan(planned(tmp_path, RA_MLA_ABLATION_STEPS="1"))] == [None, None]


def test_a_precision_that_does_not_fit_the_processor_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(**symbols: str) -> list[str]:
        assert print_checks(planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1,2", **symbols)) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]

    slow(monkeypatch)
    assert notes() == []
    assert notes(DTYPE_BFLOAT16="y", DEVICE_CUDA="y") == [], "where that is the processor is another"
    (said,) = notes(DTYPE_BFLOAT16="y")
    assert said.startswith("note: DTYPE_BFLOAT16=y: this processor") and said.endswith("DTYPE_FLOAT32=y fits it")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert notes(DTYPE_BFLOAT16="y") == []
    assert len(notes(DTYPE_FLOAT16="y")) == 1


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


def test_a_kernel_of_attention_that_cannot_is_found(tmp_path: Path) -> None:
    symbols = {"RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1", "SDPA_KERNEL_FLASH": "y"}
    assert not failures(planned(tmp_path, **symbols))
    (reason,) = failures(planned(tmp_path, **symbols, DROPOUT="0.1"))
    assert reason.startswith("SDPA_KERNEL_FLASH=y: it cannot compute this run's attention: ")
    assert torch.backends.cuda.math_sdp_enabled()


def test_products_that_there_are_not_are_found(tmp_path: Path) -> None:
    (reason,) = failures(planned(tmp_path, ABLATION_SEEDS="1", DTYPE_FLOAT16="y", PRODUCTS_CUBLASLT="y"))
    assert reason.startswith("PRODUCTS_CUBLASLT=y: cpu has no cuBLASLt")


def test_sets_to_evaluate_on_are_looked_at(tmp_path: Path) -> None:
    (reason,) = failures(planned(tmp_path, ABLATION_SEEDS="1", EVAL_DATASETS=f"books={tmp_path / 'nowhere'}"))
    assert reason == f"EVAL_DATASETS: books={tmp_path / 'nowhere'}: holds no val.bin: No such file or directory"


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


@pytest.mark.parametrize(("warmup", "iters", "said"), [(13, 12, True), (12, 12, False), (0, 1, False), (1, 1, False)])
def test_a_warm_up_longer_than_the_run_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], warmup: int, iters: int, said: bool
) -> None:
    settings = {"WARMUP_ITERS": str(warmup), "MAX_ITERS": str(iters), "RA_MLA_ABLATION_STEPS": "1"}
    assert print_checks(planned(tmp_path, **settings)) == 0
    note = f"note: WARMUP_ITERS={warmup} is more than MAX_ITERS={iters}: the run ends in its warm-up"
    assert (note in capsys.readouterr().out) == said


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
    with monkeypatch.context() as patch:
        make = tempfile.mkdtemp

        def refused(prefix: str, dir: Path) -> str:
            if Path(dir) == plan.directory.parent:
                raise PermissionError(errno.EPERM, "Operation not permitted", str(dir))
            return make(prefix=prefix, dir=dir)

        patch.setattr("gpt2.base.files.tempfile.mkdtemp", refused)
        assert failures(plan) == [f"{plan.directory.parent}: cannot be written to: Operation not permitted"]
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
        (run.path / "provenance.json").write_text(json.dumps(provenance_of(recorded)))
        checks = {check.run.name: check.error for check in check_plan(plan)}
        assert checks["baseline/seed-1"] is None
        assert (checks["baseline/seed-2"] is None) == ok
        assert ok or "holds another run: CONFIG_" in str(checks["baseline/seed-2"])
        # The settings can be compared without the data.
        shutil.rmtree(tmp_path / "data")
        assert (check_plan_errors(plan)[1] is None) == ok
        plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1,2")


@pytest.mark.parametrize("name", ["provenance.json", "summary.json", "metrics.jsonl", "config"])
@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '"', '{"identity": []}', '{"identity": {}}', "\0", "CONFIG_SEED=x"]
)
def test_what_make_would_refuse_of_a_run_s_records_is_one_line_and_hides_no_other_run(
    tmp_path: Path, name: str, content: str
) -> None:
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1,2,3")
    damaged = plan.runs[1].path
    damaged.mkdir(parents=True)
    identity = run_identity(plan.runs[1].config, open_dataset(plan.runs[1].config.data))
    (damaged / "provenance.json").write_text(json.dumps(provenance_of(identity)))
    (damaged / name).write_text(f"{content}\n")
    first, second, third = check_plan_errors(plan)
    assert first is third is None
    try:
        get_ready_to_run(plan)
    except UserError as error:
        assert second == str(error)
        assert str(damaged) in second and "\n" not in second
    else:
        assert second is None
    assert second or name == "config" or (name, content) == ("metrics.jsonl", "")


def check_plan_errors(plan: Plan) -> list[str | None]:
    return [check.error for check in check_plan(plan)]


@pytest.mark.parametrize("what", ["no compiler", pytest.param("a path with blanks", marks=pytest.mark.slow)])
def test_a_cpu_for_which_nothing_can_be_compiled_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # torch sets it where something has been compiled, in another test perhaps before this was imported.
    monkeypatch.setattr("harness.launch.launchers._GIVEN_CACHE", None)
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


def test_a_link_that_leads_nowhere_fails_the_check_as_it_fails_the_run(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "not mounted")
    settings = {"RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1"}
    plan = planned(tmp_path, RESULTS_DIR=str(link), **settings)
    (reason,) = failures(plan)
    assert reason.startswith(f"{link}: is in the way of ")
    with pytest.raises(UserError, match="cannot be made a directory") as caught:
        run_plan(plan)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses without a word")
def test_a_file_system_that_takes_nothing_fails_the_check(tmp_path: Path) -> None:
    plan = planned(tmp_path, RESULTS_DIR="/proc/results", RA_MLA_ABLATION_STEPS="1", ABLATION_SEEDS="1")
    (reason,) = failures(plan)
    assert reason.startswith("/proc: cannot be written to: ")
    with pytest.raises(UserError, match=r"^/proc/results"):
        run_plan(plan)


@pytest.mark.parametrize("compiled", ["COMPILE_NONE", "COMPILE_ATTENTION", "COMPILE_MODEL"])
@pytest.mark.parametrize("strategy", ["DDP", "ZERO1", "FSDP2"])
def test_ranks_are_tried_out_without_the_others(tmp_path: Path, strategy: str, compiled: str) -> None:
    ranks = {"PROCESSES_PER_RUN": "64", "GRADIENT_ACCUMULATION_STEPS": "64", f"PARALLEL_{strategy}": "y"}
    config = tiny(tmp_path, ATTENTION_RA_V5="y", **{compiled: "y"}, **ranks).run_config()
    assert "GiB on each of 64," in dry_run(config).describe(config.train)
    assert not torch.distributed.is_initialized()


def test_memory_is_that_of_a_rank_and_of_what_is_not_kept(tmp_path: Path) -> None:
    def memory(**symbols: str) -> float:
        model = {
            "N_LAYER": "8",
            "N_EMBD": "64",
            "BLOCK_SIZE": "16",
            "BATCH_SIZE": "1",
            "GRADIENT_ACCUMULATION_STEPS": "8",
        }
        return dry_run(tiny(tmp_path, **model | symbols).run_config()).memory_gib

    alone = memory()
    assert memory(PROCESSES_PER_RUN="8") == alone
    assert alone > memory(PROCESSES_PER_RUN="8", PARALLEL_ZERO1="y") > memory(PROCESSES_PER_RUN="8", PARALLEL_FSDP2="y")
    assert memory(BATCH_SIZE="64", ACTIVATION_CHECKPOINTING="y") < 0.5 * memory(BATCH_SIZE="64")
