"""How fast batches come when nobody trains on them. `scripts/benchmark_data.py` is the command."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gpt2.data import Dataset, batches
from gpt2.errors import UserError
from harness.timing import Times, calls_lasting, round_robin, wall_ms

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


def write_random_tokens(folder: Path, *, vocab_size: int, n_tokens: int, n_val: int = 1) -> None:
    """Training and validation tokens below `vocab_size`, as raw files. The same ones every time."""
    if not 1 <= vocab_size <= 65536:
        raise UserError(f"a vocabulary of {vocab_size} tokens: must be from 1 to 65536, what uint16 holds")
    random = np.random.default_rng(1)
    for split, n in {"train": n_tokens, "val": n_val}.items():
        random.integers(vocab_size, size=n, dtype=np.uint16).tofile(folder / f"{split}.bin")


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
