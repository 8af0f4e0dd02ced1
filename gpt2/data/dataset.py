"""A data set: two splits of tokens that are there, whole, and what they say they are.

dataset = open_dataset(config.data)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt2.base.errors import UserError
from gpt2.base.files import read_json
from gpt2.config import DataConfig
from gpt2.data.corpora import Corpus, open_corpus
from gpt2.data.meta_pkl import read_meta
from gpt2.data.overlap import LENGTH, share_in_training
from gpt2.data.token_files import Tokens, remembered
from gpt2.data.vocabulary import Vocabulary, vocabulary_of, vocabulary_of_files

_SHARE_TO_WARN_OF = 0.2
"""Of validation in training: text from the web or of source code repeats itself by a few per cent."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Training and validation tokens, checked: whole files, every token below `vocab_size`."""

    name: str
    """"stdlib", "text", "shakespeare", "openwebtext", "finewebedu" or "bin"."""

    tokenizer: str
    """"byte" or "gpt2". For "bin" it is what the configuration claims; `vocabulary` says whether it is so."""

    path: Path
    """The directory of the token files."""

    hash: str
    """SHA-256 (hex) over the tokens of both splits: the same tokens in other files have the same hash."""

    vocab_size: int
    """Distinct tokens, before padding."""

    train: Tokens
    val: Tokens

    val_in_train: float | None
    """The share of sampled validation windows that stand in training too; None where a split is too short to tell."""

    @property
    def train_tokens(self) -> int:
        return len(self.train)

    @property
    def val_tokens(self) -> int:
        return len(self.val)

    def rescan(self) -> str:
        """`hash` by the tokens that lie in the files now. What is remembered of them is not asked."""
        return _hash([tokens.scan().sha256 for tokens in (self.train, self.val)])

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokens stand for. Looked up when it is first asked for."""
        if self.name == "bin":
            return vocabulary_of_files(self.tokenizer, self.vocab_size, self.val, read_meta(self.path))
        return vocabulary_of(self.tokenizer, self.vocab_size)

    @property
    def token_bytes(self) -> np.ndarray | None:
        """How many bytes of UTF-8 text each token stands for, int64 [vocab_size]; None where that is not known."""
        return self.vocabulary.token_bytes

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against numbers from these tokens, a line each."""
        share = self.val_in_train
        if share is None or share < _SHARE_TO_WARN_OF:
            return ()
        return (
            f"{self.path}: {share:.0%} of the validation text is in training too (windows of {LENGTH} tokens, by "
            "samples): the validation loss says in part how well it was learned by heart",
        )

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
        check_meta(path, config)
        return dataset_from_files(config, path, **bin_files(path))
    path = prepared_path(config)
    if not (path / "meta.json").exists():
        raise UserError(f"DATASET_{config.dataset.upper()}: {path} is not prepared: run `make prepare-data`")
    dataset = dataset_from_files(config, path, train=[path / "train.bin"], val=[path / "val.bin"])
    if dataset.hash != read_json(path / "meta.json").get("hash"):
        raise UserError(f"{path}: its tokens are not those that were prepared: delete it and run `make prepare-data`")
    return dataset


def check_meta(folder: Path, config: DataConfig) -> None:
    """Raise UserError if nanoGPT's meta.pkl beside ready token files says that they have another vocabulary."""
    meta = read_meta(folder)
    if meta is not None and meta.vocab_size not in (None, config.vocab_size):
        raise UserError(
            f"{meta.path}: its tokens have a vocabulary of {meta.vocab_size}, but VOCAB_SIZE={config.vocab_size} "
            f"(TOKENIZER_{config.tokenizer.upper()}): set VOCAB_SIZE={meta.vocab_size}"
        )


def dataset_from_files(config: DataConfig, path: Path, *, train: list[Path], val: list[Path]) -> Dataset:
    """A data set from its files, checked. Raises UserError as `open_dataset` does."""
    of_others = config.dataset == "bin"
    splits = Tokens(train, of_others=of_others), Tokens(val, of_others=of_others)
    cache = Path(config.data_dir, "scans.json")
    hashes = []
    for tokens in splits:
        scan = tokens.cached_scan(cache)
        if scan.greatest >= config.vocab_size:
            raise UserError(
                f"{scan.greatest_in}: holds token {scan.greatest}, but VOCAB_SIZE={config.vocab_size}: give the "
                "vocabulary it was made with, if these are little-endian uint16 tokens and not uint8 or big-endian ones"
            )
        hashes.append(scan.sha256)
    if hashes[0] == hashes[1]:
        raise UserError(
            f"{path}: training and validation are the same {len(splits[0]):,} tokens, so that a validation loss would "
            "say how well they were learned by heart: hold some tokens out"
        )
    return Dataset(
        name=config.dataset,
        tokenizer=config.tokenizer,
        path=path,
        hash=_hash(hashes),
        vocab_size=config.vocab_size,
        train=splits[0],
        val=splits[1],
        val_in_train=remembered(
            cache,
            f"val in train, {' '.join(hashes)}",
            lambda: share_in_training(*splits),
            lambda share: share is None or (type(share) is float and 0 <= share <= 1),
        ),
    )


def _hash(splits: Sequence[str]) -> str:
    """Of both splits, from the hash of each."""
    return hashlib.sha256(" ".join(splits).encode()).hexdigest()


_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
"""Words of a file's name that say which split it belongs to."""


def bin_files(folder: Path) -> dict[str, list[Path]]:
    """The token files in `folder` by split, "train" and "val", each in the order of their names.

    Raises UserError as `files_by_split` does, and where a split has none.
    """
    try:
        files = files_by_split(folder)
    except OSError as error:
        raise UserError(f"DATASET_BIN_DIR={folder}: holds no train.bin and no val.bin: {error.strerror}") from None
    names = sorted(path.name for path in folder.iterdir())
    for split, found in files.items():
        if not found:
            part = next((f"; in {name} {split} is no word" for name in names if split in name and ".bin" in name), "")
            raise UserError(
                f"DATASET_BIN_DIR={folder}: holds no {split}.bin, and no shards such as x_{split}_000001.bin{part}"
            )
    return files


def files_by_split(folder: Path) -> dict[str, list[Path]]:
    """The token files in `folder` by split, "train" and "val", in the order of their names; a split may have none.

    A split is named by a word of its own: `medieval_train.bin` is training. Raises UserError where a file names both,
    or neither clearly, and OSError where there is no such directory.
    """
    names = sorted(path.name for path in folder.iterdir())
    files: dict[str, list[Path]] = {"train": [], "val": []}
    for name in names:
        if name.startswith(".") or not name.endswith(".bin"):
            continue
        stem = name.removesuffix(".bin").lower()
        named = {_SPLITS[word] for word in re.findall("[a-z]+", stem) if word in _SPLITS}
        if len(named) > 1 or (not named and "train" in stem and "val" in stem):
            raise UserError(
                f"{folder / name}: its name says both training and validation: name one of them, as a word of its own"
            )
        for split in named:
            files[split].append(folder / name)
    return files
