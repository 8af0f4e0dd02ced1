"""RA + MLA: reciprocal attention in the low slot of latent attention.

The lerp fold of gpt2/attention/ra_ultimate_v5.py, with keys made from the latent. The key of position j then holds a
share of its query's low slot, which the latent does not determine: the cache keeps those R numbers per head beside the
latent, L + H R in all, against 2 C in the baseline. Queries and keys come from different inputs (x and the normalized
latent), so it is activations that are mixed here, in R of D dimensions; the factor w_std of the others is folded into
the rows that make them. w_rec = 0, w_std = 1 is MLA on the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.attention.mla import MultiHeadLatentAttention
from gpt2.attention.shared import LayerCache
from gpt2.config import GPTConfig
from gpt2.linear import linear


def build(config: GPTConfig) -> ReciprocalLatentAttention:
    """RA + MLA as a run's configuration describes it."""
    return ReciprocalLatentAttention(
        config.n_embd,
        config.n_head,
        R=config.ra_v5_R,
        kv_latent_dim=config.mla_kv_latent_dim,
        dropout=config.dropout,
        bias=config.bias,
        gate_init=config.ra_v5_gate_init,
        learn_w_std=config.ra_v5_learn_w_std,
        learn_w_rec=config.ra_v5_learn_w_rec,
    )


class ReciprocalLatentAttention(MultiHeadLatentAttention):
    """MLA with a reciprocal low slot of R dimensions. Parameters `w_std`, `w_rec` [n_head] as in UltimateRAv5."""

    GATES = ("w_std", "w_rec")

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        R: int = 4,
        kv_latent_dim: int = 256,
        dropout: float = 0.0,
        bias: bool = True,
        gate_init: float | None = None,
        learn_w_std: bool = True,
        learn_w_rec: bool = True,
    ) -> None:
        super().__init__(n_embd, n_head, kv_latent_dim=kv_latent_dim, dropout=dropout, bias=bias)
        if not 1 <= R < self.head_dim:
            raise ValueError(f"R={R} must be from 1 to {self.head_dim - 1}: a head is {self.head_dim} wide")
        self.R = R
        self.w_std = nn.Parameter(torch.ones(n_head), requires_grad=learn_w_std)
        self.w_rec = nn.Parameter(torch.full((n_head,), float(gate_init or 0.0)), requires_grad=learn_w_rec)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        q, latent = self.query_and_latent(x)  # q_std times w_std
        q_std, q_low = q.split([self.head_dim - self.R, self.R], dim=-1)
        key_q_low = q_low
        if cache is not None:
            latent, key_q_low = cache.append(latent, q_low)
        k, v = self.keys_values(latent)
        k_std, k_low = k.split([self.head_dim - self.R, self.R], dim=-1)
        query_k_low = k_low[..., k.size(-2) - q.size(-2) :, :]
        qf_low = self.w_std.view(-1, 1, 1) * self._mixed(q_low, query_k_low)
        qf = torch.cat([q_std, qf_low.to(q.dtype)], dim=-1)
        kf = torch.cat([k_std, self._mixed(k_low, key_q_low).to(k.dtype)], dim=-1)
        return self.attend(qf, kf, v)

    def q_latent(self, x: Tensor) -> Tensor:
        """As MLA's, with q_std times w_std: a factor of a head's activations is one of the rows that make them."""
        weight, bias = self.c_attn.weight, self.c_attn.bias
        std = self.w_std.view(-1, 1).expand(-1, self.head_dim - self.R)
        of_heads = F.pad(std, (0, self.R), value=1.0).flatten()
        gain = F.pad(of_heads, (0, len(weight) - len(of_heads)), value=1.0)
        return linear(x, gain.unsqueeze(1) * weight, None if bias is None else gain * bias)

    def _mixed(self, own: Tensor, other: Tensor) -> Tensor:
        """(1 - g) own + g other, [B, H, S, R], in the gates' precision: autocast's would round away what they learn."""
        g = self.w_rec.view(-1, 1, 1)
        return torch.lerp(own.to(g.dtype), other.to(g.dtype), g)
