"""How fast batches come when nobody trains on them. `scripts/benchmark_data.py` is the command."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import torch

from gpt2.data.batches import batches
from gpt2.data.dataset import Dataset
from harness.measure.timing import Times, calls_lasting, round_robin, wall_ms

_MS = 300.0
"""How long a measurement takes, about: many times as many steps as the loader works ahead."""


@dataclass(frozen=True, kw_only=True)
class Supply:
    """What a loader yields."""

    step: Times
    """From one step's micro-batches to the next one's."""

    batches_per_s: float
    """Micro-batches, by the median."""

    tokens_per_s: float


def benchmark_batches(
    dataset: Dataset,
    device: torch.device,
    *,
    batch_size: int,
    block_size: int,
    accumulation: int,
    repeats: int,
) -> Supply:
    """Take `repeats` measurements, of many steps in a row each, of the trainer's own loader."""
    stream = batches(
        dataset,
        seed=1,
        start_step=0,
        batch_size=batch_size,
        block_size=block_size,
        accumulation=accumulation,
        device=device,
    )

    def take() -> None:
        next(stream)

    with closing(stream):
        # Nothing rests between measurements, or the next would begin with what was made ahead in the meantime.
        calls = calls_lasting(_MS, take, device)
        samples = round_robin({"step": lambda: wall_ms(take, calls, device)}, repeats)["step"]
    step = Times.of(samples)
    per_s = 1000 * accumulation / step.median
    return Supply(step=step, batches_per_s=per_s, tokens_per_s=per_s * batch_size * block_size)
