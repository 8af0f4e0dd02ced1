"""Files of tokens: raw uint16 as nanoGPT writes them, and the shards of llm.c and modded-nanogpt.

Raw: little-endian uint16 tokens and nothing else. Shard: a header of 256 little-endian int32 (20240520, 1, number of
tokens, zeros), then the tokens. A raw file of GPT-2 tokens cannot pass for a shard: the magic number read as uint16
begins with 55448, which GPT-2 does not have. A raw file says nothing of itself, and is looked at
(gpt2/data/recognize.py); a shard is believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpt2.base.errors import UserError
from gpt2.base.files import require_regular, write_json
from gpt2.data.recognize import foreign

_MAGIC = 20240520
_MAGIC_UINT32 = 20240801  # llm.c's Llama 3 shards
_HEADER_BYTES = 1024
_CHUNK = 1 << 24  # tokens read at a time while scanning: 32 MiB


def open_token_file(path: Path, *, of_others: bool = True) -> np.ndarray:
    """The tokens of one file, uint16 [n], as a read-only memory map. Raises UserError if it is no whole token file.

    A raw file that is not of our own making (`of_others`) is looked at first, whether it holds such tokens.
    """
    size = require_regular(path).st_size
    try:
        header = np.fromfile(path, dtype="<i4", count=3)
        is_shard = len(header) == 3 and header[0] in (_MAGIC, _MAGIC_UINT32)
        other = foreign(path, size) if of_others and not is_shard else None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if len(header) == 3 and header[0] == _MAGIC:
        if header[1] != 1:
            raise UserError(f"{path}: version {header[1]} of the shard format; version 1 (uint16 tokens) is known")
        n_tokens = int(header[2])
        if size != _HEADER_BYTES + 2 * n_tokens:
            raise UserError(f"{path}: its header says {n_tokens} tokens, its size {(size - _HEADER_BYTES) / 2:g}")
        offset = _HEADER_BYTES
    elif len(header) == 3 and header[0] == _MAGIC_UINT32:
        raise UserError(f"{path}: a shard of uint32 tokens; only uint16 tokens are read")
    else:
        if other is not None:
            raise UserError(f"{path}: is no file of little-endian uint16 tokens: {other}")
        if size % 2:
            raise UserError(f"{path}: {size} bytes is no whole number of uint16 tokens")
        n_tokens, offset = size // 2, 0
    if n_tokens == 0:
        raise UserError(f"{path}: holds no tokens")
    return np.memmap(path, dtype="<u2", mode="r", offset=offset, shape=(n_tokens,))


class Scan(NamedTuple):
    """What reading every token once tells."""

    sha256: str
    """Hex, of the tokens as uint16: the same whatever files they lie in."""

    greatest: int
    """The greatest token."""

    greatest_in: str
    """The file that holds it."""


class Tokens:
    """Token files, one after another, as one sequence."""

    def __init__(self, paths: Sequence[Path], *, of_others: bool = True) -> None:
        """Raises UserError where a file is missing or no whole token file."""
        self.paths = tuple(paths)
        self._files = [open_token_file(path, of_others=of_others) for path in self.paths]
        self._ends = np.cumsum([len(file) for file in self._files])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, length: int, dtype: type[np.integer] = np.int64) -> np.ndarray:
        """Tokens [start, start + length) across files where need be; all of them must exist."""
        out = np.empty(length, dtype=dtype)
        i = int(np.searchsorted(self._ends, start, side="right"))
        done = 0
        while done < length:
            file = self._files[i]
            at = start + done - (int(self._ends[i]) - len(file))
            piece = file[at : at + length - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
            i += 1
        return out

    def counts(self) -> np.ndarray:
        """How often each token occurs, int64 [65536]."""
        counts = np.zeros(65536, dtype=np.int64)
        for file in self._files:
            for at in range(0, len(file), _CHUNK):
                counts += np.bincount(file[at : at + _CHUNK], minlength=65536)
        return counts

    def scan(self) -> Scan:
        """Read every token once."""
        digest = hashlib.sha256()
        greatest, greatest_in = -1, ""
        for path, file in zip(self.paths, self._files, strict=True):
            for at in range(0, len(file), _CHUNK):
                chunk = file[at : at + _CHUNK]
                digest.update(chunk.data)
                if chunk.max() > greatest:
                    greatest, greatest_in = int(chunk.max()), str(path)
        return Scan(digest.hexdigest(), greatest, greatest_in)

    def cached_scan(self, cache: Path) -> Scan:
        """`scan`, remembered in the JSON file `cache` for as long as sizes and modification times stay what they are:
        billions of tokens are read once and not at every start."""
        stats = [(str(path.resolve()), path.stat()) for path in self.paths]
        key = json.dumps([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])
        key = hashlib.sha256(key.encode()).hexdigest()
        return Scan(*remembered(cache, key, lambda: list(self.scan()), _is_scan))


def _is_scan(value: Any) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [str, int, str]


def remembered(cache: Path, key: str, compute: Callable[[], Any], is_valid: Callable[[Any], bool]) -> Any:
    """What `compute` returns, which JSON has, too. What it was for `key` before is remembered in the file `cache`, of
    which what is damaged is as good as none."""
    known: Any = None
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(cache.read_text())
    known = known if isinstance(known, dict) else {}
    if key not in known or not is_valid(known[key]):
        known[key] = compute()
        with contextlib.suppress(OSError):  # on a read-only disk every start computes
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, known)
    return known[key]


def write_random_tokens(folder: Path, *, vocab_size: int, n_tokens: int, n_val: int = 1) -> None:
    """Training and validation tokens below `vocab_size`, as raw files. The same ones every time."""
    if not 1 <= vocab_size <= 65536:
        raise UserError(f"a vocabulary of {vocab_size} tokens: must be from 1 to 65536, what uint16 holds")
    random = np.random.default_rng(1)
    for split, n in {"train": n_tokens, "val": n_val}.items():
        random.integers(vocab_size, size=n, dtype=np.uint16).tofile(folder / f"{split}.bin")
