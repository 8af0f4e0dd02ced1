"""An exponential moving average of the weights, kept on the device beside them and used for evaluation alone.

After t steps it is sum_i d^(t-i) w_i / sum_i d^(t-i) over the weights w_1 .. w_t after each of them: initial weights
have no part in it, as in Adam's correction of its moments (arXiv:1412.6980, section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpt2.base.errors import UserError


class WeightAverage:
    """Of a model's parameters that learn. `decay`: d, from 0 to below 1."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights as they are after so many steps, one step after the other from 1 on."""
        share = (1 - self._decay) / (1 - self._decay**steps)  # 1 after the first
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the average where the weights are, for a block; not a bit of either changes."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # By their contents: compiled code and CUDA graphs know where the weights are. One at a time, for the memory.
        for name, weight in self._weights.items():
            kept = weight.clone()
            weight.copy_(self._average[name])
            self._average[name].copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The average, by the names of the parameters."""
        return self._average

    def load_state_dict(self, state: Any, *, origin: str) -> None:
        """Take up what `state_dict` has given. UserError, beginning with `origin`, where it is none of this model."""
        ours = {name: average.shape for name, average in self._average.items()}
        theirs = {name: getattr(of, "shape", None) for name, of in state.items()} if isinstance(state, dict) else None
        if theirs != ours:
            raise UserError(f"{origin}: its 'ema' is no average of this run's weights (EMA_DECAY={self._decay:g})")
        for name, average in self._average.items():
            average.copy_(state[name])
