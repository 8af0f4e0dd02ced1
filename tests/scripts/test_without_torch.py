"""What only reads results does without torch, which takes seconds to import: neither at once nor on the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.base.files import ROOT
from tests.harness.synthetic_runs import write_run

RUN = """
import importlib, sys
sys.argv = sys.argv[1:]
assert not importlib.import_module(f"scripts.{sys.argv[0]}").main()
heavy = {name.split(".")[0] for name in sys.modules} & {"torch", "triton", "transformers"}
sys.exit(f"imported: {sorted(heavy)}" if heavy else 0)
"""


@pytest.mark.parametrize("command", ["status", "plots", "report"])
def test_commands_that_read_results_do_without_torch(tmp_path: Path, command: str) -> None:
    for step in ("baseline", "ra-v5-eager"):
        write_run(tmp_path / "pair", step, 1)
    (tmp_path / ".config").write_text(
        f'CONFIG_MODEL_NAME="pair"\nCONFIG_RESULTS_DIR="{tmp_path}"\nCONFIG_RA_MLA_ABLATION_MODE=y\n'
        'CONFIG_RA_MLA_ABLATION_STEPS="1,2"\nCONFIG_ABLATION_SEEDS="1"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, command, *([str(tmp_path / "pair")] if command != "status" else [])],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {"status": "ra-v5-eager/seed-1", "plots": "summary.csv", "report": "Undecided"}[command] in done.stdout
