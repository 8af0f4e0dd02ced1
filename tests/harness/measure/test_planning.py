"""What many runs cost is measured on records that are taken for those of finished runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2.base.errors import UserError
from gpt2.base.files import ROOT, read_json
from harness.evidence.store import load_experiment
from harness.measure import planning
from harness.measure.planning import measure_planning
from scripts.benchmark_planning import number_of_runs


def test_all_runs_are_done_and_all_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SETTLED_NS", 0)
    costs = measure_planning(8, tmp_path / "here")
    assert costs.runs == 8 and all(seconds > 0 for seconds in vars(costs).values())
    experiment = load_experiment(next((tmp_path / "here" / "results").iterdir()))
    assert [run.status for run in experiment.runs] == ["done"] * 8


@pytest.mark.parametrize("text", ["6", "0", "-4", "many", ""])
def test_a_number_that_is_no_ablation_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--runs: '{text}': must be a multiple of the 4 steps"):
        number_of_runs(text)


def test_the_goals_of_ten_thousand_runs_were_reached() -> None:
    row = read_json(ROOT / "results" / "cpu" / "planning.json")["planning"][-1]
    assert row["runs"] == 10_000
    assert row["plan_s"] < 5 and row["status_pending_s"] < 1 and row["status_done_s"] < 1
