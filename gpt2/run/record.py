"""What a run leaves behind while it trains: docs/results.md says what is in each file."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

import torch

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, finite, write_json
from gpt2.config import RunConfig, identity_differences
from gpt2.data.dataset import Dataset
from gpt2.machine.device import hardware, versions
from gpt2.run.checkpoint import sha256_of

_SOURCES = ("Kconfig", "defconfigs", "gpt2", "harness", "scripts")


class Metrics:
    """Appends to a run's metrics.jsonl, one flushed line an object."""

    def __init__(self, path: Path) -> None:
        _drop_half_line(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line. Numbers that are not finite become null."""
        self._file.write(json.dumps(finite({"kind": kind, "step": step, **values})) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class RunLock:
    """Holds a run's directory for one process; the system lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._file: IO[str] = (directory / ".lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            raise UserError(f"{directory}: is being trained by process {owner}") from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        self._file.close()

    @staticmethod
    def is_held(directory: Path) -> bool:
        """Whether a process is training in `directory` now."""
        try:
            with (directory / ".lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def run_identity(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Everything that affects a run's numbers: its settings, its data, and the weights it starts from.

    UserError if these cannot be read.
    """
    identity = config.identity() | {"DATA_HASH": dataset.hash}
    if config.train.init_from:
        try:
            identity["INIT_FROM"] = sha256_of(Path(config.train.init_from))
        except OSError as error:
            expected = "name a checkpoint of ours; `make convert` makes one of other people's GPT-2s"
            raise UserError(f'CONFIG_INIT_FROM="{config.train.init_from}": {error.strerror}: {expected}') from None
    return identity


def check_identity(directory: Path, identity: dict[str, Any]) -> bool:
    """Whether `directory` already holds this run. UserError, naming what differs, if it holds another one."""
    path = directory / "provenance.json"
    if not path.exists():
        return False
    theirs = json.loads(path.read_text())["identity"]
    # Through JSON, as theirs has been.
    ours = json.loads(json.dumps(identity))
    differ = [
        f"CONFIG_{symbol} is {theirs.get(symbol)!r} there and {ours.get(symbol)!r} here"
        for symbol in identity_differences(theirs, ours)
    ]
    if differ:
        raise UserError(
            f"{directory}: holds another run: {'; '.join(differ)}. Choose another CONFIG_MODEL_NAME, or remove it"
        )
    return True


def write_provenance(
    directory: Path,
    *,
    device: torch.device,
    dataset: Dataset,
    identity: dict[str, Any],
    config_hash: str,
    overrides: Sequence[str],
) -> None:
    """Write provenance.json as a run starts."""
    write_json(
        directory / "provenance.json",
        {
            "command": command_line(),
            "overrides": list(overrides),
            **_now(device),
            "data": {
                "dataset": dataset.name,
                "tokenizer": dataset.tokenizer,
                "hash": dataset.hash,
                "train_tokens": dataset.train_tokens,
                "val_tokens": dataset.val_tokens,
                "val_bytes_per_token": dataset.val_bytes_per_token,
            },
            "identity": identity,
            "config_hash": config_hash,
            "resumed": [],
        },
    )


def add_resumption(directory: Path, *, device: torch.device, step: int) -> None:
    """Add to provenance.json that, and where, a run went on from `step`."""
    path = directory / "provenance.json"
    provenance = json.loads(path.read_text())
    provenance["resumed"].append({"step": step, **_now(device)})
    write_json(path, provenance)


def command_line() -> list[str]:
    """argv, with the program's path as the checkout has it: where that lies says nothing to others."""
    program = Path(sys.argv[0]).resolve()
    return [str(program.relative_to(ROOT)) if program.is_relative_to(ROOT) else sys.argv[0], *sys.argv[1:]]


def code_state() -> dict[str, Any]:
    """Commit of the code that runs, and what differs from it. Nulls outside a git checkout."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff": None, "untracked": None}
    diff = _git("diff", "HEAD") or ""
    untracked = (_git("ls-files", "--others", "--exclude-standard", *_SOURCES) or "").splitlines()
    return {"commit": commit.strip(), "dirty": bool(diff or untracked), "diff": diff, "untracked": untracked}


def _now(device: torch.device) -> dict[str, Any]:
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "code": code_state(),
        "versions": versions(),
        "hardware": hardware(device),
    }


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _drop_half_line(path: Path) -> None:
    """Cut off what a killed process left of the line it was writing."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)
