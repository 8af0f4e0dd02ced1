"""What the heads of a model do on a text: their scores, and numbers that sum them up.

    heads = observe(model, tokens)

Queries and keys are taken as they enter scaled_dot_product_attention during an ordinary forward pass. Whatever a
variant does to make them is in them, and nothing of it is repeated here.

Throughout, S[i, j] is the score of query i and key j before the softmax, scale included, for *all* pairs: the causal
mask hides S[i, j] for j > i from the model, but queries and keys define it. A[i, j] is the attention, j <= i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.base.errors import UserError
from gpt2.folds import RA_V5_AT_REST
from gpt2.machine.sdpa import Watched
from gpt2.model import GPT

Array = NDArray[np.float64]


class NotInspectableError(UserError):
    """Of a variant whose queries and keys are not the whole story of what it attends to."""


MIN_TOKENS = 3
"""The fewest tokens of which a correlation over pairs can be taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """One number per head."""

    name: str
    """Of its column and key in files."""

    title: str
    meaning: str
    """One sentence, unit included."""

    values: Array
    """[n_layer, n_head]; NaN where it is not defined, as the correlation of something constant."""

    centre: float | None = None
    """The value that means "nothing": of a gate the baseline's, of a correlation 0. None if there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Heads:
    """All heads of a model on one text of T tokens."""

    measures: Sequence[Measure]

    bins: Sequence[tuple[int, int]]
    """Distances i - j between query and key, from and to, both included."""

    distance_profile: Array
    """[n_layer, n_head, len(bins)]: the share of attention that goes so far back, mean over the queries."""

    scores: Array
    """S of the first tokens, [n_layer, n_head, n, n]. The attention among them is that of the whole text."""

    d_bias: Array | None
    """The discoverability bias, [n_layer, n_head, T], less each head's mean; None where the variant has none."""


class Call(NamedTuple):
    """The arguments of one call of scaled_dot_product_attention: q, k, v [..., T, width] and the scale."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float

    def scores(self, dims: slice = slice(None)) -> Tensor:
        """What `dims` of the heads contribute to S, [..., T, T] in float64. All of them: S."""
        q, k = (t[..., dims].double() for t in (self.q, self.k))
        return (q * self.scale) @ k.mT

    def heads(self) -> list[Call]:
        """The same, head by head, of q, k, v [H, T, width]."""
        return [Call(*qkv, self.scale) for qkv in zip(self.q, self.k, self.v, strict=True)]


@torch.no_grad()
def attention_calls(model: GPT, tokens: Tensor) -> list[Call]:
    """What enters attention in each layer of a forward pass over `tokens` [T].

    NotInspectableError if the variant does not call scaled_dot_product_attention once a layer, causally: of anything
    else the scores would not be the whole story.
    """
    recorded: list[Call | None] = []
    with Watched(lambda *args, **kwargs: recorded.append(_call(*args, **kwargs))):
        model(tokens.unsqueeze(0))
    calls = [call for call in recorded if call is not None]
    if len(recorded) != len(calls) or len(calls) != model.config.n_layer:
        raise NotInspectableError(
            f"ATTENTION_{model.config.attention.upper()}: {len(calls)} causal calls of scaled_dot_product_attention in "
            f"{model.config.n_layer} layers; only variants with exactly one a layer can be inspected"
        )
    return calls


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call | None:
    """The arguments, which are scaled_dot_product_attention's, of a causal call for one sequence; None for another."""
    if attn_mask is not None or not is_causal:
        return None
    return Call(query[0], key[0], value[0], query.size(-1) ** -0.5 if scale is None else scale)


