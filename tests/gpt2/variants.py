"""Small models of every attention variant, and attention written out, for tests of what variants have in common."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.config import GPTConfig
from gpt2.model import GPT

VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "ra_v5-lerp": {"attention": "ra_v5"},
    "ra_v5-direct": {"attention": "ra_v5", "ra_v5_fold": "direct"},
    "ra_v5-lerp_dims": {"attention": "ra_v5", "ra_v5_fold": "lerp_dims"},
    "ra_v5-lerp_keys": {"attention": "ra_v5", "ra_v5_fold": "lerp_keys"},
    "ra_v5-matrix": {"attention": "ra_v5", "ra_v5_fold": "matrix"},
    "ra_v5-lerp-d_bias": {"attention": "ra_v5", "ra_v5_d_bias": True},
    "ra_v5-direct-d_bias": {"attention": "ra_v5", "ra_v5_fold": "direct", "ra_v5_d_bias": True},
    "ra_v5-layer1": {"attention": "ra_v5", "attention_layers": "1"},
    "mla": {"attention": "mla"},
    "ra_mla": {"attention": "ra_mla"},
    "rope": {"attention": "rope", "attention_options": {"base": 100}},
    "qk_norm": {"attention": "qk_norm", "attention_options": {"sharpness": 8}},
    "sdpa_gate-elementwise": {"attention": "sdpa_gate", "attention_options": {"headwise": False}},
    "sdpa_gate-headwise": {"attention": "sdpa_gate", "attention_options": {"headwise": True}},
    "value_residual": {"attention": "value_residual", "attention_options": {"mix": "0.4"}},
    "gqa": {"attention": "gqa", "attention_options": {"kv_heads": 2}},
    "mqa": {"attention": "gqa", "attention_options": {"kv_heads": 1}},
    "sliding_window": {"attention": "sliding_window", "attention_options": {"size": 14}},
    "uniform": {"attention": "uniform"},
}
"""Settings of GPTConfig by name."""

SHAPED_ANEW = {"gqa": {"c_attn"}, "mqa": {"c_attn"}, "uniform": {"c_attn"}}
"""Projections that have another shape than the reference's, by variant."""

ADDED = {"sdpa_gate-elementwise": {"c_gate"}, "sdpa_gate-headwise": {"c_gate"}}
"""Projections that the reference does not have, by variant."""


def small_config(variant: str, **settings: Any) -> GPTConfig:
    """Two layers of four heads of width 8; R=2, a latent of 12."""
    small = dict(n_layer=2, n_head=4, n_embd=32, block_size=32, vocab_size=64, ra_v5_R=2, mla_kv_latent_dim=12)
    return GPTConfig(**{**small, "ra_v5_compile": False, **VARIANTS[variant], **settings})


def small_model(variant: str, **settings: Any) -> GPT:
    """A model whose gates, biases and norms are all away from where they start, so that every one of them matters."""
    model = GPT(small_config(variant, **settings), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=generator))
    return model


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q k^T scale, causal) v, written out; the queries are the last of the keys' positions."""
    T, S = q.size(-2), k.size(-2)
    scores = q @ k.transpose(-2, -1) * scale
    later = torch.arange(S) > torch.arange(S - T, S).view(-1, 1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


def heads_of(attention: CausalSelfAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, H, T, D] of x [B, T, C] as `c_attn` emits them, written out."""
    (B, T, C), H = x.shape, attention.n_head
    projected = x @ attention.c_attn.weight.T
    if attention.c_attn.bias is not None:
        projected = projected + attention.c_attn.bias
    q, k, v = (t.view(B, T, H, C // H).transpose(1, 2) for t in projected.split(C, dim=-1))
    return q, k, v
