"""From token files to batches. Everything here is a pure function of (data, seed, step): resuming needs no state.

    dataset = open_dataset(config.data)
    x, y = train_batch(dataset, seed=1, step=0, batch_size=16, block_size=1024)

`batches` yields the same with a thread that works ahead, on the device; `eval_batches` what evaluation sees.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt2.config import DataConfig
from gpt2.corpora import Corpus, open_corpus
from gpt2.errors import UserError
from gpt2.token_files import Tokens
from gpt2.tokenizer import load_tokenizer

Batch = tuple[torch.Tensor, torch.Tensor]
"""Inputs and targets, int64 [B, T] each: y[:, t] is the token that follows x[:, : t + 1]."""

_AHEAD = 3  # steps that `batches` works ahead


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and validation tokens, checked: whole files, every token below `vocab_size`."""

    name: str
    """"stdlib", "text", "shakespeare", "openwebtext", "finewebedu" or "bin"."""

    tokenizer: str
    """"byte" or "gpt2". For "bin" it is what the configuration says."""

    path: Path
    """The directory of the token files."""

    hash: str
    """SHA-256 (hex) over the tokens of both splits: the same tokens in other files have the same hash."""

    vocab_size: int
    """Distinct tokens, before padding."""

    train: Tokens
    val: Tokens

    val_bytes_per_token: float | None
    """UTF-8 bytes of text per validation token, document boundaries included among the tokens but standing for no
    text: bits per byte = nats per token / (ln 2 * this). None where it is not known."""

    val_bytes_unknown: str | None
    """Why `val_bytes_per_token` is None, in one line."""

    @property
    def train_tokens(self) -> int:
        return len(self.train)

    @property
    def val_tokens(self) -> int:
        return len(self.val)


def prepared_path(config: DataConfig) -> Path:
    """The directory of the prepared data set: its name has a hash of everything that decides its tokens.

    Raises UserError if there are no such files to prepare it from.
    """
    recipe = json.dumps(recipe_of(config, open_corpus(config)), sort_keys=True)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    return Path(config.data_dir, f"{config.dataset}-{config.tokenizer}-{key}")


def recipe_of(config: DataConfig, corpus: Corpus) -> dict[str, Any]:
    """Everything that decides which tokens come out of preparing `corpus`."""
    return corpus.recipe | {
        "dataset": config.dataset,
        "tokenizer": config.tokenizer,
        "val_fraction": config.val_fraction,
        "max_tokens": config.max_tokens,
    }


def open_dataset(config: DataConfig) -> Dataset:
    """The data set that `config` names. Never prepares or downloads one.

    The first opening reads all tokens once, to hash them; `<data_dir>/scans.json` remembers the result.

    Raises UserError if it is not prepared, if files are missing, damaged or changed, or hold tokens beyond the
    vocabulary.
    """
    if config.dataset == "bin":
        path = Path(config.bin_dir)
        dataset = dataset_from_files(config, path, train=_bin_files(path, "train"), val=_bin_files(path, "val"))
        return _with_bytes(dataset)
    path = prepared_path(config)
    if not (path / "meta.json").exists():
        raise UserError(f"DATASET_{config.dataset.upper()}: {path} is not prepared: run `make prepare-data`")
    dataset = dataset_from_files(config, path, train=[path / "train.bin"], val=[path / "val.bin"])
    meta = json.loads((path / "meta.json").read_text())
    if dataset.hash != meta["hash"]:
        raise UserError(f"{path}: its tokens are not those that were prepared: delete it and run `make prepare-data`")
    return dataclasses.replace(dataset, val_bytes_per_token=meta["val_bytes"] / meta["val_tokens"])


def dataset_from_files(config: DataConfig, path: Path, *, train: list[Path], val: list[Path]) -> Dataset:
    """A data set from its files, checked; its byte count is left open. Raises UserError as `open_dataset` does."""
    splits = Tokens(train), Tokens(val)
    hashes = []
    for tokens in splits:
        scan = tokens.cached_scan(Path(config.data_dir, "scans.json"))
        if scan.greatest >= config.vocab_size:
            raise UserError(f"{scan.greatest_in}: holds token {scan.greatest}, but VOCAB_SIZE={config.vocab_size}")
        hashes.append(scan.sha256)
    return Dataset(
        name=config.dataset,
        tokenizer=config.tokenizer,
        path=path,
        hash=hashlib.sha256(" ".join(hashes).encode()).hexdigest(),
        vocab_size=config.vocab_size,
        train=splits[0],
        val=splits[1],
        val_bytes_per_token=None,
        val_bytes_unknown=None,
    )


def _bin_files(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.glob(f"*{split}*.bin"))
    if not files:
        raise UserError(f"DATASET_BIN_DIR={folder}: holds no {split}.bin and no *{split}*.bin shards")
    return files


def _with_bytes(dataset: Dataset) -> Dataset:
    """`dataset` with the bytes that its validation tokens stand for, if its tokenizer is there to tell."""
    try:
        tokenizer = load_tokenizer(dataset.tokenizer)
    except UserError as error:
        return dataclasses.replace(dataset, val_bytes_unknown=str(error))
    if tokenizer.n_vocab != dataset.vocab_size:
        unknown = f"VOCAB_SIZE={dataset.vocab_size}, but the tokenizer {tokenizer.name} has {tokenizer.n_vocab} tokens"
        return dataclasses.replace(dataset, val_bytes_unknown=unknown)
    n_bytes = int(dataset.val.counts()[: tokenizer.n_vocab] @ tokenizer.token_bytes())
    return dataclasses.replace(dataset, val_bytes_per_token=n_bytes / len(dataset.val))


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
