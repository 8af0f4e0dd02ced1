"""From tokens to batches. Everything here is a pure function of (data, seed, step): resuming needs no state.

    x, y = train_batch(open_dataset(config.data), seed=1, step=0, batch_size=16, block_size=1024)

`batches` yields the same with a thread that works ahead, on the device; `eval_batches` what evaluation sees.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from gpt2.base.errors import UserError
from gpt2.data.dataset import Dataset
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
    n_windows = _windows(dataset.train, block_size)
    if n_windows == 0:
        raise UserError(f"{dataset.path}: {len(dataset.train)} training tokens; BLOCK_SIZE={block_size} needs one more")
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


def eval_batches(dataset: Dataset, *, batch_size: int, block_size: int, iters: int) -> Iterator[Batch]:
    """What evaluation sees: the same `iters` batches each time, of windows spread evenly over the validation tokens.

    Where those fill fewer batches, there are fewer; windows that do not fill a batch are left out, so that all
    batches have one shape. Raises UserError if not even one is filled.
    """
    n_windows = _windows(dataset.val, block_size)
    n_batches = min(iters, n_windows // batch_size)
    if n_batches == 0:
        raise UserError(
            f"{dataset.path}: {len(dataset.val)} validation tokens do not fill a batch of BATCH_SIZE={batch_size} "
            f"sequences of BLOCK_SIZE={block_size}: they hold {n_windows}"
        )
    n = n_batches * batch_size
    starts = np.arange(n) * n_windows // n * block_size
    for batch in starts.reshape(n_batches, batch_size):
        yield _gather(dataset.val, batch, block_size)


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


def _windows(tokens: Tokens, block_size: int) -> int:
    """How many windows of `block_size` targets fit: neighbours share one token, the last target of one being the
    first input of the next."""
    return (len(tokens) - 1) // block_size


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
