"""An ablation end to end, in small: run, run again, stop, continue, fail."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gpt2.assignments import Assignment
from gpt2.base.errors import UserError
from gpt2.base.files import ROOT
from harness.configure.kconfig import DOTCONFIG
from harness.configure.plan import Plan, make_plan, running_order
from harness.launch.runner import run_plan
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def work_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Runs are so small that threads only get in each other's way.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def planned(folder: Path, **symbols: str) -> Plan:
    settings = {"RA_MLA_ABLATION_MODE": "y", "RA_MLA_ABLATION_STEPS": "1,2", "ABLATION_SEEDS": "1"} | symbols
    return make_plan(tiny(folder, **settings))


def summaries(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        run.name: json.loads((run.path / "summary.json").read_text())
        for run in plan.runs
        if (run.path / "summary.json").exists()
    }


def test_runs_are_done_once_and_tabulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    assert run_plan(plan, [Assignment("MAX_ITERS", "12", "command line")]) == 0
    assert {s["status"] for s in summaries(plan).values()} == {"done"}
    with (plan.directory / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["seed"], row["status"]) for row in rows] == [
        ("baseline", "1", "done"),
        ("ra-v5-eager", "1", "done"),
    ]
    provenance = json.loads((plan.runs[0].path / "provenance.json").read_text())
    assert provenance["overrides"] == ["MAX_ITERS=12"]
    before = {run.name: (run.path / "summary.json").stat().st_mtime_ns for run in plan.runs}
    capsys.readouterr()
    assert run_plan(plan) == 0
    assert {run.name: (run.path / "summary.json").stat().st_mtime_ns for run in plan.runs} == before
    assert "[1/2] baseline/seed-1: done earlier" in capsys.readouterr().out


def test_a_table_that_nobody_came_to_write_is_written_by_the_next_make(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert run_plan(plan) == 0
    table = (plan.directory / "summary.csv").read_text()
    (plan.directory / "summary.csv").write_text("\n".join(table.splitlines()[:2]) + "\n")  # killed before the second
    assert run_plan(plan) == 0
    assert (plan.directory / "summary.csv").read_text() == table


def test_a_directory_that_holds_another_run_stops_everything_before_it_starts(tmp_path: Path) -> None:
    plan = planned(tmp_path, RA_MLA_ABLATION_STEPS="1")
    assert run_plan(plan) == 0
    other = planned(tmp_path, RA_MLA_ABLATION_STEPS="2,1", MAX_ITERS="13")
    with pytest.raises(
        UserError, match=r"baseline/seed-1: holds another run: CONFIG_MAX_ITERS is 12 there and 13 here"
    ):
        run_plan(other)
    assert not other.runs[0].path.exists()
    assert (plan.runs[0].path / "config").read_text() == plan.runs[0].resolved.text()


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path)
    blocked = plan.runs[0].path
    blocked.mkdir(parents=True)
    (blocked / "checkpoints").write_text("a file where a directory has to be")
    assert run_plan(plan) == 1
    printed = capsys.readouterr().out
    assert "[1/2] baseline/seed-1: FAILED after" in printed
    assert "FileExistsError" in printed
    assert summaries(plan)["baseline/seed-1"]["status"] == "failed"
    assert str(blocked / "train.log") in printed
    assert summaries(plan)["ra-v5-eager/seed-1"]["status"] == "done"
    # Mended, only what failed is run again.
    (blocked / "checkpoints").unlink()
    assert run_plan(plan) == 0
    assert {s["status"] for s in summaries(plan).values()} == {"done"}


def test_missing_data_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    settings = {"DATASET_TEXT": "n", "DATASET_FINEWEBEDU": "y", "TOKENIZER_BYTE": "y"}
    base = tiny(tmp_path)
    from gpt2.dotconfig import resolve

    minimal = [a for a in base.minimal() if not a.symbol.startswith("DATASET_")]
    plan = make_plan(resolve(minimal, [Assignment(s, v, "test") for s, v in settings.items()]))
    with pytest.raises(UserError, match=r"DATASET_FINEWEBEDU: .*make prepare-data"):
        run_plan(plan)
    assert not plan.directory.exists()


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.run", *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def wait_for_training(path: Path) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and '"train"' in path.read_text()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


LONG = {"MAX_ITERS": "300", "EVAL_INTERVAL": "100", "CHECKPOINT_INTERVAL": "50"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run that was left in peace."""
    plan = planned(tmp_path_factory.mktemp("whole"), RA_MLA_ABLATION_STEPS="1", **LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(plan.directory.parent.parent)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert run_plan(plan) == 0
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["Ctrl-C", "SIGKILL"])
def test_stopped_in_the_middle_and_continued_to_the_same_losses(tmp_path: Path, whole: Plan, stop: str) -> None:
    plan = planned(tmp_path, MODEL_NAME="parts", **LONG)
    plan.base.write(DOTCONFIG)
    process = start()
    first, second = running_order(plan.runs)
    wait_for_training(first.path / "metrics.jsonl")
    process.send_signal(signal.SIGINT if stop == "Ctrl-C" else signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    if stop == "Ctrl-C":
        assert process.returncode == 130
        assert "`make continue` goes on" in printed
    # The trainer of a killed runner ends by itself, with a checkpoint.
    end = time.monotonic() + 60
    while first.name not in summaries(plan):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert summaries(plan)[first.name]["status"] == "interrupted"
    assert second.name not in summaries(plan)

    DOTCONFIG.unlink()
    continued = start("--continue")
    assert continued.wait(timeout=120) == 0
    ours, theirs = summaries(plan), summaries(whole)
    for name in theirs:
        assert ours[name]["status"] == "done"
        assert ours[name]["val_loss"] == theirs[name]["val_loss"]
    assert ours["ra-v5-eager/seed-1"]["status"] == "done"
