"""Causal self-attention as in GPT-2, what every variant shares with it, and how a variant is found.

A variant `foo` is a module `gpt2/foo.py` with a function `build(config: GPTConfig) -> nn.Module`. The module it returns

- maps x [B, T, C] to [B, T, C]: `forward(x, cache=None)`, where `cache` is a `LayerCache` that holds earlier positions;
  a variant that takes no cache trains like any other, and cannot generate;
- may name in a class attribute `GATES` its parameters that are a few numbers per head: these get a learning rate of
  their own and no weight decay, and those of shape [n_head] are logged per layer and head.

Nothing else has to be told of it: Kconfig's choice entry ATTENTION_FOO selects it.
"""

from __future__ import annotations

import importlib
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.config import GPTConfig
from gpt2.errors import UserError

# Where the seed's names differ from the rule "variant foo lives in gpt2/foo.py".
_MODULES = {"baseline": "attention", "ra_v5": "ra_ultimate_v5"}


def build_attention(config: GPTConfig) -> nn.Module:
    """One layer's attention of the variant that `config.attention` names. UserError if there is no such variant."""
    name = f"gpt2.{_MODULES.get(config.attention, config.attention)}"
    if importlib.util.find_spec(name) is None:
        raise UserError(f"ATTENTION_{config.attention.upper()}=y: there is no module {name.replace('.', '/')}.py")
    module: nn.Module = importlib.import_module(name).build(config)
    return module


def build(config: GPTConfig) -> CausalSelfAttention:
    """The baseline."""
    return CausalSelfAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias)


class LayerCache:
    """What one layer keeps of earlier positions, for generation: tensors that grow along dimension -2.

    Room for `block_size` positions is taken at the first `append`, so that a step copies only what is new.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0
        self._buffers: tuple[Tensor, ...] = ()

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Add positions to each of the cached tensors, [..., T, d] each; returns all of them so far, [..., S, d].

        The number of tensors is the variant's and stays the same. Raises ValueError beyond `block_size` positions.
        """
        end = self.length + new[0].size(-2)
        if end > self.block_size:
            raise ValueError(f"{end} positions do not fit into a cache of block_size={self.block_size}")
        if not self._buffers:
            self._buffers = tuple(t.new_empty(*t.shape[:-2], self.block_size, t.size(-1)) for t in new)
        for buffer, t in zip(self._buffers, new, strict=True):
            buffer[..., self.length : end, :] = t
        self.length = end
        return tuple(buffer[..., :end, :] for buffer in self._buffers)

    def bytes_per_token(self) -> float:
        """Bytes that a position of one sequence takes, as allocated."""
        return sum(b.numel() * b.element_size() / (b.size(0) * self.block_size) for b in self._buffers)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, scale: float | None = None) -> Tensor:
    """softmax(q k^T * scale, causal) v in one scaled_dot_product_attention call.

    q [B, H, T, D]; k, v [B, H, S, D] with S >= T: the queries are the last T of S positions. Returns [B, H, T, D].
    """
    T, S = q.size(-2), k.size(-2)
    # SDPA's own causal mask is aligned to the first key, which is right for T = S alone.
    mask = q.new_ones(T, S, dtype=torch.bool).tril(S - T) if 1 < T < S else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=T == S, scale=scale)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, T, H * D] -> [B, H, T, D], without a copy."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)


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
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def qkv(self, x: Tensor) -> Tensor:
        """x [B, T, C] -> [Q|K|V], [B, T, 3C]."""
        y: Tensor = self.c_attn(x)
        return y

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = (split_heads(t, self.n_head) for t in self.qkv(x).chunk(3, dim=-1))
        if cache is not None:
            k, v = cache.append(k, v)
        y = causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0, scale=self.scale)
        out: Tensor = self.resid_dropout(self.c_proj(merge_heads(y)))
        return out