def observe(model: GPT, tokens: Tensor, keep: int | None = None) -> Heads:
    """Measure every head on `tokens` [T], T >= MIN_TOKENS, and keep the scores of the first `keep` (None: all).

    Raises UserError as `attention_calls`.
    """
    D, T = model.config.head_dim, len(tokens)
    measured: list[list[dict[str, Tensor]]] = []
    for layer, call in zip(model.attention, attention_calls(model, tokens), strict=True):
        R = getattr(layer, "R", 0)
        # Head by head: what a head's T x T takes fits into a processor's cache.
        heads = [_measured(head, D, R) | {"scores": head.scores()[:keep, :keep]} for head in call.heads()]
        measured.append(heads)
    # What a layer's attention has no part of, such as a low slot, is not a number there.
    of_some = {name: of for heads in measured for name, of in heads[0].items()}
    columns = {
        name: [[head.get(name, torch.full_like(of, math.nan)) for head in heads] for heads in measured]
        for name, of in of_some.items()
    }
    arrays = {name: torch.stack([torch.stack(row) for row in rows]).numpy() for name, rows in columns.items()}
    scores, profile = arrays.pop("scores"), arrays.pop("distance_profile")
    return Heads(
        measures=[*_gates(model), *(_described(name, values) for name, values in arrays.items())],
        bins=distance_bins(T),
        distance_profile=profile,
        scores=scores,
        d_bias=_d_bias(model, T),
    )


def _measured(head: Call, D: int, R: int) -> dict[str, Tensor]:
    """Every measure of one head, of width D, whose low slot is its last R dimensions. What lies behind is d_bias."""
    scores = head.scores()
    attention = causal_softmax(scores)
    measured = {
        "entropy": entropy(attention),
        "relative_entropy": relative_entropy(attention),
        "reciprocity": reciprocity(scores),
        "centred_reciprocity": reciprocity(double_centred(scores)),
        "distance_profile": distance_profile(attention),
    }
    if R:
        measured["low_share"] = variance_share(head.scores(slice(D - R, D)), scores)
    if head.q.size(-1) > D:
        measured["bias_share"] = variance_share(head.scores(slice(D, None)), scores)
    return measured


# Of scores and attention, [..., T, T] each, to numbers, [...]


def causal_softmax(scores: Tensor) -> Tensor:
    """A of S."""
    return scores.masked_fill(_causal(scores) == 0, -torch.inf).softmax(dim=-1)


def entropy(attention: Tensor) -> Tensor:
    """Entropy of the attention of a query over its keys, in nats, mean over the queries."""
    return torch.special.entr(attention).sum(dim=-1).mean(dim=-1)


def relative_entropy(attention: Tensor) -> Tensor:
    """Entropy over ln(number of keys): 1 is uniform. Mean over the queries but the first, which has one key only."""
    most = torch.arange(2, attention.size(-1) + 1, dtype=attention.dtype).log()
    return (torch.special.entr(attention).sum(dim=-1)[..., 1:] / most).mean(dim=-1)


def reciprocity(scores: Tensor) -> Tensor:
    """Pearson's correlation of S[i, j] with S[j, i] over the pairs i > j. NaN where either side is constant."""
    pairs = _causal(scores).tril(-1)
    x, y = (_deviations(s, pairs, dim=(-2, -1)) for s in (scores, scores.mT))
    return (x * y).sum(dim=(-2, -1)) / (x.square().sum(dim=(-2, -1)) * y.square().sum(dim=(-2, -1))).sqrt()


def double_centred(scores: Tensor) -> Tensor:
    """S less the mean of its row and of its column, plus the mean of all: what is particular to a pair.

    Softmax does not see a constant added to a row of S, and so nothing that is learned decides it; but it moves the
    correlation of S with its transpose. Taking the rows' means away settles it, and taking the columns' away as well
    keeps what is symmetric symmetric.
    """
    rows, columns = scores.mean(dim=-1, keepdim=True), scores.mean(dim=-2, keepdim=True)
    return scores - rows - columns + scores.mean(dim=(-2, -1), keepdim=True)


def variance_share(part: Tensor, scores: Tensor) -> Tensor:
    """What share of the variance of S = part + rest is the part's: cov(part, S) / var(S). NaN where S is constant.

    The variance is over the keys j <= i of a query, pooled over the queries: a constant in a row, which softmax does
    not see, is no part of it. Shares of parts add up to 1; one that works against the others is negative.
    """
    share, total = (_deviations(s, _causal(scores), dim=-1) for s in (part, scores))
    return (share * total).sum(dim=(-2, -1)) / total.square().sum(dim=(-2, -1))


