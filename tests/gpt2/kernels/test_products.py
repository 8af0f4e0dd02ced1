"""Linear layers and the MLP as operators: on a CPU with PyTorch's products, and on a GPU cuBLASLt's against those."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gpt2.kernels.products
from gpt2.config import TrainConfig
from gpt2.kernels.products import linear, mlp, product
from gpt2.machine import products
from gpt2.run.nonfinite import first_nonfinite
from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.symbols import run_config
from gpt2.train_ra_mla import train
from tests.gpt2.variants import VARIANTS, small_model
from tests.tiny import tiny

HAS_NVMATH = torch.cuda.is_available() and importlib.util.find_spec("nvmath") is not None
on_gpu = pytest.mark.skipif(not HAS_NVMATH, reason="needs a CUDA device and nvmath-python")


def draw(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(s, dtype=torch.float64, generator=generator).to(device, dtype) / s[-1] ** 0.5 for s in shapes]


def mlp_in_torch(x: Tensor, w_fc: Tensor, b_fc: Tensor | None, w_proj: Tensor, b_proj: Tensor | None) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w_fc, b_fc), approximate="tanh"), w_proj, b_proj)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor | None) -> list[Tensor]:
    """What `function` returns, and the gradients of its inputs for one that is drawn."""
    leaves = [t if t is None else t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    out.backward(draw(tuple(out.shape), dtype=out.dtype, device=out.device.type)[0])
    return [out.detach(), *(t.grad for t in leaves if t is not None)]


def inputs_of(function: object, bias: bool, N: int, K: int, M: int, **how: Any) -> list[Tensor | None]:
    """x [N, K] and the weights of a linear layer [M, K], or of an MLP that is M wide inside."""
    shapes = [(N, K), (M, K), (M,)] if function is linear else [(N, K), (M, K), (M,), (K, M), (K,)]
    return [t if bias or t.dim() == 2 else None for t in draw(*shapes, **how)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [(linear, F.linear), (mlp, mlp_in_torch)])
def test_an_operator_and_its_gradients_are_torchs(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], bias: bool
) -> None:
    inputs = inputs_of(ours, bias, N=24, K=16, M=40)
    for a, b in zip(with_gradients(ours, *inputs), with_gradients(theirs, *inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_they_are_operations_that_torch_can_reason_about(bias: bool) -> None:
    # Their shapes, their gradients' registration, and that they change no input.
    of = gpt2.kernels.products
    for operator, layer in ((linear, linear), (of._mlp, mlp)):
        inputs = [t if t is None else t.requires_grad_() for t in inputs_of(layer, bias, N=8, K=16, M=24)]
        torch.library.opcheck(operator, inputs)
    d_out, weight, pre = draw((8, 24), (24, 16), (8, 16))
    torch.library.opcheck(of._linear_backward, (d_out, weight))
    torch.library.opcheck(of._mlp_inner_gradient, (d_out, weight, pre))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_of_them_is_the_model(variant: str, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(3))

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model = small_model(variant, bias=bias).double()
        loss = model(tokens[:, :-1], tokens[:, 1:], keep_logits=False)[1]
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    theirs, theirs_by_name = run()
    called = []

    def always(*tensors: Tensor) -> bool:
        called.append(tensors)
        return True

    for module in ("linear", "loss"):
        monkeypatch.setattr(f"gpt2.{module}.by_cublaslt", always)
    ours, ours_by_name = run()
    assert len(called) >= 2 * 3 + 1  # of two layers: two of attention and the MLP; and the output layer
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert ours_by_name.keys() == theirs_by_name.keys()
    for name, gradient in ours_by_name.items():
        torch.testing.assert_close(gradient, theirs_by_name[name], rtol=1e-10, atol=1e-12, msg=name)


def test_what_is_not_finite_inside_an_mlp_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("baseline")
    with torch.no_grad():
        model.blocks[1].mlp.c_fc.weight.fill_(1e38)
    monkeypatch.setattr("gpt2.linear.by_cublaslt", lambda *tensors: products._by_cublaslt)
    products.use("cublaslt")
    batch = torch.zeros(2, 32, dtype=torch.long)
    try:
        found = first_nonfinite(model, [(batch, batch)], torch.device("cpu"), TrainConfig(dtype="float32"))
    finally:
        products.use("torch")
    assert found == "the output of transformer.h.1.mlp.c_fc"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_arm_has_other_linear_layers(variant: str) -> None:
    model = small_model(variant)
    bare = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert bare == ["lm_head"]  # whose products are gpt2/loss.py's


SHAPES = [(1024, 768, 3072), (256, 64, 264), (4096, 512, 512)]  # N, K, M


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_cublaslts_products_are_torchs(bias: bool, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    # Its algorithms differ in how they divide a product, which may change the order of sums: twice the error at most.
    inputs = inputs_of(linear, bias, *shape, dtype=dtype, device="cuda")
    exact = with_gradients(F.linear, *(t if t is None else t.double() for t in inputs))
    ours, theirs = with_gradients(linear, *inputs), with_gradients(F.linear, *inputs)
    assert_no_worse(ours, theirs, exact)
    x, weight, _ = inputs
    assert x is not None and weight is not None
    assert_no_worse([product(x, weight)], [x @ weight.T], [x.double() @ weight.double().T])


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_an_mlp_with_gelu_inside_its_products_is_torchs(
    bias: bool, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    inputs = inputs_of(mlp, bias, *shape, dtype=dtype, device="cuda")
    exact = with_gradients(mlp_in_torch, *(t if t is None else t.double() for t in inputs))
    assert_no_worse(with_gradients(mlp, *inputs), with_gradients(mlp_in_torch, *inputs), exact)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["BFLOAT16", "FLOAT16"])
@pytest.mark.parametrize(
    "how",
    [
        {"COMPILE_NONE": "y"},
        {"COMPILE_NONE": "y", "ACTIVATION_CHECKPOINTING": "y", "GRADIENT_ACCUMULATION_STEPS": "2"},
        {"COMPILE_MODEL": "y"},
        {"COMPILE_MODEL": "y", "COMPILE_MODE_REDUCE_OVERHEAD": "y"},
    ],
)
def test_a_run_of_them_is_the_run(how: dict[str, str], dtype: str, tmp_path: Path) -> None:
    def run(products: str) -> tuple[float, str]:
        out = tmp_path / products
        out.mkdir()
        symbols = tiny(tmp_path, DEVICE_CUDA="y", **{f"DTYPE_{dtype}": "y", f"PRODUCTS_{products}": "y"}, **how).symbols
        assert train(Run(run_config(symbols), out), Stop()) == "done"
        torch.compiler.reset()
        summary = json.loads((out / "summary.json").read_text())
        assert not [line for line in summary["events"] if "torch.compile failed" in line]
        return summary["val_loss"], json.loads((out / "provenance.json").read_text())["products"]["ran"]

    (ours, cublaslt), (theirs, torchs) = run("CUBLASLT"), run("TORCH")
    assert (cublaslt, torchs) == ("cublaslt", "torch")
    assert ours == pytest.approx(theirs, abs=5e-3)


@on_gpu
@pytest.mark.gpu
def test_a_plan_serves_other_tensors_of_its_shape() -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        x, weight = torch.randn(512, 64, device="cuda").bfloat16(), torch.randn(128, 64, device="cuda").bfloat16()
        torch.testing.assert_close(product(x, weight), x @ weight.T, rtol=0, atol=0.07)


def assert_no_worse(ours: list[Tensor], theirs: list[Tensor], exact: list[Tensor]) -> None:
    """Whether each of ours is as near to the exact one as torch's is, but for a factor of 2."""
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert torch.linalg.vector_norm(a.double() - c) <= 2 * torch.linalg.vector_norm(b.double() - c)
