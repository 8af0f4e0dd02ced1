"""From tokens to batches. Everything here is a pure function of (data, seed, step): resuming needs no state.

    x, y = train_batch(open_dataset(config.data), seed=1, step=0, batch_size=16, block_size=1024)

`batches` yields the same with a thread that works ahead, on the device; `eval_set` is what evaluation sees.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gpt2.base.errors import UserError
from gpt2.data.dataset import Dataset
from gpt2.data.evaluation import EvalDataset
from gpt2.data.token_files import Tokens

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, int64 [B, T] each: y[:, t] is the token that follows x[:, : t + 1]."""

_AHEAD = 3  # steps that `batches` works ahead


def train_batch(
    dataset: Dataset,
    *,
    seed: int,
    step: int,
    batch_size: int,
    block_size: int,
    micro_step: int = 0,
    accumulation: int = 1,
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """Micro-batch `micro_step` of `rank` in optimizer step `step` (the first is 0), on the CPU.

    An epoch is every window of `block_size` targets once, in an order drawn from (data hash, seed, epoch). Step after
    step takes the next `batch_size * accumulation * world_size` of them; how these are split between micro-batches and
    ranks decides neither which they are nor, from one batch size to another, their order.

    Raises UserError if the training tokens do not fill one window.
    """
    n_windows = _windows(dataset.path, dataset.train, "training", block_size)
    # The last window of an epoch is given up for a random offset, so that windows are cut elsewhere each time.
    n_windows = max(1, n_windows - 1)
    first = (step * accumulation + micro_step) * world_size + rank
    entries = first * batch_size + np.arange(batch_size)
    starts = np.empty(batch_size, dtype=np.int64)
    for epoch in range(int(entries[0]) // n_windows, int(entries[-1]) // n_windows + 1):
        order, random = _epoch_order(dataset.hash, seed, epoch, n_windows)
        here = entries // n_windows == epoch
        offset = random % min(block_size, len(dataset.train) - n_windows * block_size)
        starts[here] = order[entries[here] % n_windows] * np.int64(block_size) + offset
    return _gather(dataset.train, starts, block_size)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalSet:
    """What every evaluation of a run sees, in batches of one shape."""

    batches: list[Batch]
    """The last is filled up with sequences whose targets are -1: a loss ignores them."""

    counts: list[int]
    """Targets of each batch, without those of -1."""

    n_bytes: int | None
    """UTF-8 bytes of text that the targets stand for; None where that is not known."""

    @property
    def n_targets(self) -> int:
        """Targets in all."""
        return sum(self.counts)

    def to(self, device: torch.device) -> EvalSet:
        """The same on `device`."""
        return dataclasses.replace(self, batches=[(x.to(device), y.to(device)) for x, y in self.batches])

    def dealt(self, rank: int, world_size: int) -> list[Batch]:
        """The batches that are `rank`'s, every `world_size`th.

        All ranks have as many, so that they can take turns at what they do together: where it does not divide, some
        have the last one once more (`put_together` leaves that out).
        """
        last = len(self.batches) - 1
        return [self.batches[min(i + rank, last)] for i in range(0, last + 1, world_size)]

    def put_together(self, losses: Sequence[Sequence[float]]) -> list[float]:
        """The losses of all batches, in order, from those of each rank's."""
        return [loss for turn in zip(*losses, strict=True) for loss in turn][: len(self.batches)]

    def mean(self, losses: Sequence[float]) -> float:
        """Mean loss per target from each batch's mean, [n_batches]: the same for every batch size, but for rounding."""
        return math.fsum(loss * n for loss, n in zip(losses, self.counts, strict=True)) / self.n_targets

    def bits_per_byte(self, loss: float) -> float | None:
        """Bits per byte of the targets' text from their mean loss in nats; None where the bytes are not known."""
        return loss * self.n_targets / (math.log(2) * self.n_bytes) if self.n_bytes else None


def eval_set(dataset: Dataset | EvalDataset, *, batch_size: int, block_size: int, eval_tokens: int) -> EvalSet:
    """The same windows every time, spread evenly over the validation tokens, until they have `eval_tokens` targets.

    Which they are depends on neither `batch_size` nor a random number. With `eval_tokens` 0, or more than there are,
    every validation token but the first is a target once. Raises UserError if they do not fill one window.
    """
    starts = eval_starts(dataset, block_size=block_size, eval_tokens=eval_tokens)
    counts = np.minimum(block_size, len(dataset.val) - 1 - starts)
    # The last window of all may be short.
    tokens = np.full((-(-len(starts) // batch_size) * batch_size, block_size + 1), -1, dtype=np.int64)
    for row, start, count in zip(tokens, starts.tolist(), counts.tolist(), strict=False):
        row[: count + 1] = dataset.val.read(start, count + 1)
    x, y = torch.from_numpy(tokens[:, :-1].clip(min=0)), torch.from_numpy(tokens[:, 1:].copy())
    table = dataset.token_bytes
    return EvalSet(
        batches=list(zip(x.split(batch_size), y.split(batch_size), strict=True)),
        counts=[int((part >= 0).sum()) for part in y.split(batch_size)],
        n_bytes=None if table is None else int(table[tokens[:, 1:][tokens[:, 1:] >= 0]].sum()),
    )


def eval_starts(dataset: Dataset | EvalDataset, *, block_size: int, eval_tokens: int) -> np.ndarray:
    """Where the windows of `eval_set` begin, int64 [n]. Raises UserError if the validation tokens do not fill one."""
    _windows(dataset.path, dataset.val, "validation", block_size)
    there = -(-(len(dataset.val) - 1) // block_size)
    n = min(-(-eval_tokens // block_size) or there, there)
    return np.arange(n) * there // n * block_size


def batches(
    dataset: Dataset,
    *,
    seed: int,
    start_step: int,
    batch_size: int,
    block_size: int,
    accumulation: int = 1,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Generator[list[Batch], None, None]:
    """The micro-batches of step `start_step`, of the one after it, and so on without end, on `device`.

    One thread makes them ahead of time, in pinned memory if `device` is a GPU; what goes wrong in it is raised here.
    Close the generator (or drop it) to end the thread.
    """
    device = torch.device(device)

    def make(step: int) -> list[Batch]:
        made = [
            train_batch(
                dataset,
                seed=seed,
                step=step,
                batch_size=batch_size,
                block_size=block_size,
                micro_step=micro_step,
                accumulation=accumulation,
                rank=rank,
                world_size=world_size,
            )
            for micro_step in range(accumulation)
        ]
        return [(x.pin_memory(), y.pin_memory()) for x, y in made] if device.type == "cuda" else made

    def start_thread() -> None:
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # else pinning would open a context on GPU 0 from every rank

    with ThreadPoolExecutor(1, "batches", initializer=start_thread) as thread:
        steps = itertools.count(start_step)
        pending = collections.deque(thread.submit(make, next(steps)) for _ in range(_AHEAD))
        while True:
            micro_batches = pending.popleft().result()
            pending.append(thread.submit(make, next(steps)))
            yield [(x.to(device, non_blocking=True), y.to(device, non_blocking=True)) for x, y in micro_batches]


def check_windows(dataset: Dataset, *, block_size: int) -> None:
    """Raise UserError if training or validation tokens do not fill one window of `block_size` targets."""
    for split, tokens in {"training": dataset.train, "validation": dataset.val}.items():
        _windows(dataset.path, tokens, split, block_size)


def check_eval_windows(datasets: Mapping[str, EvalDataset], *, block_size: int) -> None:
    """Raise UserError if the tokens of one of EVAL_DATASETS do not fill one window of `block_size` targets."""
    for name, dataset in datasets.items():
        _windows(Path(f"EVAL_DATASETS: {name}={dataset.path}"), dataset.val, "validation", block_size)


def _windows(path: Path, tokens: Tokens, split: str, block_size: int) -> int:
    """How many windows of `block_size` targets fit: neighbours share one token, the last target of one being the
    first input of the next. Raises UserError if none does."""
    n_tokens = len(tokens)
    if n_tokens <= block_size:
        raise UserError(
            f"{path}: {n_tokens:,} {split} tokens do not fill one sequence of BLOCK_SIZE={block_size} and its "
            f"last target: take a BLOCK_SIZE below {max(n_tokens, 2):,}, or more text"
        )
    return (n_tokens - 1) // block_size


@functools.lru_cache(maxsize=2)
def _epoch_order(data_hash: str, seed: int, epoch: int, n_windows: int) -> tuple[np.ndarray, int]:
    """The order of an epoch's windows, uint32 [n_windows], and a random number to place them by.

    Sorting random keys that carry the index in their low bits is a permutation, and uses nothing of NumPy but the
    raw Philox stream, which is the same in every version.
    """
    key = hashlib.blake2b(f"{data_hash} {seed} {epoch}".encode(), digest_size=16).digest()
    random = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(n_windows + 1)
    index_mask = np.uint64((1 << n_windows.bit_length()) - 1)
    keys = (random[1:] & ~index_mask) | np.arange(n_windows, dtype=np.uint64)
    keys.sort()
    return (keys & index_mask).astype(np.uint32), int(random[0])


def _gather(tokens: Tokens, starts: np.ndarray, block_size: int) -> Batch:
    """The windows that begin at `starts`, [B], as inputs and targets, [B, T] each."""
    windows = torch.from_numpy(np.stack([tokens.read(int(start), block_size + 1) for start in starts]))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
