"""A data set: two splits of tokens that are there, whole, and what they say they are.

dataset = open_dataset(config.data)
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.base.errors import UserError
from gpt2.config import DataConfig
from gpt2.data.corpora import Corpus, open_corpus
from gpt2.data.token_files import Tokens
from gpt2.data.vocabulary import Vocabulary, find_vocabulary


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

    @property
    def train_tokens(self) -> int:
        return len(self.train)

    @property
    def val_tokens(self) -> int:
        return len(self.val)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens stand for. Looked up when it is first asked for."""
        return find_vocabulary(self.tokenizer, self.vocab_size)

    @property
    def token_bytes(self) -> np.ndarray | None:
        """How many bytes of UTF-8 text each token stands for, int64 [vocab_size]; None where that is not known."""
        return self.vocabulary.token_bytes

    @cached_property
    def val_bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text per validation token, of all of them; None where that is not known. Document boundaries
        are tokens and stand for no text."""
        if self.token_bytes is None:
            return None
        return int(self.val.counts()[: self.vocab_size] @ self.token_bytes) / len(self.val)


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
        return dataset_from_files(config, path, train=_bin_files(path, "train"), val=_bin_files(path, "val"))
    path = prepared_path(config)
    if not (path / "meta.json").exists():
        raise UserError(f"DATASET_{config.dataset.upper()}: {path} is not prepared: run `make prepare-data`")
    dataset = dataset_from_files(config, path, train=[path / "train.bin"], val=[path / "val.bin"])
    meta = json.loads((path / "meta.json").read_text())
    if dataset.hash != meta["hash"]:
        raise UserError(f"{path}: its tokens are not those that were prepared: delete it and run `make prepare-data`")
    return dataset


def dataset_from_files(config: DataConfig, path: Path, *, train: list[Path], val: list[Path]) -> Dataset:
    """A data set from its files, checked. Raises UserError as `open_dataset` does."""
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
    )


def _bin_files(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.glob(f"*{split}*.bin"))
    if not files:
        raise UserError(f"DATASET_BIN_DIR={folder}: holds no {split}.bin and no *{split}*.bin shards")
    return files
