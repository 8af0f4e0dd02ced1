"""A copy of the code that may be edited while it runs, for tests of what starts and ends when."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt2.base.files import ROOT
from harness.configure.plan import Plan, make_plan
from tests.tiny import tiny


class Checkout:
    """A copy of the code that may be edited, and the plan of its `.config`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "code"
        for name in ("gpt2", "harness", "scripts", "defconfigs"):
            shutil.copytree(ROOT / name, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "Kconfig", self.path)
        self._folder = folder

    def plan(self, **symbols: str) -> Plan:
        settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1,2"} | symbols
        plan = make_plan(tiny(self._folder, **settings))
        plan.base.write(self.path / ".config")
        return plan

    def edit(self, name: str, end: str) -> None:
        """Add something at the end of a file."""
        with (self.path / name).open("a") as file:
            file.write(end)

    def make(self, **options: Any) -> subprocess.Popen[str]:
        """Start the runner, as `make` would."""
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.run"],
            cwd=self.path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options,
        )


def processes(checkout: Checkout) -> list[str]:
    """Command lines of what runs in a checkout."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(checkout.path):
                found.append(f"{process.name}: {(process / 'cmdline').read_bytes().decode()}")
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)
