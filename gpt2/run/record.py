"""What a run leaves behind while it trains: docs/results.md says what is in each file."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, finite, naming, write_json
from gpt2.config import RunConfig
from gpt2.data.batches import EvalSet
from gpt2.data.dataset import Dataset
from gpt2.data.evaluation import hashes, open_eval_datasets
from gpt2.machine.device import hardware, versions
from gpt2.run.checkpoint import sha256_of
from gpt2.run.directory import holds_work
from gpt2.run.records import differences, read_provenance

_SOURCES = ("Kconfig", "defconfigs", "gpt2", "harness", "scripts")


class Metrics:
    """Appends to a run's metrics.jsonl, one flushed line an object."""

    def __init__(self, path: Path) -> None:
        _drop_half_line(path)
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one line. Numbers that are not finite become null."""
        with naming(self._path):
            self._file.write(json.dumps(finite({"kind": kind, "step": step, **values})) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def run_identity(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Everything that affects a run's numbers: its settings, its data, and the weights it starts from.

    UserError if these cannot be read.
    """
    identity = config.identity() | {"DATA_HASH": dataset.hash}
    if config.data.eval_datasets:
        identity["EVAL_DATASETS"] = hashes(open_eval_datasets(config.data))
    if config.train.init_from:
        try:
            identity["INIT_FROM"] = sha256_of(Path(config.train.init_from))
        except OSError as error:
            expected = "name a checkpoint of ours; `make convert` makes one of other people's GPT-2s"
            raise UserError(f'CONFIG_INIT_FROM="{config.train.init_from}": {error.strerror}: {expected}') from None
    return identity


class AnotherRun(UserError):
    """The directory holds another run than the one that is asked for."""


def check_identity(directory: Path, identity: dict[str, Any]) -> bool:
    """Whether `directory` already holds this run. AnotherRun, naming what differs, if it holds another one.

    One that failed, or was stopped, before its first step was done holds nothing, and blocks nobody.
    """
    path = directory / "provenance.json"
    if not path.exists():
        if holds_work(directory):
            raise AnotherRun(f"{directory}: holds a run without provenance.json, which says what it is; remove it")
        return False
    theirs = read_provenance(path)["identity"]
    # Through JSON, as theirs has been.
    ours = json.loads(json.dumps(identity))
    differ = differences(theirs, ours)
    if differ and not holds_work(directory):
        return False
    if differ:
        raise AnotherRun(
            f"{directory}: holds another run: {'; '.join(differ)}. Choose another CONFIG_MODEL_NAME "
            f"(make MODEL_NAME=...), or remove it{_how_to_train_longer(directory, theirs, ours)}"
        )
    return True


def _how_to_train_longer(directory: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """A sentence for whoever wants a run to be longer than it was, if that is what differs and it has a checkpoint."""
    more = ours.get("MAX_ITERS", 0) - theirs.get("MAX_ITERS", 0)
    newest = max((directory / "checkpoints").glob("step-*.pt"), default=None)
    if more <= 0 or newest is None:
        return ""
    return (
        ". A longer run has another schedule from its first step on. To train these weights on, take another name: "
        f"make INIT_FROM={shlex.quote(str(newest))} MODEL_NAME=NAME MAX_ITERS={more}"
    )


def write_provenance(
    directory: Path,
    *,
    device: torch.device,
    how: dict[str, Any],
    dataset: Dataset,
    eval_set: EvalSet,
    eval_datasets: dict[str, Any],
    identity: dict[str, Any],
    config_hash: str,
    given: Sequence[str],
) -> None:
    """Write provenance.json as a run starts. `how`: by which processes and kernels. `given`: on a command line."""
    write_json(
        directory / "provenance.json",
        {
            "command": command_line(),
            "overrides": list(given),
            **_now(device, how),
            "data": {
                "dataset": dataset.name,
                "tokenizer": dataset.vocabulary.tokenizer,
                "hash": dataset.hash,
                "train_tokens": dataset.train_tokens,
                "val_tokens": dataset.val_tokens,
                "val_in_train": dataset.val_in_train,
                "val_bytes_per_token": dataset.val_bytes_per_token,
                "eval_targets": eval_set.n_targets,
                "eval_bytes": eval_set.n_bytes,
                **({"eval_datasets": eval_datasets} if eval_datasets else {}),
            },
            "identity": identity,
            "config_hash": config_hash,
            "resumed": [],
        },
    )


def add_resumption(directory: Path, *, device: torch.device, how: dict[str, Any], step: int) -> None:
    """Add to provenance.json that, and where, a run went on from `step`."""
    path = directory / "provenance.json"
    provenance = read_provenance(path)
    provenance.setdefault("resumed", []).append({"step": step, **_now(device, how)})
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


def _now(device: torch.device, how: dict[str, Any]) -> dict[str, Any]:
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "code": code_state(),
        "versions": versions(),
        "hardware": hardware(device),
        **how,
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
