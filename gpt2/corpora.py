"""Where the text of a data set comes from: one class per kind of source, chosen by `open_corpus`.

A corpus says which documents there are; `gpt2/prepare.py` makes token files out of them. Its `recipe` names everything
that decides which tokens come out, and so gives the prepared set its directory.
"""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import shlex
import sysconfig
import tokenize
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from gpt2.config import DataConfig
from gpt2.errors import UserError

_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_DOWNLOAD_TIMEOUT_S = 30.0

# Tests quote broken code, the codec tables of `encodings` and the topics of `pydoc_data` are generated.
_NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "encodings", "pydoc_data"}


class Corpus(Protocol):
    """The documents of a data set, in an order that does not change."""

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the documents, as JSON: versions, files, revisions."""

    @property
    def local(self) -> bool:
        """Whether all of it is already on this machine."""

    @property
    def n_documents(self) -> int | None:
        """How many documents there are, where that is known beforehand."""

    def parts(self) -> list[str]:
        """Names of its parts, each of which is read on its own. May ask the network."""

    def documents(self, part: str, scratch: Path) -> Iterator[str]:
        """The documents of a part. What has to be downloaded is kept in `scratch` meanwhile.

        Raises UserError where a file is not UTF-8 or cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Text files on this machine, a document each. The part's name is the file's."""

    files: tuple[Path, ...]
    """In the order they are read."""

    about: dict[str, Any]
    """What the recipe says besides the files."""

    local = True

    @cached_property
    def recipe(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in self.files:
            stat = path.stat()
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return self.about | {"files": len(self.files), "files_sha256": digest.hexdigest()}

    @property
    def n_documents(self) -> int:
        return len(self.files)

    def parts(self) -> list[str]:
        return ["files"]

    def documents(self, part: str, scratch: Path) -> Iterator[str]:
        for path in self.files:
            try:
                # Python source says in a first-line comment if it is not UTF-8.
                with tokenize.open(path) if path.suffix == ".py" else open(path, encoding="utf-8") as file:
                    yield file.read()
            except (OSError, UnicodeDecodeError, SyntaxError) as error:
                raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Shakespeare:
    """Tiny Shakespeare: one document of 1.1 MB."""

    local = False
    n_documents = 1

    @property
    def recipe(self) -> dict[str, Any]:
        return {"url": _SHAKESPEARE_URL, "sha256": _SHAKESPEARE_SHA256}

    def parts(self) -> list[str]:
        return ["input.txt"]

    def documents(self, part: str, scratch: Path) -> Iterator[str]:
        try:
            with urllib.request.urlopen(_SHAKESPEARE_URL, timeout=_DOWNLOAD_TIMEOUT_S) as response:
                content = response.read()
        except (urllib.error.URLError, OSError) as error:
            raise UserError(f"DATASET_SHAKESPEARE: cannot download {_SHAKESPEARE_URL}: {error}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != _SHAKESPEARE_SHA256:
            raise UserError(f"{_SHAKESPEARE_URL}: SHA-256 is {sha256}, should be {_SHAKESPEARE_SHA256}")
        yield content.decode()


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus of a data set other than "bin".

    Raises UserError if it can never be prepared as asked: no such files, a missing package.
    """
    if config.dataset == "stdlib":
        return _stdlib()
    if config.dataset == "text":
        return Files(files=_text_files(config.text_paths), about={})
    return Shakespeare()


def _stdlib() -> Files:
    """The source files of the running Python's standard library, by path, without tests and generated tables."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - _NOT_STDLIB)
        files += [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
    return Files(files=tuple(files), about={"python": platform.python_version()})


def _text_files(patterns: str) -> tuple[Path, ...]:
    """The files that DATASET_TEXT_PATHS names, in its order, each once; within a directory or a glob by path."""
    try:
        words = shlex.split(patterns)
    except ValueError as error:
        raise UserError(f"DATASET_TEXT_PATHS={patterns}: {error}") from error
    files: list[Path] = []
    for word in words:
        found: list[Path] = []
        for path in map(Path, sorted(glob.glob(os.path.expanduser(word), recursive=True))):
            if path.is_dir():
                found += sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md") and p.is_file())
            else:
                found.append(path)
        if not found:
            raise UserError(f"DATASET_TEXT_PATHS={patterns}: {word} is no file, no directory with .txt or .md files")
        files += found
    return tuple(dict.fromkeys(path.resolve() for path in files))
