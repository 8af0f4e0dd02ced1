"""The trainer on real text: deterministic, resumable, refusing, and honest about what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2 import train_ra_mla
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from gpt2.dotconfig import Resolved
from gpt2.run import parts as parts_module
from gpt2.run import warm_up
from gpt2.run.parts import Parts
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.run.warm_up import compile_and_warm_up
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train as train_run
from gpt2.train_ra_mla import train_step
from tests.tiny import tiny

TIMES = {"ms_per_step", "tokens_per_s", "time_s", "mfu", "shared"}


def train(resolved: Resolved, out: Path, stop: Stop | None = None) -> dict[str, Any]:
    """Train in this process; returns the summary."""
    out.mkdir(exist_ok=True)
    train_run(Run(run_config(resolved.symbols), out), stop or Stop())
    return summary(out)


def summary(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return result


def metrics(out: Path, *kinds: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of these kinds, without times; of two for one step the later."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    found = {(line["kind"], line["step"]): line for line in lines if line["kind"] in kinds}
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found.values()]


class StopAt(Stop):
    """Asks to stop once the run has done so many steps."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step
        self.run: Run | None = None

    @property
    def requested(self) -> str | None:
        return "test" if self.run is not None and self.run.step >= self.step else None


def command(resolved: Resolved, out: Path) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    resolved.write(out / "config")
    script = str(ROOT / "gpt2" / "train_ra_mla.py")
    return [sys.executable, script, "--config", str(out / "config"), "--out", str(out)]


def test_same_config_twice_is_bit_identical_and_learns(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, ATTENTION_RA_V5="y", DROPOUT="0.1")
    first, second = train(resolved, tmp_path / "a"), train(resolved, tmp_path / "b")
    kinds = ("train", "eval", "gates")
    assert metrics(tmp_path / "a", *kinds) == metrics(tmp_path / "b", *kinds)
    assert first["val_loss"] == second["val_loss"]
    assert first["status"] == "done"
    evals = metrics(tmp_path / "a", "eval")
    assert [line["step"] for line in evals] == [0, 6, 12]
    assert evals[-1]["val_loss"] < evals[0]["val_loss"] - 0.5
    assert first["iters"] == 12
    assert first["tokens"] == 12 * 4 * 32


def test_gates_are_logged_per_layer_and_head_and_move(tmp_path: Path) -> None:
    result = train(tiny(tmp_path, ATTENTION_RA_V5="y"), tmp_path / "run")
    for name, start in (("w_std", 1.0), ("w_rec", 0.0)):
        gates = torch.tensor(result["gates"][name])
        assert gates.shape == (2, 2)
        assert (gates != start).all()


@pytest.mark.parametrize("attention", ["BASELINE", "RA_V5", "MLA", "RA_MLA"])
def test_arms_of_a_seed_see_the_same_batches_and_share_weights(tmp_path: Path, attention: str) -> None:
    resolved = tiny(tmp_path)
    baseline = Parts(run_config(resolved.symbols))
    other = Parts(run_config(tiny(tmp_path, **{f"ATTENTION_{attention}": "y"}).symbols))
    x, y = next(baseline.batches(0))[0]
    x2, y2 = next(other.batches(0))[0]
    assert torch.equal(x, x2)
    assert torch.equal(y, y2)
    theirs = dict(other.model.named_parameters())
    shared = [n for n, p in baseline.model.named_parameters() if n in theirs and theirs[n].shape == p.shape]
    assert "transformer.wte.weight" in shared
    assert "transformer.h.1.mlp.c_fc.weight" in shared
    assert all(torch.equal(dict(baseline.model.named_parameters())[n], theirs[n]) for n in shared)


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_stopped_and_resumed_ends_where_an_uninterrupted_run_ends(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, ATTENTION_RA_V5="y", DROPOUT="0.1")
    whole = train(resolved, tmp_path / "whole")
    out = make(tmp_path / "parts")
    stop = StopAt(5)
    stop.run = Run(run_config(resolved.symbols), out)
    assert train_run(stop.run, stop) == "interrupted"
    assert summary(out)["status"] == "interrupted"
    assert summary(out)["iters"] == 5
    resumed = train(resolved, out)
    assert resumed["status"] == "done"
    assert resumed["val_loss"] == whole["val_loss"]
    assert resumed["gates"] == whole["gates"]
    assert resumed["events"] == ["resumed at step 5"]
    assert metrics(out, "eval") == metrics(tmp_path / "whole", "eval")
    provenance = json.loads((out / "provenance.json").read_text())
    assert [r["step"] for r in provenance["resumed"]] == [5]


