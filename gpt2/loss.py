"""Cross-entropy of a linear layer's output, without ever holding that output whole.

GPT-2's logits are 100 KB per token at half precision, and their gradient as much again: at 32 sequences of 1024 tokens
they are what decides the memory that a step needs. Here they are made for a chunk of tokens at a time, and so is their
gradient, in the forward pass and in the same memory: for a mean over tokens it is known as soon as the logits are, up
to a factor. The backward pass only multiplies with that factor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt2 import kernels
from gpt2.kernels.products import product
from gpt2.machine.device import autocast_dtype
from gpt2.machine.products import by_cublaslt

if kernels.HAS_TRITON:
    from gpt2.kernels import cross_entropy as kernel

CHUNK_TOKENS = 8192
"""Tokens whose logits are there at a time: 0.8 GB of GPT-2's, and enough for matrix products at full speed."""

# Adding half-precision products up in float32 within the product itself.
_ADDMM_TO_FLOAT32 = torch.__version__ >= "2.8" and torch.version.hip is None


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy (nats) of the logits x W^T, x [..., C], weight [V, C], against targets [...].

    Targets of -1 are ignored. Matrix products run in autocast's precision, where there is autocast; the exponentials,
    the sums and the gradient of `weight` are float32 then. Differentiable once.
    """
    x = x.to(autocast_dtype(x) or x.dtype).flatten(0, -2)
    tuned = by_cublaslt(x, weight)
    targets = targets.flatten()
    total, _, _ = _linear_cross_entropy(x, weight, targets, torch.is_grad_enabled(), tuned)
    return total / (targets >= 0).sum()


# To torch.compile this is one operation that it does not look into. It would unroll the loop, and has nothing to add.
@torch.library.custom_op("gpt2::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, with_gradient: bool, tuned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over tokens and, if asked for, its gradients; x [N, C], targets [N]. Products run in x's precision."""
    of_chunk = kernel.cross_entropy if kernels.usable(x.device) and x.dtype != torch.float64 else cross_entropy
    losses = []
    d_x = torch.empty_like(x) if with_gradient else x.new_empty(0)
    d_weight = torch.zeros_like(weight) if with_gradient else weight.new_empty(0)
    with torch.autocast(x.device.type, enabled=False):
        w = weight.to(x.dtype)
        for start in range(0, len(x), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logits = product(x[chunk], w) if tuned else x[chunk] @ w.T
            loss, d_logits = of_chunk(logits, targets[chunk], with_gradient=with_gradient)
            losses.append(loss)
            if d_logits is not None:
                torch.mm(d_logits, w, out=d_x[chunk])
                _add_product(d_weight, d_logits.T, x[chunk])
    return torch.cat(losses).sum(), d_x, d_weight


@_linear_cross_entropy.register_fake
def _(x: Tensor, weight: Tensor, targets: Tensor, with_gradient: bool, tuned: bool) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty((), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if with_gradient:
        return total, torch.empty_like(x), torch.empty_like(weight)
    return total, x.new_empty(0), weight.new_empty(0)


def _setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)  # of the two gradients, which nobody differentiates


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, d_total: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    d_x, d_weight = ctx.saved_tensors
    return d_x * d_total, d_weight * d_total, None, None, None


_linear_cross_entropy.register_autograd(_backward, setup_context=_setup_context)


def at_least_float32(logits: Tensor) -> Tensor:
    """Logits in the precision that exponentials and their sums are taken in."""
    return logits if logits.dtype == torch.float64 else logits.float()


def cross_entropy(logits: Tensor, targets: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of each row of logits [N, V] with targets [N], in float32 at least; 0 where the target is -1.

    With it the gradient of its sum, [N, V] in the logits' precision, if asked for. That may take the logits' memory.
    """
    log_p = at_least_float32(logits).log_softmax(-1)
    losses = F.nll_loss(log_p, targets, ignore_index=-1, reduction="none")
    if not with_gradient:
        return losses, None
    gradient = log_p.exp_()
    gradient[torch.arange(len(targets), device=targets.device), targets.clamp(min=0)] -= 1
    gradient.index_fill_(0, (targets < 0).nonzero().flatten(), 0)
    return losses, gradient.to(logits.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, without rounding the product to the precision of a and b where torch offers that.

    Where it does not, in float16, a sum over thousands of tokens may be too large. It is taken of 1/128 of each.
    """
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda and _ADDMM_TO_FLOAT32:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        part = 128 if a.dtype == torch.float16 else 1
        total.add_(a @ (b / part), alpha=part)
