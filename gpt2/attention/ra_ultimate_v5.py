"""RA v5: reciprocal attention, folded into the weights of the fused projection.

A head of width D gives its last R dimensions, the low slot, to reciprocity: there the query is mixed with the key, so
that part of "how much does i attend to j" is "how much would j attend to i". With g = w_rec and the head's rows q, k of
the projection (lerp fold):

    Qf = w_std * [ q_std | (1 - g) q_low + g k_low ]
    Kf =         [ k_std | (1 - g) k_low + g q_low ]
    S  = Qf Kf^T / sqrt(D)

The projection is linear, so mixing queries and keys is mixing the rows that make them. After the fold there is one
matrix product and one SDPA call of width D, as in the baseline; and a trained layer, folded once, *is* a standard
attention layer. So is every other fold of FOLDS: a gate a dimension, keys alone, a matrix for g, free rows. The
derivations are in docs/ra-v5.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2 import kernels
from gpt2.attention.baseline import CausalSelfAttention
from gpt2.attention.shared import LayerCache, causal_attention, merge_heads
from gpt2.config import GPTConfig
from gpt2.folds import RA_V5_AT_REST
from gpt2.linear import linear
from gpt2.machine.device import autocast_dtype

if kernels.HAS_TRITON:
    from gpt2.kernels.fold import fold_cast


def build(config: GPTConfig) -> UltimateRAv5:
    """RA v5 as a run's configuration describes it."""
    return UltimateRAv5(
        config.n_embd,
        config.n_head,
        config.block_size,
        R=config.ra_v5_R,
        dropout=config.dropout,
        bias=config.bias,
        fold=config.ra_v5_fold,
        gate_init=config.ra_v5_gate_init,
        learn_w_std=config.ra_v5_learn_w_std,
        learn_w_rec=config.ra_v5_learn_w_rec,
        d_bias=config.ra_v5_d_bias,
    )


