"""A run whose numbers stopped being finite has failed, wherever one looks: it is never one that is not finished."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gpt2.run.run import Run
from gpt2.run.stop import Stop
from gpt2.train_ra_mla import STATUS, train
from harness.configure.plan import make_plan
from harness.evidence.digests import Digests
from harness.evidence.findings import FAIL
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.evidence.summary_table import write_summary_csv
from harness.evidence.verify import verify
from tests.tiny import tiny

SETTINGS = {
    "RA_MLA_ABLATION_MODE": "y",
    "RA_MLA_ABLATION_STEPS": "1",
    "ABLATION_SEEDS": "1,2",
    "WARMUP_ITERS": "0",
    "MIN_LR": "0",
    "MAX_ITERS": "4",
    "EVAL_INTERVAL": "2",
}


@pytest.mark.parametrize("symbols", [{}, {"EMA_DECAY": "0.9", "EVAL_TAIL": "2"}], ids=["plain", "averaged"])
def test_a_run_that_has_diverged_has_failed_everywhere(tmp_path: Path, symbols: dict[str, str]) -> None:
    plan = make_plan(tiny(tmp_path, ABLATION_SWEEP="LEARNING_RATE=1e-3,1e30", **SETTINGS, **symbols))
    for run in plan.runs:
        run.path.mkdir(parents=True)
        run.resolved.write(run.path / "config")
        diverges = "1e30" in run.step
        status = train(Run(run.config, run.path), Stop())
        assert (status, STATUS[status]) == (("failed", 1) if diverges else ("done", 0))
        summary = json.loads((run.path / "summary.json").read_text())
        assert summary["status"] == status
        assert ("not finite" in (summary["error"] or "")) == diverges
        assert ("nonfinite" in (run.path / "metrics.jsonl").read_text()) == diverges

    experiment = load_experiment(plan.directory)
    expected = {run.name: "failed" if "1e30" in run.step else "done" for run in plan.runs}
    assert {run.name: run.status for run in experiment.runs} == expected
    with write_summary_csv(experiment).open() as file:
        assert {f"{row['step']}/seed-{row['seed']}": row["status"] for row in csv.DictReader(file)} == expected
    digests = Digests(plan.directory)
    assert {run.name: digests.of(run.path, run.step, run.seed).status for run in plan.runs} == expected
    assert not [finding for finding in verify(plan.directory) if finding.outcome == FAIL]
    assert not [c for c in compare(experiment) if c.deltas]
