"""Where the checkout is, and writing files so that a reader sees the old one or the new one, never a half."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from gpt2.base.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: where the Kconfig tree lies."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a temporary binary file beside `path`, bring it to the disk and rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically. Numbers that are not finite are written as null, which JSON has."""
    write_text(path, json.dumps(finite(value), indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError, naming the file, where there is no such thing in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); it is written whole, so it was changed or damaged") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def existing_parent(path: Path) -> Path:
    """The path itself if there is anything, else the closest of the directories above it that there is."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


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
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS.get(stat.S_IFMT(state.st_mode), "no regular file")
        raise UserError(f"{path}: is {kind}; only regular files are read")
    return state


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, at any depth: JSON has no name for them."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value
