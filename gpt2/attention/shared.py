"""What every arm shares: the one call of scaled_dot_product_attention, and what a layer keeps of earlier tokens."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

Made = TypeVar("Made")


class LayerCache:
    """What one layer keeps of earlier positions, for generation: tensors that grow along dimension -2.

    Room for `block_size` positions is taken at the first `append`, so that a step copies only what is new. A cache is
    of the weights it was begun with: what they made of earlier positions it holds, and `once` what is made of them.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.length = 0
        self._buffers: tuple[Tensor, ...] = ()
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returned when it was first called for `key` here: for what depends on weights, not on tokens."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def append(self, *new: Tensor) -> tuple[Tensor, ...]:
        """Add positions to each of the cached tensors, [..., T, d] each; returns all of them so far, [..., S, d].

        The number of tensors is the variant's and stays the same. Raises ValueError beyond `block_size` positions.
        """
        end = self._end(new)
        self._take_room(self.block_size, new)
        for buffer, t in zip(self._buffers, new, strict=True):
            buffer[..., self.length : end, :] = t
        self.length = end
        return tuple(buffer[..., :end, :] for buffer in self._buffers)

    def slide(self, window: int, *new: Tensor) -> tuple[Tensor, ...]:
        """As `append`, where a position needs the last `window` only, its own among them: the others are not kept.

        Returns the window - 1 positions before the new ones, as far as there are so many, and the new ones.
        """
        end = self._end(new)
        room = min(window - 1, self.block_size)
        self._take_room(room, new)
        kept = min(self.length, room)
        whole = tuple(torch.cat([b[..., :kept, :], t], dim=-2) for b, t in zip(self._buffers, new, strict=True))
        keep = min(end, room)
        for buffer, t in zip(self._buffers, whole, strict=True):
            buffer[..., :keep, :] = t[..., t.size(-2) - keep :, :]
        self.length = end
        return whole

    def _end(self, new: tuple[Tensor, ...]) -> int:
        end = self.length + new[0].size(-2)
        if end > self.block_size:
            raise ValueError(f"{end} positions do not fit into a cache of block_size={self.block_size}")
        return end

    def _take_room(self, positions: int, new: tuple[Tensor, ...]) -> None:
        if not self._buffers:
            self._buffers = tuple(t.new_empty(*t.shape[:-2], positions, t.size(-1)) for t in new)

    def bytes_per_token(self) -> float:
        """Bytes that a position of one sequence takes, as allocated, mean over a whole context."""
        return sum(b.numel() * b.element_size() / (b.size(0) * self.block_size) for b in self._buffers)


def causal_attention(
    q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0, scale: float | None = None, window: int | None = None
) -> Tensor:
    """softmax(q k^T * scale, causal) v in one scaled_dot_product_attention call.

    q [B, H, T, D]; k, v [B, H, S, D] with S >= T: the queries are the last T of S positions. With `window` a query sees
    the last so many positions, its own among them, instead of all. Returns [B, H, T, D].
    """
    T, S = q.size(-2), k.size(-2)
    windowed = window is not None and window < S
    mask = None
    # SDPA's own causal mask is aligned to the first key, which is right for T = S alone.
    if 1 < T < S or windowed:
        mask = q.new_ones(T, S, dtype=torch.bool).tril(S - T)
        if window is not None:
            mask = mask.triu(S - T - window + 1)
    causal = T == S and not windowed
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale)


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[B, T, H * D] -> [B, H, T, D], without a copy."""
    return x.unflatten(-1, (n_head, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H * D]."""
    return x.transpose(1, 2).flatten(2)
