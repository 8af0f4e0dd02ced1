"""Runs on random tokens, in which there is nothing to learn: how far does Adam's noise alone move an arm's gates?

    results/<MODEL_NAME>/noise/     STUDY_GATE_NOISE seeds of every arm whose gates learn, an experiment of its own
    <DATA_DIR>/noise-256-1228929-20512/   the tokens, by vocabulary and numbers, of training and validation

harness/evidence/gate_noise.py compares.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import make_directory
from gpt2.config import RunConfig, TrainConfig, does_something
from gpt2.dotconfig import Resolved, resolve

NOISE = "noise"
"""Name of the directory of these runs in the experiment's."""

MOST_TOKENS = 1 << 27
"""Of random training tokens, 256 MiB. Below that each is drawn about once, and nothing can be learned by heart."""

_DATA = ("DATASET_", "EVAL_DATASETS", "TOKENIZER_", "VOCAB_SIZE")


def learns_gates(config: RunConfig) -> bool:
    """Whether a run has gates that learn."""
    return does_something("RA_V5_GATE_LR_MULT", config.identity())


def on_noise(resolved: Resolved) -> Resolved:
    """A run's configuration, on random tokens in a directory of its DATA_DIR. `write_noise` writes them."""
    return on_random_tokens(resolved, Path(resolved.run_config().data.data_dir), "STUDY_GATE_NOISE")


def on_random_tokens(resolved: Resolved, folder: Path, origin: str) -> Resolved:
    """A run's configuration, on as many random tokens of its vocabulary as it draws, and on no others.

    They lie in a directory of `folder`, where `write_noise` writes them. `origin`: what asks for it.
    """
    config = resolved.run_config()
    settings = {
        **{"DATASET_BIN": "y", "DATASET_BIN_DIR": str(_path(config, folder))},
        "VOCAB_SIZE": str(config.data.vocab_size),
        "FUSED_LOSS": "y" if config.train.fused_loss else "n",  # whose default is the tokenizer's
    }
    kept = [a for a in resolved.minimal() if not a.symbol.startswith(_DATA)]
    return resolve(kept, [Assignment(symbol, value, origin) for symbol, value in settings.items()])


def write_noise(config: RunConfig) -> None:
    """Write the tokens of a run that `on_random_tokens` made, unless they are there. Raises UserError."""
    from gpt2.data.token_files import write_random_tokens

    path = Path(config.data.bin_dir)
    if path.exists():
        return
    tokens, val = _sizes(config)
    partial = path.with_name(f".{path.name}-{os.getpid()}")
    make_directory(partial)
    try:
        write_random_tokens(partial, vocab_size=config.data.vocab_size, n_tokens=tokens, n_val=val)
        os.rename(partial, path)
    except OSError as error:
        if not path.exists():  # else somebody else was faster
            raise UserError(f"{path}: random tokens cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _path(config: RunConfig, folder: Path) -> Path:
    tokens, val = _sizes(config)
    return folder / f"noise-{config.data.vocab_size}-{tokens}-{val}"


def _sizes(config: RunConfig) -> tuple[int, int]:
    """Training tokens, as many as the run draws, and validation tokens, as many as an evaluation takes."""
    drawn = config.tokens_per_iter * config.train.max_iters + config.model.block_size + 1
    evaluated = config.train.eval_tokens or TrainConfig.eval_tokens
    batch = config.train.batch_size * config.model.block_size
    return min(drawn, MOST_TOKENS), max(evaluated, batch) + config.model.block_size + 1
