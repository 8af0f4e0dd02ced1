"""Which kernel computes attention: the one that is asked for, as a profiler sees it, or an error that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt2.base.errors import UserError
from gpt2.machine import sdpa
from gpt2.machine.device import autocast
from gpt2.run.parts import Parts
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train, train_step
from tests.gpt2.variants import VARIANTS, small_model
from tests.tiny import tiny

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def torchs_own_choice_afterwards() -> Any:
    yield
    sdpa.request(sdpa.AUTO, CPU, "float32")


def passes(model: Any, device: torch.device, dtype: str, T: int = 32) -> None:
    """Training and evaluation."""
    tokens = torch.zeros(2, T, dtype=torch.long, device=device)
    for training in (True, False):
        with torch.set_grad_enabled(training), autocast(device, dtype):
            _, loss = model.train(training)(tokens, tokens)
        if training:
            loss.backward()


@pytest.mark.parametrize("kernel", ["auto", "flash", "math"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_noted_is_what_a_profiler_sees(variant: str, kernel: str) -> None:
    model = small_model(variant)
    sdpa.request(kernel, CPU, "float32")
    noted = sdpa.kernels_of(model, CPU, "float32", kernel=kernel)
    assert noted == sdpa.called(lambda: passes(model, CPU, "float32")) == {"auto": "flash"}.get(kernel, kernel)


def test_kernels_of_training_and_evaluation_are_both_noted() -> None:
    model = small_model("baseline", dropout=0.1).eval()  # torch's kernel for CPUs has no dropout
    assert sdpa.kernels_of(model, CPU, "float32", kernel="auto") == "flash, math"
    assert not model.attention[0].training


def run(tmp_path: Path, **symbols: str) -> dict[str, Any]:
    """A run's provenance."""
    out = tmp_path / "-".join(("run", *symbols))
    out.mkdir()
    assert train(Run(run_config(tiny(tmp_path, MAX_ITERS="2", **symbols).symbols), out), Stop()) == "done"
    return json.loads((out / "provenance.json").read_text()) | json.loads((out / "summary.json").read_text())


def test_a_run_says_what_was_asked_for_and_what_ran(tmp_path: Path) -> None:
    auto, math = run(tmp_path), run(tmp_path, SDPA_KERNEL_MATH="y")
    assert auto["sdpa"] == {"asked": "auto", "ran": "flash"}
    assert math["sdpa"] == {"asked": "math", "ran": "math"}
    assert math["identity"] == auto["identity"] | {"SDPA_KERNEL": "math"}
    assert math["val_loss"] == pytest.approx(auto["val_loss"], rel=1e-5)
    assert auto["events"] == math["events"]


def test_it_is_what_computes_the_trainers_step(tmp_path: Path) -> None:
    parts = Parts(run_config(tiny(tmp_path, SDPA_KERNEL_MATH="y", ATTENTION_RA_V5="y").symbols))
    batches = next(parts.batches(0))
    assert sdpa.called(lambda: train_step(parts, batches, step=0)) == "math"
    Parts(run_config(tiny(tmp_path).symbols))
    assert torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize(
    ("symbols", "reason"),
    [
        ({"SDPA_KERNEL_CUDNN": "y"}, "SDPA_KERNEL_CUDNN=y: is no kernel of cpu, which takes one of SDPA_KERNEL_AUTO, "),
        ({"SDPA_KERNEL_EFFICIENT": "y"}, "SDPA_KERNEL_EFFICIENT=y: is no kernel of cpu"),
        (
            {"SDPA_KERNEL_FLASH": "y", "DROPOUT": "0.1"},
            "SDPA_KERNEL_FLASH=y: it cannot compute this run's attention: .*dropout",
        ),
    ],
)
def test_a_kernel_that_cannot_is_one_line(tmp_path: Path, symbols: dict[str, str], reason: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with pytest.raises(UserError, match=reason) as caught:
        Run(run_config(tiny(tmp_path, **symbols).symbols), out)
    assert "\n" not in str(caught.value)
    assert not list(out.iterdir())


def test_another_kernel_than_the_first_that_is_wanted_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert sdpa.order("auto", cuda, "bfloat16") == ("cudnn", "flash", "efficient", "math")
    assert sdpa.order("auto", cuda, "float32") == ("efficient", "math")
    assert sdpa.differs("auto", "cudnn", cuda, "bfloat16") is None
    assert str(sdpa.differs("auto", "cudnn, flash", cuda, "bfloat16")).startswith(
        "attention is computed by cudnn, flash: cudnn"
    )
    assert sdpa.differs("auto", "math", CPU, "bfloat16") is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert sdpa.order("auto", cuda, "float16")[:2] == ("flash", "cudnn")


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kernel", ["auto", *sdpa.KERNELS])
def test_a_gpu_computes_it_by_what_was_asked_for(kernel: str, variant: str, compiled: bool) -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    torch.compiler.reset()
    model = small_model(variant, n_embd=128, block_size=128).to(gpu)
    sdpa.request(kernel, gpu, "bfloat16")
    wanted = sdpa.order(kernel, gpu, "bfloat16")[0]
    assert sdpa.kernels_of(model, gpu, "bfloat16", kernel=kernel) == wanted
    if compiled:
        model.compile(fullgraph=True, dynamic=False)
        passes(model, gpu, "bfloat16", T=128)
    assert sdpa.called(lambda: passes(model, gpu, "bfloat16", T=128)) == (
        None if compiled and wanted == "math" else wanted
    )


@pytest.mark.gpu
def test_a_kernel_that_does_not_take_the_precision_says_so() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    model = small_model("baseline", n_embd=128).to(gpu)
    sdpa.request("cudnn", gpu, "float32")
    with pytest.raises(UserError, match=r"SDPA_KERNEL_CUDNN=y: it cannot compute this run's attention: .*dtype"):
        sdpa.kernels_of(model, gpu, "float32", kernel="cudnn")
