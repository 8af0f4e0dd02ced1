"""Checkpoints: written atomically, verified when read, the newest two kept.

checkpoints/step-00000500.pt            what torch.save wrote: tensors and plain values only
checkpoints/step-00000500.pt.sha256     its checksum, as `sha256sum -c` reads it
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from gpt2.base.errors import UserError, one_line
from gpt2.base.files import write_atomic, write_text
from gpt2.config import TrainConfig

KEEP = 2
"""So many lie there while a run is unfinished, and one more while that is being written."""


def n_written(train: TrainConfig) -> int:
    """How many checkpoints a run writes that nobody stops: after each CHECKPOINT_INTERVAL steps, and at its end."""
    return _n_before_the_end(train) + (train.checkpoint_keep != "none")


def bytes_held(train: TrainConfig, *, whole: int, weights: int) -> int:
    """Bytes of checkpoints that lie there at most while a run trains that nobody stops.

    `whole`, `weights`: bytes of one with the optimizer's state, and of one without.
    """
    before = _n_before_the_end(train)
    last = {"all": whole, "weights": weights, "none": 0}[train.checkpoint_keep]
    return max(min(KEEP + 1, before) * whole, min(KEEP, before) * whole + last)


def bytes_kept(train: TrainConfig, *, whole: int, weights: int) -> int:
    """Bytes of checkpoints that stay when it is done; `whole` and `weights` as for `bytes_held`."""
    return {"all": min(KEEP, n_written(train)) * whole, "weights": weights, "none": 0}[train.checkpoint_keep]


def _n_before_the_end(train: TrainConfig) -> int:
    every = train.checkpoint_interval
    return len(range(every, train.max_iters, every)) if every else 0


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The newest checkpoint that could be read."""

    path: Path
    state: dict[str, Any]
    damaged: tuple[Path, ...]
    """Newer checkpoints that failed verification and were passed over."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}.pt"


def save_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` as the checkpoint of `step`, then remove all but the newest `KEEP`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(directory, step)
    # The checksum first: a checkpoint under its own name always has one.
    unchecked = path.with_suffix(".unchecked")
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1, "checksum") as thread:
        write_atomic(unchecked, lambda file: torch.save(state, _Hashing(file, digest, thread)))  # type: ignore[arg-type]
    write_text(_checksum_path(path), f"{digest.hexdigest()}  {path.name}\n")
    unchecked.replace(path)
    keep_newest(directory, KEEP)
    return path


def keep_newest(directory: Path, n: int) -> None:
    """Remove all but the newest `n` checkpoints."""
    for old in _newest_first(directory)[n:]:
        old.unlink()
        _checksum_path(old).unlink(missing_ok=True)


class _Hashing(io.RawIOBase):
    """Writes to a file, and hashes in a thread meanwhile: a checkpoint takes seconds, in which nothing is trained."""

    def __init__(self, file: IO[bytes], digest: hashlib._Hash, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._digest = digest
        self._thread = thread

    def write(self, data: Any) -> int:
        hashed = self._thread.submit(self._digest.update, data)
        try:
            return self._file.write(data)
        finally:
            hashed.result()  # `data` is the caller's again as soon as this returns


def load_newest(directory: Path) -> Loaded | None:
    """The newest checkpoint in `directory` that passes verification; None if the directory has none at all.

    UserError if there are checkpoints and none of them is whole: starting over would throw work away unasked.
    """
    damaged: list[Path] = []
    for path in _newest_first(directory):
        if verified(path):
            return Loaded(path=path, state=read_checkpoint(path), damaged=tuple(damaged))
        damaged.append(path)
    if damaged:
        raise UserError(f"{directory}: every checkpoint is damaged; remove the directory to start this run over")
    return None


def verified(path: Path) -> bool:
    """Whether a checkpoint's content is what its checksum says."""
    checksum = _checksum_path(path)
    if not (path.is_file() and checksum.is_file()):
        return False
    with checksum.open("rb") as file:
        said = file.read(1000).split()[:1]  # which is more than a checksum and a name take
    return said == [sha256_of(path).encode()]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain values to the CPU. UserError if it is missing, damaged or anything else.

    Only plain data is unpickled (`weights_only`): a checkpoint from elsewhere cannot run code.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a directory; name a checkpoint file, step-*.pt")
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a device or pipe; name a checkpoint file, step-*.pt")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles by others, on the way to an error or to none
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: holds something other than plain tensors and values, and was not loaded") from None
    except Exception as error:  # torch has no list of what it raises on bytes that are anything
        raise UserError(f"{path}: cannot be read as a checkpoint: {one_line(error)}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*.pt"), reverse=True)


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
