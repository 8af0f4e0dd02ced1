"""Several validation sets in a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from harness.evidence.paired import holm
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from tests.harness.synthetic_runs import write_run


def test_sets_to_evaluate_on_are_judged_together(tmp_path: Path) -> None:
    """Each has its verdict; Holm's method is over arms and sets together, and leaves the validation loss as it was."""
    experiment = tmp_path / "sets"
    shifts = {"baseline": (0.0, 0.0), "ra-v5-eager": (-0.1, 0.0003), "mla": (0.2, -0.0002)}
    noise = np.random.default_rng(1).normal(0, 0.002, (3, 2, 4))
    for arm, (step, (books, code)) in enumerate(shifts.items()):
        for seed in range(4):
            run = write_run(experiment, step, seed + 1, val_loss=3.5 + noise[arm, 0, seed])
            summary = json.loads((run / "summary.json").read_text())
            a, b = noise[arm, :, seed]
            summary["val_losses"] = {"books": 4.0 + books + a, "code": 2.0 + code + b}
            (run / "summary.json").write_text(json.dumps(summary))
    found = {(c.step, c.metric.name): c for c in compare(load_experiment(experiment))}
    sets = [c for (_, metric), c in found.items() if metric.startswith("val_loss/")]
    assert [(c.step, c.metric.name) for c in sets] == [
        (step, f"val_loss/{name}") for step in ("ra-v5-eager", "mla") for name in ("books", "code")
    ]
    assert [c.p_holm for c in sets] == holm([c.p_value or 0.0 for c in sets])
    assert found["ra-v5-eager", "val_loss/books"].verdict == "better"
    assert found["mla", "val_loss/books"].verdict == "worse"
    main = [c for (_, metric), c in found.items() if metric == "val_loss"]
    assert [c.p_holm for c in main] == holm([c.p_value or 0.0 for c in main])
