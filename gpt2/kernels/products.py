"""Linear layers and the MLP as operators that may take cuBLASLt's products, with GELU inside them.

A layer's gradients are matrix products too. Those for its input are made here like those of the forward pass; those for
its weights are PyTorch's, whose first choice of an algorithm is the fastest there.

On a CPU the operators compute with PyTorch what they compute on a GPU: tests have them there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def mlp(x: Tensor, w_fc: Tensor, b_fc: Tensor | None, w_proj: Tensor, b_proj: Tensor | None) -> Tensor:
    """GELU(x W_fc^T + b_fc) W_proj^T + b_proj, GELU in its tanh form; x [N, C] -> [N, C]. Differentiable once."""
    return _mlp(x, w_fc, b_fc, w_proj, b_proj)[0]


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, K] W^T, W [M, K] -> [N, M]. Not differentiable."""
    return _multiply(x, weight, transposed=True)


def _multiply(x: Tensor, w: Tensor, **how: Any) -> Tensor:
    if not x.is_cuda:
        return _multiply_in_torch(x, w, **how)
    from gpt2.kernels import cublaslt  # which asks for nvmath-python

    return cublaslt.multiply(x, w, **how)


def _multiply_in_torch(
    x: Tensor,
    w: Tensor,
    *,
    transposed: bool,
    bias: Tensor | None = None,
    gelu_of: Tensor | None = None,
    gelu_gradient_at: Tensor | None = None,
) -> Tensor:
    """The twin of `gpt2.kernels.cublaslt.multiply`."""
    y = x @ (w.T if transposed else w)
    if bias is not None:
        y = y + bias
    if gelu_of is not None:
        gelu_of.copy_(y)
        return F.gelu(y, approximate="tanh")
    if gelu_gradient_at is not None:
        return torch.ops.aten.gelu_backward(y, gelu_gradient_at, approximate="tanh")
    return y


# To torch.compile these are operations that it does not look into; what it makes of their backward passes, it does.
@torch.library.custom_op("gpt2::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, K] W^T + b, W [M, K], b [M] -> [N, M], of one type. Differentiable once."""
    return _multiply(x, weight, transposed=True, bias=bias)


@torch.library.custom_op("gpt2::mlp", mutates_args=())
def _mlp(
    x: Tensor, w_fc: Tensor, b_fc: Tensor | None, w_proj: Tensor, b_proj: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, what GELU was given, and what it returned."""
    pre = x.new_empty(x.size(0), w_fc.size(0))
    act = _multiply(x, w_fc, transposed=True, bias=b_fc, gelu_of=pre)
    return _multiply(act, w_proj, transposed=True, bias=b_proj), pre, act


@torch.library.custom_op("gpt2::linear_backward", mutates_args=())
def _linear_backward(d_out: Tensor, weight: Tensor) -> Tensor:
    return _multiply(d_out, weight, transposed=False)


@torch.library.custom_op("gpt2::mlp_inner_gradient", mutates_args=())
def _mlp_inner_gradient(d_out: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
    return _multiply(d_out, weight, transposed=False, gelu_gradient_at=pre)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0))


@_mlp.register_fake
def _(x: Tensor, w_fc: Tensor, b_fc: Tensor | None, w_proj: Tensor, b_proj: Tensor | None) -> tuple[Tensor, ...]:
    inner = x.size(0), w_fc.size(0)
    return x.new_empty(x.size(0), w_proj.size(0)), x.new_empty(inner), x.new_empty(inner)


@_linear_backward.register_fake
def _(d_out: Tensor, weight: Tensor) -> Tensor:
    return d_out.new_empty(d_out.size(0), weight.size(1))


@_mlp_inner_gradient.register_fake
def _(d_out: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
    return d_out.new_empty(pre.shape)


def _keep_for_linear(ctx: Any, inputs: Any, output: Tensor) -> None:
    x, weight, bias = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


@torch.autograd.function.once_differentiable
def _of_linear(ctx: Any, d_out: Tensor) -> Any:
    x, weight = ctx.saved_tensors
    return _linear_backward(d_out, weight), d_out.T @ x, d_out.sum(0) if ctx.has_bias else None


def _keep_for_mlp(ctx: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
    x, w_fc, b_fc, w_proj, b_proj = inputs
    _, pre, act = output
    ctx.has_bias = b_fc is not None, b_proj is not None
    ctx.save_for_backward(x, w_fc, w_proj, pre, act)
    ctx.set_materialize_grads(False)  # of what is returned for the backward pass alone


@torch.autograd.function.once_differentiable
def _of_mlp(ctx: Any, d_out: Tensor, *_: Any) -> Any:
    x, w_fc, w_proj, pre, act = ctx.saved_tensors
    d_pre = _mlp_inner_gradient(d_out, w_proj, pre)
    d_b_fc, d_b_proj = (d.sum(0) if has else None for d, has in zip((d_pre, d_out), ctx.has_bias, strict=True))
    return _linear_backward(d_pre, w_fc), d_pre.T @ x, d_b_fc, d_out.T @ act, d_b_proj


linear.register_autograd(_of_linear, setup_context=_keep_for_linear)
_mlp.register_autograd(_of_mlp, setup_context=_keep_for_mlp)
