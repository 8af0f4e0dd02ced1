"""Makes of a tiny ablation, each in a folder of its own that has a `.config`.

plan = prepared(folder / "one", folder / "data", {})
status = Make(folder / "one", environment()).wait()
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from gpt2.assignments import Assignment
from gpt2.base.files import ROOT
from gpt2.data.prepare import prepare
from gpt2.dotconfig import resolve
from harness.configure.plan import Plan, make_plan
from harness.measure import faults

SETTINGS = {
    "MODEL_NAME": "torture",
    "MODEL_CUSTOM": "y",
    "N_LAYER": "2",
    "N_HEAD": "2",
    "N_EMBD": "32",
    "BLOCK_SIZE": "32",
    "BATCH_SIZE": "4",
    "DROPOUT": "0.1",
    "MAX_ITERS": "120",
    "WARMUP_ITERS": "2",
    "LEARNING_RATE": "1e-3",
    "MIN_LR": "1e-4",
    # None of them divides another: lines of the log, evaluations and checkpoints fall everywhere.
    "LOG_INTERVAL": "3",
    "EVAL_INTERVAL": "7",
    "EVAL_TOKENS": "256",
    "CHECKPOINT_INTERVAL": "5",
    "DTYPE_FLOAT32": "y",
    "DEVICE_CPU": "y",
    "DATASET_TEXT": "y",
    "RA_MLA_ABLATION_MODE": "y",
    "RA_MLA_ABLATION_STEPS": "baseline,ra-v5-eager",
    "ABLATION_SEEDS": "1",
}
"""Runs of a second or two."""

PATIENCE_S = 60.0
"""After which processes that should have ended are left behind."""


def environment() -> dict[str, str]:
    """What a make is given: this process's own, one thread, and no make's above it."""
    makes = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    own = {name: value for name, value in os.environ.items() if name not in makes}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class Make:
    """A make in a session of its own, in a folder that has a `.config`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._started = time.monotonic()
        with (folder / "make.log").open("a") as log:
            self.process = subprocess.Popen(
                ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={sys.executable}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._started

    def wait(self) -> int:
        """Let it end, with all its processes. Returns its exit status."""
        self.process.wait()
        self.quiet(PATIENCE_S)
        return self.process.returncode

    def quiet(self, seconds: float) -> list[str]:
        """Wait so long until no process of it is left. What then is, is killed and returned."""
        end = time.monotonic() + seconds
        while self.process.poll() is None or faults.processes(str(self._folder)):
            if time.monotonic() > end:
                left = faults.strike(str(self._folder), signal.SIGKILL, "everything")
                self.process.wait()
                return [f"after {seconds:.0f} s there is left: {', '.join(left)}"]
            time.sleep(0.05)
        return []


def fault_environment(fault: faults.Fault, folder: Path) -> dict[str, str]:
    """What makes a fault happen in the processes of a make. The module that does it is put into `folder`."""
    path = folder / "faults" / "sitecustomize.py"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(faults.__file__, path)
    return {**faults.environment(fault), "PYTHONPATH": f"{path.parent}{os.pathsep}{ROOT}"}


def prepared(folder: Path, data: Path, settings: Mapping[str, str]) -> Plan:
    """A folder with a `.config`, `settings` over SETTINGS, whose data is prepared."""
    folder.mkdir(parents=True)
    text = data / "text.txt"
    if not text.exists():
        data.mkdir(parents=True, exist_ok=True)
        words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        text.write_text(" ".join(words[int(digit)] for i in range(4000) for digit in str(i * i)))
    places = {"DATASET_TEXT_PATHS": str(text), "DATA_DIR": str(data), "RESULTS_DIR": str(folder / "results")}
    resolved = resolve(
        [Assignment(symbol, value, "torture") for symbol, value in {**SETTINGS, **settings, **places}.items()]
    )
    plan = make_plan(resolved)
    prepare(plan.runs[0].config.data)
    resolved.write(folder / ".config")
    return plan
