"""RA v5's fold and the cast to the precision of matrix products, in one kernel; and its gradient in another.

Autocast reads the float32 weights of a projection once per forward pass, to cast them. This does the same reading and
writing, and the fold on the way: RA v5 then costs what the baseline costs. `fold_lerp` and `fold_direct` in
gpt2/attention/ra_ultimate_v5.py are the twins. Other folds have no kernel.

One program takes a head and a block of columns: the same rows of q, k and v. The bias is a column more, which the first
block takes along. Gradients of the gates are sums over a head's rows and columns: each program leaves its share, and
torch adds the shares up, always in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_K = 32
"""Columns of a program: 128 bytes of float32, and at GPT-2's shape two programs for each multiprocessor."""


@triton.jit
def _lerp(a, b, g):
    # As torch.lerp: exact at both ends.
    return tl.where(g < 0.5, a + g * (b - a), b - (b - a) * (1 - g))


@triton.jit
def _fold(q, k, low, w_std, w_rec, LERP: tl.constexpr):
    if LERP:
        g = tl.where(low, w_rec, 0.0)
        return w_std * _lerp(q, k, g), _lerp(k, q, g)
    else:
        return tl.where(low, w_rec, w_std) * q, k


@triton.jit
def _fold_backward(q, k, dqf, dkf, low, w_std, w_rec, LERP: tl.constexpr):
    """Gradients of q and k, and what is to be summed for those of w_std and w_rec."""
    if LERP:
        g = tl.where(low, w_rec, 0.0)
        dq = w_std * dqf
        d_std = _lerp(q, k, g) * dqf
        d_rec = tl.where(low, (k - q) * (dq - dkf), 0.0)
        return _lerp(dq, dkf, g), _lerp(dkf, dq, g), d_std, d_rec
    else:
        d_gain = q * dqf
        return tl.where(low, w_rec, w_std) * dqf, dkf, tl.where(low, 0.0, d_gain), tl.where(low, d_gain, 0.0)


