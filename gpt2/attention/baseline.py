"""Causal self-attention as in GPT-2: the baseline."""

from __future__ import annotations

import math

from torch import Tensor, nn

from gpt2.attention.shared import LayerCache, causal_attention, merge_heads, split_heads
from gpt2.config import GPTConfig
from gpt2.linear import Linear


def build(config: GPTConfig) -> CausalSelfAttention:
    """The baseline as a run's configuration describes it."""
    return CausalSelfAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias)


class CausalSelfAttention(nn.Module):
    """GPT-2's attention: fused projection `c_attn` [Q|K|V], one SDPA call, output projection `c_proj`."""

    GATES: tuple[str, ...] = ()

    def __init__(self, n_embd: int, n_head: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd={n_embd} is not a multiple of n_head={n_head}")
        self.n_head = n_head
        self.head_dim = n_embd // n_head
        self.scale = 1 / math.sqrt(self.head_dim)
        self.dropout = dropout
        self.c_attn = Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def qkv(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [Q|K|V], [B, T, 3C]. In `cache` a variant may keep what it makes of weights."""
        y: Tensor = self.c_attn(x)
        return y

    def heads(self, x: Tensor, cache: LayerCache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, C] -> q, k, v of its positions alone, [B, H, T, D] each."""
        q, k, v = (split_heads(t, self.n_head) for t in self.qkv(x, cache).chunk(3, dim=-1))
        return q, k, v

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = self.heads(x, cache)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.project(self.attend(q, k, v))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, T, D], k, v [B, H, S, D] -> what the heads find, [B, T, C]."""
        return merge_heads(causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0, scale=self.scale))

    def project(self, y: Tensor) -> Tensor:
        """What the heads found -> the layer's output, [B, T, C] both."""
        out: Tensor = self.resid_dropout(self.c_proj(y))
        return out
