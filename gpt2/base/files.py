"""Where the checkout is, and files read and written with care.

A reader sees the old file or the new one, never a half; and what is read need not be what it should be.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from gpt2.base.errors import UserError
from gpt2.base.text import showable

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: where the Kconfig tree lies."""

MAX_JSON = 64 << 20
"""Bytes of a JSON file. The largest there is holds the text of all uncommitted changes."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a temporary binary file beside `path`, bring it to the disk and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have what the system refuses while `path` is written name it, as a full disk does not by itself.

    torch.save answers that with a RuntimeError of its own, raised while the system's is handled. UserError where the
    directory is missing.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None or cause.errno is None:
            raise
        if cause.errno == errno.ENOENT:
            raise UserError(f"{path}: there is no directory {path.parent}") from None
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite are written as null, which JSON has."""
    write_text(path, json.dumps(finite(value), indent=2) + "\n")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Read a file and write it anew while nobody else does so. Of several that ask each waits for its turn."""
    with path.with_name(f".{path.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_file(path: Path, limit: int) -> bytes:
    """The content of a file. UserError where there is none, it is no file, cannot be read or is longer than `limit`.

    A pipe in its place would be waited for without end, and a device read without end.
    """
    size = require_regular(path).st_size
    if size > limit:
        raise UserError(f"{path}: is {size:,} bytes long: {limit:,} are the most that is read")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError, naming the file, where there is no such thing in it."""
    try:
        value = json.loads(read_file(path, MAX_JSON).decode(), parse_constant=_no_constant)
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def existing_parent(path: Path) -> Path:
    """The path itself if there is anything, else the closest of the directories above it that there is."""
    path = path.absolute()
    # A link that leads nowhere, to a disk that is not there perhaps, is in the way of what would be made.
    return next(candidate for candidate in (path, *path.parents) if candidate.exists() or candidate.is_symlink())


def make_directory(path: Path) -> None:
    """Make a directory, and those above it, where there is none. UserError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a link that leads nowhere" if path.is_symlink() and not path.exists() else error.strerror
        raise UserError(f"{path}: cannot be made a directory: {reason}") from None


def check_can_hold(directory: Path) -> None:
    """Raise UserError if nothing can be made in a directory: some file systems say so only when it is tried."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".check-", dir=directory))
    except OSError as error:
        raise UserError(f"{directory}: cannot be written to: {error.strerror}") from None


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: Path) -> os.stat_result:
    """The state of a file that is about to be read. Raises UserError if it is missing or no regular file, before it is
    opened: opening a FIFO waits for a writer, and reading a device need not end."""
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no regular file")
        raise UserError(f"{path}: is {kind}; only regular files are read")
    return state


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON's")


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, at any depth: JSON has no name for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically. None becomes an empty cell; floats keep every digit; text can be shown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: showable(cell) if isinstance(cell, str) else cell for key, cell in row.items()})
    write_text(path, text.getvalue())
