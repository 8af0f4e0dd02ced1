"""A gate on what attention finds: Y = SDPA(Q, K, V) * sigmoid(x W + b), before the output projection.

Gated attention, arXiv:2505.06708, at the place it calls G1; x is what enters the layer. Elementwise, W is [C, C] and
every number of a head's output has a gate; headwise, [C, H], and a head has one. W starts as other matrices do, so that
all gates start about half open. The KV cache is the baseline's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache
from gpt2.config import GPTConfig
from gpt2.linear import Linear


def build(config: GPTConfig) -> GatedAttention:
    """Gated attention as a run's configuration describes it."""
    headwise = config.option("headwise", bool)
    return GatedAttention(config.n_embd, config.n_head, headwise=headwise, dropout=config.dropout, bias=config.bias)


class GatedAttention(CausalSelfAttention):
    """The baseline with a gate on the heads' output. `c_gate` makes the gates of x: [C, C], or headwise [C, n_head]."""

    def __init__(
        self, n_embd: int, n_head: int, *, headwise: bool = False, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.c_gate = Linear(n_embd, n_head if headwise else n_embd, bias=bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = self.heads(x, cache)
        if cache is not None:
            k, v = cache.append(k, v)
        gates = torch.sigmoid(self.c_gate(x)).unflatten(-1, (self.n_head, -1))  # [B, T, H, D or 1]
        y = self.attend(q, k, v).unflatten(-1, (self.n_head, -1))
        return self.project((gates * y).flatten(-2))
