"""Where the text of a data set comes from: one class per kind of source, chosen by `open_corpus`.

A corpus says which documents there are; `gpt2/data/prepare.py` makes token files out of them. Its `recipe` names
everything that decides which tokens come out, and so gives the prepared set its directory.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import platform
import shlex
import sysconfig
import tokenize
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from gpt2.base.errors import UserError
from gpt2.base.files import require_regular
from gpt2.config import DataConfig

_SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_DOWNLOAD_TIMEOUT_S = 30.0
_LOOK_CHARS = 1 << 16

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

    def documents(self, part: str, scratch: Path, say: Callable[[str], None]) -> Iterator[str]:
        """The documents of a part. What has to be downloaded lies in `scratch` meanwhile; `say` is told how far it is.

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

    def documents(self, part: str, scratch: Path, say: Callable[[str], None]) -> Iterator[str]:
        return map(_read_text, self.files)

    @property
    def n_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files)

    def check(self) -> None:
        """Look at the beginning of every file. Raises UserError if it is no UTF-8 text."""
        for path in self.files:
            _read_text(path, _LOOK_CHARS)


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

    def documents(self, part: str, scratch: Path, say: Callable[[str], None]) -> Iterator[str]:
        try:
            with urllib.request.urlopen(_SHAKESPEARE_URL, timeout=_DOWNLOAD_TIMEOUT_S) as response:
                content = response.read()
        except (urllib.error.URLError, OSError) as error:
            raise UserError(f"DATASET_SHAKESPEARE: cannot download {_SHAKESPEARE_URL}: {error}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != _SHAKESPEARE_SHA256:
            raise UserError(f"{_SHAKESPEARE_URL}: SHA-256 is {sha256}, should be {_SHAKESPEARE_SHA256}")
        yield content.decode()


@dataclass(frozen=True, kw_only=True)
class Hub:
    """The column `text` of the Parquet files of a data set on the Hugging Face hub, a part each."""

    repo: str
    """OWNER/NAME."""

    folder: str
    """Where in the repository the Parquet files are."""

    local = False
    n_documents = None

    @property
    def recipe(self) -> dict[str, Any]:
        return {"repo": self.repo, "folder": self.folder}

    def parts(self) -> list[str]:
        """PATH@COMMIT of each file, so that a preparation ends with the files it began with."""
        hub = _hub()
        try:
            info = hub.HfApi().dataset_info(self.repo, timeout=_DOWNLOAD_TIMEOUT_S)
        except (OSError, hub.errors.HTTPError) as error:
            raise UserError(f"{self.repo}: cannot be listed on the Hugging Face hub: {_first_line(error)}") from error
        names = sorted(file.rfilename for file in info.siblings or [])
        parts = [f"{name}@{info.sha}" for name in names if Path(name).match(f"{self.folder}/*.parquet")]
        if not parts:
            raise UserError(f"{self.repo}: has no {self.folder}/*.parquet on the Hugging Face hub")
        return parts

    def documents(self, part: str, scratch: Path, say: Callable[[str], None]) -> Iterator[str]:
        hub = _hub()
        import pyarrow.parquet

        name, _, commit = part.rpartition("@")
        try:
            # Keeps what it has of a file when it is interrupted, and goes on from there.
            path = hub.HfApi().hf_hub_download(
                self.repo, name, repo_type="dataset", revision=commit, local_dir=scratch, tqdm_class=_bar(say)
            )
        except (OSError, hub.errors.HTTPError) as error:
            raise UserError(f"{self.repo}: cannot download {name}: {_first_line(error)}") from error
        with pyarrow.parquet.ParquetFile(path) as file:
            for rows in file.iter_batches(columns=["text"]):
                yield from rows.column(0).to_pylist()


_HUB = {
    "openwebtext": Hub(repo="Skylion007/openwebtext", folder="plain_text"),
    "finewebedu": Hub(repo="HuggingFaceFW/fineweb-edu", folder="sample/10BT"),
}


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus of a data set other than "bin". Asks no network. Raises UserError if there are no such text files."""
    if config.dataset == "stdlib":
        return _stdlib()
    if config.dataset == "text":
        return Files(files=_text_files(config.text_paths), about={})
    if config.dataset == "shakespeare":
        return Shakespeare()
    return _HUB[config.dataset]


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
        name = os.path.expanduser(word)
        found: list[Path] = []
        for path in map(Path, [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))):
            if path.is_dir():
                found += _texts_below(path)
            else:
                require_regular(path)
                found.append(path)
        if not found:
            raise UserError(f"DATASET_TEXT_PATHS={patterns}: {word} is no file, no directory with .txt or .md files")
        files += found
    return tuple(dict.fromkeys(path.resolve() for path in files))


def _texts_below(folder: Path) -> list[Path]:
    """The .txt and .md files below a directory, by path. Raises UserError where a directory cannot be listed."""

    def refuse(error: OSError) -> None:
        raise UserError(f"DATASET_TEXT_PATHS: {error.filename}: {error.strerror}")

    names = (Path(at, name) for at, _, names in os.walk(folder, onerror=refuse) for name in names)
    return sorted(path for path in names if path.suffix in (".txt", ".md") and path.is_file())


def _read_text(path: Path, n_chars: int = -1) -> str:
    """A text file, or its first `n_chars` characters. Raises UserError if it is no regular file or no UTF-8 text."""
    require_regular(path)
    try:
        # Python source says in a first-line comment if it is not UTF-8.
        with tokenize.open(path) if path.suffix == ".py" else open(path, encoding="utf-8") as file:
            text = file.read(n_chars)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if "\0" in text:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text: it holds NUL characters, as UTF-16 and binary files do and text "
            "does not: convert it to UTF-8"
        )
    return text


def _hub() -> ModuleType:
    """huggingface_hub, which only the data sets on the hub need."""
    try:
        import huggingface_hub.errors
        import pyarrow.parquet  # noqa: F401  (to miss it before the download, not after)
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing, which reads data sets of the Hugging Face hub: "
            "`pip install huggingface_hub pyarrow` (the extra `download`)"
        ) from error
    return huggingface_hub


def _bar(say: Callable[[str], None]) -> type:
    """A progress bar class for the hub that tells `say` instead of drawing."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"file": io.StringIO()})

        def display(self, *args: Any, **options: Any) -> None:
            say(f"downloading {self.desc}: {self.n / 2**20:,.0f} of {(self.total or 0) / 2**20:,.0f} MiB")

    return Bar


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
