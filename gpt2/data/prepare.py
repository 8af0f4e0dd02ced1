"""Text to token files: `make prepare-data`, and what `make` does for data sets that are on this machine.

A prepared set is a directory with train.bin, val.bin and meta.json, which is written last: without it the set is not
there. An interrupted preparation goes on where it stopped. Of several at once one works and the others wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from gpt2.base.errors import UserError
from gpt2.base.files import make_directory, read_json, write_json
from gpt2.base.progress import Progress
from gpt2.config import DataConfig
from gpt2.data.corpora import Corpus, Files, open_corpus
from gpt2.data.dataset import Dataset, dataset_from_files, open_dataset, prepared_path, recipe_of
from gpt2.data.tokenizer import Tokenizer, load_tokenizer

_PREVIEW_BYTES = 1 << 20
_CHUNK_CHARS = 1 << 24  # text that is encoded, written and noted down at a time


@dataclass(kw_only=True)
class _Split:
    """What has been written of train.bin or val.bin."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    """Of UTF-8 text; the tokens between documents stand for none."""

    def add(self, file: BinaryIO, tokens: np.ndarray, n_bytes: int) -> None:
        """Append a document's tokens to the split's file."""
        file.write(tokens.astype("<u2").tobytes())
        self.documents += 1
        self.tokens += len(tokens)
        self.bytes += n_bytes


@dataclass(kw_only=True)
class _State:
    """How far a preparation has come. All of it is on the disk."""

    parts: list[str]
    """The corpus's parts, as they were when it began."""

    parts_done: int = 0
    documents_done: int = 0
    """Of the part being read."""

    train: _Split = field(default_factory=_Split)
    val: _Split = field(default_factory=_Split)


def dataset_status(config: DataConfig) -> tuple[bool, str]:
    """Whether the data set is ready to be opened, and a line that says so or what has to be done.

    Raises UserError, with the reason, where it can be neither opened nor prepared.
    """
    if config.dataset == "bin" or (prepared_path(config) / "meta.json").exists():
        dataset = open_dataset(config)
        return True, f"{dataset.path}: {dataset.train_tokens:,} training, {dataset.val_tokens:,} validation tokens"
    if not is_local(config):
        return False, f"{config.dataset} has to be downloaded: run `make prepare-data`"
    load_tokenizer(config.tokenizer)
    corpus = open_corpus(config)
    if isinstance(corpus, Files):
        corpus.check()
    return False, f"{config.dataset} will be prepared from files on this machine"


def preview(config: DataConfig) -> Dataset | None:
    """What preparing would make of text files, where they are so few that this takes a moment; else None.

    Raises UserError as `prepare` does.
    """
    corpus = open_corpus(config)
    if not isinstance(corpus, Files) or corpus.n_bytes > _PREVIEW_BYTES:
        return None
    with TemporaryDirectory() as folder:
        return replace(prepare(replace(config, data_dir=folder)), path=prepared_path(config))


def is_local(config: DataConfig) -> bool:
    """Whether the data set needs no download, so that `make` may prepare it unasked."""
    return config.dataset == "bin" or open_corpus(config).local


def prepare(config: DataConfig, report: Progress = lambda share, what: None) -> Dataset:
    """The data set that `config` names, prepared if it is not yet.

    Raises UserError if files, packages, a vocabulary or a download that it needs cannot be had, or if one of the splits
    would be empty.
    """
    if config.dataset != "bin":
        path = prepared_path(config)
        make_directory(path)
        with _locked(path / ".lock", report):
            if not (path / "meta.json").exists():
                _build(config, open_corpus(config), load_tokenizer(config.tokenizer), path, report)
    return open_dataset(config)


def _build(config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, path: Path, report: Progress) -> None:
    """Make the prepared set in `path`, going on from what an interrupted attempt left there."""
    state = _load_state(path) or _State(parts=corpus.parts())
    _write_tokens(config, corpus, tokenizer, path, state, report)
    for name, split in (("training", state.train), ("validation", state.val)):
        if split.tokens == 0:
            raise UserError(
                f"DATASET_VAL_FRACTION={config.val_fraction}: of the {state.train.documents + state.val.documents} "
                f"documents of {config.dataset} none is left for {name}; more documents, or another share, are needed"
            )
    report(1.0, "hashing")
    dataset = dataset_from_files(config, path, train=[path / "train.bin"], val=[path / "val.bin"])
    meta = {
        "recipe": recipe_of(config, corpus),
        "hash": dataset.hash,
        "vocab_size": config.vocab_size,
        **{f"{name}_{key}": n for name in ("train", "val") for key, n in asdict(getattr(state, name)).items()},
        "sources": state.parts[: state.parts_done],
        "tokenizer_source": tokenizer.source,
    }
    write_json(path / "meta.json", meta)
    (path / "state.json").unlink()


