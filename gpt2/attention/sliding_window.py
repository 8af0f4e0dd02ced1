"""Sliding-window attention: a query sees the last `window` positions, its own among them.

    S[i, j] = q_i^T k_j / sqrt(D)  where  i - window < j <= i,  and no other j

As in Longformer's model of text (arXiv:2004.05150, section 3.1) and Mistral 7B (arXiv:2310.06825, section 2). Through n
layers a token hears of n (window - 1) earlier ones. window >= T is the baseline. The KV cache holds window - 1
positions. SDPA gets the window as a mask, which its fastest kernels do not take: the arm tells what a window costs in
loss, not what a kernel made for it would save in time.
"""

from __future__ import annotations

from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache, causal_attention, merge_heads
from gpt2.base.settings import check
from gpt2.config import GPTConfig


def build(config: GPTConfig) -> SlidingWindowAttention:
    """Sliding-window attention as a run's configuration describes it. SettingError if the window is empty."""
    window = config.option("size", int)
    check(window >= 1, "SLIDING_WINDOW_SIZE", window, "must be at least 1: a token sees itself")
    return SlidingWindowAttention(config.n_embd, config.n_head, window, dropout=config.dropout, bias=config.bias)


class SlidingWindowAttention(CausalSelfAttention):
    """The baseline with a window of `window` positions."""

    def __init__(self, n_embd: int, n_head: int, window: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.window = window

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, k, v = self.heads(x, cache)
        if cache is not None:
            k, v = cache.slide(self.window, k, v)
        dropout = self.dropout if self.training else 0.0
        y = causal_attention(q, k, v, dropout=dropout, scale=self.scale, window=self.window)
        return self.project(merge_heads(y))
