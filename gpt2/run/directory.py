"""A run's directory while it is held: whatever is written or removed there, the process that holds it does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpt2.base.errors import one_line
from gpt2.base.files import make_directory, read_json, write_json
from gpt2.run.lock import RunLock


@contextmanager
def hold(directory: Path, fd: int | None = None) -> Iterator[RunLock]:
    """Hold a run's directory, made if it is not there. HeldElsewhere if another process does.

    fd: of the lock that the process which started this one has taken and shares. What a killed process left
    half-written goes: at GPT-2's size a checkpoint is 1.5 GB.
    """
    make_directory(directory)
    lock = RunLock(directory, fd)
    try:
        _sweep(directory)
        yield lock
    finally:
        lock.release()


def _sweep(directory: Path) -> None:
    """Remove files that were being written, checksums without a checkpoint, the summary of an unfinished attempt."""
    checkpoints = directory / "checkpoints"
    for path in (*directory.glob(".*.tmp"), *checkpoints.glob(".*.tmp"), *checkpoints.glob("*.unchecked")):
        path.unlink()
    for checksum in checkpoints.glob("*.sha256"):
        if not checksum.with_suffix("").exists():
            checksum.unlink()
    if not is_done(directory):
        (directory / "summary.json").unlink(missing_ok=True)


@contextmanager
def beginning(directory: Path) -> Iterator[None]:
    """While a run is being made: if that fails, its summary says why, unless there is something it would hide."""
    try:
        yield
    except Exception as error:
        if not holds_work(directory):
            reason = one_line(error)
            write_json(directory / "summary.json", {"status": "failed", "error": reason, "iters": 0, "events": []})
        raise


def clear(directory: Path) -> None:
    """Remove what a run that never began has left: nothing that counts, and not this run's."""
    for name in ("provenance.json", "metrics.jsonl"):
        (directory / name).unlink(missing_ok=True)


def is_done(directory: Path) -> bool:
    """Whether the run there has finished."""
    path = directory / "summary.json"
    return path.exists() and read_json(path).get("status") == "done"


def holds_work(directory: Path) -> bool:
    """Whether there is anything that took training to make: a result, a checkpoint, or the log of a step."""
    return is_done(directory) or any((directory / "checkpoints").glob("step-*.pt")) or _has_steps(directory)


def _has_steps(directory: Path) -> bool:
    try:
        with (directory / "metrics.jsonl").open(encoding="utf-8", errors="replace") as file:
            return any(line.startswith('{"kind": "train"') for line in file)
    except FileNotFoundError:
        return False