def _write_tokens(
    config: DataConfig, corpus: Corpus, tokenizer: Tokenizer, path: Path, state: _State, report: Progress
) -> None:
    """Append what is left of the corpus to train.bin and val.bin, noting down in `state` what is safely there."""
    enough = config.max_tokens or math.inf
    split_document = _cut if corpus.n_documents == 1 else _by_content
    separator = np.array([] if corpus.n_documents == 1 else [tokenizer.eot], dtype=np.uint16)
    with (
        _reopened(path / "train.bin", state.train) as train_file,
        _reopened(path / "val.bin", state.val) as val_file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        files = {"train": train_file, "val": val_file}
        while state.parts_done < len(state.parts) and state.train.tokens < enough:
            documents = corpus.documents(
                state.parts[state.parts_done],
                path / "download",
                lambda line: report(_share(config, corpus, state), line),
            )
            for chunk in _chunks(itertools.islice(documents, state.documents_done, None)):
                pieces = [piece for text in chunk for piece in split_document(text, config.val_fraction)]
                encoded = pool.map(tokenizer.encode, [text for _, text in pieces])
                for (name, text), ids in zip(pieces, encoded, strict=True):
                    if state.train.tokens >= enough:
                        break
                    getattr(state, name).add(files[name], np.concatenate([separator, ids]), len(text.encode()))
                state.documents_done += len(chunk)
                _note_down(path, state, files.values())
                report(_share(config, corpus, state), f"{state.train.tokens + state.val.tokens:,} tokens")
                if state.train.tokens >= enough:
                    break
            state.parts_done += 1
            state.documents_done = 0
            _note_down(path, state, files.values())
            shutil.rmtree(path / "download", ignore_errors=True)


def _share(config: DataConfig, corpus: Corpus, state: _State) -> float:
    """The share of the work that is done, as far as one can tell."""
    share = state.parts_done / len(state.parts)
    if corpus.n_documents is not None:
        share = (state.train.documents + state.val.documents) / corpus.n_documents
    if config.max_tokens:
        share = max(share, state.train.tokens / config.max_tokens)
    return min(share, 1.0)


def _by_content(text: str, val_fraction: float) -> list[tuple[str, str]]:
    """The split that a document belongs to, decided by a hash of its content, with the document."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    in_val = int.from_bytes(digest, "big") < val_fraction * 2**64
    return [("val" if in_val else "train", text)]


def _cut(text: str, val_fraction: float) -> list[tuple[str, str]]:
    """A document that is all there is: its last part is held out."""
    at = int(len(text) * (1 - val_fraction))
    return [("train", text[:at]), ("val", text[at:])]


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    """Lists of documents, each of _CHUNK_CHARS characters or a little more; the last may be short."""
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= _CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextmanager
def _reopened(path: Path, split: _Split) -> Iterator[BinaryIO]:
    """A token file open for appending, cut back to what `split` says is in it."""
    with open(path, "ab") as file:
        file.truncate(2 * split.tokens)
        yield file


def _note_down(path: Path, state: _State, files: Iterable[BinaryIO]) -> None:
    """Put `state` on the disk, after the tokens that it speaks of."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_json(path / "state.json", asdict(state))


def _load_state(path: Path) -> _State | None:
    """What an interrupted preparation noted down, if there was one."""
    if not (path / "state.json").exists():
        return None
    state = read_json(path / "state.json")
    try:
        return _State(**state | {"train": _Split(**state["train"]), "val": _Split(**state["val"])})
    except (KeyError, TypeError):
        raise UserError(f"{path / 'state.json'}: is damaged: delete {path} and run `make prepare-data`") from None


@contextmanager
def _locked(path: Path, report: Progress) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it if this process dies."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(0.0, "waiting for another process that prepares the same")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
