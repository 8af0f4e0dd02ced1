"""Starting trainers: what they import, and when."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny

from gpt2.dotconfig import ROOT
from harness.plan import make_plan


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each run imports for itself")
def test_runs_share_what_is_imported_until_it_is_edited(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("gpt2", "harness", "scripts", "defconfigs"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Kconfig", code)
    clock = code / "gpt2" / "clock.py"
    clock.write_text(clock.read_text() + '\nprint("imported", flush=True)\n')
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1", "ABLATION_SEEDS": "1,2,3"}
    plan = make_plan(tiny(tmp_path, **settings))
    plan.base.write(code / ".config")
    logs = [run.path / "train.log" for run in plan.runs]

    command = [sys.executable, "-m", "scripts.run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=code, env=environment, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not logs[1].exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)
    clock.write_text(clock.read_text().replace("imported", "imported anew"))
    printed, _ = process.communicate(timeout=120)

    assert process.returncode == 0
    assert printed.count("imported\n") == 1, "by the process that runs are forked off"
    assert "imported" not in logs[0].read_text()
    assert "imported anew" in logs[2].read_text(), "the code as it lies there is what runs"
