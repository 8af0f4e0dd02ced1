"""Starting the trainer of one run. A run is a process of its own: one that dies takes nothing else with it.

It is forked off a process that has imported what a run needs (harness/nursery.py) and does nothing else: most of what a
run does before it trains is importing torch and its compiler. Where forking is not safe, which is macOS, each run does
so itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gpt2.dotconfig import ROOT
from harness.plan import PlannedRun

TRAINER = ROOT / "gpt2" / "train_ra_mla.py"

_context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
_context.set_forkserver_preload(["harness.nursery"])


def get_ready() -> None:
    """Begin to import, in the background, what the trainers to be started will need."""
    if _context.get_start_method() == "forkserver":
        forkserver.ensure_running()


def start_local(run: PlannedRun, overrides: Sequence[str]) -> BaseProcess:
    """Start the trainer of `run` on this machine; what it prints goes to the run's train.log.

    In a session of its own, so that Ctrl-C reaches the runner alone, which passes it on once. `overrides` are settings
    of make's command line; they are in the run's configuration already and are given for the record.
    """
    arguments = ["--stop-with-parent", "--config", str(run.path / "config"), "--out", str(run.path)]
    if overrides:
        arguments += ["--overrides", *overrides]
    # Runs of the same shape share compiled code, below the results.
    cache = run.path.parent.parent.parent / ".compiled"
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache.resolve()), **os.environ}
    process: BaseProcess = _context.Process(
        target=_train, args=(arguments, run.path / "train.log", environment), name=f"trainer of {run.name}"
    )
    process.start()
    return process


def _train(arguments: Sequence[str], log: Path, environment: dict[str, str]) -> None:
    """Become the trainer, as `python gpt2/train_ra_mla.py ARGUMENTS` would be."""
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    import torch

    from gpt2 import source, train_ra_mla
    from gpt2.errors import run_command

    # Edited since it was imported: a run's record names the code as it lies there, so that is what has to run.
    edited = source.source_hash() != source.IMPORTED
    # Or something that was imported has looked for GPUs in a way that keeps forked processes from using them.
    if edited or torch.cuda._is_in_bad_fork():
        os.execv(sys.executable, [sys.executable, "-u", str(TRAINER), *arguments])
    sys.argv = [str(TRAINER), *arguments]
    run_command(train_ra_mla.main)