def test_a_stop_that_comes_while_a_step_is_logged_leaves_a_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = tiny(tmp_path, LOG_INTERVAL="2", CHECKPOINT_INTERVAL="0")
    out = make(tmp_path / "run")
    stop = Stop()
    stop.defer()
    log = Run.log

    def log_and_stop(run: Run) -> None:
        log(run)
        if run.step == 4:
            stop._on_signal(signal.SIGTERM, None)

    monkeypatch.setattr(Run, "log", log_and_stop)
    assert train_run(Run(run_config(resolved.symbols), out), stop) == "interrupted"
    assert summary(out)["iters"] == 4
    assert (out / "checkpoints" / "step-00000004.pt").exists()


def test_killed_and_resumed_ends_where_an_uninterrupted_run_ends(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="400", EVAL_INTERVAL="100", CHECKPOINT_INTERVAL="10")
    whole = train(resolved, tmp_path / "whole")
    out = tmp_path / "killed"
    process = subprocess.Popen(command(resolved, out), stdout=subprocess.DEVNULL)
    wait_for(lambda: any((out / "checkpoints").glob("step-*.pt")) if out.exists() else False)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    subprocess.run(command(resolved, out), check=True, stdout=subprocess.DEVNULL)
    resumed = summary(out)
    assert resumed["val_loss"] == whole["val_loss"]
    assert resumed["events"][0].startswith("resumed at step ")
    assert resumed["events"] != ["resumed at step 0"]
    spent = [resumed[f"{what}_time_s"] for what in ("train", "eval", "checkpoint")]
    assert all(seconds > 0 for seconds in spent)
    assert 0 < resumed["startup_s"] < resumed["wall_time_s"] - resumed["eval_time_s"]
    assert sum(spent) < resumed["wall_time_s"]


def test_ctrl_c_leaves_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="100000", CHECKPOINT_INTERVAL="0")
    out = tmp_path / "run"
    process = subprocess.Popen(command(resolved, out), stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (out / "metrics.jsonl").exists() and '"train"' in (out / "metrics.jsonl").read_text())
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    step = summary(out)["iters"]
    assert summary(out)["status"] == "interrupted"
    assert (out / "checkpoints" / f"step-{step:08d}.pt").exists()
    assert f"SIGINT: left a checkpoint at step {step}" in printed


def test_a_run_stops_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="100000", CHECKPOINT_INTERVAL="0")
    out = tmp_path / "run"
    arguments = [*command(resolved, out), "--stop-with-parent"]
    start = f"from subprocess import *; Popen({arguments!r}, stdin=PIPE, stdout=DEVNULL).wait()"
    parent = subprocess.Popen([sys.executable, "-c", start])
    wait_for(lambda: (out / "metrics.jsonl").exists() and '"train"' in (out / "metrics.jsonl").read_text())
    parent.kill()
    parent.wait()
    wait_for((out / "summary.json").exists)
    assert summary(out)["status"] == "interrupted"


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_another_run_in_the_directory_is_refused_by_the_setting_that_differs(tmp_path: Path) -> None:
    train(tiny(tmp_path), tmp_path / "run")
    before = summary(tmp_path / "run")
    with pytest.raises(UserError, match=r"CONFIG_LEARNING_RATE is 0\.001 there and 0\.002 here"):
        train(tiny(tmp_path, LEARNING_RATE="2e-3"), tmp_path / "run")
    assert summary(tmp_path / "run") == before
    # What changes no number is no other run.
    again = train(tiny(tmp_path, MODEL_NAME="renamed", LOG_INTERVAL="3"), tmp_path / "run")
    assert again["config_hash"] == before["config_hash"]


