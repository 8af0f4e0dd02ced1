"""Value residual: every layer mixes the first layer's values into its own.

    V = (1 - mix) V_own + mix V_first,   and attention as in the baseline

ResFormer, arXiv:2410.17897, in the form that learns nothing: the mean of the two, mix = 1/2. mix = 0 is the baseline on
the same weights. The KV cache holds what was mixed: as much as the baseline's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache
from gpt2.base.settings import check, number
from gpt2.config import GPTConfig


def build(config: GPTConfig) -> ValueResidualAttention:
    """Value residual as a run's configuration describes it. SettingError if the share is none."""
    mix = number("VALUE_RESIDUAL_MIX", config.option("mix", str))
    check(0 <= mix <= 1, "VALUE_RESIDUAL_MIX", mix, "must be from 0 to 1")
    return ValueResidualAttention(config.n_embd, config.n_head, mix, dropout=config.dropout, bias=config.bias)


class ValueResidualAttention(CausalSelfAttention):
    """The baseline whose values are, to a share of `mix`, those of the first layer, which `carried` brings."""

    CARRIES = True

    def __init__(self, n_embd: int, n_head: int, mix: float = 0.5, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        self.mix = mix

    def forward(  # type: ignore[override]
        self, x: Tensor, cache: LayerCache | None = None, carried: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, C] and the first layer's values of these positions, [B, H, T, D], None in it; returns the same."""
        q, k, v = self.heads(x, cache)
        first = v if carried is None else carried
        if carried is not None:
            v = torch.lerp(v, first, self.mix)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.project(self.attend(q, k, v)), first
