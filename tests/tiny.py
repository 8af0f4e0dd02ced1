"""A run small enough for tests: real text, real model, real trainer, a second or so."""

from __future__ import annotations

from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.data.prepare import prepare
from gpt2.dotconfig import Resolved, resolve
from gpt2.symbols import run_config

SETTINGS = {
    "MODEL_NAME": "tiny",
    "MODEL_CUSTOM": "y",
    "N_LAYER": "2",
    "N_HEAD": "2",
    "N_EMBD": "32",
    "BLOCK_SIZE": "32",
    "BATCH_SIZE": "4",
    "MAX_ITERS": "12",
    "WARMUP_ITERS": "2",
    "LEARNING_RATE": "1e-3",
    "MIN_LR": "1e-4",
    "EVAL_INTERVAL": "6",
    "EVAL_TOKENS": "256",
    "LOG_INTERVAL": "2",
    "CHECKPOINT_INTERVAL": "4",
    "DTYPE_FLOAT32": "y",
    "DEVICE_CPU": "y",
    "DATASET_TEXT": "y",
}


def tiny(folder: Path, **symbols: str) -> Resolved:
    """A configuration whose data is prepared below `folder`; `symbols` override."""
    text = folder / "text.txt"
    if not text.exists():
        # The licence of Python itself would do; numbers in words are as good and need no file.
        words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        text.write_text(" ".join(words[int(digit)] for i in range(4000) for digit in str(i * i)))
    settings = SETTINGS | {
        "DATASET_TEXT_PATHS": str(text),
        "DATA_DIR": str(folder / "data"),
        "RESULTS_DIR": str(folder / "results"),
    }
    resolved = resolve(*([Assignment(s, v, "test") for s, v in layer.items()] for layer in (settings, symbols)))
    prepare(run_config(resolved.symbols).data)
    return resolved
