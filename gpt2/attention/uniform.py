"""No choice: a token attends to itself and to all before it alike.

    y_i = mean of v_j over j <= i

There are no queries and no keys: `c_attn` emits values alone. A head cannot look for anything, so that this must come
out worse than what can: what an experiment is to see at the least. SDPA is called with scores of 0, at the cost of any
others. The KV cache holds values: half of the baseline's.
"""

from __future__ import annotations

from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache, split_heads
from gpt2.config import GPTConfig
from gpt2.linear import Linear


def build(config: GPTConfig) -> UniformAttention:
    """Uniform attention as a run's configuration describes it."""
    return UniformAttention(config.n_embd, config.n_head, dropout=config.dropout, bias=config.bias)


class UniformAttention(CausalSelfAttention):
    """The baseline without queries and keys. `c_attn` emits [V], C numbers."""

    def __init__(self, n_embd: int, n_head: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.c_attn = Linear(n_embd, n_embd, bias=bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        v = split_heads(self.qkv(x, cache), self.n_head)
        q = v.new_zeros(v.shape)
        if cache is not None:
            (v,) = cache.append(v)
        return self.project(self.attend(q, v.new_zeros(v.shape), v))
