"""Cross-entropy of rows of logits, and its gradient in the logits' own memory, in one kernel.

Written out in torch that is `gpt2.loss.cross_entropy`, this kernel's twin. A program takes a row and reads it twice,
for the sum of exponentials and for the gradient; the second time from the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096
_WARPS = 32
"""So many that few rows are on the way at once: with more of them, they no longer fit into the cache together."""


@triton.jit
def _cross_entropy_kernel(
    logits, targets, losses,
    V: tl.constexpr, BLOCK: tl.constexpr, WRITE_GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    target = tl.load(targets + row)
    valid = target >= 0
    column = tl.arange(0, BLOCK)
    # A maximum and a sum for each lane of the block, brought together once at the end. The last block, which the row
    # fills in part, comes first. The lanes that it leaves empty begin with a sum of 0, and a maximum that is finite.
    whole: tl.constexpr = V // BLOCK * BLOCK
    greatest = tl.load(logits + whole + column, mask=whole + column < V, other=float("-inf")).to(tl.float32)
    greatest = tl.maximum(greatest, -1e30)
    total = tl.where(whole + column < V, 1.0, 0.0)
    for start in range(0, whole, BLOCK):
        x = tl.load(logits + start + column).to(tl.float32)
        # Of the two factors exp(greatest - new) and exp(x - new) one is 1.
        small = tl.exp(-tl.abs(x - greatest))
        total = tl.where(x > greatest, total * small + 1.0, total + small)
        greatest = tl.maximum(greatest, x)
    of_row = tl.max(greatest)
    lse = of_row + tl.log(tl.sum(total * tl.exp(greatest - of_row)))
    at_target = tl.load(logits + target, mask=valid, other=0.0).to(tl.float32)
    tl.store(losses + row, tl.where(valid, lse - at_target, 0.0))
    if WRITE_GRADIENT:
        # Before a thread that is ahead stores a gradient where another still has to read the logit.
        tl.debug_barrier()
        # A row without a target has no gradient: exp(x - inf) = 0.
        shift = tl.where(valid, lse, float("inf"))
        dtype = logits.dtype.element_ty
        for start in range(0, whole, BLOCK):
            x = tl.load(logits + start + column).to(tl.float32)
            tl.store(logits + start + column, tl.exp(x - shift).to(dtype))
        if whole < V:
            mask = whole + column < V
            x = tl.load(logits + whole + column, mask=mask).to(tl.float32)
            tl.store(logits + whole + column, tl.exp(x - shift).to(dtype), mask=mask)
        # After what the other threads of this program have stored there.
        tl.debug_barrier()
        tl.store(logits + target, (tl.exp(at_target - shift) - 1.0).to(dtype), mask=valid)


def cross_entropy(logits: Tensor, targets: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """As `gpt2.loss.cross_entropy`. The gradient takes the logits' memory."""
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    _cross_entropy_kernel[(logits.size(0),)](
        logits, targets, losses, logits.size(1), _BLOCK, with_gradient, num_warps=_WARPS
    )
    return losses, logits if with_gradient else None
