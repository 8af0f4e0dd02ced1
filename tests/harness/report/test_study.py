"""What a report says of a study: registration, worth in time, other sets."""

from __future__ import annotations

import json
from pathlib import Path

from harness.configure.registration import hash_of
from harness.evidence.stats import compare
from harness.evidence.store import load_experiment
from harness.report.study import registration_facts, sets_table, time_table
from tests.harness.synthetic_runs import write_lengths, write_run

ENTRY = {
    **{"when": "2026-01-01T00:00:00+00:00", "question": "Does it pay?", "metric": "val_loss", "margin": 0.02},
    **{"arms": {"baseline": [], "ra-v5": ["baseline"]}, "seeds": [1, 2, 3, 4, 5, 6], "looks": 2, "lengths": [0.8]},
    **{"reruns": 0, "tuning": {"symbols": {"LEARNING_RATE": ["1e-3", "2e-3"]}, "seeds": [7]}, "sizes": []},
    **{"hashes": {}, "previous": None},
}


def write_pairs(path: Path, ms_per_step: float = 100.0) -> None:
    losses = [3.51, 3.52, 3.53]
    for seed, loss in enumerate(losses, start=1):
        write_run(path, "baseline", seed, val_loss=loss)
        write_run(path, "ra-v5", seed, val_loss=loss - 0.0067 - 0.0001 * seed, ms_per_step=ms_per_step, title="RA v5")
    write_lengths(path, losses)


def test_what_was_registered_and_what_was_added_is_said(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    assert registration_facts(load_experiment(tmp_path)) == [("Registered", "nothing: there is no registration.json")]
    later = {**ENTRY, "when": "2026-02-01T00:00:00+00:00", "seeds": [1, 2, 3, 4, 5, 6, 7], "margin": 0.05}
    later["previous"] = hash_of(ENTRY)
    (tmp_path / "registration.json").write_text(json.dumps({"entries": [ENTRY, later]}))
    facts = dict(registration_facts(load_experiment(tmp_path)))
    assert facts["Question"] == "Does it pay?"
    assert facts["Registered"] == (
        "2026-01-01 00:00 UTC: 1 comparison on 6 seeds, 2 looks (at 3, 6), margin 2 % of compute; "
        f"hash {hash_of(ENTRY)}"
    )
    assert facts["Tuning"] == "LEARNING_RATE=1e-3,2e-3, on seeds 7"
    assert facts["Amended"] == "2026-02-01 00:00 UTC: seeds 7, another margin"


def test_worth_in_time_is_worth_in_compute_by_the_ratio_of_times(tmp_path: Path) -> None:
    write_pairs(tmp_path, ms_per_step=101.0)
    experiment = load_experiment(tmp_path)
    losses = [c for c in compare(experiment) if c.metric.name == "val_loss"]
    table = time_table(experiment, losses)
    assert table is not None
    (row,) = table.rows
    assert losses[0].time is not None and losses[0].compute is not None
    assert abs((1 + losses[0].compute) / 1.01 - 1 - losses[0].time) < 1e-12
    assert row[:3] == ["RA v5", "baseline", "3"] and row[3] == "+1 %" and row[5] == "+0.035 %"
    assert time_table(experiment, []) is None


def test_other_sets_have_rows_of_their_own(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    assert sets_table(load_experiment(tmp_path), compare(load_experiment(tmp_path))) is None
    for path in tmp_path.glob("*/seed-*/summary.json"):
        summary = json.loads(path.read_text())
        summary["val_losses"] = {"books": summary["val_loss"] + 0.1}
        path.write_text(json.dumps(summary))
    experiment = load_experiment(tmp_path)
    table = sets_table(experiment, compare(experiment))
    assert table is not None
    (row,) = table.rows
    assert row[2] == "books" and row[-1] == next(c.verdict for c in compare(experiment) if c.metric.name == "val_loss")
