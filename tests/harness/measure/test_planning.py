"""What many runs cost is measured on records that are taken for those of finished runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gpt2.base.files import ROOT, read_json
from harness.evidence.store import load_experiment
from harness.measure import planning
from harness.measure.planning import measure_planning


def test_all_runs_are_done_and_all_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SETTLED_NS", 0)
    costs = measure_planning(8, tmp_path / "here")
    assert costs.runs == 8 and all(seconds > 0 for seconds in vars(costs).values())
    experiment = load_experiment(next((tmp_path / "here" / "results").iterdir()))
    assert [run.status for run in experiment.runs] == ["done"] * 8


def test_a_number_that_is_no_ablation_is_refused() -> None:
    command = [sys.executable, "-m", "scripts.benchmark_planning", "--runs", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "--runs: '6': must be a multiple of the 4 steps" in done.stderr


def test_the_goals_of_ten_thousand_runs_were_reached() -> None:
    row = read_json(ROOT / "results" / "cpu" / "planning.json")["planning"][-1]
    assert row["runs"] == 10_000
    assert row["plan_s"] < 5 and row["status_pending_s"] < 1 and row["status_done_s"] < 1