def test_two_trainers_never_share_a_directory(tmp_path: Path) -> None:
    resolved = tiny(tmp_path, MAX_ITERS="100000")
    out = tmp_path / "run"
    process = subprocess.Popen(command(resolved, out), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (out / "provenance.json").exists())
        second = subprocess.run(command(resolved, out), capture_output=True, text=True)
        assert second.returncode == 2
        assert second.stderr == f"error: {out}: is being trained by process {process.pid}\n"
    finally:
        process.kill()
        process.wait()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_tensor_and_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make(tmp_path / "run")
    run = Run(run_config(tiny(tmp_path).symbols), out)
    poisoned = run.parts.model.transformer.h[1].mlp.c_fc.weight

    def poison_at_step_7(parts: Parts, batch: Any, *, step: int) -> torch.Tensor:
        if step == 7:
            with torch.no_grad():
                poisoned[0, 0] = float("inf")
        return train_step(parts, batch, step=step)

    monkeypatch.setattr(train_ra_mla, "train_step", poison_at_step_7)
    assert train_run(run, Stop()) == "failed"
    result = summary(out)
    assert result["status"] == "failed"
    assert result["error"].startswith("step 7: loss nan")
    assert "the weight transformer.h.1.mlp.c_fc.weight" in result["error"]
    assert result["error"].endswith("step-00000004.pt")
    assert sorted(p.name for p in (out / "checkpoints").glob("*.pt")) == ["step-00000004.pt"]


def test_fp16_overflows_are_skipped_and_counted_and_persistent_ones_stop_the_run(tmp_path: Path) -> None:
    out = make(tmp_path / "run")
    run = Run(run_config(tiny(tmp_path, DTYPE_FLOAT16="y", MAX_ITERS="40").symbols), out)
    run.parts.scaler.load_state_dict(run.parts.scaler.state_dict() | {"scale": 2.0**28})
    before = run.parts.model.transformer.wte.weight.detach().clone()
    train_step(run.parts, next(run.parts.batches(0)), step=0)
    assert torch.equal(run.parts.model.transformer.wte.weight, before)
    assert train_run(run, Stop()) == "done"
    assert run.progress.overflows > 0
    assert summary(out)["overflows"] == run.progress.overflows
    assert len(metrics_events(out, "overflow")) == run.progress.overflows

    out = make(tmp_path / "diverged")
    run = Run(run_config(tiny(tmp_path, DTYPE_FLOAT16="y", MAX_ITERS="40").symbols), out)
    with torch.no_grad():
        run.parts.model.transformer.ln_f.weight[0] = float("nan")
    assert train_run(run, Stop()) == "failed"
    assert "first not finite: the weight transformer.ln_f.weight" in summary(out)["error"]


def metrics_events(out: Path, event: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line.get("event") == event]


def test_compilation_that_fails_falls_back_to_eager_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = train(tiny(tmp_path), tmp_path / "eager")
    broken = parts_module.compile_scope

    def break_graph(model: Any, scope: str, **options: Any) -> None:
        broken(model, scope, **options)
        model.transformer.h[0].register_forward_hook(lambda *_: torch._dynamo.graph_break())

    monkeypatch.setattr(parts_module, "compile_scope", break_graph)
    out = make(tmp_path / "compiled")
    result = train(tiny(tmp_path, COMPILE_MODEL="y"), out)
    assert result["status"] == "done"
    assert result["compile"] == {"asked": "model", "ran": "none", "mode": None}
    assert result["events"][0].startswith("torch.compile failed, running eager: ")
    assert len(metrics_events(out, "compile_fallback")) == 1
    assert result["val_loss"] == eager["val_loss"]


def test_every_attempt_warms_up_in_train_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(run_config(tiny(tmp_path, COMPILE_MODEL="y").symbols))
    modes = []

    def fail_once_in_evaluation(*_: object) -> None:
        modes.append(parts.model.training)
        if modes == [True, False]:
            raise RuntimeError("no kernel for evaluation")

    parts.model.register_forward_pre_hook(fail_once_in_evaluation)
    monkeypatch.setattr("gpt2.run.parts.compile_scope", lambda *_, **__: None)
    told: list[str] = []
    compile_and_warm_up(parts, lambda event, message: told.append(event))
    assert modes == [True, False, True, False]
    assert told == ["compile_fallback"]
    assert parts.compiled == "none"
    assert parts.model.training


