"""Rotary positions: queries and keys are turned by angles that grow with their position.

    q_i -> rot(i) q_i,  k_j -> rot(j) k_j,  S[i, j] = q_i^T rot(j - i) k_j / sqrt(D)

rot(p) turns the plane of dimensions d and d + D/2, for each d < D/2, by the angle p base^(-2d/D). RoFormer
(arXiv:2104.09864, section 3.2), whose planes are of neighbours: another numbering of dimensions that start alike.
GPT-2's learned positions stay. The KV cache holds turned keys: as much as the baseline's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache
from gpt2.base.settings import check
from gpt2.config import GPTConfig


def build(config: GPTConfig) -> RotaryAttention:
    """RoPE as a run's configuration describes it. SettingError if a head's width is odd."""
    D = config.head_dim
    check(
        D % 2 == 0, "N_HEAD", config.n_head, f"RoPE turns pairs of dimensions: a head of N_EMBD / N_HEAD = {D} is odd"
    )
    return RotaryAttention(
        config.n_embd,
        config.n_head,
        config.block_size,
        base=config.option("base", int),
        dropout=config.dropout,
        bias=config.bias,
    )


class RotaryAttention(CausalSelfAttention):
    """The baseline with turned queries and keys, for heads of an even width and up to `block_size` positions."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, n_embd: int, n_head: int, block_size: int, *, base: float = 10000, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        half = self.head_dim // 2
        frequencies = float(base) ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.outer(torch.arange(block_size, dtype=torch.float64), frequencies)
        # Functions of the configuration: checkpoints do without them.
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = self.heads(x, cache)
        start = 0 if cache is None else cache.length
        q, k = self._turned(q, start), self._turned(k, start)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.project(self.attend(q, k, v))

    def _turned(self, x: Tensor, start: int) -> Tensor:
        """x [B, H, T, D] at the positions from `start` on, turned in the tables' precision."""
        cos, sin = (table[start : start + x.size(-2)] for table in (self.cos, self.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).type_as(x)