def distance_profile(attention: Tensor) -> Tensor:
    """The share of attention at the distances of each of `distance_bins`, mean over the queries, [..., bins]."""
    T = attention.size(-1)
    distance = (torch.arange(T).unsqueeze(1) - torch.arange(T)).clamp(min=0)
    first = torch.tensor([first for first, _ in distance_bins(T)])
    bins = torch.bucketize(distance, first, right=True) - 1
    profile = attention.new_zeros(*attention.shape[:-2], len(first))
    return profile.index_add_(-1, bins.flatten(), attention.flatten(-2)) / T


def distance_bins(T: int) -> list[tuple[int, int]]:
    """0, 1, 2 to 3, 4 to 7, ... up to T - 1."""
    return [(0, 0), *((1 << b, min((2 << b) - 1, T - 1)) for b in range((T - 1).bit_length()))]


def _causal(scores: Tensor) -> Tensor:
    """[T, T], 1 where j <= i and 0 elsewhere."""
    return scores.new_ones(scores.shape[-2:]).tril()


def _deviations(scores: Tensor, pairs: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """S less its mean over `dim`, where `pairs` [T, T] is 1, and 0 elsewhere.

    0 everywhere if S is constant there but for rounding: the correlation of rounding errors means nothing.
    """
    mean = (scores * pairs).sum(dim=dim, keepdim=True) / pairs.sum(dim=dim, keepdim=True)
    deviations = (scores - mean) * pairs
    rounding = 16 * torch.finfo(scores.dtype).eps * scores.abs().amax(dim=(-2, -1), keepdim=True)
    return deviations * (deviations.abs().amax(dim=(-2, -1), keepdim=True) > rounding)


# What is read off the parameters, and what everything is called


def _gates(model: GPT) -> list[Measure]:
    """The gates, [n_layer, n_head] each."""
    # Where the fold is the baseline: docs/ra-v5.md.
    centres = {"w_std": 1.0, "w_rec": RA_V5_AT_REST[model.config.ra_v5_fold], "w_rec_rms": 0.0}
    meanings = {
        "w_std": "Gate on the queries: the head's inverse temperature.",
        "w_rec": "Gate on the low slot: how far queries and keys are exchanged there.",
        "w_rec_rms": "Size of w_rec, root mean square over the low slot's dimensions: |g| where it is g in each.",
    }
    return [
        Measure(
            name=name,
            title=name,
            meaning=meanings.get(name, "A gate."),
            values=values.double().numpy(),
            centre=centres.get(name),
        )
        for name, values in model.gates().items()
    ]


def _d_bias(model: GPT, T: int) -> Array | None:
    """d [n_layer, n_head, T] less its mean over positions: softmax sees differences only. NaN in layers without one."""
    biases: list[Any] = [getattr(layer, "d_bias", None) for layer in model.attention]
    shown = [None if bias is None else bias.detach()[:, :T].double() for bias in biases]
    some = next((d for d in shown if d is not None), None)
    if some is None:
        return None
    d = torch.stack([torch.full_like(some, math.nan) if d is None else d for d in shown])
    centred: Array = (d - d.mean(dim=-1, keepdim=True)).numpy()
    return centred


def _described(name: str, values: Array) -> Measure:
    title, meaning, centre = _DESCRIPTIONS[name]
    return Measure(name=name, title=title, meaning=meaning, values=values, centre=centre)


_DESCRIPTIONS: dict[str, tuple[str, str, float | None]] = {
    "entropy": (
        "entropy (nats)",
        "Entropy of a query's attention over its keys, in nats, mean over the queries.",
        None,
    ),
    "relative_entropy": (
        "relative entropy",
        "Entropy over the logarithm of the number of keys, mean over the queries: 1 is uniform, 0 a single key.",
        None,
    ),
    "reciprocity": (
        "reciprocity",
        "Correlation of the scores S[i, j] with S[j, i] over the pairs i > j: 1 if i scores j as j scores i.",
        0.0,
    ),
    "centred_reciprocity": (
        "centred reciprocity",
        "Reciprocity after the means of rows and columns are taken out of S: of what is particular to the pair.",
        0.0,
    ),
    "low_share": (
        "low share",
        "Share of the low slot in the variance of the scores over a query's keys.",
        0.0,
    ),
    "bias_share": (
        "bias share",
        "Share of the discoverability bias in the variance of the scores over a query's keys.",
        0.0,
    ),
}
