"""Triton kernels against their twins: on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1) without one."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from torch import Tensor

from gpt2 import kernels
from gpt2.attention.ra_ultimate_v5 import FOLDS, fold_in_torch
from gpt2.loss import cross_entropy

interpreted = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if interpreted else "cuda"

if interpreted and not kernels.HAS_TRITON:
    raise RuntimeError("TRITON_INTERPRET=1, but there is no Triton to interpret kernels with")

pytestmark = pytest.mark.skipif(
    not kernels.HAS_TRITON or not (interpreted or torch.cuda.is_available()),
    reason="needs Triton and a CUDA device, or Triton and TRITON_INTERPRET=1",
)

# Triton's interpreter cuts float32 off where it has to be rounded to bfloat16.
PRECISIONS = [torch.float32, torch.float16] + ([] if interpreted else [torch.bfloat16])
SHAPES = [(3, 16, 48, 4), (2, 20, 50, 3), (1, 64, 65, 8)]  # H, D, K, R; also what no block divides


def fold_inputs(
    H: int, D: int, K: int, bias: bool, dtype: torch.dtype, w_std: float | None = None, w_rec: float | None = None
) -> list[Tensor | None]:
    """Weight, bias, w_std, w_rec; gates at random unless given."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(DEVICE, dtype).requires_grad_()

    weight, b, std, rec = draw(3 * H * D, K), draw(3 * H * D), draw(H), draw(H)
    with torch.no_grad():
        if w_std is not None:
            std.fill_(w_std)
        if w_rec is not None:
            rec.fill_(w_rec)
    return [weight, b if bias else None, std, rec]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fold", [name for name, fold in FOLDS.items() if fold.in_kernel])
def test_fold_and_its_gradients_are_the_twins(fold: str, bias: bool, shape: tuple[int, int, int, int]) -> None:
    from gpt2.kernels.fold import fold_cast

    *HDK, R = shape
    # In float64, so that nothing but the order of sums is left to differ.
    inputs = fold_inputs(*HDK, bias, torch.float64)
    ours = [t for t in fold_cast(*inputs, R=R, lerp=fold == "lerp", dtype=torch.float64) if t is not None]
    theirs = [t for t in fold_in_torch(FOLDS[fold], *inputs, R, torch.float64) if t is not None]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=1e-15)
    upstream = [
        torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(2)).to(DEVICE) for t in ours
    ]
    learned = [t for t in inputs if t is not None]
    for a, b in zip(
        torch.autograd.grad(ours, learned, upstream), torch.autograd.grad(theirs, learned, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("fold", "w_rec"), [("lerp", 0.0), ("direct", 1.0)])
def test_at_rest_the_fold_is_the_cast_in_every_bit(fold: str, w_rec: float, dtype: torch.dtype) -> None:
    from gpt2.kernels.fold import fold_cast

    weight, bias, *gates = fold_inputs(2, 16, 40, True, torch.float32, w_std=1.0, w_rec=w_rec)
    assert weight is not None
    assert bias is not None
    folded, folded_bias = fold_cast(weight, bias, *gates, R=4, lerp=fold == "lerp", dtype=dtype)
    assert torch.equal(folded, weight.to(dtype))
    assert folded_bias is not None
    assert torch.equal(folded_bias, bias.to(dtype))
    upstream = torch.randn(folded.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype)
    (gradient,) = torch.autograd.grad(folded, weight, upstream)
    assert torch.equal(gradient, upstream.float())


def test_full_reciprocity_swaps_the_low_slot_in_every_bit() -> None:
    from gpt2.kernels.fold import fold_cast

    H, D, K, R = 2, 16, 40, 4
    weight, bias, *gates = fold_inputs(H, D, K, False, torch.float32, w_std=1.0, w_rec=1.0)
    assert weight is not None
    q, k, v = fold_cast(weight, bias, *gates, R=R, lerp=True, dtype=torch.float32)[0].view(3, H, D, K)
    q0, k0, v0 = weight.view(3, H, D, K)
    assert torch.equal(q, torch.cat([q0[:, : D - R], k0[:, D - R :]], dim=1))
    assert torch.equal(k, torch.cat([k0[:, : D - R], q0[:, D - R :]], dim=1))
    assert torch.equal(v, v0)


@pytest.mark.parametrize("bias", [True, False])
def test_torch_can_trace_the_fold_without_looking_into_it(bias: bool) -> None:
    from gpt2.kernels import fold

    inputs = fold_inputs(2, 16, 40, bias, torch.float32)
    torch.library.opcheck(fold._fold_cast, (*inputs, 4, True, torch.float16))
    detached = [None if t is None else t.detach() for t in inputs]
    upstream = [t.detach() for t in fold._fold_cast(*inputs, 4, True, torch.float16)]
    torch.library.opcheck(fold._fold_cast_backward, (*detached, *upstream, 4, True))


@pytest.mark.parametrize(("V", "dtype"), itertools.product([65, 4096, 5003, 8192], [torch.float32, torch.float16]))
def test_cross_entropy_and_its_gradient_are_the_twins(V: int, dtype: torch.dtype) -> None:
    from gpt2.kernels.cross_entropy import cross_entropy as kernel

    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(6, V, generator=generator)
    logits[0] -= 500  # far from 0, either way
    logits[1] += 500
    logits[2, 3] = float("-inf")
    targets = torch.tensor([0, V - 1, 7, -1, 64, 3], device=DEVICE)
    logits = logits.to(DEVICE, dtype)
    ours, theirs, untouched = logits.clone(), logits.clone(), logits.clone()
    losses, gradient = kernel(ours, targets, with_gradient=True)
    expected_losses, expected_gradient = cross_entropy(theirs, targets, with_gradient=True)
    # Near 500, a float32 loss has steps of 3e-5.
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=4e-5)
    assert gradient is ours, "in the memory of the logits"
    torch.testing.assert_close(gradient, expected_gradient, rtol=4e-5 if dtype == torch.float32 else 1e-3, atol=1e-7)
    assert losses[3] == 0
    assert not gradient[3].any()
    assert torch.equal(kernel(untouched, targets, with_gradient=False)[0], losses)
    assert torch.equal(untouched, logits), "without a gradient the logits stay as they are"
