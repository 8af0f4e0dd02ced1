"""Multi-head latent attention: keys and values of every head are made from one small latent vector per token.

    c = norm(W_dkv x)          [B, T, L], L = mla_kv_latent_dim
    [K|V] = W_ukv c            d_qk = d_v = D, so that SDPA keeps its fast kernels

After DeepSeek-V2 (arXiv:2405.04434, section 2.1), with GPT-2's learned absolute positions and so without its separate
rotary part, and with a full-rank query. The KV cache holds c alone: L numbers per token instead of 2 C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.attention.shared import LayerCache, causal_attention, merge_heads, split_heads
from gpt2.config import GPTConfig
from gpt2.linear import Linear


def build(config: GPTConfig) -> MultiHeadLatentAttention:
    """MLA as a run's configuration describes it."""
    return MultiHeadLatentAttention(
        config.n_embd,
        config.n_head,
        kv_latent_dim=config.mla_kv_latent_dim,
        dropout=config.dropout,
        bias=config.bias,
    )


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in the weight's precision whatever autocast made of x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, eps=1e-5).type_as(x)


class MultiHeadLatentAttention(nn.Module):
    """MLA: `c_attn` emits [q|latent], `c_kv` makes [K|V] of the normalized latent, `c_proj` projects the output."""

    GATES: tuple[str, ...] = ()

    def __init__(
        self, n_embd: int, n_head: int, *, kv_latent_dim: int = 256, dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        if n_embd % n_head:
            raise ValueError(f"n_embd={n_embd} is not a multiple of n_head={n_head}")
        self.n_head = n_head
        self.head_dim = n_embd // n_head
        self.scale = 1 / math.sqrt(self.head_dim)
        self.dropout = dropout
        self.c_attn = Linear(n_embd, n_embd + kv_latent_dim, bias=bias)
        self.kv_norm = RMSNorm(kv_latent_dim)
        self.c_kv = Linear(kv_latent_dim, 2 * n_embd, bias=bias)
        self.c_proj = Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def q_latent(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [q|latent], [B, T, C + L]."""
        y: Tensor = self.c_attn(x)
        return y

    def query_and_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, C] -> q [B, H, T, D] and the normalized latent [B, T, L]."""
        n_embd = self.n_head * self.head_dim
        q, latent = self.q_latent(x).split([n_embd, self.kv_norm.weight.numel()], dim=-1)
        return split_heads(q, self.n_head), self.kv_norm(latent)

    def keys_values(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """latent [B, S, L] -> k, v [B, H, S, D]."""
        k, v = self.c_kv(latent).chunk(2, dim=-1)
        return split_heads(k, self.n_head), split_heads(v, self.n_head)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, T, D], k, v [B, H, S, D] -> [B, T, C]."""
        y = causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0, scale=self.scale)
        out: Tensor = self.resid_dropout(self.c_proj(merge_heads(y)))
        return out

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, latent = self.query_and_latent(x)
        if cache is not None:
            (latent,) = cache.append(latent)
        k, v = self.keys_values(latent)
        return self.attend(q, k, v)