def test_a_mode_that_fails_falls_back_to_the_default_one_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_scope = parts_module.compile_scope
    tried = []

    def out_of_shared_memory(model: Any, scope: str, *, mode: str) -> None:
        tried.append((scope, mode))
        if mode == "max_autotune":

            def fail(*_: object) -> None:
                raise RuntimeError("No valid triton configs. OutOfResources: out of resource: shared memory")

            model.register_forward_pre_hook(fail)
        else:
            model._forward_pre_hooks.clear()
            compile_scope(model, scope, backend="eager")

    monkeypatch.setattr(parts_module, "compile_scope", out_of_shared_memory)
    out = make(tmp_path / "compiled")
    result = train(tiny(tmp_path, COMPILE_MODEL="y", COMPILE_MODE_MAX_AUTOTUNE="y"), out)
    assert tried == [("model", "max_autotune"), ("model", "default")]
    assert result["compile"] == {"asked": "model", "ran": "model", "mode": "default"}
    (message,) = result["events"]
    assert message.startswith("torch.compile failed, compiling in mode default: ")
    assert "shared memory" in message


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["ATTENTION", "MODEL"])
def test_compiled_and_eager_runs_agree(tmp_path: Path, scope: str) -> None:
    eager = train(tiny(tmp_path, ATTENTION_RA_V5="y"), tmp_path / "eager")
    compiled = train(tiny(tmp_path, ATTENTION_RA_V5="y", **{f"COMPILE_{scope}": "y"}), tmp_path / "compiled")
    assert compiled["compile"] == {"asked": scope.lower(), "ran": scope.lower(), "mode": "default"}
    assert compiled["val_loss"] == pytest.approx(eager["val_loss"], abs=2e-4)


@pytest.mark.slow
def test_after_the_warm_up_nothing_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Training, evaluation and their batches have the shapes that were warmed up with.
    resolved = tiny(tmp_path, ATTENTION_RA_V5="y", COMPILE_MODEL="y")
    (tmp_path / "run").mkdir()
    run = Run(run_config(resolved.symbols), tmp_path / "run")

    def then_forbid(*args: Any) -> None:
        compile_and_warm_up(*args)
        torch._dynamo.config.error_on_recompile = True

    monkeypatch.setattr(warm_up, "compile_and_warm_up", then_forbid)
    with torch._dynamo.config.patch(error_on_recompile=False):
        assert train_run(run, Stop()) == "done"
    assert summary(tmp_path / "run")["compile"] == {"asked": "model", "ran": "model", "mode": "default"}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_steps_do_not_make_the_host_wait(tmp_path: Path, compiled: bool) -> None:
    scope = {"COMPILE_MODEL": "y"} if compiled else {}
    resolved = tiny(tmp_path, ATTENTION_RA_V5="y", DEVICE_CUDA="y", DTYPE_BFLOAT16="y", **scope)
    parts = Parts(run_config(resolved.symbols))
    compile_and_warm_up(parts, print)
    with closing(parts.batches(0)) as stream:
        train_step(parts, next(stream), step=0)  # the optimizer makes its state
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                train_step(parts, next(stream), step=1)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_init_from_starts_where_another_run_ended(tmp_path: Path) -> None:
    first = train(tiny(tmp_path), tmp_path / "first")
    checkpoint = tmp_path / "first" / "checkpoints" / "step-00000012.pt"
    train(tiny(tmp_path, INIT_FROM=str(checkpoint)), tmp_path / "second")
    assert metrics(tmp_path / "second", "eval")[0]["val_loss"] == first["val_loss"]
    with pytest.raises(UserError, match=r"lm_head\.weight is \(256, 32\) there and \(256, 64\) in the model"):
        train(tiny(tmp_path, N_EMBD="64", INIT_FROM=str(checkpoint)), tmp_path / "third")
    with pytest.raises(UserError, match=r"c_attn\.bias is \(96,\) there and \(288,\) in the model"):
        train(tiny(tmp_path, ATTENTION_MLA="y", INIT_FROM=str(checkpoint)), tmp_path / "fourth")
    # Gates that the checkpoint does not have start where the variant is the baseline.
    train(tiny(tmp_path, ATTENTION_RA_V5="y", INIT_FROM=str(checkpoint)), tmp_path / "fifth")
    assert metrics(tmp_path / "fifth", "eval")[0]["val_loss"] == first["val_loss"]


def test_command_line_errors_are_one_line(tmp_path: Path) -> None:
    script = str(ROOT / "gpt2" / "train_ra_mla.py")
    missing = subprocess.run([sys.executable, script, "--config", "none", "--dry-run"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: none: ")
    assert missing.stderr.count("\n") == 1


def test_dry_run_of_the_command(tmp_path: Path) -> None:
    tiny(tmp_path).write(tmp_path / "config")
    script = str(ROOT / "gpt2" / "train_ra_mla.py")
    done = subprocess.run(
        [sys.executable, script, "--config", str(tmp_path / "config"), "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert " parameters, loss 5." in done.stdout