def _with_low_slot(
    rows: Tensor, w_std: Tensor, R: int, mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Rows [3C, K] with those of the low slots, q_low and k_low [H, R, K], as `mix` makes them, and queries scaled."""
    q, k, v = rows.unflatten(0, (3, w_std.numel(), -1))
    D = q.size(1)
    q_std, q_low = q.split([D - R, R], dim=1)
    k_std, k_low = k.split([D - R, R], dim=1)
    qf_low, kf_low = mix(q_low, k_low)
    qf = w_std.view(-1, 1, 1) * torch.cat([q_std, qf_low], dim=1)
    kf = torch.cat([k_std, kf_low], dim=1)
    return torch.stack([qf, kf, v]).view_as(rows)


# torch.lerp is exact at both ends, which (1 - g) a + g b is too but a + g (b - a) is not.


def fold_lerp(rows: Tensor, w_std: Tensor, w_rec: Tensor, R: int) -> Tensor:
    """The lerp fold, with a gate a head, w_rec [H], or a dimension, [H, R].

    w_rec = 0, w_std = 1 leaves the rows as they are; w_rec = 1 swaps q_low and k_low exactly.
    """
    g = w_rec.view(len(w_rec), -1, 1)
    return _with_low_slot(rows, w_std, R, lambda q, k: (torch.lerp(q, k, g), torch.lerp(k, q, g)))


def fold_lerp_keys(rows: Tensor, w_std: Tensor, w_rec: Tensor, R: int) -> Tensor:
    """The lerp fold of keys alone, w_rec [H]: Kf_low = (1 - g) k_low + g q_low, and queries stay."""
    g = w_rec.view(-1, 1, 1)
    return _with_low_slot(rows, w_std, R, lambda q, k: (q, torch.lerp(k, q, g)))


def fold_matrix(rows: Tensor, w_std: Tensor, w_rec: Tensor, R: int) -> Tensor:
    """The lerp fold with a matrix M = w_rec [H, R, R] for g: Qf_low = q + M (k - q), Kf_low = k + M (q - k).

    M = 0, w_std = 1 leaves the rows as they are; M = g I is the lerp, up to rounding.
    """

    def mix(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        # Autocast would make this product in half precision, before the one rounding that the fold leaves to its end.
        with torch.autocast(rows.device.type, enabled=False):
            change = w_rec @ (k - q)
        return q + change, k - change

    return _with_low_slot(rows, w_std, R, mix)


def fold_direct(rows: Tensor, w_std: Tensor, w_rec: Tensor, R: int) -> Tensor:
    """The RA v5 plan's literal layout: the rows are free [Qf|Kf|V], and the gates scale the two parts of Qf."""
    qf, kf, v = rows.unflatten(0, (3, w_std.numel(), -1))
    D = qf.size(1)
    gain = torch.cat([w_std.view(-1, 1).expand(-1, D - R), w_rec.view(-1, 1).expand(-1, R)], dim=1)
    return torch.stack([gain.unsqueeze(-1) * qf, kf, v]).view_as(rows)


@dataclass(frozen=True, kw_only=True)
class Fold:
    """A way to make rows that emit [Qf|Kf|V] of rows that emit [Q|K|V]. Where it changes nothing: RA_V5_AT_REST."""

    rows: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    """(rows [3C, K], w_std [H], w_rec [H, ...], R) -> folded rows [3C, K]."""

    unit: Callable[[int], Tensor] = lambda R: torch.ones(())
    """R -> a head's w_rec that is the gate 1; its shape is that of any."""

    in_kernel: bool = False
    """Whether gpt2/kernels/fold.py has it. On a GPU the others read and write the weights once more."""


FOLDS = {
    "lerp": Fold(rows=fold_lerp, in_kernel=True),
    "direct": Fold(rows=fold_direct, in_kernel=True),
    "lerp_dims": Fold(rows=fold_lerp, unit=torch.ones),
    "lerp_keys": Fold(rows=fold_lerp_keys),
    "matrix": Fold(rows=fold_matrix, unit=torch.eye),
}


def initial_w_rec(fold: str, n_head: int, R: int, gate_init: float | None = None) -> Tensor:
    """w_rec [n_head, ...] of a fold, each head's at the gate `gate_init`; None takes where it is the baseline."""
    value = RA_V5_AT_REST[fold] if gate_init is None else gate_init
    return torch.stack([value * FOLDS[fold].unit(R)] * n_head)


def fold_in_torch(
    fold: Fold, weight: Tensor, bias: Tensor | None, w_std: Tensor, w_rec: Tensor, R: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Weight [3C, C] and bias [3C] folded and cast, without a kernel of ours. The bias is folded as one more column."""
    folded = fold.rows(weight, w_std, w_rec, R).to(dtype)
    if bias is None:
        return folded, None
    return folded, fold.rows(bias.unsqueeze(1), w_std, w_rec, R).squeeze(1).to(dtype)


class UltimateRAv5(CausalSelfAttention):
    """Reciprocal attention at the cost of the baseline.

    n_embd, n_head, block_size: as in GPTConfig. R: width of the low slot, 1 <= R < n_embd / n_head. fold: one of FOLDS.
    gate_init: initial w_rec, of the matrix fold its diagonal; None takes the value at which the fold is the baseline
    (direct 1, others 0). learn_w_std, learn_w_rec: False holds a gate at its initial value. d_bias: learn a bias per
    head and key position.

    Parameters `w_std`, `w_rec` [n_head] (with the fold lerp_dims w_rec is [n_head, R], with matrix [n_head, R, R]), and
    `d_bias` [n_head, block_size] where asked for. Raises ValueError.
    """

    GATES = ("w_std", "w_rec", "d_bias")

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        block_size: int,
        R: int = 4,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        fold: str = "lerp",
        gate_init: float | None = None,
        learn_w_std: bool = True,
        learn_w_rec: bool = True,
        d_bias: bool = False,
    ) -> None:
        super().__init__(n_embd, n_head, dropout=dropout, bias=bias)
        if not 1 <= R < self.head_dim:
            raise ValueError(f"R={R} must be from 1 to {self.head_dim - 1}: a head is {self.head_dim} wide")
        if fold not in FOLDS:
            raise ValueError(f"fold={fold!r} is not one of {', '.join(FOLDS)}")
        self.R = R
        self.fold = fold
        self.w_std = nn.Parameter(torch.ones(n_head), requires_grad=learn_w_std)
        self.w_rec = nn.Parameter(initial_w_rec(fold, n_head, R, gate_init), requires_grad=learn_w_rec)
        self.d_bias = nn.Parameter(torch.zeros(n_head, block_size)) if d_bias else None

    def folded(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """Weight [3C, C] and bias [3C] (or None) of the standard attention layer that this layer is.

        In `dtype`, or in that of the parameters. The arithmetic is the parameters' in any case.
        """
        weight, bias, gates = self.c_attn.weight, self.c_attn.bias, (self.w_std, self.w_rec)
        fold = FOLDS[self.fold]
        if fold.in_kernel and kernels.usable(weight.device):
            return fold_cast(weight, bias, *gates, R=self.R, lerp=self.fold == "lerp", dtype=dtype or weight.dtype)
        return fold_in_torch(fold, weight, bias, *gates, self.R, dtype or weight.dtype)

    def gates_per_head(self) -> dict[str, Tensor]:
        """`w_rec_rms` [n_head], where w_rec is more than a number per head: |w_rec| / sqrt(R), |g| for M = g I."""
        if self.w_rec.dim() == 1:
            return {}
        norm = torch.linalg.vector_norm(self.w_rec, dim=tuple(range(1, self.w_rec.dim())))
        return {"w_rec_rms": norm / math.sqrt(self.w_rec.size(1))}

    def qkv(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [Qf|Kf|V], [B, T, 3C]. A generation folds once: `cache` keeps what came out."""
        # Any other pass folds anew. Nothing tells for certain that a weight has not been written to since the last one
        # (through `.data` it leaves no trace), and of a batch's pass the fold takes next to nothing.
        dtype = autocast_dtype(x)
        if cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            weight, bias = self.folded(dtype)
        else:
            weight, bias = cache.once(dtype, lambda: self.folded(dtype))
        return linear(x, weight, bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        """x [B, T, C] -> [B, T, C]. With `cache`, x are the positions that follow the cached ones."""
        if self.d_bias is None:
            return super().forward(x, cache)
        q, k, v = self.heads(x, cache)
        if cache is not None:
            k, v = cache.append(k, v)
        q, k, v = self._give_dimension_to_bias(q, k, v)
        y = causal_attention(q, k, v, dropout=self.dropout if self.training else 0.0, scale=self.scale)
        return self.project(merge_heads(y[..., : self.head_dim]))

    def _give_dimension_to_bias(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Widen heads by one more dimension (padded to 8, as flash kernels like it) whose product is d[h, j].

        The score of query i and key j gains d[h, j]: a column bias without a T x T mask. Softmax ignores what is the
        same for all keys, so d is not centred here but only where it is shown.
        """
        assert self.d_bias is not None
        d = (self.d_bias[:, : k.size(-2)] / self.scale).to(k.dtype)
        pad = 8
        q = torch.cat([q, F.pad(q.new_ones(*q.shape[:-1], 1), (0, pad - 1))], dim=-1)
        k = torch.cat([k, F.pad(d[None, ..., None].expand(*k.shape[:-1], 1), (0, pad - 1))], dim=-1)
        return q, k, F.pad(v, (0, pad))


LOW_SLOTS = ("keep", "least", "most")
"""What `convert_qkv_to_ra_v5` may put into the low slot."""


@torch.no_grad()
def convert_qkv_to_ra_v5(qkv_weights: Tensor, R: int = 4, *, n_head: int | None = None, low: str = "keep") -> Tensor:
    """Rows for `c_attn` of RA v5 that give the baseline's output where the fold is the baseline (see `gate_init`).

    qkv_weights: the baseline's rows [Q|K|V], [3C, C], or [3C, C + 1] with the bias as the last column. Returns the same
    shape and type. For any R, the baseline's rows themselves are such rows: low="keep". But q -> A q, k -> A^-T k
    leaves a head's scores alone, so what its low slot holds can be chosen. With M = W_q^T W_k of each of `n_head` heads
    (biases included, if given), the slot's part of M becomes

    - "least": the part along M's R smallest singular values. No other slot takes less of M's energy (squared norm).
    - "most": along its R largest: the slot is the best approximation of the head's scores by R dimensions.

    Queries and keys then have the same norm in each dimension. If the layer has a bias, it has to be given. ValueError
    where shapes, R or `low` are wrong.
    """
    rows, columns = qkv_weights.shape if qkv_weights.dim() == 2 else (0, 0)
    C = rows // 3
    if rows == 0 or rows % 3 or columns not in (C, C + 1):
        raise ValueError(f"qkv_weights is {tuple(qkv_weights.shape)}: must be [3C, C], or [3C, C + 1] with a bias")
    if low not in LOW_SLOTS:
        raise ValueError(f"low={low!r} is not one of {', '.join(LOW_SLOTS)}")
    if n_head is None and low != "keep":
        raise ValueError(f"low={low!r} needs n_head: each head is rotated by itself")
    H = n_head or 1
    if H < 1 or C % H:
        raise ValueError(f"n_head={n_head} does not divide the width C={C}")
    if not 1 <= R < C // H:
        raise ValueError(f"R={R} must be from 1 to {C // H - 1}: a head is {C // H} wide")
    if low == "keep":
        return qkv_weights.clone()
    q, k, v = qkv_weights.unflatten(0, (3, H, -1))
    q, k = _in_singular_basis(q.double(), k.double())
    if low == "most":
        q, k = q.flip(1), k.flip(1)
    return torch.stack([q.to(v.dtype), k.to(v.dtype), v]).view_as(qkv_weights)


def _in_singular_basis(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q', k' [H, D, K] with q'^T k' = q^T k, whose rows are its singular vectors times the root of the singular value.

    Largest first. q^T k is [K, K] but has rank D: its decomposition is made from that of a D x D core.
    """
    q_basis, q_core = torch.linalg.qr(q.mT)
    k_basis, k_core = torch.linalg.qr(k.mT)
    u, s, vh = torch.linalg.svd(q_core @ k_core.mT)
    root = s.sqrt().unsqueeze(-2)
    return (q_basis @ (u * root)).mT, (k_basis @ (vh.mT * root)).mT
