"""What the tokens of a data set stand for: how many bytes of text each, where that is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpt2.base.errors import UserError
from gpt2.data.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """What is known of a data set's tokens."""

    token_bytes: np.ndarray | None = None
    """How many bytes of UTF-8 text each stands for, int64 [vocab_size]; 0 for a document boundary."""

    unknown: str | None = None
    """Why `token_bytes` is None, in one line."""


def find_vocabulary(tokenizer: str, vocab_size: int) -> Vocabulary:
    """The vocabulary of tokens that `tokenizer` made."""
    try:
        loaded = load_tokenizer(tokenizer)
    except UserError as error:
        return Vocabulary(unknown=str(error))
    if loaded.n_vocab != vocab_size:
        return Vocabulary(unknown=f"VOCAB_SIZE={vocab_size}, but the tokenizer {tokenizer} has {loaded.n_vocab} tokens")
    return Vocabulary(token_bytes=loaded.token_bytes())
