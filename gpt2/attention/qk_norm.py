"""Attention by angle: S[i, j] = sharpness * cos(q_i, k_j), with a learned sharpness per head.

Query-key normalization, arXiv:2010.04245, which learns one factor, not one a head. A sharpness of sqrt(D) is that of
queries and keys of length sqrt(D), as RMSNorm makes them, under GPT-2's 1/sqrt(D). The KV cache holds keys of length 1:
as much as the baseline's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache
from gpt2.config import GPTConfig


def build(config: GPTConfig) -> QKNormAttention:
    """QK norm as a run's configuration describes it."""
    sharpness = float(config.option("sharpness", int))
    return QKNormAttention(config.n_embd, config.n_head, sharpness, dropout=config.dropout, bias=config.bias)


class QKNormAttention(CausalSelfAttention):
    """The baseline with unit queries and keys. Parameter `sharpness` [n_head], in the place of 1/sqrt(D)."""

    GATES = ("sharpness",)

    def __init__(self, n_embd: int, n_head: int, sharpness: float, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.sharpness = nn.Parameter(torch.full((n_head,), sharpness))
        self.scale = 1.0

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = self.heads(x, cache)
        # Under autocast a norm is float32 and v is not; one dtype for all three is what SDPA and the cache want.
        q = (F.normalize(q, dim=-1) * self.sharpness.view(-1, 1, 1)).type_as(v)
        k = F.normalize(k, dim=-1).type_as(v)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.project(self.attend(q, k, v))
