"""Grouped-query attention: several query heads share a head of keys and values.

    head h attends with q_h to the keys and values of head h // (H / G), of which there are G

GQA, arXiv:2305.13245, section 2.2. G = 1 is multi-query attention (arXiv:1911.02150), G = H the baseline. The model is
smaller, and so is the KV cache: 2 G D numbers per token and layer instead of 2 H D.
"""

from __future__ import annotations

from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache, split_heads
from gpt2.base.settings import check
from gpt2.config import GPTConfig
from gpt2.linear import Linear


def build(config: GPTConfig) -> GroupedQueryAttention:
    """GQA as a run's configuration describes it. SettingError if heads cannot be grouped so."""
    kv_heads, n_head = config.option("kv_heads", int), config.n_head
    fits = 1 <= kv_heads <= n_head and n_head % kv_heads == 0
    check(fits, "GQA_KV_HEADS", kv_heads, f"must divide the number of heads (N_HEAD={n_head})")
    return GroupedQueryAttention(config.n_embd, n_head, kv_heads, dropout=config.dropout, bias=config.bias)


class GroupedQueryAttention(CausalSelfAttention):
    """The baseline with `kv_heads` heads of keys and values, a divisor of n_head. `c_attn` emits [Q|K|V]: C + 2 G D."""

    def __init__(self, n_embd: int, n_head: int, kv_heads: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.kv_heads = kv_heads
        self.c_attn = Linear(n_embd, n_embd + 2 * kv_heads * self.head_dim, bias=bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = split_heads(self.qkv(x, cache), self.n_head + 2 * self.kv_heads).split(
            [self.n_head, self.kv_heads, self.kv_heads], dim=1
        )
        if cache is not None:
            k, v = cache.append(k, v)
        return self.project(self.attend(q, self._of_queries(k), self._of_queries(v)))

    def _of_queries(self, t: Tensor) -> Tensor:
        """[B, G, S, D] -> [B, H, S, D]: for each query head what it attends to.

        Written out, since not every kernel of SDPA takes groups: so all arms of a comparison run in the same one. The
        copy is small beside attention, and with G = H there is none.
        """
        return t.unsqueeze(2).expand(-1, -1, self.n_head // self.kv_heads, -1, -1).flatten(1, 2)
