"""Validation tokens beside those of the data set: EVAL_DATASETS names directories of token files.

    for name, of in open_eval_datasets(config.data).items(): print(name, of.hash)

Nothing is trained on them, so that a directory needs no training tokens; what lies in it besides is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2.base.errors import UserError
from gpt2.base.files import read_json
from gpt2.base.text import shown
from gpt2.config import DataConfig
from gpt2.data.dataset import check_meta, files_by_split
from gpt2.data.token_files import Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalDataset:
    """Validation tokens, checked: whole files, every token below the vocabulary's size."""

    path: Path
    """The directory of the token files."""

    hash: str
    """SHA-256 (hex) over the tokens."""

    val: Tokens

    token_bytes: np.ndarray | None = None
    """Not known: losses are in nats per token."""

    def rescan(self) -> str:
        """`hash` by the tokens that lie in the files now."""
        return self.val.scan().sha256


def open_eval_datasets(config: DataConfig) -> dict[str, EvalDataset]:
    """The sets that EVAL_DATASETS names, by their names.

    Raises UserError, beginning with that and the set's name, where one is not there, damaged, or of another vocabulary.
    """
    found = {}
    for name, path in config.eval_paths.items():
        try:
            found[name] = _open(config, Path(path))
        except UserError as error:
            raise UserError(f"EVAL_DATASETS: {name}={path}: {error}") from None
    return found


def hashes(datasets: dict[str, EvalDataset]) -> str:
    """What an identity has in the place of EVAL_DATASETS: each name with its hash, whatever their order."""
    return ";".join(f"{name}={datasets[name].hash}" for name in sorted(datasets))


def _check_recipe(folder: Path, config: DataConfig) -> None:
    """Raise UserError where the set was prepared here by another tokenizer, which its tokens need not show."""
    meta = folder / "meta.json"
    made_by = read_json(meta).get("recipe", {}).get("tokenizer") if meta.exists() else None
    if made_by not in (None, config.tokenizer):
        raise UserError(
            f"{meta}: its tokens are of the tokenizer {shown(made_by)}, and the run's "
            f"TOKENIZER_{config.tokenizer.upper()}"
        )


def _open(config: DataConfig, folder: Path) -> EvalDataset:
    try:
        files = files_by_split(folder)["val"]
    except OSError as error:
        raise UserError(f"holds no val.bin: {error.strerror}") from None
    if not files:
        raise UserError("holds no val.bin, and no shards such as x_val_000001.bin")
    check_meta(folder, config)
    _check_recipe(folder, config)
    tokens = Tokens(files)
    scan = tokens.cached_scan(Path(config.data_dir, "scans.json"))
    if scan.greatest >= config.vocab_size:
        raise UserError(
            f"{scan.greatest_in}: holds token {scan.greatest}, but VOCAB_SIZE={config.vocab_size} "
            f"(TOKENIZER_{config.tokenizer.upper()}): give tokens of the run's own tokenizer"
        )
    return EvalDataset(path=folder, hash=scan.sha256, val=tokens)
