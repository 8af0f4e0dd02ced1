"""Starting the trainer of one run. A run is a process of its own: one that dies takes nothing else with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from gpt2.dotconfig import ROOT
from harness.plan import PlannedRun


def start_local(run: PlannedRun, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the trainer of `run` on this machine; what it prints goes to the run's train.log.

    In a session of its own, so that Ctrl-C reaches the runner alone, which passes it on once. `overrides` are settings
    of make's command line; they are in the run's configuration already and are given for the record.
    """
    command = [sys.executable, str(ROOT / "gpt2" / "train_ra_mla.py"), "--stop-with-parent"]
    command += ["--config", str(run.path / "config"), "--out", str(run.path)]
    if overrides:
        command += ["--overrides", *overrides]
    with (run.path / "train.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(run),
            start_new_session=True,
        )


def _environment(run: PlannedRun) -> Mapping[str, str]:
    # Runs of the same shape share compiled code, below the results.
    cache = run.path.parent.parent.parent / ".compiled"
    return {"TORCHINDUCTOR_CACHE_DIR": str(cache.resolve()), "PYTHONUNBUFFERED": "1", **os.environ}
