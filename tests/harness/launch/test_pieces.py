"""An experiment in pieces: what docs/howto-cluster.md says to take along is all that the next machine needs."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.base.files import ROOT
from tests.harness.launch.checkout import Checkout, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each run imports for itself")


def documented(command: str) -> str:
    """A line of the how-to that begins so."""
    (line,) = re.findall(rf"^    ({command}.*)$", (ROOT / "docs/howto-cluster.md").read_text(), re.MULTILINE)
    return str(line)


@pytest.mark.slow
def test_what_one_machine_left_is_gone_on_with_on_another(checkout: Checkout) -> None:
    plan = checkout.plan(
        ABLATION_SEEDS="1-3",
        MAX_ITERS="600",
        EVAL_INTERVAL="600",
        CHECKPOINT_INTERVAL="0",
        STUDY_TUNE="LEARNING_RATE=1e-3,2e-3",
    )
    first, second, third = plan.runs
    process = checkout.make()
    wait_for(lambda: _course(second.path), "the second run does not train", 120)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    registered = (plan.directory / "registration.json").read_text()

    results = plan.directory.parent
    here, name = results.parent, f"{results.name}/{plan.directory.name}"
    subprocess.run(documented("tar -czf").replace("results/NAME", name), shell=True, check=True, cwd=here)
    whole = here / "whole"
    shutil.copytree(plan.directory, whole, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.rmtree(results)
    unpack, _, make = documented("tar -xzf").partition(" && ")
    assert make == "make"
    subprocess.run(unpack, shell=True, check=True, cwd=here)
    assert not list(results.rglob("*.pt"))

    process = checkout.make()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert f"{first.name}: done earlier" in printed and f"{third.name}: done val_loss" in printed
    assert "LEARNING_RATE=" not in printed  # no trial again
    assert (plan.directory / "registration.json").read_text() == registered
    assert (plan.directory / "tuned.json").read_text() == (whole / "tuned.json").read_text()
    # The run that was in the middle had the same course before it was stopped as it has now.
    before, after = (_course(it / second.step / second.path.name) for it in (whole, plan.directory))
    assert before and after[: len(before)] == before
    lines = [(it / first.step / first.path.name / "metrics.jsonl").read_text() for it in (whole, plan.directory)]
    assert lines[0] == lines[1]


def _course(run: Path) -> list[tuple[int, float]]:
    path = run / "metrics.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