@triton.jit
def _fold_kernel(
    weight, bias, w_std, w_rec, weight_out, bias_out,
    K: tl.constexpr, H: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    LERP: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    block = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    low = d >= D - R
    std, rec = tl.load(w_std + head), tl.load(w_rec + head)
    row = head * D + d
    part = H * D  # rows of q, of k, and of v

    columns = block * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (d < D)[:, None] & (columns < K)[None, :]
    at = row[:, None] * K + columns[None, :]
    q = tl.load(weight + at, mask=mask)
    k = tl.load(weight + at + part * K, mask=mask)
    v = tl.load(weight + at + 2 * part * K, mask=mask)
    qf, kf = _fold(q, k, low[:, None], std, rec, LERP)
    dtype = weight_out.dtype.element_ty
    tl.store(weight_out + at, qf.to(dtype), mask=mask)
    tl.store(weight_out + at + part * K, kf.to(dtype), mask=mask)
    tl.store(weight_out + at + 2 * part * K, v.to(dtype), mask=mask)

    if HAS_BIAS and block == 0:
        mask_b = d < D
        q_b = tl.load(bias + row, mask=mask_b)
        k_b = tl.load(bias + row + part, mask=mask_b)
        v_b = tl.load(bias + row + 2 * part, mask=mask_b)
        qf_b, kf_b = _fold(q_b, k_b, low, std, rec, LERP)
        tl.store(bias_out + row, qf_b.to(dtype), mask=mask_b)
        tl.store(bias_out + row + part, kf_b.to(dtype), mask=mask_b)
        tl.store(bias_out + row + 2 * part, v_b.to(dtype), mask=mask_b)


@triton.jit
def _fold_backward_kernel(
    weight, bias, w_std, w_rec, d_weight_out, d_bias_out, d_weight, d_bias, shares,
    K: tl.constexpr, H: tl.constexpr, D: tl.constexpr, R: tl.constexpr,
    LERP: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    block = tl.program_id(1)
    d = tl.arange(0, BLOCK_D)
    low = d >= D - R
    std, rec = tl.load(w_std + head), tl.load(w_rec + head)
    row = head * D + d
    part = H * D

    columns = block * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (d < D)[:, None] & (columns < K)[None, :]
    at = row[:, None] * K + columns[None, :]
    dtype = weight.dtype.element_ty
    q = tl.load(weight + at, mask=mask, other=0.0)
    # Keys matter to the gates in the low slot alone.
    k = tl.load(weight + at + part * K, mask=mask & low[:, None], other=0.0)
    dqf = tl.load(d_weight_out + at, mask=mask, other=0.0).to(dtype)
    dkf = tl.load(d_weight_out + at + part * K, mask=mask, other=0.0).to(dtype)
    dv = tl.load(d_weight_out + at + 2 * part * K, mask=mask, other=0.0).to(dtype)
    dq, dk, of_std, of_rec = _fold_backward(q, k, dqf, dkf, low[:, None], std, rec, LERP)
    tl.store(d_weight + at, dq, mask=mask)
    tl.store(d_weight + at + part * K, dk, mask=mask)
    tl.store(d_weight + at + 2 * part * K, dv, mask=mask)
    sum_std, sum_rec = tl.sum(of_std), tl.sum(of_rec)

    if HAS_BIAS and block == 0:
        mask_b = d < D
        q_b = tl.load(bias + row, mask=mask_b, other=0.0)
        k_b = tl.load(bias + row + part, mask=mask_b & low, other=0.0)
        dqf_b = tl.load(d_bias_out + row, mask=mask_b, other=0.0).to(dtype)
        dkf_b = tl.load(d_bias_out + row + part, mask=mask_b, other=0.0).to(dtype)
        dv_b = tl.load(d_bias_out + row + 2 * part, mask=mask_b, other=0.0).to(dtype)
        dq_b, dk_b, of_std_b, of_rec_b = _fold_backward(q_b, k_b, dqf_b, dkf_b, low, std, rec, LERP)
        tl.store(d_bias + row, dq_b, mask=mask_b)
        tl.store(d_bias + row + part, dk_b, mask=mask_b)
        tl.store(d_bias + row + 2 * part, dv_b, mask=mask_b)
        sum_std += tl.sum(of_std_b)
        sum_rec += tl.sum(of_rec_b)

    blocks = tl.num_programs(1)
    tl.store(shares + head * blocks + block, sum_std)
    tl.store(shares + (H + head) * blocks + block, sum_rec)


def fold_cast(
    weight: Tensor, bias: Tensor | None, w_std: Tensor, w_rec: Tensor, *, R: int, lerp: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weight [3C, K] and bias [3C] (or None), folded with gates [H] and cast to `dtype`. Differentiable once."""
    weight_out, bias_out = _fold_cast(weight, bias, w_std, w_rec, R, lerp, dtype)
    return weight_out, None if bias is None else bias_out


# To torch.compile these are operations that it does not look into: one call each, where tracing an autograd.Function
# would take it seconds a model.
@torch.library.custom_op("gpt2::fold_cast", mutates_args=())
def _fold_cast(
    weight: Tensor, bias: Tensor | None, w_std: Tensor, w_rec: Tensor, R: int, lerp: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The fold of weight and bias; of no bias an empty one."""
    weight_out, bias_out = _empty_fold(weight, bias, dtype)
    grid, shape = _grid(weight, w_std), _shape(weight, w_std, R, lerp, bias is not None)
    # Where there is no bias, the weight stands in for it and is not touched.
    b, b_out = (weight, weight_out) if bias is None else (bias, bias_out)
    _fold_kernel[grid](weight, b, w_std, w_rec, weight_out, b_out, **shape)
    return weight_out, bias_out


@_fold_cast.register_fake
def _(weight: Tensor, bias: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    return _empty_fold(weight, bias, dtype=others[-1])


def _empty_fold(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(weight, dtype=dtype), weight.new_empty(0 if bias is None else len(bias), dtype=dtype)


@torch.library.custom_op("gpt2::fold_cast_backward", mutates_args=())
def _fold_cast_backward(
    weight: Tensor,
    bias: Tensor | None,
    w_std: Tensor,
    w_rec: Tensor,
    d_weight_out: Tensor,
    d_bias_out: Tensor,
    R: int,
    lerp: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of weight and bias (of no bias an empty one) and each program's share of those of the gates."""
    d_weight, d_bias, shares = _empty_gradients(weight, bias, w_std)
    grid, shape = _grid(weight, w_std), _shape(weight, w_std, R, lerp, bias is not None)
    d_weight_out, d_bias_out = d_weight_out.contiguous(), d_bias_out.contiguous()
    b, d_b_out, d_b = (weight, d_weight_out, d_weight) if bias is None else (bias, d_bias_out, d_bias)
    _fold_backward_kernel[grid](weight, b, w_std, w_rec, d_weight_out, d_b_out, d_weight, d_b, shares, **shape)
    return d_weight, d_bias, shares


@_fold_cast_backward.register_fake
def _(weight: Tensor, bias: Tensor | None, w_std: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(weight, bias, w_std)


def _empty_gradients(weight: Tensor, bias: Tensor | None, w_std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return *_empty_fold(weight, bias, weight.dtype), weight.new_empty(2, *_grid(weight, w_std))


def _setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    weight, bias, w_std, w_rec, ctx.R, ctx.lerp, _ = inputs
    ctx.save_for_backward(weight, bias, w_std, w_rec)


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, d_weight_out: Tensor, d_bias_out: Tensor) -> Any:
    weight, bias, w_std, w_rec = ctx.saved_tensors
    upstream = d_weight_out, d_bias_out
    d_weight, d_bias, shares = _fold_cast_backward(weight, bias, w_std, w_rec, *upstream, ctx.R, ctx.lerp)
    d_std, d_rec = shares.sum(-1).unbind()
    return d_weight, None if bias is None else d_bias, d_std, d_rec, None, None, None


_fold_cast.register_autograd(_backward, setup_context=_setup_context)


def _grid(weight: Tensor, w_std: Tensor) -> tuple[int, int]:
    """Programs: heads, and blocks of columns."""
    return w_std.numel(), triton.cdiv(weight.size(1), _BLOCK_K)


def _shape(weight: Tensor, w_std: Tensor, R: int, lerp: bool, has_bias: bool) -> dict[str, Any]:
    """What both kernels have to know at compile time."""
    rows, K = weight.shape
    H = w_std.numel()
    D = rows // (3 * H)
    return dict(K=K, H=H, D=D, R=R, LERP=lerp, HAS_BIAS=has_bias, BLOCK_D=triton.next_power_of_2(D), BLOCK_K=_BLOCK_K)
